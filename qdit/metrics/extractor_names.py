"""Names of the feature extractors and the module that loads each; importing this module loads no network."""

from qdit.core.errors import ConfigError, did_you_mean

EXTRACTORS = {
    "digit-classifier": "qdit.mini.classifier",
    "digit-classifier-16": "qdit.mini.classifier",
    "fashion-classifier": "qdit.mini.classifier",
    "inception-adm": "qdit.metrics.inception",
    "dinov2": "qdit.metrics.judge_dino",
}
"""Extractor → module with `load_named(name, weights, *, sha256, device)`."""


def extractor_module(name: str) -> str:
    """Name of the module that loads an extractor, for imports and for code digests; ConfigError for an unknown name."""
    if name not in EXTRACTORS:
        allowed = ", ".join(EXTRACTORS)
        raise ConfigError(f"unknown extractor {name!r}; allowed are {allowed}{did_you_mean(name, EXTRACTORS)}")
    return EXTRACTORS[name]


def extractor_code(name: str) -> tuple[str, ...]:
    """Modules that a code digest must include for an extractor; empty if the extractor is not one of the suite's."""
    return (EXTRACTORS[name],) if name in EXTRACTORS else ()
