"""Define the part `replicates` of a profile (`qdit.workflow.replicates` says what it means)."""

from typing import Annotated

from pydantic import Field

from qdit.core.run_to_run import LEAST_REPLICATES
from qdit.workflow.profile_fields import Bits, Part, Several, Unique

MOST_REPLICATES = 20
"""Beyond them time is better spent on images."""


class ReplicatedRows(Part):
    """Rows of a table that have replicates. A missing key leaves no row out."""

    table: str
    setting: str | None = None
    form: str | None = None
    bits: Annotated[Unique[Bits], Field(min_length=1)] = ()
    methods: Annotated[Unique[str], Field(min_length=1)] = ()


class Replicates(Part):
    """Rows that are quantized several times with other random draws, and how many times (docs/protocol.md)."""

    count: Annotated[int, Field(ge=LEAST_REPLICATES, le=MOST_REPLICATES)]
    rows: Several[ReplicatedRows]
