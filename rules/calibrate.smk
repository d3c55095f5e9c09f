# Calibration data from the full-precision model's own trajectories, of images and of clips.
CALIBRATION_CODE = {
    "dit": (),
    "stdit3": ("qdit.mini.data.moving_digits",),  # module that parses the prompts of clips
    "diffusers": ("qdit.sampling.pipeline_folder",),
}


rule calibrate:
    input:
        weights=weights_of,
        text=text_of,
        prompts=calibration_prompts_of,
    output:
        CALIBRATION,
    log:
        "<results>/logs/calibrate/{model}-{form}-{setting}-{kind}{replicate}.log",
    priority: lambda w: PRIORITIES.of_file(COMMANDS.calibration_file(w.setting, w.form, w.kind, replicate_of(w)))
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=lambda w: code_digest("qdit.sampling.calibration", *CALIBRATION_CODE[COMMANDS.family(w.setting).name]),
        command=lambda w: COMMANDS.calibrate(w.setting, w.form, w.kind, replicate_of(w)),
    shell:
        "qdit --benchmark {log}.json {params.command} > {log} 2>&1"
