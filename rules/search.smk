# Weights → a group size for every layer, under one budget for all kinds of search. The journal beside the output is not
# a declared output. So it stays when a job is killed, and the next job continues from it. For more workers of one
# search: snakemake --set-threads search=8 (never changes a result).
rule search:
    input:
        unpack(search_inputs),
    output:
        "<results>/search/{setting}/{form}/{search}/{bits}{replicate}.json",
    log:
        "<results>/search/{setting}/{form}/{search}/{bits}{replicate}.log",
    priority: lambda w: PRIORITIES.of_file(COMMANDS.search_file(search_of(w)))
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=lambda w: code_digest("qdit.search.run", *extraction_code(w)),
        command=search_command,
    shell:
        "qdit --benchmark $(dirname {log})/{wildcards.bits}{wildcards.replicate}.benchmark.json {params.command} --workers {threads}"
        " > {log} 2>&1"


# Opt-in: the searches over several seeds (docs/search-study.md), about an hour of 2 cores. A stopped
# study continues from its journals. The repository keeps the result beside the other studies.
rule search_study:
    input:
        trajectory=f"{RESULTS}/calibration/dit-digits/natural/digits-cfg1.0-s20/trajectory.safetensors",
    output:
        touch("<results>/search-study/done"),
    log:
        "<results>/logs/search-study.log",
    conda:
        ENVIRONMENT
    threads: workflow.cores
    params:
        code=code_digest("qdit.bench.search_study"),
        study=repository("results/studies/search.json"),
        page=repository("docs/search-study.md"),
        weights=repository("weights/dit-digits-natural.safetensors"),
        extractor=repository("weights/digit-classifier.safetensors"),
    shell:
        "qdit search-study {params.study:q} --page {params.page:q} --work $(dirname {output}) --workers {threads}"
        " --weights {params.weights:q} --extractor-weights {params.extractor:q}"
        " --calibration {input.trajectory:q} > {log} 2>&1"
