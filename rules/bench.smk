# Benchmarks (opt-in: snakemake --cores all bench_kernels). Each reserves all cores, so that no other job runs at the
# same time. It measures with one thread. The times are those of this machine; no other result depends on them.
BENCHES = ["kernels", "sampling", "memory", "ranges"]


rule measure_bench:
    output:
        "<results>/bench/{bench}.json",
    log:
        "<results>/logs/bench-{bench}.log",
    wildcard_constraints:
        bench=one_of(BENCHES),
    conda:
        ENVIRONMENT
    threads: workflow.cores
    params:
        code=lambda w: code_digest(f"qdit.bench.{w.bench}"),
    shell:
        "OMP_NUM_THREADS=1 qdit bench {wildcards.bench} {output} > {log} 2>&1"


rule show_bench:
    input:
        "<results>/bench/{bench}.json",
    output:
        multiext("<results>/bench/{bench}", ".md"),
    log:
        "<results>/logs/bench-show-{bench}.log",
    wildcard_constraints:
        bench=one_of(BENCHES),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code_digest("qdit.bench.page"),
        prefix=lambda w, output: str(Path(output[0]).with_suffix("")),
    shell:
        "qdit bench show {input} --out {params.prefix} > {log} 2>&1"


for bench in BENCHES:

    rule:
        name:
            f"bench_{bench}"
        input:
            f"<results>/bench/{bench}.md",


# Opt-in: how many images each metric needs to separate methods (docs/power-study.md), from the rows of a whole run.
rule power_study:
    input:
        default_metrics,
    output:
        touch("<results>/power-study/done"),
    log:
        "<results>/logs/power-study.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.bench.power_study", "qdit.bench.power_study_page"),
        study=repository("results/studies/power.json"),
        page=repository("docs/power-study.md"),
        figure=repository("docs/images/power-study.svg"),
        results=lambda w, output: str(Path(output[0]).parent.parent),
    shell:
        "qdit bench power --results {params.results:q} --out {params.study:q} --page {params.page:q}"
        " --figure {params.figure:q} > {log} 2>&1"


# Opt-in: how a DiT becomes hard to quantize (docs/outliers-dit-*.md), over snapshots of its training. `outliers` is of the
# digits. `outliers_fashion` is of clothes, and needs data/fashion-mnist, like the training.
STUDIED = {
    "dit-digits": [1, 64, 256, 512, 1024, 2000, 4000, 6000, 8000],
    "dit-fashion": [64, 256, 512, 1024, 2000, 4000, 6000, 8000, 10000],
}


rule study_outliers:
    input:
        "<results>/training/{model}/done",
    output:
        touch("<results>/outliers/{model}/done"),
    log:
        "<results>/logs/outliers-{model}.log",
    wildcard_constraints:
        model="|".join(STUDIED),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.mini.outliers", "qdit.mini.outliers_page"),
        snapshots=lambda w, input: str(Path(input[0]).parent / "snapshots"),
        at=lambda w: [f"--at {iteration}" for iteration in STUDIED[w.model]],
        study=repository("results/studies/outliers-{model}.json"),
        page=repository("docs/outliers-{model}.md"),
        figure=repository("docs/images/outliers-{model}.svg"),
    shell:
        "qdit bench outliers {params.snapshots:q} --model {wildcards.model} {params.at}"
        " --method rtn --method ptq4dit --method q-dit"
        " --out {params.study:q} --page {params.page:q} --figure {params.figure:q} > {log} 2>&1"


rule outliers:
    input:
        expand(rules.study_outliers.output, model="dit-digits"),


rule outliers_fashion:
    input:
        expand(rules.study_outliers.output, model="dit-fashion"),
