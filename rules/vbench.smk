# VBench itself on the runs of tables of kind table3 (docs/vbench.md). If a model has no instruments, its metrics.json
# comes from VBench. For other models, `snakemake vbench` adds the scores. VBench runs in a separate environment. With
# --sdm conda it is that of envs/vbench.yaml. Otherwise it is the Python that the profile names, or that
# `snakemake vbench_env` made. Only this rule downloads (from PyPI). A plan contains it only if it is named. Scoring
# downloads nothing.


rule vbench_env:
    output:
        f"{VBENCH_ENV}/qdit-vbench.json",
    log:
        "<results>/logs/vbench-env.log",
    localrule: True
    conda:
        ENVIRONMENT
    shell:
        "qdit vbench install $(dirname {output}) > {log} 2>&1"


# This job checks VBench's packages before the first clip is sampled.
rule vbench_ready:
    output:
        "<results>/vbench-ready/{dimension}.json",
    log:
        "<results>/logs/vbench-ready/{dimension}.log",
    wildcard_constraints:
        dimension=one_of(VBENCH_WEIGHTS),
    priority: 100
    localrule: True
    conda:
        "envs/vbench.yaml"
    params:
        there=VBENCH_THERE,
        python=VBENCH_PYTHON,
        driver=VBENCH_DRIVER,
    shell:
        "{params.there} 2> {log} && {params.python} -I {params.driver} --ready {wildcards.dimension} {output} >> {log} 2>&1"


rule vbench_clips:
    input:
        lambda w: shard_files(run_of(w)),
    output:
        f"{RUN}/vbench/clips.json",
    log:
        f"{RUN}/logs/vbench-clips.log",
    wildcard_constraints:
        setting=one_of(VIDEO_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.metrics.vbench.clips"),
        number=lambda w: profiles.clips_of(config),
        samples=lambda w: f"{run_folder(run_of(w))}/samples",
        fps=lambda w: config["settings"][w.setting].get("clip", {}).get("fps", 8),
    shell:
        "qdit vbench clips {params.samples} $(dirname {output})/clips --count {params.number} --fps {params.fps}"
        " --lossless --listing {output} > {log} 2>&1"


rule vbench_dimension:
    input:
        clips=f"{RUN}/vbench/clips.json",
        suite=lambda w: input_file(VIDEO["suite"]),
        weights=vbench_weights,
        ready=ancient("<results>/vbench-ready/{dimension}.json"),
    output:
        f"{RUN}/vbench/{{dimension}}.json",
    log:
        f"{RUN}/logs/vbench-{{dimension}}.log",
    wildcard_constraints:
        setting=one_of(VIDEO_SETTINGS),
        dimension=one_of(VBENCH_WEIGHTS),
    conda:
        "envs/vbench.yaml"
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=code_digest("qdit.metrics.vbench.driver"),
        there=VBENCH_THERE,
        python=VBENCH_PYTHON,
        launch=VBENCH_LAUNCH,
        weights=vbench_flags,
        samples=VIDEO.get("clips"),
        device=config.get("compute", {}).get("device", "cpu"),
    shell:
        "{params.there} 2> {log} && {params.python} -I {params.launch} {params.device} $(dirname {input.clips})/clips"
        " {input.suite:q} {wildcards.dimension} {output} --listing {input.clips} --samples {params.samples}"
        " {params.weights} >> {log} 2>&1"


rule vbench_run:
    input:
        expand(f"{RUN}/vbench/{{dimension}}.json", dimension=VBENCH_WEIGHTS, allow_missing=True),
    output:
        f"{RUN}/vbench.json",
    log:
        f"{RUN}/logs/vbench.log",
    wildcard_constraints:
        setting=one_of(VIDEO_SETTINGS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.metrics.vbench.results"),
    shell:
        "qdit vbench gather {output} {input} > {log} 2>&1"


# The metrics.json of a row of Table 3 whose clips VBench scores.
rule evaluate_vbench:
    input:
        samples=lambda w: shard_files(run_of(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)),
        checkpoint=f"{RUN}/checkpoint/config.json",
        suite=lambda w: input_file(VIDEO["suite"]),
        results=f"{RUN}/vbench.json",
        clips=f"{RUN}/vbench/clips.json",
        vae=vae_of,
    output:
        metrics=f"{RUN}/metrics.json",
        resampled=f"{RUN}/bootstrap.npz",
    log:
        f"{RUN}/logs/evaluate.log",
    wildcard_constraints:
        setting=one_of(VBENCH_SETTINGS),
    priority: lambda w: PRIORITIES.of_row(run_of(w), "evaluate")
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.metrics.vbench.run"),
        command=lambda w: COMMANDS.evaluate(run_of(w)),
    shell:
        "qdit {params.command} > {log} 2>&1"


rule vbench:
    input:
        vbench_files,
