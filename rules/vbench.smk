# VBench itself on the runs of tables of kind table3 (docs/vbench.md): `snakemake vbench`, never part of a default plan.
# It runs in an environment of its own: with --sdm conda that of envs/vbench.yaml, else the Python that the profile names
# or that `snakemake vbench_env` made, the one rule that downloads (from PyPI). Nothing is downloaded while it scores.


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


rule vbench_clips:
    input:
        lambda w: shard_files(own_run(w)),
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
        code=code_digest("qdit.vbench_clips"),
        number=lambda w: profiles.clips_of(config),
        samples=lambda w: f"{run_folder(own_run(w))}/samples",
    shell:
        "qdit vbench clips {params.samples} $(dirname {output})/clips --count {params.number} --lossless"
        " --listing {output} > {log} 2>&1"


rule vbench_dimension:
    input:
        clips=f"{RUN}/vbench/clips.json",
        suite=lambda w: repository(VIDEO["suite"]),
        weights=vbench_weights,
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
        code=code_digest("qdit.vbench_driver"),
        python=VBENCH_PYTHON,
        driver=VBENCH_DRIVER,
        weights=vbench_flags,
        samples=VIDEO.get("clips"),
        device=config.get("compute", {}).get("device", "cpu"),
    shell:
        "{{ command -v {params.python} || {{ echo 'vbench: error: no VBench environment at {params.python}; make it"
        " with snakemake vbench_env (from PyPI) or name its Python under vbench in the profile' >&2; exit 2; }}; }}"
        " > {log} 2>&1 && {params.python} -I {params.driver} $(dirname {input.clips})/clips {input.suite:q}"
        " {wildcards.dimension} {output} --samples {params.samples} --device {params.device} {params.weights}"
        " >> {log} 2>&1"


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
        code=code_digest("qdit.vbench"),
    shell:
        "qdit vbench gather {output} {input} > {log} 2>&1"


rule vbench:
    input:
        vbench_files,
