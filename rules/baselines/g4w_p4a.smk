# G4W+P4A: GPTQ's Hessians come from Q-DiT's trajectories, activation ranges from PTQ4DM's timesteps.
use rule quantize as quantize_g4w_p4a with:
    input:
        unpack(quantize_inputs("trajectory", "ndtc")),
    wildcard_constraints:
        label=labels_of("g4w+p4a"),
