# The steps of a video model (docs/video.md): calibration data, clips, scores. Weights become checkpoints by the rules of
# rules/quantize.smk, whatever the model. Guarantees are those of images: a shard's chunks stay when a job is killed, and
# the next one keeps those whose key still holds.
VIDEO_SETTINGS = [name for name in config["settings"] if profiles.is_video(config, name)]
VIDEO_MODELS = [name for name in config["models"] if name not in IMAGE_MODELS]
VIDEO = config.get("video", {})


rule calibrate_video:
    input:
        weights_of,
    output:
        CALIBRATION,
    log:
        "<results>/logs/calibrate/{model}-{form}-{setting}-{kind}.log",
    wildcard_constraints:
        model=one_of(VIDEO_MODELS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.calibration", "qdit.data.moving_digits"),
        protocol=protocol_flags,
        samples=lambda w: VIDEO["calibration"][w.kind],
    shell:
        "qdit --benchmark {log}.json video calibrate {input:q} {output} --kind {wildcards.kind}"
        " --samples {params.samples} {params.protocol} > {log} 2>&1"


rule sample_video:
    input:
        config=f"{RUN}/checkpoint/config.json",
        tensors=f"{RUN}/checkpoint/model.safetensors",
        suite=lambda w: repository(VIDEO["suite"]),
    output:
        f"{RUN}/samples/shard-{{shard}}.json",
    log:
        f"{RUN}/logs/sample-{{shard}}.log",
    wildcard_constraints:
        setting=one_of(VIDEO_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.sampling.video_run"),
        protocol=protocol_flags,
        shard=lambda w: int(w.shard),
        samples=VIDEO.get("clips"),
        chunk=VIDEO.get("chunk"),
        chunks_per_shard=VIDEO.get("chunks_per_shard"),
    shell:
        "qdit --benchmark $(dirname {log})/sample-{wildcards.shard}.json video sample $(dirname {input.config})"
        " $(dirname {output}) --suite {input.suite:q} --samples {params.samples} --chunk {params.chunk}"
        " --shard {params.shard} --chunks-per-shard {params.chunks_per_shard} {params.protocol} --record-failure"
        " > {log} 2>&1"


rule evaluate_video:
    input:
        samples=lambda w: shard_files(own_run(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)),
        checkpoint=f"{RUN}/checkpoint/config.json",
        suite=lambda w: repository(VIDEO["suite"]),
        instruments=lambda w: repository(config["models"][model_of(w)]["instruments"]),
    output:
        metrics=f"{RUN}/metrics.json",
        resampled=f"{RUN}/bootstrap.npz",
    log:
        f"{RUN}/logs/evaluate.log",
    wildcard_constraints:
        setting=one_of(VIDEO_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.metrics.video.run"),
        protocol=protocol_flags,
        samples=VIDEO.get("clips"),
        full_precision=lambda w: f"{run_folder(full_precision_run(w))}/samples",
        model=model_of,
        resamples=config["sampling"].get("resamples", 200),
    shell:
        "qdit video score $(dirname {output.metrics})/samples {output.metrics} --checkpoint $(dirname {input.checkpoint})"
        " --fp-samples {params.full_precision} --suite {input.suite:q} --samples {params.samples}"
        " --resamples {params.resamples} --instruments {input.instruments:q} {params.protocol} --setting {wildcards.setting} --model {params.model}"
        " --form {wildcards.form} --label {wildcards.label} > {log} 2>&1"


# The clips that a table shows, for players and slides; the page itself has them as animations.
rule table_clips:
    input:
        profile="<results>/profile.json",
        metrics=metrics_of,
        samples=samples_of,
    output:
        directory("<results>/tables/{table}-clips"),
    log:
        "<results>/logs/table-clips-{table}.log",
    wildcard_constraints:
        table=one_of(name for name, table in config["tables"].items() if table["kind"] == "table3"),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.tables.clip_files"),
    shell:
        "qdit video mp4 {wildcards.table} {output} --profile {input.profile} --results $(dirname {input.profile})"
        " > {log} 2>&1"
