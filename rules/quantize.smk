# Weights → packed checkpoint. Which calibration data a method needs, and how much memory and time on a cluster, its class
# says. A file in rules/baselines/ inherits this rule for a method that wants other inputs or resources. A method that
# fails leaves a folder that says why, so that its rows of the tables say so and the others are made.
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
