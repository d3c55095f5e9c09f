# Rules for a profile with downloaded files (config/paper.yaml): the files, the conversion of official weights, and
# ADM's statistics. No rule here downloads. If a file is missing, its job fails and says how to get the file. So a dry
# run can plan everything. `update` means that Snakemake never deletes a downloaded file.
rule needed_file:
    output:
        update("{file}"),
    log:
        "<results>/logs/needed/{file}.log",
    wildcard_constraints:
        file=one_of([*map(fetched_file, config.get("files", {})), *map(input_file, own_files(config))]),
    priority: 100
    localrule: True
    conda:
        ENVIRONMENT
    shell:
        "qdit check-file {output:q} > {log} 2>&1"


rule import_weights:
    input:
        lambda w: input_file(config["models"][w.model]["forms"][w.form]),
    output:
        "<results>/weights/{model}-{form}.safetensors",
    log:
        "<results>/logs/import-{model}-{form}.log",
    priority: 50
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.workflow.importing"),
        command=lambda w: COMMANDS.import_weights(w.model, w.form),
    shell:
        "qdit {params.command} > {log} 2>&1"


rule reference_adm:
    input:
        extractor=lambda w: input_file(config["extractors"][w.extractor]),
        batch=lambda w: real_images(w.reference),
    output:
        "<results>/reference/{extractor}/{reference}.npz",
    log:
        "<results>/logs/reference/{extractor}-{reference}.log",
    wildcard_constraints:
        reference=one_of(config.get("references", {})),
    priority: 50
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=lambda w: code_digest("qdit.workflow.importing", extractor_module(w.extractor)),
        command=lambda w: COMMANDS.reference(w.extractor, w.reference),
    shell:
        "qdit {params.command} > {log} 2>&1"


ruleorder: reference_adm > reference
