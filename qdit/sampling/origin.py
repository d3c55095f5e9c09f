"""The origin of samples: protocol, checkpoint, mode and code. Sample files carry it. This module loads no torch.

Every chunk file and every list of chunks holds an origin and its digest, the key of the run. Later steps read the
origin there. A flag of a later command may repeat a value of the origin, but not change it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import sha256_json
from qdit.core.run import IMPORTED
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.pipeline_protocol import PipelineImages
from qdit.sampling.protocol import NO_DECODER, USUAL, Protocol, Sampled

AnyProtocol = Protocol | FlowProtocol | PipelineImages
KINDS: tuple[type[AnyProtocol], ...] = (Protocol, FlowProtocol, PipelineImages)
PROTOCOLS: dict[str, type[AnyProtocol]] = {kind.family: kind for kind in KINDS}
MODEL_FACTS = ("method", "weight_bits", "activation_bits", "weights_sha256")
"""What the record of a checkpoint says that its samples repeat."""
AGAIN = "sample again"
PAIRED = "paired"
"""In `model` of imported samples: whether their source states the protocol of full precision's samples."""


@dataclass(frozen=True)
class Origin:
    """Everything that a run's samples depend on.

    family              name of the family of networks.
    protocol            every field of the protocol, the decoder's digest included.
    shape               shape of the latents or pixels of one sample.
    chunk               number of samples computed as one batch.
    checkpoint_sha256   identity of the checkpoint.
    model               facts about the checkpoint: method, bits, digest of the weights; None where it does not say.
    mode                name, kernel backend and further values that the mode depends on.
    code                digest of the code that samples.
    prompts             count and digest of the prompts; None for images of classes.
    text_sha256         digest of the text embeddings, if there are any.
    """

    family: str
    protocol: Mapping[str, Any]
    shape: tuple[int, ...]
    chunk: int
    checkpoint_sha256: str
    model: Mapping[str, Any]
    mode: Mapping[str, str]
    code: str
    prompts: Mapping[str, Any] | None = None
    text_sha256: str | None = None

    @property
    def is_imported(self) -> bool:
        """Whether another program made the samples."""
        return self.family == IMPORTED

    @property
    def may_be_paired(self) -> bool:
        """Whether the samples can be compared with full precision one by one.

        It is False for imported samples that state no protocol.
        """
        return not (self.is_imported and self.model.get(PAIRED) is False)

    @property
    def key(self) -> str:
        """Digest of the whole origin."""
        return origin_key(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The origin as a dictionary for JSON."""
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def read(cls, stored: Any, key: str, *, where: Path) -> Self:
        """Read the origin that a file holds.

        DataError if it holds none, or if `key` is not the digest of the origin.
        """
        if stored is None:
            raise DataError(f"{where}: does not say what its samples were made of (an older version made it); {AGAIN}")
        if not isinstance(stored, dict) or origin_key(stored) != key:
            raise DataError(f"{where}: what it says of its samples was changed, its key is another; {AGAIN}")
        try:
            return cls(**stored | {"shape": tuple(stored["shape"])})
        except (KeyError, TypeError):
            raise DataError(f"{where}: does not say all that its samples were made of; {AGAIN}") from None

    def sampled_by(self, where: Path) -> AnyProtocol:
        """Make the protocol object of this origin.

        DataError if this version of the suite does not know the protocol.
        """
        try:
            return PROTOCOLS[self.family](**self.protocol)
        except (KeyError, TypeError, ConfigError) as problem:
            raise DataError(f"{where}: says a protocol that this version does not know ({problem}); {AGAIN}") from None


def origin_key(origin: Mapping[str, Any]) -> str:
    """Digest of an origin that is given as a dictionary."""
    return sha256_json(json.loads(json.dumps(origin)))


def flag_of(fact: str) -> str:
    """Name of the command-line flag for a field of a protocol."""
    return "--vae" if fact == "decoder" else f"--{fact.replace('_', '-')}"


def require_repeated(
    where: Path, protocol: Mapping[str, Any], stated: Mapping[str, Any], *, again: str = AGAIN
) -> None:
    """Raise ConfigError unless every stated value equals the value in the file's protocol. None means not stated.

    `again` is the advice in the message: what to do if the file is not the wanted one.
    """
    recorded_facts = USUAL | dict(protocol)
    for fact, value in stated.items():
        if value is not None and (fact not in recorded_facts or recorded_facts[fact] != value):
            raise ConfigError(
                f"{where}: was made with {fact} {recorded_facts.get(fact, 'none')}, {flag_of(fact)} says {value}; leave"
                f" the flag out, or {again}"
            )


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Text about the first field in which two protocols differ, with both values; None if they are equal."""
    for fact in sorted({*first, *second}):
        if first.get(fact) != second.get(fact):
            return f"{fact} {first.get(fact)} and {second.get(fact)}"
    return None


def facts_of(protocol: Sampled) -> dict[str, Any]:
    """All fields of a protocol, as a file holds them."""
    return {"dtype": "float32", "decoder": NO_DECODER} | protocol.all_facts()
