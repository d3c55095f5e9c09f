"""Commands of the vote on images: make a blind A/B page, and count its votes."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import MINI, Profile, Results, results_folder

Words = list[str] | None
PAGES = [Path("results/mini/ab.html")]


def ab(
    profile: Profile = MINI,
    results: Results = None,
    table: Annotated[
        str | None, typer.Option(help="Table whose rows are compared; default the first of kind table2.")
    ] = None,
    setting: Annotated[Words, typer.Option(help="Only this setting. Repeat it for more.")] = None,
    form: Annotated[Words, typer.Option(help="Only this form. Repeat it for more.")] = None,
    bits: Annotated[Words, typer.Option(help="Only these bits, e.g. w4a4. Repeat it for more.")] = None,
    method: Annotated[Words, typer.Option(help="Only this row. Repeat it, at least two rows.")] = None,
    each: Annotated[int, typer.Option(min=1, max=100, help="Trials for every pair of methods.")] = 2,
    catch: Annotated[int, typer.Option(min=0, max=100, help="Trials of each kind whose answer is known.")] = 4,
    seed: Annotated[
        int, typer.Option(min=0, help="Decides images, sides and order; another seed is another page.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Page to write; default RESULTS/ab.html.")] = None,
) -> None:
    """Make a blind A/B page.

    The page is one HTML file with pairs of images. Both images of a pair have the same noise and label, but come from
    two methods. The seed decides sides and order. A voter chooses left, right or cannot tell, and saves a file for
    `qdit votes`. Without flags for setting, form or bits the page takes the block with the fewest bits. docs/ab.md
    explains "blind".

    \b
    Examples:
      qdit ab --results results/mini --seed 0
      qdit ab --bits w4a8 --form natural --method rtn --method q-dit --each 20
    """
    from qdit.report.votes.ab_page import write_page
    from qdit.report.votes.ab_trials import contests_of
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results_folder(loaded, results)
    contests = contests_of(
        loaded, table=table, settings=setting or (), forms=form or (), bits=bits or (), methods=method or ()
    )
    page = out or folder / "ab.html"
    for line in write_page(loaded, contests, folder, page, seed=seed, each=each, catch=catch):
        typer.echo(line)


def votes(
    files: Annotated[list[Path], typer.Argument(help="Files that voters saved from the page.")],
    page: Annotated[list[Path], typer.Option(help="Page they saw. Repeat it for more.")] = PAGES,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out voters with a smaller share of catch trials right.")
    ] = 0.0,
    draws: Annotated[int, typer.Option(min=100, help="Resamples of the bootstrap.")] = 400,
    out: Annotated[Path | None, typer.Option(help="CSV of the pairs to write.")] = None,
) -> None:
    """Count the votes of A/B pages.

    The command prints wins and ties of every pair of methods with 95 % intervals, Bradley–Terry scores, the catch
    trials of each voter, and the agreement of voters. Votes on another page are refused.

    \b
    Example:
      qdit votes votes-anna.json votes-ben.json --page results/mini/ab.html
    """
    from qdit.core.files import write_text
    from qdit.report.votes.ab_page import read_page
    from qdit.report.votes.statistics import read_ballots
    from qdit.report.votes.votes_report import votes_text

    pages = {read.digest: read for read in map(read_page, page)}
    text, frame = votes_text(read_ballots(files), pages, least=least, draws=draws)
    typer.echo(text, nl=False)
    if out is not None:
        write_text(out, frame.to_csv(index=False, lineterminator="\n"))
        typer.echo(out)
