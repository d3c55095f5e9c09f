"""`qdit models`: which transformers of diffusers the methods can quantize."""

from typing import Annotated

import typer


def models(
    name: Annotated[str | None, typer.Argument(help="Class of diffusers; default: all in a line each.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the page docs/model-classes.md.")] = False,
) -> None:
    """List the transformers of diffusers that the methods can quantize.

    A method finds layers by their role (qkv, fc1, …). The columns are: the share of the weights that has a role; the
    share that scope common quantizes; the number of blocks (each list has only two); layers without a role. For one
    class the command shows the share of each role. docs/any-model.md shows how to quantize a transformer of diffusers
    or of your own.

    \b
    Examples:
      qdit models
      qdit models FluxTransformer2DModel
    """
    from qdit.models.generic.census import census, coverage
    from qdit.workflow.model_classes import class_text, classes_markdown, classes_text

    if name is not None:
        typer.echo(class_text(coverage(name)))
    else:
        typer.echo(classes_markdown(list(census())) if markdown else classes_text(list(census())))
