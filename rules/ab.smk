# The blind A/B page (opt-in: snakemake --cores all ab) of the first table of kind table2, from samples that are there
# after the default run; qdit ab has options for other choices.
AB_TABLES = [name for name, table in config["tables"].items() if table["kind"] == "table2"][:1]
AB_RUNS = [run for name in AB_TABLES for run in profiles.runs_of(config, name)]
AB_SETTINGS = {(run.setting, run.form) for run in AB_RUNS}
# Destroyed images, with which a voter is tested: the negative controls of the same settings.
AB_CONTROLS = [block for table in config["tables"].values() if table["kind"] == "qc" for block in table["blocks"]]
AB_RUNS += [
    profiles.Run(block["setting"], block["form"], label, bits, block["scope"])
    for block in AB_CONTROLS
    if (block["setting"], block["form"]) in AB_SETTINGS
    for bits in block["bits"]
    for label in block["methods"]
    if not profiles.is_full(config, label)
]


rule ab_page:
    input:
        profile="<results>/profile.json",
        metrics=[f"{run_folder(run)}/metrics.json" for run in dict.fromkeys(AB_RUNS)],
        samples=[file for run in dict.fromkeys(AB_RUNS) for file in shard_files(run)],
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
