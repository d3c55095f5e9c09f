# Weights → calibration data → quantized checkpoint → sample chunks → metrics → tables.
# Targets: all (the default), and every table of the profile by its name, also those that all leaves out (opt_in).
# Another profile or an overlay: snakemake --configfile FILE.
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
        [table_files(table) for table in profiles.default_tables(config)],


for table in config["tables"]:

    rule:
        name:
            table
        input:
            table_files(table),
