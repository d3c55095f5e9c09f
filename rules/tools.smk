# Rows of other quantization libraries (torchao, optimum-quanto, SDNQ), and the speeds of a table of tools. Opt-in:
# snakemake --cores all tools. The tools have a separate environment. The rule that makes it downloads from PyPI. A plan
# contains this rule only if a table with tools is named.


rule tools_env:
    output:
        f"{TOOL_ENV}/qdit-tools.json",
    log:
        "<results>/logs/tools-env.log",
    localrule: True
    conda:
        ENVIRONMENT
    shell:
        "qdit tools install $(dirname {output}) > {log} 2>&1"


rule quantize_tool:
    input:
        unpack(tool_data),
        weights=weights_of,
        environment=ancient(f"{TOOL_ENV}/qdit-tools.json"),
    output:
        config=f"{RUN}-tool/checkpoint/config.json",
        tensors=f"{RUN}-tool/checkpoint/model.safetensors",
    log:
        f"{RUN}-tool/logs/quantize.log",
    wildcard_constraints:
        label=one_of(TOOL_LABELS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=tool_code,
        command=lambda w: COMMANDS.quantize(tool_run(w), tool_data(w)),
    shell:
        "qdit --benchmark $(dirname {log})/quantize.json {params.command} > {log} 2>&1"


rule sample_tool:
    input:
        config=f"{RUN}-tool/checkpoint/config.json",
        tensors=f"{RUN}-tool/checkpoint/model.safetensors",
        environment=ancient(f"{TOOL_ENV}/qdit-tools.json"),
        extractor=extractor_file,
    output:
        chunks=f"{RUN}-tool/samples/shard-{{shard}}.json",
        features=f"{RUN}-tool/samples/features-{{shard}}.npz",
    log:
        f"{RUN}-tool/logs/sample-{{shard}}.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
        label=one_of(TOOL_LABELS),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=lambda w: code_digest("qdit.sampling.tools.sampling", *extraction_code(w)),
        command=lambda w: COMMANDS.sample(tool_run(w), int(w.shard)),
    shell:
        "qdit --benchmark $(dirname {log})/sample-{wildcards.shard}.json {params.command} > {log} 2>&1"


use rule evaluate as evaluate_tool with:
    input:
        samples=lambda w: shard_files(tool_run(w)) + feature_files(tool_run(w)),
        full_precision=lambda w: shard_files(full_precision_run(w)) + feature_files(full_precision_run(w)),
        checkpoint=f"{RUN}-tool/checkpoint/config.json",
        reference=reference_of,
        extractor=extractor_file,
        vae=vae_of,
    output:
        metrics=f"{RUN}-tool/metrics.json",
        resampled=f"{RUN}-tool/bootstrap.npz",
    log:
        f"{RUN}-tool/logs/evaluate.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
        label=one_of(TOOL_LABELS),
    params:
        command=lambda w: COMMANDS.evaluate(tool_run(w)),


# Each job reserves all cores, so that no other job runs at the same time. It measures with one thread. Full precision
# samples alternately with the row.
rule measure_speed:
    input:
        checkpoint=f"{RUN}/checkpoint/config.json",
        tensors=f"{RUN}/checkpoint/model.safetensors",
        full_precision=full_precision_checkpoint,
    output:
        f"{RUN}/speed.json",
    log:
        f"{RUN}/logs/speed.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
    conda:
        ENVIRONMENT
    threads: workflow.cores
    params:
        code=code_digest("qdit.bench.speed"),
        command=lambda w: COMMANDS.speed(run_of(w)),
    shell:
        "OMP_NUM_THREADS=1 qdit {params.command} > {log} 2>&1"


use rule measure_speed as measure_speed_of_tool with:
    input:
        checkpoint=f"{RUN}-tool/checkpoint/config.json",
        tensors=f"{RUN}-tool/checkpoint/model.safetensors",
        full_precision=full_precision_checkpoint,
        environment=ancient(f"{TOOL_ENV}/qdit-tools.json"),
    output:
        f"{RUN}-tool/speed.json",
    log:
        f"{RUN}-tool/logs/speed.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
        label=one_of(TOOL_LABELS),
    params:
        command=lambda w: COMMANDS.speed(tool_run(w)),
