# Weights → calibration data → quantized checkpoint → sample chunks → metrics → tables.
# Targets: all (the default), table2, table4. Another profile or an overlay: snakemake --configfile FILE.
from pathlib import Path


configfile: f"{workflow.basedir}/config/mini.yaml"


include: "rules/common.smk"
include: "rules/reference.smk"
include: "rules/calibrate.smk"
include: "rules/quantize.smk"


for method_rules in sorted(Path(workflow.basedir, "rules", "baselines").glob("*.smk")):

    include: method_rules


include: "rules/sample.smk"
include: "rules/evaluate.smk"
include: "rules/table.smk"
include: "rules/train.smk"


rule all:
    default_target: True
    input:
        [table_files(table) for table in config["tables"]],


rule table2:
    input:
        table_files("table2"),


rule table4:
    input:
        table_files("table4"),
