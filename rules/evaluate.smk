# Features and images → metrics.json and the resampled values behind its intervals, without torch; every run is
# compared image by image with full precision's of the same noise.
from qdit.core.metrics import modules_of_images


rule evaluate:
    input:
        samples=lambda w: shard_files(own_run(w)) + feature_files(own_run(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)) + feature_files(full_precision_run(w)),
        checkpoint=f"{RUN}/checkpoint/config.json",
        reference=lambda w: f"{RESULTS}/reference/{extractor_of(w)}/{reference_of(w)}.npz",
        extractor=lambda w: repository(config["extractors"][extractor_of(w)]),
        vae=vae_of,
    output:
        metrics=f"{RUN}/metrics.json",
        resampled=f"{RUN}/bootstrap.npz",
    log:
        f"{RUN}/logs/evaluate.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.metrics.run", *modules_of_images()),
        protocol=protocol_flags,
        images=config["sampling"]["images"],
        resamples=config["sampling"].get("resamples", 200),
        full_precision=lambda w: f"{run_folder(full_precision_run(w))}/samples",
        model=model_of,
        extractor=extractor_of,
        reference=reference_of,
    shell:
        "qdit evaluate $(dirname {output.metrics})/samples {output.metrics} --checkpoint $(dirname {input.checkpoint})"
        " --reference-file {input.reference} --reference-name {params.reference}"
        " --extractor {params.extractor} --extractor-weights {input.extractor:q}"
        " --fp-samples {params.full_precision} --images {params.images} --resamples {params.resamples}"
        " {params.protocol} --setting {wildcards.setting} --model {params.model} --form {wildcards.form}"
        " --label {wildcards.label} > {log} 2>&1"


use rule evaluate as evaluate_integer with:
    input:
        samples=lambda w: shard_files(integer_run(w)) + feature_files(integer_run(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)) + feature_files(full_precision_run(w)),
        checkpoint=f"{RUN}/checkpoint/config.json",
        reference=lambda w: f"{RESULTS}/reference/{extractor_of(w)}/{reference_of(w)}.npz",
        extractor=lambda w: repository(config["extractors"][extractor_of(w)]),
        vae=vae_of,
    output:
        metrics=f"{RUN}-integer/metrics.json",
        resampled=f"{RUN}-integer/bootstrap.npz",
    log:
        f"{RUN}-integer/logs/evaluate.log",
