"""The command that times one block for the rows of a table."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import MINI, Profile, on_device

STUDY = Path("results/studies/bench-block.json")


def block(
    out: Annotated[Path, typer.Argument(help="Record to write.")] = STUDY,
    profile: Profile = MINI,
    table: Annotated[str, typer.Option(help="Table whose rows are timed: each label at each of its bits.")] = "w4a4",
    bits: Annotated[
        list[str] | None, typer.Option(help="Only rows at these bits, e.g. w4a4. Repeat it for more.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda:N (one thread, half precision beside the codes).")] = "cpu",
    repeats: Annotated[int, typer.Option(min=2, help="Measurements of each candidate.")] = 9,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run tiny sizes, which check the benchmark and measure nothing.")
    ] = False,
) -> None:
    """Time one block of DiT-XL/2 for every row of a table.

    Each method quantizes a small random model. Its sites are enlarged to the width of DiT-XL/2, so that groups, ranks
    and rotations keep their share. The command times each block that the integer kernels can compute. It measures it in
    turn with the same block in float32 and bfloat16, with one thread and with two. The page of the table reads the
    record. The record is written after each block, so a stopped command leaves what it has measured.

    \b
    Examples:
      qdit bench block
      qdit bench block results/gpu/h100-block.json --device cuda:0
    """
    from dataclasses import replace
    from functools import partial

    from qdit.bench.block import QUICK, Scale, measure
    from qdit.bench.record import write_record
    from qdit.cli.bench import finish
    from qdit.workflow.block_rows import block_rows
    from qdit.workflow.profile import load_profile

    command = f"qdit bench block {out} --table {table} --device {device}"
    command += "".join(f" --bits {width}" for width in bits or ())
    command += "".join(f" --profile {layer}" for layer in profile) + (" --quick" if quick else f" --repeats {repeats}")
    rows = block_rows(load_profile(*profile), table, bits or ())
    with on_device(device) as name:
        scale = replace(QUICK, device=name) if quick else Scale(device=name, repeats=repeats)
        finish(measure(command, rows, table=table, scale=scale, say=typer.echo, keep=partial(write_record, out)), out)
