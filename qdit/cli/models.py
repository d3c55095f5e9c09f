"""`qdit models`: which transformers of diffusers the methods can quantize."""

from typing import Annotated

import typer


def models(
    name: Annotated[str | None, typer.Argument(help="Class of diffusers; default: all in a line each.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the page docs/model-classes.md.")] = False,
) -> None:
    """List the transformers of diffusers, and the share of their weights that has a role.

    A method finds layers by their role (qkv, fc1, …), which one table of patterns gives them. The columns: the share of
    the weights of all linears and convolutions that has a role; the share in the linears of the blocks, which scope
    common quantizes; the number of blocks that were built (two of each list); layers without a role. For one class the
    command shows the share of each role. docs/any-model.md shows how to quantize one, or a class of your own.

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
