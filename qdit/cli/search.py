"""Commands that choose group sizes: search and search-study."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qdit.cli.call_search import SIZES, is_generic, make_call_job, parse_sizes, refuse_image_flags
from qdit.cli.options import (
    EXTRACTOR_WEIGHTS,
    CfgScale,
    Device,
    Dtype,
    Extractor,
    ExtractorWeights,
    Sampler,
    Seed,
    Steps,
    Vae,
    Weights,
    on_device,
    parse_json_object,
    parse_pairs,
    shipped,
)
from qdit.cli.sampling import protocol
from qdit.core.errors import ConfigError

if TYPE_CHECKING:
    from qdit.search.call_fitness import CallSearchJob
    from qdit.search.job import SearchJob


STUDIED, WORK = Path("weights/dit-digits-natural.safetensors"), Path("results/search-study")
ALGORITHM = '"population": 16, "parents": 5, "crossover": 8, "mutation": 8, "iterations": 7'
EVOLUTION, RANDOM = f"{{{ALGORITHM}}}", '{"evaluations": 112}'
RACING = (
    '{"population": 16, "parents": 5, "crossover": 8, "mutation": 8, "iterations": 5, "rungs": [16, 64], "keep": 0.125,'
    ' "surrogate": "hessian", "surrogate_keep": 0.5}'
)
"""What the study compares by default: Algorithm 1, random search with as many images, racing with less than a fifth."""

Bits = Annotated[str, typer.Option(help="Weight and activation bits (2 to 8, or 16), e.g. w4a8.")]
Sizes = Annotated[str, typer.Option(help="Group sizes a layer may have, separated by commas.")]
ReferenceSize = Annotated[int, typer.Option(help="Uniform group size whose cost is the budget.")]
Chunk = Annotated[
    int, typer.Option(help="Images (of a transformer: calls) per batch; every rung of a race is whole chunks.")
]
Metric = Annotated[str, typer.Option(help="fd_fp (to full precision's images) or fid (to a reference).")]
ReferenceFile = Annotated[Path | None, typer.Option(help="Statistics that `qdit reference` made, for fid.")]
WorkerCount = Annotated[
    int, typer.Option(help="Number of processes that measure genomes side by side. Results do not depend on it.")
]


def make_job(
    weights: Path,
    *,
    bits: str,
    sizes: str,
    reference_size: int,
    images: int,
    chunk: int,
    metric: str,
    reference_file: Path | None,
    extractor: tuple[str, Path],
    sampling: tuple[str, int, float, int],
    as_released: bool,
    latency: Path | None = None,
    dtype: str = "float32",
    vae: Path | None = None,
    device: str = "cpu",
) -> "SearchJob":
    """Make the inputs of a search from the values of flags."""
    from qdit.core.run import split_bits
    from qdit.methods.quantize import check_bits
    from qdit.search.job import SearchJob

    if metric not in ("fd_fp", "fid"):
        raise ConfigError(f"--metric {metric!r}: allowed are fd_fp, fid")
    if metric == "fid" and reference_file is None:
        raise ConfigError("--metric fid: needs --reference-file; run `qdit reference` first, or take fd_fp")
    if images < 2:
        raise ConfigError(f"--images {images}: must be at least 2")
    if latency and as_released:
        raise ConfigError("--latency with --as-released: the released program bounds the mean group size; drop one")
    if (dtype, device) == ("float16", "cpu"):
        raise ConfigError("--dtype float16 with --device cpu: a search in half precision needs a GPU; take float32")
    weight_bits, activation_bits = split_bits(bits)
    check_bits(weight_bits, activation_bits)
    name, extractor_weights = extractor
    return SearchJob(
        weights=weights,
        sizes=parse_sizes(sizes),
        reference=reference_size,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        protocol=protocol(*sampling, dtype, vae),
        images=images,
        chunk=chunk,
        extractor=name,
        extractor_weights=extractor_weights,
        reference_file=reference_file if metric == "fid" else None,
        constraint="latency" if latency else "mean_group" if as_released else "bitops",
        latency=latency,
        symmetric=as_released,
        vae=vae,
        device=device,
    )


def search(
    context: typer.Context,
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="Allocation to write (.json).")],
    kind: Annotated[
        str, typer.Option(help="evolution (Algorithm 1), response, racing, random, ilp, hessian, uniform or chance.")
    ] = "racing",
    bits: Bits = "w4a8",
    sizes: Sizes = SIZES,
    reference_size: ReferenceSize = 16,
    images: Annotated[
        int | None,
        typer.Option(help="Number of images (calls) that measure a genome; default 64, with --as-released 800."),
    ] = None,
    chunk: Chunk = 16,
    metric: Metric = "fd_fp",
    reference_file: ReferenceFile = None,
    options: Annotated[str, typer.Option(help="Options of the kind as a JSON object.")] = "{}",
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            help="trajectory=FILE for ilp, hessian, a race with a surrogate, and for all searches of a transformer."
        ),
    ] = None,
    search_seed: Annotated[int, typer.Option(help="Seed of the search's draws and of the noise that it sees.")] = 0,
    fresh: Annotated[int, typer.Option(help="Number of the best genomes to measure again on fresh noise.")] = 0,
    as_released: Annotated[
        bool,
        typer.Option(
            "--as-released",
            help="Search as the released code does: mean group size constrained, symmetric quantizers, replayed draws.",
        ),
    ] = False,
    latency: Annotated[
        Path | None,
        typer.Option(help="Times that `qdit bench latency` measured. The budget is then time instead of BitOps."),
    ] = None,
    workers: WorkerCount = 1,
    extractor: Extractor = "digit-classifier",
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    sampler: Sampler = "ddim",
    steps: Steps = 20,
    cfg_scale: CfgScale = 1.0,
    seed: Seed = 0,
    vae: Vae = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Search a group size for every layer.

    The budget is the cost of the uniform reference size (docs/search.md). A stopped search continues from the journal
    beside OUT. OUT's .times.json holds the search time. `qdit quantize --method q-dit --allocation OUT` uses the
    result.

    WEIGHTS may be a folder of any diffusers transformer (FLUX, Wan, ...). Then a genome is measured by the error of the
    outputs for recorded calls, the file of --calibration. The flags about sampled images do not apply.

    \b
    Examples:
      qdit search my-flux flux.json --kind ilp --calibration trajectory=flux-calls.safetensors --sizes 64,32,16
      qdit search weights/dit-digits-natural.safetensors racing.json --workers 2
      qdit search weights/dit-digits-natural.safetensors ilp.json --kind ilp --calibration trajectory=t.safetensors
      qdit search weights/dit-digits-natural.safetensors a.json --kind evolution --options '{"iterations": 4}'
    """
    from qdit.search.options import RESEED, parse_kind, parse_search_options
    from qdit.search.run import Search, run_search

    search_kind = parse_kind(kind)
    values = parse_json_object(options, "--options")
    if as_released and search_kind in ("evolution", "racing"):
        values = RESEED | values
    sets = parse_pairs(calibration or [], "--calibration")
    if wrong := sorted(set(sets) - {"trajectory"}):
        raise ConfigError(f"--calibration {wrong[0]}=…: a search takes trajectory=FILE")
    shared: dict[str, Any] = {
        "bits": bits,
        "sizes": sizes,
        "reference_size": reference_size,
        "chunk": chunk,
        "as_released": as_released,
        "latency": latency,
    }
    job: SearchJob | CallSearchJob
    if is_transformer := is_generic(weights):
        refuse_image_flags(context)
        job = make_call_job(weights, sets.get("trajectory"), images=images, seed=seed, **shared)
    else:
        job = make_job(
            weights,
            images=images if images is not None else 800 if as_released else 64,
            metric=metric,
            reference_file=reference_file,
            extractor=(extractor, extractor_weights),
            sampling=(sampler, steps, cfg_scale, seed),
            dtype=dtype,
            vae=vae,
            device=device,
            **shared,
        )
    parsed = parse_search_options(search_kind, values)
    with on_device(device) as name:
        task = Search(
            search_kind,
            replace(job, device=name),
            parsed,
            seed=search_seed,
            calibration=sets.get("trajectory"),
            fresh=fresh,
        )
        allocation = run_search(task, out, workers=workers)
    used = allocation["budget"] / allocation["budget_limit"]
    typer.echo(
        f"{out}: harmonic mean group size {allocation['harmonic_mean_group_size']:.2f}, {used:.1%} of the budget,"
        f" {allocation['images_sampled']} {'calls measured' if is_transformer else 'images sampled'}"
    )


