# Weights and checkpoints → arrays for the papers' figures. One job draws all figures from arrays, metrics and samples.
# The figures belong to the target `all`, unless the weights are downloaded. Then the analyses take hours of a GPU, and
# only the target `figures` makes them.
rule analyze_activations:
    input:
        weights_of,
    output:
        "<results>/analysis/{setting}/{form}/activations.npz",
    log:
        "<results>/logs/analyze/{setting}-{form}-activations.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.metrics.analysis.activations"),
        protocol=lambda w: protocol_flags(w, decoded=False),
        samples=ANALYZED["activations"],
    shell:
        "qdit --benchmark {log}.json analyze activations {input:q} {output} --samples {params.samples}"
        " {params.protocol} > {log} 2>&1"


rule analyze_errors:
    input:
        full=full_precision_at,
        checkpoints=lambda w: [f"{run_folder(run)}/checkpoint/config.json" for run in compared_runs(w)],
    output:
        "<results>/analysis/{setting}/{form}/errors-{bits}-{scope}.npz",
    log:
        "<results>/logs/analyze/{setting}-{form}-errors-{bits}-{scope}.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.metrics.analysis.errors"),
        protocol=lambda w: protocol_flags(w, decoded=False),
        checkpoints=checkpoint_flags,
        samples=ANALYZED["errors"],
    shell:
        "qdit --benchmark {log}.json analyze errors $(dirname {input.full}) {output} {params.checkpoints}"
        " --samples {params.samples} {params.protocol} > {log} 2>&1"


rule figures:
    input:
        profile="<results>/profile.json",
        published=[repository(f"results/published/{name}") for name in ALL_PUBLISHED],
        analyses=analyses,
        runs=figure_runs,
        allocations=figure_allocations,
    output:
        list=FIGURES,
        png=[f"{RESULTS}/figures/{figure.name}.png" for figure in FIGURE_NAMES],
        svg=[
            report(
                f"{RESULTS}/figures/{figure.name}.svg",
                caption="../report/figure.rst",
                category="Figures",
                subcategory=figure.group,
                labels=figure.labels,
            )
            for figure in FIGURE_NAMES
        ],
    log:
        "<results>/logs/figures.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.report.figures.build"),
    shell:
        "qdit figures --profile {input.profile} --results $(dirname {input.profile}) > {log} 2>&1"
