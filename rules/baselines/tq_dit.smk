# TQ-DiT: images of every group of steps.
use rule quantize as quantize_tq_dit with:
    input:
        unpack(quantize_inputs("per-step")),
    wildcard_constraints:
        label=labels_of("tq-dit"),
