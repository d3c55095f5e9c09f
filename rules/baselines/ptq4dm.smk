# PTQ4DM: ranges at its own normally distributed timesteps.
use rule quantize as quantize_ptq4dm with:
    input:
        unpack(quantize_inputs("ndtc")),
    wildcard_constraints:
        label=labels_of("ptq4dm"),
