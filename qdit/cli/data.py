"""Commands that get data sets: qdit data …"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    rich_markup_mode=None, help="Get data sets, to train the small models again. A run of the suite needs none of them."
)


@app.callback()
def data() -> None:
    """Get data sets, to train the small models again. A run of the suite needs none of them."""


@app.command("fashion-mnist")
def fashion_mnist(
    source: Annotated[
        Path | None,
        typer.Argument(help="Folder with the four files, or Debian's package (.deb). Default: the installed package."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("data/fashion-mnist"),
) -> None:
    """Copy the photographs of Fashion-MNIST, and check their digests.

    The data set has 60,000 training and 10,000 test photographs of clothes (MIT licence). Only `qdit train` with
    dit-fashion or fashion-classifier, and `qdit reference --data fashion-mnist`, read them. Debian and Ubuntu have the
    package dataset-fashion-mnist (31 MB); `apt-get download dataset-fashion-mnist` gets its file without an
    installation.

    \b
    Examples:
      qdit data fashion-mnist
      qdit data fashion-mnist dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb
    """
    from qdit.mini.data.fashion_mnist import FILES, copy_files

    typer.echo(f"{copy_files(source, out)}: {len(FILES)} files, digests are right")
