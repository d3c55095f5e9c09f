# Statistics of the real images that samples are compared with.
rule reference:
    input:
        lambda w: input_file(config["extractors"][w.extractor]),
    output:
        "<results>/reference/{extractor}/{reference}.npz",
    log:
        "<results>/logs/reference/{extractor}-{reference}.log",
    priority: lambda w: PRIORITIES.of_file(Path(RESULTS, "reference", w.extractor, f"{w.reference}.npz"))
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=lambda w: code_digest("qdit.mini.reference", extractor_module(w.extractor)),
        command=lambda w: COMMANDS.reference(w.extractor, w.reference),
    shell:
        "qdit {params.command} > {log} 2>&1"
