"""Write progress as text: on a terminal a line with a bar for each table, elsewhere plain lines."""

from pathlib import Path

from qdit.workflow.progress import ROWS, Progress

BAR = 12


def duration(seconds: float) -> str:
    """Write a time: `40 s`, `12 min`, `2.5 h`, `3.1 days`."""
    if seconds < 55:
        return f"{max(5 * round(seconds / 5), 5)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def bar(done: int, total: int) -> str:
    """Draw a bar as text: `[###.........]`. It is full only if everything is done."""
    filled = BAR if done >= total else BAR * done // total
    return f"[{'#' * filled}{'.' * (BAR - filled)}]"


def table_line(progress: Progress, table: str, finding: str) -> str:
    """Write the line about a table: number of finished rows, time that its jobs still need, best result so far."""
    done, total = len(progress.measured_rows(table)), len(progress.all_rows(table))
    left = "done" if progress.is_done(table) else duration(progress.seconds_left(table))
    return f"{table:<14} {bar(done, total)} {done:>3} of {total:<3} rows {left:>7}  {finding}".rstrip()


def total_line(progress: Progress) -> str:
    """Write the line about all tables together. Shared rows count once."""
    rows, done = progress.all_rows(), progress.measured_rows()
    return (
        f"{'all, each once':<14} {bar(len(done), len(rows))} {len(done):>3} of {len(rows):<3} rows  {times(progress)}"
    )


def plain_line(progress: Progress, *, ended: bool = False) -> str:
    """Write one line about all tables, for log files and pipes."""
    rows, done = progress.all_rows(), progress.measured_rows()
    tables = [name for name in progress.rows if name != ROWS]
    counts = f"{len(done)} of {len(rows)} rows"
    if tables or not rows:
        counts += f", {sum(map(progress.is_done, tables))} of {len(tables)} tables"
    return f"qdit: {counts}; {times(progress, ended=ended)}"


def times(progress: Progress, *, ended: bool = False) -> str:
    """Write the time left, the time so far, and the number of failed jobs."""
    failed = f", {progress.failures} jobs failed" if progress.failures else ""
    left = "" if ended else f"about {duration(progress.seconds_left())} left, "
    return f"{left}{duration(progress.seconds)} so far{failed}"


def table_done_line(progress: Progress, table: str, finding: str) -> str:
    """Write the line about a finished table and its page."""
    done, total = len(progress.measured_rows(table)), len(progress.all_rows(table))
    finding_text = f"; {finding}" if finding else ""
    if table == ROWS:
        return f"qdit: {done} of {total} rows are done{finding_text}"
    return f"qdit: {table} is done, {done} of {total} rows{finding_text}; {progress.last_files[table][0]}"


def failure_line(rule: str, outputs: list[str], logs: list[str]) -> str:
    """Write the line about a failed job: its row, the reason from its log, and the path of the log."""
    runs = [path for path in outputs if "/runs/" in path]
    row = "/".join(Path(runs[0].partition("/runs/")[2]).parts[:4]) if runs else ", ".join(outputs[:1])
    reason = next((words for log in logs if (words := reason_in(Path(log)))), "no reason in its log")
    shown = f"; log: {', '.join(logs)}" if logs else ""
    return f"failed: {row} ({rule}): {reason}{shown}"


def reason_in(log: Path) -> str:
    """Return the line of a log with the reason of a failure: the last error, or else the last line."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith("qdit: error")]
    return (errors or lines or [""])[-1]
