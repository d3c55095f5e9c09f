# Checkpoint → images. One job computes a shard of chunks. The chunk files are no declared outputs: they stay when a job
# is killed, and the next one keeps those whose key still holds. The declared output is the shard's list of them.
rule sample:
    input:
        config=f"{RUN}/checkpoint/config.json",
        tensors=f"{RUN}/checkpoint/model.safetensors",
    output:
        f"{RUN}/samples/shard-{{shard}}.json",
    log:
        f"{RUN}/logs/sample-{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/sample-{{shard}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.sampling.run"),
        protocol=protocol_flags,
        shard=lambda w: int(w.shard),
        images=config["sampling"]["images"],
        chunk=config["sampling"]["chunk"],
        chunks_per_shard=config["sampling"]["chunks_per_shard"],
    shell:
        "qdit sample $(dirname {input.config}) $(dirname {output}) {params.protocol}"
        " --images {params.images} --chunk {params.chunk} --shard {params.shard}"
        " --chunks-per-shard {params.chunks_per_shard} > {log} 2>&1"
