# Opt-in training of the shipped models (`snakemake training`). Never part of a default plan: shipped weights are inputs
# of a run, and `qdit ship` copies a result to them. The declared output is a mark, since Snakemake deletes declared
# outputs before a job starts, and an interrupted training goes on from its checkpoint.
rule train_dit:
    output:
        "<results>/training/dit-digits/done",
    log:
        "<results>/logs/train-dit.log",
    benchmark:
        "<results>/benchmarks/train-dit.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.training.dit"),
    shell:
        "qdit train dit $(dirname {output}) > {log} 2>&1 && touch {output}"


rule train_classifier:
    output:
        "<results>/training/digit-classifier/done",
    log:
        "<results>/logs/train-classifier.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.training.classifier"),
    shell:
        "qdit train classifier $(dirname {output}) > {log} 2>&1 && touch {output}"


rule training:
    input:
        rules.train_dit.output,
        rules.train_classifier.output,