def search_study(
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    weights: Annotated[Path, typer.Option(callback=shipped, help="Full-precision weights.")] = STUDIED,
    work: Annotated[Path, typer.Option(help="Folder of the journals, from which a stopped study continues.")] = WORK,
    page: Annotated[Path | None, typer.Option(help="Markdown page to write; its figure goes to images/.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds of each kind of search.")] = 5,
    bits: Bits = "w4a8",
    sizes: Sizes = SIZES,
    reference_size: ReferenceSize = 16,
    images: Annotated[int, typer.Option(help="Number of images that measure a genome.")] = 64,
    held_out: Annotated[int, typer.Option(help="Number of images that measure the winners.")] = 2048,
    curve: Annotated[
        int, typer.Option(help="Number of images that measure the best genome of each step, for the curves.")
    ] = 256,
    chunk: Chunk = 16,
    evolution: Annotated[str, typer.Option(help="Options of Algorithm 1 as a JSON object.")] = EVOLUTION,
    response: Annotated[str, typer.Option(help="Options of linear response as a JSON object.")] = "{}",
    racing: Annotated[str, typer.Option(help="Options of racing as a JSON object.")] = RACING,
    random: Annotated[str, typer.Option(help="Options of random search as a JSON object.")] = RANDOM,
    calibration: Annotated[
        Path | None, typer.Option(help="File of `qdit calibrate`, for searches that score single layers.")
    ] = None,
    workers: WorkerCount = 2,
    extractor: Extractor = "digit-classifier",
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    sampler: Sampler = "ddim",
    steps: Steps = 20,
    cfg_scale: CfgScale = 1.0,
    seed: Seed = 0,
) -> None:
    """Compare the searches over several seeds.

    The searches are Algorithm 1, linear response, racing and random search. Every winner is measured on images with
    noise that no search saw. A stopped study continues. --page also writes a page with sentences and a figure.

    \b
    Example:
      qdit search-study results/studies/search.json --page docs/search-study.md --calibration trajectory.safetensors
    """
    import shlex
    import sys

    from qdit.bench.search_study import Study, run_study
    from qdit.bench.search_study_page import write_page

    job = make_job(
        weights,
        bits=bits,
        sizes=sizes,
        reference_size=reference_size,
        images=images,
        chunk=chunk,
        metric="fd_fp",
        reference_file=None,
        extractor=(extractor, extractor_weights),
        sampling=(sampler, steps, cfg_scale, seed),
        as_released=False,
    )
    study = Study(
        job,
        {
            "evolution": parse_json_object(evolution, "--evolution"),
            "response": parse_json_object(response, "--response"),
            "racing": parse_json_object(racing, "--racing"),
            "random": parse_json_object(random, "--random"),
        },
        seeds=seeds,
        held_out=held_out,
        curve=curve,
        calibration=calibration,
    )
    command = shlex.join(["qdit", *sys.argv[1:]])
    outcome = run_study(study, work, out, workers=workers, command=command)
    if page is not None:
        write_page(outcome, page, page.parent / "images" / f"{page.stem}.svg")
    for kind, numbers in outcome["comparison"].items():
        typer.echo(f"{kind}: held out {numbers['held_out_mean']:.5f}, {numbers['images_sampled_mean']:.0f} images")
