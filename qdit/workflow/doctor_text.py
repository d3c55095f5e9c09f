"""Write the text of `qdit doctor`: a summary in the first line, a line for each group, then the problems."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from qdit.workflow.command_words import profile_flags
from qdit.workflow.doctor import Finding
from qdit.workflow.fetch import unverified
from qdit.workflow.profile import Profile

SHORT = {"methods": "a file of methods is broken", "GPU": "no GPU", "disk": "too little room on the disk"}
"""Group → what its failure means, where that is not that something is missing."""


def doctor_text(
    profile: Profile,
    findings: Sequence[Finding],
    *,
    details: bool = False,
    row: str | None = None,
    layers: Sequence[str] = (),
) -> str:
    """Write the text about a profile: summary, groups and problems. `details` adds every finding.

    If only one row was checked, `row` names it. `layers` are the files of the profile, for the commands that follow;
    without them its name stands there. Missing files that can be fetched are only counted. Damaged files, and files
    that cannot be fetched, are always listed.
    """
    name, failed = profile["profile"], [finding for finding in findings if not finding.ok]
    lines = [f"{name}: {'ready' if not failed else 'NOT READY: ' + '; '.join(problems(findings))}"]
    order = list(dict.fromkeys(finding.group for finding in findings))
    ordered = sorted(findings, key=lambda finding: order.index(finding.group))
    groups = [(group, list(members)) for group, members in groupby(ordered, key=lambda finding: finding.group)]
    width = max((len(group) for group, _ in groups), default=0)
    for group, members in groups:
        lines.append(f"  {group:{width}}  {group_text(members)}")
    shown = findings if details else [finding for finding in failed if not finding.is_fetchable and finding.file]
    lines += [f"{'ok  ' if finding.ok else 'FAIL'}  {finding.text}" for finding in shown]
    words = profile_flags(name, layers) + (f" --row '{row}'" if row else "")
    return "\n".join([*lines, *next_steps(words, failed, details=details)])


def problems(findings: Sequence[Finding]) -> Iterable[str]:
    """Write a short text about each problem."""
    files = [finding for finding in findings if finding.file]
    bad = [finding for finding in files if not finding.ok]
    if missing := [finding for finding in bad if finding.is_missing]:
        yield f"{len(missing)} of {len(files)} files missing ({size_text(missing)})"
    if damaged := [finding for finding in bad if not finding.is_missing]:
        yield f"{len(damaged)} of {len(files)} files damaged or others"
    others = (finding.group for finding in findings if not (finding.ok or finding.file))
    yield from dict.fromkeys(SHORT.get(group, f"{group} missing") for group in others)


def group_text(members: Sequence[Finding]) -> str:
    """Write one line about a group, such as `3 of 4 files there and whole; missing 1: 20 MB`."""
    if any(not finding.file for finding in members):
        return "; ".join(f"{'' if finding.ok else 'FAIL: '}{finding.text}" for finding in members)
    good = [finding for finding in members if finding.ok]
    missing = [finding for finding in members if finding.is_missing]
    text = f"{len(good)} of {len(members)} files there and whole"
    return f"{text}; missing {len(missing)}: {size_text(missing)}" if missing else text


def size_text(findings: Sequence[Finding]) -> str:
    """Write the total size of files as the profile gives it, and the number of files whose size it does not give."""
    sizes = [finding.file.entry.get("megabytes") for finding in findings if finding.file]
    known, unknown = [size for size in sizes if size is not None], sum(size is None for size in sizes)
    total = sum(known)
    parts = [f"about {total / 1000:.1f} GB" if total >= 100 else f"about {total:.0f} MB"] if known else []
    return " and ".join([*parts, *([f"{unknown} of unknown size"] if unknown else [])])


def next_steps(words: str, failed: Sequence[Finding], *, details: bool) -> list[str]:
    """List the commands that solve the problems; `words` are their flags."""
    missing = [finding.file for finding in failed if finding.file and finding.is_fetchable]
    lines = [f"next: qdit fetch {words} downloads what is missing"] if missing else []
    if undigested := unverified(missing):
        lines.append(
            f"      {len(undigested)} of {len(missing)} have no whole sha256 in the profile: fetch takes them only if"
            " --allow-unverified names them or their folder (SECURITY.md)"
        )
    if untried := [file for file in missing if not file.is_tried]:
        lines.append(
            f"      {len(untried)} of {len(missing)} addresses have not been tried by this project; one may have moved"
        )
    if failed and not details:
        lines.append(f"every file with source, licence and sha256: qdit doctor {words} --all")
    return lines
