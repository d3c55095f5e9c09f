# Weights → packed checkpoint. The class of a method names its calibration data, and its memory and time on a cluster. A
# method that needs other inputs or resources has a file in rules/baselines/, which inherits this rule. If a method
# fails, its folder holds the reason. Then its rows show the reason, and all other rows are made.
rule quantize:
    input:
        unpack(quantize_inputs()),
    output:
        config=f"{RUN}/checkpoint/config.json",
        tensors=f"{RUN}/checkpoint/model.safetensors",
    log:
        f"{RUN}/logs/quantize.log",
    wildcard_constraints:
        label=labels_of(*methods_without_rules()),
    priority: lambda w: PRIORITIES.of_row(run_of(w), "quantize")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=cluster_resource("memory_mb"),
        runtime=cluster_resource("minutes"),
    params:
        code=quantize_code,
        # Snakemake compares parameters that do not depend on inputs: method, bits, scope, options.
        without_data=lambda w: COMMANDS.quantize(run_of(w), {}),
        command=quantize_command,
    shell:
        "qdit --benchmark $(dirname {log})/quantize.json {params.command} > {log} 2>&1"
