# Opt-in training of the shipped models (`snakemake training`). A default plan never contains it: shipped weights are
# inputs of a run. `qdit ship` writes a training's result to them. The declared output is an empty mark file. Snakemake
# deletes declared outputs before a job starts, but an interrupted training must keep its checkpoint to continue.
# The models of clothes need data/fashion-mnist (`qdit data fashion-mnist`), so `training` leaves them out: name
# `training_fashion`.
CLASSIFIER_DATA = {
    "digit-classifier": "digits",
    "digit-classifier-16": "digits-16",
    "fashion-classifier": "fashion-mnist",
}
OF_CLOTHES = "fashion-classifier"


rule train_dit:
    output:
        "<results>/training/dit-{data}/done",
    log:
        "<results>/logs/train-dit-{data}.log",
    benchmark:
        "<results>/benchmarks/train-dit-{data}.tsv"
    wildcard_constraints:
        data="digits|digits-16|fashion",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.mini.training.dit"),
    shell:
        "qdit train dit $(dirname {output}) --model dit-{wildcards.data} > {log} 2>&1 && touch {output}"


rule train_classifier:
    output:
        "<results>/training/{classifier}/done",
    log:
        "<results>/logs/train-{classifier}.log",
    wildcard_constraints:
        classifier="|".join(CLASSIFIER_DATA),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.mini.training.classifier"),
        data=lambda w: CLASSIFIER_DATA[w.classifier],
    shell:
        "qdit train classifier $(dirname {output}) --data {params.data} > {log} 2>&1 && touch {output}"


rule train_video:
    output:
        "<results>/training/{model}/done",
    log:
        "<results>/logs/train-{model}.log",
    benchmark:
        "<results>/benchmarks/train-{model}.tsv"
    wildcard_constraints:
        model="stdit3-moving-digits",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.mini.training.video"),
    shell:
        "qdit train video $(dirname {output}) --model {wildcards.model} > {log} 2>&1 && touch {output}"


rule train_instruments:
    output:
        "<results>/training/mini-vbench/done",
    log:
        "<results>/logs/train-mini-vbench.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.mini.training.video_instruments"),
    shell:
        "qdit train instruments $(dirname {output}) > {log} 2>&1 && touch {output}"


rule training:
    input:
        "<results>/training/stdit3-moving-digits/done",
        rules.train_instruments.output,
        expand(rules.train_dit.output, data=["digits", "digits-16"]),
        expand(rules.train_classifier.output, classifier=[name for name in CLASSIFIER_DATA if name != OF_CLOTHES]),


rule training_fashion:
    input:
        expand(rules.train_dit.output, data="fashion"),
        expand(rules.train_classifier.output, classifier=OF_CLOTHES),
