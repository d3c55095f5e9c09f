# Weights → calibration data → quantized checkpoint → sample chunks → metrics → tables → claims.
# Targets: all (the default), every table of the profile by its name (also opt-in tables), claims_rows, training,
# training_fashion, search_study, power_study, outliers and outliers_fashion.
# Another profile or an overlay: snakemake --configfile FILE.
from pathlib import Path


include: "rules/common.smk"
include: "rules/replicates_inputs.smk"
include: "rules/claims_inputs.smk"
include: "rules/pipelines_inputs.smk"
include: "rules/progress.smk"
include: "rules/paper.smk"
include: "rules/reference.smk"
include: "rules/calibrate.smk"
include: "rules/search_inputs.smk"
include: "rules/search.smk"
include: "rules/quantize.smk"


for method_rules in sorted(Path(workflow.basedir, "rules", "baselines").glob("*.smk")):

    include: method_rules


include: "rules/sample.smk"
include: "rules/evaluate.smk"
include: "rules/judge.smk"
include: "rules/video.smk"
include: "rules/vbench_inputs.smk"
include: "rules/vbench.smk"
include: "rules/table.smk"
include: "rules/figures_inputs.smk"
include: "rules/figures.smk"
include: "rules/report.smk"
include: "rules/ab.smk"
include: "rules/train.smk"
include: "rules/bench.smk"
include: "rules/tools_inputs.smk"
include: "rules/tools.smk"
include: "rules/imported.smk"


rule all:
    default_target: True
    input:
        [table_files(table) for table in profiles.default_tables(config)],
        REPORT,
        DEFAULT_FIGURES,
        rules.check_all_rows.output,


for table in config["tables"]:

    rule:
        name:
            table
        input:
            table_files(table),
            f"<results>/rows/{table}.json",
