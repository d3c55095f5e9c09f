# Calibration data from the full-precision model's own trajectories.
rule calibrate:
    input:
        weights_of,
    output:
        CALIBRATION,
    log:
        "<results>/logs/calibrate/{model}-{form}-{setting}-{kind}.log",
    wildcard_constraints:
        model=one_of(IMAGE_MODELS),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.sampling.calibration"),
        protocol=lambda w: protocol_flags(w, decoded=False),
        samples=lambda w: config["calibration"][w.kind],
    shell:
        "qdit --benchmark {log}.json calibrate {input:q} {output} --kind {wildcards.kind} --samples {params.samples}"
        " {params.protocol} > {log} 2>&1"
