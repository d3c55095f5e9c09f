# PTQ4DiT: images at evenly spaced steps.
use rule quantize as quantize_ptq4dit with:
    input:
        unpack(quantize_inputs("per-step")),
    wildcard_constraints:
        label=labels_of("ptq4dit"),
