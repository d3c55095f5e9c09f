"""`qdit kernels`: build and show the compiled kernels. Without this command they are built at their first use."""

from typing import Annotated

import typer

kernels_app = typer.Typer(rich_markup_mode=None, help="Build and examine the compiled kernels.")


@kernels_app.command()
def build(
    again: Annotated[bool, typer.Option("--again", help="Build even if a whole library is there.")] = False,
    optional: Annotated[
        bool, typer.Option("--optional", help="Without a compiler say so and end well; torch computes then.")
    ] = False,
) -> None:
    """Build and test the library of compiled kernels.

    `make install` does this too. Otherwise the first command that needs the library builds it, which takes seconds.

    \b
    Examples:
      qdit kernels build
      qdit kernels build --again
    """
    from qdit.core.errors import ConfigError
    from qdit.kernels import building, library

    try:
        folder = building.cache_folder()
        if again:
            building.build(building.SOURCES, folder, again=True)
            loaded = library.load(building.SOURCES, folder)
        else:
            loaded = library.load(building.SOURCES, building.SHIPPED, folder)
    except building.BuildError as problem:
        if not optional:
            raise ConfigError(f"{problem}; without the library torch computes, more slowly") from problem
        typer.echo(f"quantized kernels run in plain torch, which is slow: {problem}")
        return
    typer.echo(f"{loaded.built.path}: {', '.join(library.variants_of(loaded))}")


@kernels_app.command()
def show() -> None:
    """Show which kernels run here, and why others do not.

    \b
    Example:
      qdit kernels show
    """
    from qdit.kernels.report import report

    for name, value in report().items():
        typer.echo(f"{name}: {value}")
