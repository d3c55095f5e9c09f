# Q-Diffusion: images at evenly spaced steps.
use rule quantize as quantize_q_diffusion with:
    input:
        unpack(quantize_inputs("per-step")),
    wildcard_constraints:
        label=labels_of("q-diffusion"),
