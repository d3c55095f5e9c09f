# Networks that judge single images, if the profile has `judges`: CLIP score, ImageReward, DINOv2's features.
from qdit.metrics.judged import JUDGES


rule judge:
    input:
        samples=lambda w: shard_files(run_of(w)),
        weights=lambda w: list(map(str, COMMANDS.judge_weights(w.judge).values())),
    output:
        f"{RUN}/samples/judged-{{judge}}.npz",
    log:
        f"{RUN}/logs/judge-{{judge}}.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
        judge=one_of(judges_of(config)),
    priority: lambda w: PRIORITIES.of_row(run_of(w), "evaluate")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=lambda w: code_digest("qdit.metrics.judge_run", JUDGES[w.judge]),
        command=lambda w: COMMANDS.judge(run_of(w), w.judge),
    shell:
        "qdit {params.command} > {log} 2>&1"


use rule judge as judge_integer with:
    input:
        samples=lambda w: shard_files(integer_run(w)),
        weights=lambda w: list(map(str, COMMANDS.judge_weights(w.judge).values())),
    output:
        f"{RUN}-integer/samples/judged-{{judge}}.npz",
    log:
        f"{RUN}-integer/logs/judge-{{judge}}.log",
    priority: lambda w: PRIORITIES.of_row(integer_run(w), "evaluate")
    params:
        code=lambda w: code_digest("qdit.metrics.judge_run", JUDGES[w.judge]),
        command=lambda w: COMMANDS.judge(integer_run(w), w.judge),


# Features of real images by DINOv2: of an ADM batch's images, or of the user's own folder.
rule judge_reference:
    input:
        weights=lambda w: list(map(str, COMMANDS.judge_weights(w.judge).values())),
        images=lambda w: real_images(w.reference),
    output:
        "<results>/reference/{judge}/{reference}.npz",
    log:
        "<results>/logs/reference/{judge}-{reference}.log",
    wildcard_constraints:
        judge=one_of(set(judges_of(config)) & {"dino"}),
        reference=one_of(config.get("references", {})),
    priority: 50
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.workflow.importing", "qdit.metrics.judge_dino"),
        command=lambda w: COMMANDS.judge_reference(w.judge, w.reference),
    shell:
        "qdit {params.command} > {log} 2>&1"
