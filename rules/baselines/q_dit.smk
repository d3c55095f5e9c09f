# Q-DiT: GPTQ's Hessians come from its own trajectories.
use rule quantize as quantize_q_dit with:
    input:
        unpack(quantize_inputs("trajectory")),
    wildcard_constraints:
        label=labels_of("q-dit"),
