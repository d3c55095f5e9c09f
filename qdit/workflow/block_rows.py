"""List the rows of a table that `qdit bench block` times: label, bits, method and options."""

from collections.abc import Sequence

from qdit.bench.block import Row
from qdit.core.errors import ConfigError, did_you_mean
from qdit.workflow.profile import Profile, is_full, runs_of


def block_rows(profile: Profile, table: str, bits: Sequence[str] = ()) -> list[Row]:
    """Return each label of a table at each of its bits, once; with `bits`, only rows at these bits.

    Full precision is measured beside every row, so it is not listed. `why` of a row is the reason why it is not timed.

    Raises ConfigError for a table that does not exist, and for a profile that is not a miniature: `qdit bench block`
    enlarges the layers of a small model to those of DiT-XL/2.
    """
    if table not in profile["tables"]:
        raise ConfigError(
            f"table {table!r} is not in profile {profile['profile']!r} (it has:"
            f" {', '.join(profile['tables']) or 'none'}){did_you_mean(table, profile['tables'])}"
        )
    if not profile.get("miniature"):
        raise ConfigError(
            f"profile {profile['profile']!r} is not a miniature: its options are not those of the small model, whose"
            " sites `qdit bench block` enlarges; name a miniature, e.g. --profile mini"
        )
    rows: dict[tuple[str, str], Row] = {}
    runs = [run for run in runs_of(profile, table) if not is_full(profile, run.label)]
    if unknown := sorted(set(bits) - {run.bits for run in runs}):
        known = ", ".join(dict.fromkeys(run.bits for run in runs))
        raise ConfigError(f"--bits {unknown[0]}: table {table!r} has rows at {known or 'no bits'}; name one of them")
    for run in runs:
        if (run.label, run.bits) in rows or (bits and run.bits not in bits):
            continue
        entry = profile["methods"][run.label]
        rows[run.label, run.bits] = Row(
            label=run.label,
            bits=(run.weight_bits, run.activation_bits),
            method=str(entry["method"]),
            options=dict(entry.get("options") or {}),
            why=_why_not(entry),
        )
    return list(rows.values())


def _why_not(entry: dict[str, object]) -> str | None:
    """Reason why a row is not timed as a block."""
    if "search" in entry:
        return "a search found its group sizes for the small model only"
    if "base" in entry:
        return "corrects the output of another row, whose block it has"
    if "tool" in entry or "images" in entry:
        return "another program computes it"
    return None
