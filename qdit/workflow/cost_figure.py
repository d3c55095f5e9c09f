"""Draw the estimated wall time of a profile against the number of GPUs."""

from pathlib import Path

from qdit.core.files import atomic_path
from qdit.workflow.cost import Speed, jobs_of
from qdit.workflow.cost_schedule import Job, critical_paths, makespan, without_searches
from qdit.workflow.profile import Profile

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def draw(profile: Profile, speed: Speed, path: Path) -> None:
    """Write the figure as SVG: hours, and the used share of GPU time. Equal input gives equal bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    jobs = jobs_of(profile, speed)
    series = {"everything": jobs, "without searches and what waits for them": without_searches(jobs)}
    with mpl.rc_context({"svg.hashsalt": "qdit", "font.size": 9, "svg.fonttype": "none"}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        for (name, jobs_of_line), style in zip(series.items(), ("o-", "s--"), strict=True):
            schedules = [makespan(jobs_of_line, count) for count in COUNTS]
            left.plot(COUNTS, [schedule.seconds / 3600 for schedule in schedules], style, label=name, markersize=4)
            right.plot(COUNTS, [100 * schedule.efficiency for schedule in schedules], style, label=name, markersize=4)
        longest = max(critical_paths(jobs).values(), default=0.0) / 3600
        left.axhline(longest, color="0.6", linewidth=1)
        left.annotate(f"longest chain, {longest:.1f} h: {chain(jobs)}", (1, longest), va="top", fontsize=7, color="0.4")
        left.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="hours", ylim=(longest / 3 or None, None))
        right.set(xscale="log", xlabel="GPUs", ylabel="GPU time used, %", ylim=(0, 105))
        right.axhline(80, color="0.8", linewidth=1)
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
        right.legend(frameon=False, fontsize=7, loc="lower left")
        title = f"{profile['face']}: {len(jobs):,} jobs at {speed.flops / 1e12:.3g} TFLOP/s per GPU ({speed.source})"
        figure.suptitle(title, fontsize=9)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        plt.close(figure)


def chain(jobs: list[Job]) -> str:
    """Write the rules and hours of the longest chain of jobs that wait for each other, in order."""
    known, paths = {job.name: job for job in jobs}, critical_paths(jobs)
    now = max(paths, key=paths.__getitem__, default=None)
    rules = []
    while now is not None:
        rules.append(f"{known[now].rule} {known[now].seconds / 3600:.1f} h")
        after = [job.name for job in jobs if now in job.needs]
        now = max(after, key=paths.__getitem__, default=None)
    return ", ".join(rules)
