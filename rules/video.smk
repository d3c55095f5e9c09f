# The steps of a video model (docs/video.md): text embeddings (of a model of latents), calibration data, clips, scores.
# Weights become checkpoints by the rules of rules/quantize.smk, whatever the model. Guarantees are those of images: a
# shard's chunks stay when a job is killed, and the next one keeps those whose key still holds.
VIDEO_SETTINGS = [name for name in config["settings"] if profiles.is_video(config, name)]
VIDEO_MODELS = [name for name in config["models"] if name not in IMAGE_MODELS]
LATENT_VIDEO_MODELS = [name for name in VIDEO_MODELS if "text_encoder" in config["models"][name]]
VIDEO = config.get("video", {})
# Settings whose clips the model's own instruments score; those of others are VBench's (rules/vbench.smk).
INSTRUMENT_SETTINGS = [
    name for name in VIDEO_SETTINGS if "instruments" in config["models"][config["settings"][name]["model"]]
]


# Every prompt goes through the text encoder once, so that no job that samples needs it. The parts of an embedding that
# was stopped lie beside its output, and the next one goes on from there.
rule embed_prompts:
    input:
        suite=lambda w: repository(VIDEO["suite"]),
        encoder=lambda w: list(
            map(repository, profiles.encoder_files(config, config["models"][w.model]["text_encoder"]))
        ),
    output:
        "<results>/text/{model}.safetensors",
    log:
        "<results>/logs/text-{model}.log",
    wildcard_constraints:
        model=one_of(LATENT_VIDEO_MODELS),
    priority: 50
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.models.text_encoder", "qdit.metrics.vbench.prompts"),
        encoder=lambda w: repository(config["models"][w.model]["text_encoder"]),
    shell:
        "qdit --benchmark {log}.json video embed {input.suite:q} {output} --encoder {params.encoder:q} > {log} 2>&1"


rule calibrate_video:
    input:
        weights=weights_of,
        text=text_of,
    output:
        CALIBRATION,
    log:
        "<results>/logs/calibrate/{model}-{form}-{setting}-{kind}.log",
    wildcard_constraints:
        model=one_of(VIDEO_MODELS),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.sampling.calibration", "qdit.mini.data.moving_digits"),
        protocol=lambda w: protocol_flags(w, decoded=False),
        samples=lambda w: VIDEO["calibration"][w.kind],
        text=text_flag,
    shell:
        "qdit --benchmark {log}.json video calibrate {input.weights:q} {output} --kind {wildcards.kind}"
        " --samples {params.samples} {params.text} {params.protocol} > {log} 2>&1"


rule sample_video:
    input:
        config=f"{RUN}/checkpoint/config.json",
        tensors=f"{RUN}/checkpoint/model.safetensors",
        suite=lambda w: repository(VIDEO["suite"]),
        text=text_of,
        vae=vae_of,
    output:
        f"{RUN}/samples/shard-{{shard}}.json",
    log:
        f"{RUN}/logs/sample-{{shard}}.log",
    wildcard_constraints:
        setting=one_of(VIDEO_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.sampling.run", "qdit.mini.data.moving_digits_prompts"),
        protocol=protocol_flags,
        shard=lambda w: int(w.shard),
        samples=VIDEO.get("clips"),
        chunk=VIDEO.get("chunk"),
        chunks_per_shard=VIDEO.get("chunks_per_shard"),
        text=text_flag,
    shell:
        "qdit --benchmark $(dirname {log})/sample-{wildcards.shard}.json video sample $(dirname {input.config})"
        " $(dirname {output}) --suite {input.suite:q} --samples {params.samples} --chunk {params.chunk}"
        " --shard {params.shard} --chunks-per-shard {params.chunks_per_shard} {params.text} {params.protocol}"
        " --record-failure > {log} 2>&1"


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
        setting=one_of(INSTRUMENT_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.mini.vbench.run"),
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
        code=code_digest("qdit.report.pages.clip_files"),
    shell:
        "qdit video mp4 {wildcards.table} {output} --profile {input.profile} --results $(dirname {input.profile})"
        " > {log} 2>&1"
