"""Write what `qdit explain` says about a metrics.json: its numbers, how they were measured, and by which code."""

from collections.abc import Iterator

from qdit.core.digest import code_digest
from qdit.core.metrics import modules_of_images
from qdit.core.metrics_record import MetricsRecord, Status
from qdit.core.run import IMPORTED, INTEGER, TOOL
from qdit.methods.sources import STEP
from qdit.metrics.extractor_names import extractor_code
from qdit.sampling.words import WORDS_MODULE
from qdit.workflow.method_index import method_sources

SHOWN = 12
"""Characters of a digest that are shown."""


def measured(record: MetricsRecord) -> tuple[str, ...]:
    """Return facts from a metrics.json: the numbers, and how they were measured."""
    if record.status != Status.OK:
        return (f"no numbers: {record.error}",)
    limits = record.intervals
    numbers = [
        f"{name} {value:.6g}" + (" [{:.6g}, {:.6g}]".format(*limits[name]) if name in limits else "")
        for name, value in record.metrics.items()
        if value is not None
    ]
    protocol = record.protocol
    names = ("sampler", "steps", "cfg_scale", "images", "chunk", "seed", "decoder", "uint8")
    return (
        ", ".join(numbers),
        "protocol: " + ", ".join(f"{name} {protocol.get(name)}" for name in names),
        f"mode {record.mode}, backend {record.backend}",
        *code_facts(record),
        "packages: " + ", ".join(f"{name} {version}" for name, version in record.packages.items()),
    )


def code_facts(record: MetricsRecord) -> Iterator[str]:
    """Return the digest of each step's code, and whether the code of this checkout has the same digest."""
    method = method_sources().get(record.run["method"])
    integer = record.mode == INTEGER
    clips, evaluator = record.is_of_clips, record.protocol["evaluator"].get("name")
    modules = {
        "quantize": (STEP, method.module) if method else (),
        "sample": ("qdit.sampling.integer" if integer else "qdit.sampling.run",),
        "features": ("qdit.metrics.extraction", *extractor_code(str(evaluator))),
        "evaluate": ("qdit.metrics.run", *modules_of_images()),
    }
    scored = "qdit.metrics.vbench.run" if record.vbench else "qdit.mini.vbench.run"
    modules |= {"sample": ("qdit.sampling.run", WORDS_MODULE), "evaluate": (scored,)} if clips else {}
    modules |= {"sample": ()} if record.mode in (TOOL, IMPORTED) else {}
    for step, digest in record.code.items():
        if not modules.get(step):
            yield f"code of {step}: {digest[:SHOWN]}"
            continue
        same = code_digest(*modules[step]) == digest
        yield f"code of {step}: {digest[:SHOWN]}, {'that of this checkout' if same else 'not that of this checkout'}"
