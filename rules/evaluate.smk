# Features and images → metrics.json, and the resampled values for its intervals. This step does not load torch. Each
# image is compared with the full-precision image of the same noise.
from qdit.core.metrics import modules_of_images


rule evaluate:
    input:
        samples=lambda w: shard_files(run_of(w)) + feature_files(run_of(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)) + feature_files(full_precision_run(w)),
        checkpoint=f"{RUN}/checkpoint/config.json",
        reference=reference_of,
        extractor=extractor_file,
        vae=vae_of,
        lpips=lambda w: lpips_files(run_of(w)),
        judged=lambda w: judge_files(run_of(w)),
        judge_references=judge_references,
    output:
        metrics=f"{RUN}/metrics.json",
        resampled=f"{RUN}/bootstrap.npz",
    log:
        f"{RUN}/logs/evaluate.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
    priority: lambda w: PRIORITIES.of_row(run_of(w), "evaluate")
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.metrics.run", *modules_of_images()),
        command=lambda w: COMMANDS.evaluate(run_of(w)),
    shell:
        "qdit {params.command} > {log} 2>&1"


use rule evaluate as evaluate_integer with:
    input:
        samples=lambda w: shard_files(integer_run(w)) + feature_files(integer_run(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)) + feature_files(full_precision_run(w)),
        checkpoint=f"{RUN}/checkpoint/config.json",
        reference=reference_of,
        extractor=extractor_file,
        vae=vae_of,
        lpips=lambda w: lpips_files(integer_run(w)),
        judged=lambda w: judge_files(integer_run(w)),
        judge_references=judge_references,
    output:
        metrics=f"{RUN}-integer/metrics.json",
        resampled=f"{RUN}-integer/bootstrap.npz",
    log:
        f"{RUN}-integer/logs/evaluate.log",
    priority: lambda w: PRIORITIES.of_row(integer_run(w), "evaluate")
    params:
        command=lambda w: COMMANDS.evaluate(integer_run(w)),


# LPIPS of each image to the full-precision image, if the profile has `perceptual` (config/paper.yaml). It needs torch.
rule perceptual:
    input:
        samples=lambda w: shard_files(run_of(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)),
        weights=lambda w: list(map(str, COMMANDS.lpips_weights())),
    output:
        f"{RUN}/samples/lpips.npz",
    log:
        f"{RUN}/logs/perceptual.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
    priority: lambda w: PRIORITIES.of_row(run_of(w), "evaluate")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.metrics.perceptual_run"),
        command=lambda w: COMMANDS.perceptual(run_of(w)),
    shell:
        "qdit {params.command} > {log} 2>&1"


use rule perceptual as perceptual_integer with:
    input:
        samples=lambda w: shard_files(integer_run(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)),
        weights=lambda w: list(map(str, COMMANDS.lpips_weights())),
    output:
        f"{RUN}-integer/samples/lpips.npz",
    log:
        f"{RUN}-integer/logs/perceptual.log",
    priority: lambda w: PRIORITIES.of_row(integer_run(w), "evaluate")
    params:
        command=lambda w: COMMANDS.perceptual(integer_run(w)),
