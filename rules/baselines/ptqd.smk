# PTQD: images at every step, where the noise predictions are compared.
use rule quantize as quantize_ptqd with:
    input:
        unpack(quantize_inputs("per-step")),
    wildcard_constraints:
        label=labels_of("ptqd"),
