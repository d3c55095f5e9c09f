"""Commands about methods: list them, or write the files of a new one."""

from typing import Annotated

import typer

new_app = typer.Typer(rich_markup_mode=None, help="Write the first version of a method of your own.")


def methods(
    name: Annotated[str | None, typer.Argument(help="Method; default: all in a line each.")] = None,
) -> None:
    """List methods, or one method's options.

    For one method the command shows its calibration data, whether it learns rounding, its options with types and
    defaults, its file and its citation.

    \b
    Examples:
      qdit methods
      qdit methods q-dit
    """
    from qdit.workflow.method_pages import method_text, methods_text

    typer.echo(methods_text() if name is None else method_text(name))


@new_app.command("method")
def method(
    name: Annotated[str, typer.Argument(help="Name in configurations and tables, e.g. my-method.")],
) -> None:
    """Begin a new quantization method.

    The command writes a working method, its test, and an overlay that runs it. You then change these files
    (docs/add-a-method.md).

    \b
    Example:
      qdit new method my-method
    """
    from qdit.core.modules import shown
    from qdit.workflow.new_method import new_method

    for path in (paths := new_method(name)):
        typer.echo(shown(path))
    stem = paths[0].stem
    typer.echo(f"its row: snakemake --cores all {stem}_table --configfile config/mini.yaml {stem}.yaml")
