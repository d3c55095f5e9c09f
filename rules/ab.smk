# The blind A/B page (opt-in: snakemake --cores all ab) of the first table of kind table2. It uses samples of the
# default run. `qdit ab` has options for other choices.
from qdit.workflow.targets import ab_runs

AB_RUNS = ab_runs(config)


rule ab_page:
    input:
        profile="<results>/profile.json",
        metrics=[f"{run_folder(run)}/metrics.json" for run in AB_RUNS],
        samples=[file for run in AB_RUNS for file in shard_files(run)],
    output:
        "<results>/ab.html",
    log:
        "<results>/logs/ab.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.report.votes.ab_page"),
    shell:
        "qdit ab --profile {input.profile} --results $(dirname {input.profile}) --out {output} > {log} 2>&1"


rule ab:
    input:
        "<results>/ab.html",
