"""Write a benchmark's record as a Markdown page.

For the kernels it also draws speed and fraction of the peak as SVG.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from qdit.bench import block, full_size, gpu, gpu_bounds, kernels, latency, memory, ranges, rounding, sampling
from qdit.bench.record import judged_of, verdicts
from qdit.core.commit_words import commit_words
from qdit.core.errors import DataError
from qdit.core.files import atomic_path, write_text

TEXTS: dict[str, Callable[..., str]] = {
    "kernels": kernels.text,
    "sampling": sampling.text,
    "memory": memory.text,
    "ranges": ranges.text,
    "rounding": rounding.text,
    "latency": latency.text,
    "block": block.text,
    "gpu": gpu.text,
    "gpu-code": gpu_bounds.text,
    "full-size": full_size.text,
}


def text_of(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format the record of any benchmark as text."""
    if content["bench"] not in TEXTS:
        raise DataError(f"benchmark {content['bench']!r}: allowed are {', '.join(TEXTS)}")
    try:
        return TEXTS[content["bench"]](content, style=style)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise DataError(f"record of benchmark {content['bench']!r}: is not whole ({reason}); measure again") from None


def write_page(content: dict[str, Any], prefix: Path) -> list[Path]:
    """Write `<prefix>.md` and, for the kernels, `<prefix>.svg`. Equal records give equal bytes."""
    paths = [prefix.with_name(f"{prefix.name}.md")]
    write_text(paths[0], f"# Benchmark: {content['bench']}\n\n{text_of(content, style='github')}")
    if content["bench"] == "kernels":
        paths.append(prefix.with_name(f"{prefix.name}.svg"))
        draw(content, paths[1])
    return paths


def write_into(content: dict[str, Any], page: Path) -> None:
    """Replace the lines of a page between a mark and `<!-- end -->` by text from a record.

    The mark `<!-- bench NAME -->` gets the whole text of the record. The mark `<!-- goals NAME -->` gets only the goals
    with their verdicts.
    """
    text = page.read_text(encoding="utf-8")
    texts = {"bench": lambda: text_of(content, style="github"), "goals": lambda: goals_of(content)}
    for kind, make in texts.items():
        start, end = f"<!-- {kind} {content['bench']} -->\n", "<!-- end -->"
        before, start_mark, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if start_mark and closed:
            write_text(page, f"{before}{start}\n{make()}\n{end}{after}")
            return
    marks = " or ".join(f"'<!-- {kind} {content['bench']} -->'" for kind in texts)
    raise DataError(f"{page}: has no lines {marks} and '<!-- end -->'; put them where the table shall stand")


def goals_of(content: dict[str, Any]) -> str:
    """Format the goals of any record as text: how many are met, missed and not measured, and a table."""
    text_of(content)  # a record that is not whole is refused
    judged = judged_of(content)
    counts = {kind: sum(j.verdict.startswith(kind) for j in judged) for kind in ("met", "missed", "not")}
    said = f"{counts['met']} goals met, {counts['missed']} missed, {counts['not']} not measured or not applicable"
    about = f"{content['machine']['processor']}, {content['backend']}, commit {commit_words(content['commit'])}"
    return f"{said} ({about}).\n\n{verdicts(judged, style='github')}\n"


def curves(content: dict[str, Any]) -> dict[str, dict[int, tuple[float, float]]]:
    """Bits → group size → (speed divided by that of torch's float32, fraction of the peak).

    Both are geometric means over the layers.
    """
    measured = content["measured"]
    rows = measured[0]["rows"]
    speed = {(e["inputs"], e["outputs"], e["candidate"]): e["gops"] for e in measured if e["rows"] == rows}
    by_bits: dict[str, dict[int, tuple[float, float]]] = {}
    for name in dict.fromkeys(candidate for *_, candidate in speed):
        bits, separator, size = name.partition("A8 g")
        if not separator:
            continue
        layers = [shape for *shape, candidate in speed if candidate == name]
        seconds = [speed[i, o, name] for i, o in layers]

        def relative(rival: str, layers: list[list[int]] = layers, seconds: list[float] = seconds) -> float:
            if any((i, o, rival) not in speed for i, o in layers):
                return float("nan")
            return geometric_mean(x / speed[i, o, rival] for x, (i, o) in zip(seconds, layers, strict=True))

        by_bits.setdefault(bits, {})[int(size)] = relative("torch fp32"), relative(kernels.PEAK)
    return by_bits


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw two panels over the group size, as SVG: speed and fraction of the peak. Marks show the goals of W4A8."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "qdit"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for bits, points in curves(content).items():
        sizes = sorted(points)
        for column, panel in enumerate(panels):
            panel.plot(sizes, [points[size][column] for size in sizes], marker="o", label=f"{bits}A8")
    goals = (("times as fast as torch's float32", kernels.FP32), ("fraction of the VNNI peak", kernels.FRACTION))
    for panel, (heading, limits) in zip(panels, goals, strict=True):
        sizes = sorted(limits)
        panel.plot(sizes, [limits[size][0] for size in sizes], "k_", markersize=12, label="goal: must")
        better = [size for size in sizes if len(limits[size]) > 1]
        panel.plot(better, [limits[size][1] for size in better], "k^", markersize=5, label="goal: ambitious")
        panel.set(xlabel="group size", ylabel=heading, ylim=(0, None), xticks=sizes)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{content['machine']['processor']}, {content['backend']}, one thread", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)
