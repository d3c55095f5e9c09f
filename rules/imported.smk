# Rows of images and clips that another program made: the profile names their files (docs/compare.md).


rule import_samples:
    input:
        images=imported_files,
        like=lambda w: shard_files(full_precision_run(w)),
        extractor=extractor_file,
    output:
        chunks=f"{RUN}-imported/samples/shard-{{shard}}.json",
        features=f"{RUN}-imported/samples/features-{{shard}}.npz",
    log:
        f"{RUN}-imported/logs/sample-{{shard}}.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
        label=one_of(IMPORTED_LABELS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=lambda w: code_digest("qdit.metrics.imported", *extraction_code(w)),
        command=lambda w: COMMANDS.sample(imported_run(w), 0),
    shell:
        "qdit {params.command} > {log} 2>&1"


use rule evaluate as evaluate_imported with:
    input:
        samples=lambda w: shard_files(imported_run(w)) + feature_files(imported_run(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)) + feature_files(full_precision_run(w)),
        reference=reference_of,
        extractor=extractor_file,
    output:
        metrics=f"{RUN}-imported/metrics.json",
        resampled=f"{RUN}-imported/bootstrap.npz",
    log:
        f"{RUN}-imported/logs/evaluate.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
        label=one_of(IMPORTED_LABELS),
    params:
        command=lambda w: COMMANDS.evaluate(imported_run(w)),


# Clips: MP4 files with VBench's names, scored by the model's own instruments.
use rule import_samples as import_clips with:
    input:
        images=imported_files,
        like=lambda w: shard_files(full_precision_run(w)),
        suite=lambda w: input_file(VIDEO["suite"]),
    output:
        chunks=f"{RUN}-imported/samples/shard-{{shard}}.json",
    log:
        f"{RUN}-imported/logs/sample-{{shard}}.log",
    wildcard_constraints:
        setting=one_of(INSTRUMENT_SETTINGS),
        label=one_of(IMPORTED_LABELS),
    params:
        code=code_digest("qdit.metrics.imported_clips"),
        command=lambda w: COMMANDS.sample(imported_run(w), 0),


use rule evaluate_video as evaluate_imported_clips with:
    input:
        samples=lambda w: shard_files(imported_run(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)),
        suite=lambda w: input_file(VIDEO["suite"]),
        instruments=lambda w: input_file(config["models"][model_of(w)]["instruments"]),
    output:
        metrics=f"{RUN}-imported/metrics.json",
        resampled=f"{RUN}-imported/bootstrap.npz",
    log:
        f"{RUN}-imported/logs/evaluate.log",
    wildcard_constraints:
        setting=one_of(INSTRUMENT_SETTINGS),
        label=one_of(IMPORTED_LABELS),
    params:
        command=lambda w: COMMANDS.evaluate(imported_run(w)),
