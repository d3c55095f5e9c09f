"""The command that lets networks judge single images: CLIP score, ImageReward, DINOv2."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import Device, Threads, on_device, parse_pairs, use_threads


def judge(
    samples: Annotated[Path, typer.Argument(help="Folder of images.")],
    judge: Annotated[str, typer.Option(help="clip, image-reward or dino.")],
    file: Annotated[list[str], typer.Option(help="name=path of a file that the judge needs; repeat for each.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: judged-JUDGE.npz in the folder of images.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Let a network judge each image.

    The judge clip gives the CLIP score of an image and its prompt, image-reward the ImageReward, dino the features of
    DINOv2. Prompts are in the files of samples that `qdit pipeline sample` wrote; images of classes have none, and then
    the file is empty. `qdit evaluate --judged` reads the file.

    \b
    Examples:
      qdit judge flux-w4a4/samples --judge clip --file weights=clip/model.safetensors \\
        --file vocabulary=clip/bpe_simple_vocab_16e6.txt.gz --device cuda
      qdit judge flux-w4a4/samples --judge image-reward --file weights=ImageReward.pt --file vocabulary=vocab.txt
      qdit judge q-dit-w4a8/samples --judge dino --file weights=dinov2_vitl14_pretrain.pth
    """
    from qdit.metrics.judge_run import judge_run
    from qdit.metrics.judged import judged_file

    use_threads(threads)
    path = judged_file(samples, judge) if out is None else out
    with on_device(device) as name:
        count = judge_run(samples, path, judge, parse_pairs(file, "--file"), device=name)
    typer.echo(f"{path}: no images, or no prompts" if count is None else f"{path}: {judge} judged {count} images")
