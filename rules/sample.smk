# Checkpoint → images. One job computes a shard of chunks. The chunk files are not declared outputs, so Snakemake does
# not delete them when a job is killed. The next job keeps the chunks whose key is still valid. The declared outputs are
# the list of the chunks and the features of the images. The features are extracted here, because this job has loaded
# torch.
rule sample:
    input:
        config=f"{RUN}/checkpoint/config.json",
        tensors=f"{RUN}/checkpoint/model.safetensors",
        extractor=extractor_file,
        vae=vae_of,
        pipeline=pipeline_of,
        same_as=same_samples,
    output:
        chunks=f"{RUN}/samples/shard-{{shard}}.json",
        features=f"{RUN}/samples/features-{{shard}}.npz",
    log:
        f"{RUN}/logs/sample-{{shard}}.log",
    wildcard_constraints:
        setting=one_of(IMAGE_SETTINGS),
    priority: lambda w: PRIORITIES.of_row(run_of(w), "sample")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
    params:
        code=lambda w: code_digest(sampling_code(w), *extraction_code(w)),
        command=lambda w: COMMANDS.sample(run_of(w), int(w.shard)),
    shell:
        "qdit --benchmark $(dirname {log})/sample-{wildcards.shard}.json {params.command} > {log} 2>&1"


# The same checkpoint in integer arithmetic (table integer).
use rule sample as sample_integer with:
    output:
        chunks=f"{RUN}-integer/samples/shard-{{shard}}.json",
        features=f"{RUN}-integer/samples/features-{{shard}}.npz",
    log:
        f"{RUN}-integer/logs/sample-{{shard}}.log",
    priority: lambda w: PRIORITIES.of_row(integer_run(w), "sample")
    params:
        code=lambda w: code_digest("qdit.sampling.integer", *extraction_code(w)),
        command=lambda w: COMMANDS.sample(integer_run(w), int(w.shard)),
