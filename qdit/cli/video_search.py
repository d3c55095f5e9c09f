"""`qdit video search`: the command that searches group sizes for a video model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from qdit.cli.call_search import SIZES, parse_sizes
from qdit.cli.options import CfgScale, Seed, Steps, parse_json_object, parse_pairs, shipped
from qdit.cli.sampling import INSTRUMENTS, Shift, flow
from qdit.cli.search import Bits, Chunk, ReferenceSize, Sizes, WorkerCount
from qdit.core.errors import ConfigError

if TYPE_CHECKING:
    from qdit.search.job import SearchJob


def search(
    weights: Annotated[Path, typer.Argument(callback=shipped, help="Full-precision weights of a mini video model.")],
    out: Annotated[Path, typer.Argument(help="Allocation to write (.json).")],
    kind: Annotated[
        str, typer.Option(help="evolution (Algorithm 1), response, racing, random, ilp, hessian, uniform or chance.")
    ] = "racing",
    bits: Bits = "w4a8",
    sizes: Sizes = SIZES,
    reference_size: ReferenceSize = 16,
    images: Annotated[int, typer.Option(help="Number of clips that measure a genome; Q-DiT's FVD takes 100.")] = 96,
    chunk: Chunk = 16,
    metric: Annotated[str, typer.Option(help="fd_fp (to full precision's clips) or mfvd (to real clips).")] = "fd_fp",
    options: Annotated[str, typer.Option(help="Options of the kind as a JSON object.")] = "{}",
    calibration: Annotated[
        list[str] | None, typer.Option(help="trajectory=FILE for ilp, hessian and a race with a surrogate.")
    ] = None,
    search_seed: Annotated[int, typer.Option(help="Seed of the search's draws and of the noise that it sees.")] = 0,
    fresh: Annotated[int, typer.Option(help="Number of the best genomes to measure again on fresh noise.")] = 0,
    workers: WorkerCount = 1,
    instruments: Annotated[Path, typer.Option(callback=shipped, help="Networks of mini-VBench.")] = INSTRUMENTS,
    steps: Steps = 15,
    cfg_scale: CfgScale = 2.5,
    shift: Shift = 2.5,
    seed: Seed = 0,
) -> None:
    """Search a group size for every layer of a video model.

    The search is that of `qdit search`, with the Fréchet distance of clips as fitness. It is Q-DiT's search by FVD in
    miniature. A stopped search continues from the journal beside OUT.

    \b
    Example:
      qdit video search weights/stdit3-moving-digits-natural.safetensors racing.json --workers 2
    """
    from qdit.core.run import split_bits
    from qdit.methods.quantize import check_bits
    from qdit.mini.video_fitness import VideoSearchJob
    from qdit.search.options import parse_kind, parse_search_options
    from qdit.search.run import Search, run_search

    search_kind = parse_kind(kind)
    sets = parse_pairs(calibration or [], "--calibration")
    if wrong := sorted(set(sets) - {"trajectory"}):
        raise ConfigError(f"--calibration {wrong[0]}=…: a search takes trajectory=FILE")
    weight_bits, activation_bits = split_bits(bits)
    check_bits(weight_bits, activation_bits)
    job = VideoSearchJob(
        weights=weights,
        sizes=parse_sizes(sizes),
        reference=reference_size,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        protocol=flow(steps, cfg_scale, shift, seed),
        images=images,
        chunk=chunk,
        instruments=instruments,
        metric=metric,
    )
    allocation = run_search(
        Search(
            search_kind,
            cast("SearchJob", job),  # the same verbs
            parse_search_options(search_kind, parse_json_object(options, "--options")),
            seed=search_seed,
            calibration=sets.get("trajectory"),
            fresh=fresh,
        ),
        out,
        workers=workers,
    )
    used = allocation["budget"] / allocation["budget_limit"]
    typer.echo(
        f"{out}: harmonic mean group size {allocation['harmonic_mean_group_size']:.2f}, {used:.1%} of the budget,"
        f" {allocation['images_sampled']} clips sampled"
    )
