# RepQ-ViT: images at uniformly drawn timesteps.
use rule quantize as quantize_repq_vit with:
    input:
        unpack(quantize_inputs("uniform")),
    wildcard_constraints:
        label=labels_of("repq-vit"),
