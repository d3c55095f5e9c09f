# RTN: its static activation ranges come from Q-DiT's trajectories.
use rule quantize as quantize_rtn with:
    input:
        unpack(quantize_inputs("trajectory")),
    wildcard_constraints:
        label=labels_of("rtn"),
