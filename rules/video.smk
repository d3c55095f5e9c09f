# The steps that only clips have (docs/video.md): text embeddings for a model of latents, clips of prompts, their
# scores. The rules for images make the calibration data and the checkpoints. As for images, the chunks of a shard stay
# when a job is killed. The next job keeps the chunks whose key is still valid.
LATENT_VIDEO_MODELS = [name for name, model in config["models"].items() if "text_encoder" in model]
VIDEO = config.get("video", {})
# Settings whose clips are scored by the instruments of the model. VBench scores all others (rules/vbench.smk).
INSTRUMENT_SETTINGS = [
    name for name in VIDEO_SETTINGS if "instruments" in config["models"][config["settings"][name]["model"]]
]


# The text encoder embeds every prompt once, so no sampling job needs the encoder. A stopped embedding keeps its
# finished parts beside its output. The next job continues from them.
rule embed_prompts:
    input:
        suite=lambda w: input_file(VIDEO["suite"]),
        encoder=lambda w: list(
            map(input_file, profiles.encoder_files(config, config["models"][w.model]["text_encoder"]))
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
        command=lambda w: COMMANDS.embed(w.model),
    shell:
        "qdit --benchmark {log}.json {params.command} > {log} 2>&1"


rule sample_video:
    input:
        config=f"{RUN}/checkpoint/config.json",
        tensors=f"{RUN}/checkpoint/model.safetensors",
        suite=lambda w: input_file(VIDEO["suite"]),
        text=text_of,
        vae=vae_of,
        same_as=same_samples,
    output:
        f"{RUN}/samples/shard-{{shard}}.json",
    log:
        f"{RUN}/logs/sample-{{shard}}.log",
    wildcard_constraints:
        setting=one_of(VIDEO_SETTINGS),
    priority: lambda w: PRIORITIES.of_row(run_of(w), "sample")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.sampling.run", "qdit.mini.data.moving_digits_prompts"),
        command=lambda w: COMMANDS.sample(run_of(w), int(w.shard)),
    shell:
        "qdit --benchmark $(dirname {log})/sample-{wildcards.shard}.json {params.command} > {log} 2>&1"


rule evaluate_video:
    input:
        samples=lambda w: shard_files(run_of(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)),
        checkpoint=f"{RUN}/checkpoint/config.json",
        suite=lambda w: input_file(VIDEO["suite"]),
        instruments=lambda w: input_file(config["models"][model_of(w)]["instruments"]),
    output:
        metrics=f"{RUN}/metrics.json",
        resampled=f"{RUN}/bootstrap.npz",
    log:
        f"{RUN}/logs/evaluate.log",
    wildcard_constraints:
        setting=one_of(INSTRUMENT_SETTINGS),
    priority: lambda w: PRIORITIES.of_row(run_of(w), "evaluate")
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.mini.vbench.run"),
        command=lambda w: COMMANDS.evaluate(run_of(w)),
    shell:
        "qdit {params.command} > {log} 2>&1"


# The clips that a table shows, as video files. The page itself has them as animations.
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
