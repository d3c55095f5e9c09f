# TFMQ-DM: images at every step of the schedule.
use rule quantize as quantize_tfmq_dm with:
    input:
        unpack(quantize_inputs("per-step")),
    wildcard_constraints:
        label=labels_of("tfmq-dm"),
