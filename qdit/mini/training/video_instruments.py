"""Train mini-VBench's networks on clips of the data set, and measure their accuracy on clips of held-out digits."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from qdit.core.files import save_tensors
from qdit.core.seeds import Purpose, torch_generator
from qdit.mini.data.moving_digits import FRAMES, GLYPH, STEP, VISIBLE, Clips, make_clips
from qdit.mini.data.moving_digits_prompts import COLOURS, DIGITS, MOTIONS, SCENES, STYLES, TEMPOS, tokens_of
from qdit.mini.training.classifier import one_thread
from qdit.mini.vbench.degradations import blocky, blurred, noisy, posterized, recomposed
from qdit.mini.vbench.networks import CELL, TEMPERATURE, FrameNet, Instruments

FILE = "mini-vbench.safetensors"
HELD_OUT = 1_000
"""Clips that accuracies are measured on."""
HIDDEN = -1
"""Label of what a frame does not tell: a digit that is hardly visible, a colour in sepia."""


@dataclass(frozen=True)
class InstrumentTraining:
    """Hyperparameters of the training of mini-VBench's networks. Each learning rate falls to zero along a cosine.

    The networks see `variants` images of each digit, many more than the video model sees. Digits also stand beside the
    middle of the frame. So the networks judge shapes and do not memorise single images.
    """

    clips: int = 6_000
    variants: int = 60
    frame_epochs: int = 24
    clip_epochs: int = 14
    quality_epochs: int = 14
    aesthetic_epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    noise: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Labels:
    """Labels of N clips: digits, colours and cells of their objects, background, style, motion and tempo.

    HIDDEN marks an absent second digit, or a colour that the style hides.
    """

    digits: Tensor
    colours: Tensor
    scenes: Tensor
    styles: Tensor
    motions: Tensor
    tempos: Tensor
    cells: Tensor
    """(N, 2, 8, 2): object, frame, (down, across)"""
    visible: Tensor
    """(N, 2, 8) opacity"""

    def rows(self, row_numbers: Tensor) -> "Labels":
        return Labels(**{name: value[row_numbers] for name, value in vars(self).items()})


def labels_of(clips: Clips) -> Labels:
    """Labels of clips of the data set, from their scenarios and placements."""
    count = len(clips)
    digits, colours = (torch.full((count, 2), HIDDEN) for _ in range(2))
    cells = torch.zeros(count, 2, FRAMES, 2, dtype=torch.long)
    visible = torch.zeros(count, 2, FRAMES)
    frame = torch.arange(FRAMES)
    for row, (scenario, placement) in enumerate(zip(clips.scenarios, clips.placements, strict=True)):
        across, down = STEP[scenario.motion]
        for slot, (x, y) in enumerate(placement.corners):
            digits[row, slot] = DIGITS.index(scenario.digits[slot])
            if scenario.style != "sepia":
                colours[row, slot] = COLOURS.index(scenario.colours[slot])
            centre = torch.stack([y + frame * down, x + frame * across], dim=1) + GLYPH // 2
            cells[row, slot] = centre // CELL
            visible[row, slot] = torch.tensor(VISIBLE[scenario.tempo])

    def index(names: tuple[str, ...], key: str) -> Tensor:
        return torch.tensor([names.index(getattr(scenario, key)) for scenario in clips.scenarios])

    shared = {
        key + "s": index(names, key)
        for key, names in {"scene": SCENES, "style": STYLES, "motion": MOTIONS, "tempo": TEMPOS}.items()
    }
    return Labels(digits=digits, colours=colours, cells=cells, visible=visible, **shared)


def frame_loss(network: FrameNet, frames: Tensor, labels: Labels, frame: Tensor) -> Tensor:
    """Loss of FrameNet: the sum of the cross-entropies of all its outputs.

    `frame` (N,) says which frame of each clip `frames` (N, 3, L, L) shows.
    """
    reading = network(frames)
    clip = torch.arange(len(frame))
    target, known = torch.zeros_like(reading.objectness), torch.ones_like(reading.objectness)
    total = F.cross_entropy(reading.scenes, labels.scenes) + F.cross_entropy(reading.styles, labels.styles)
    for index in range(2):
        down, across = labels.cells[clip, index, frame].unbind(1)
        opacity = labels.visible[clip, index, frame]
        there = (labels.digits[:, index] != HIDDEN) & (opacity > 0)
        clear = there & (opacity > 0.5)
        target[clip[clear], down[clear], across[clear]] = 1
        known[clip[there & ~clear], down[there & ~clear], across[there & ~clear]] = 0
        digit = labels.digits[:, index].where(clear, HIDDEN)
        colour = labels.colours[:, index].where(clear, HIDDEN)
        total = total + F.cross_entropy(reading.digits[clip, :, down, across], digit, ignore_index=HIDDEN)
        total = total + F.cross_entropy(reading.colours[clip, :, down, across], colour, ignore_index=HIDDEN)
    surprise = F.binary_cross_entropy_with_logits(reading.objectness, target, known, reduction="sum")
    return total + surprise / len(frame)


def batches(config: InstrumentTraining, epoch: int, stage: int) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Yield the clip numbers of each batch of an epoch, with a generator for all further random choices."""
    draw = torch_generator(config.seed, Purpose.TRAINING, stage, epoch)
    for rows in torch.randperm(config.clips, generator=draw).split(config.batch_size):
        yield rows, draw


def fit(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[Tensor, torch.Generator], Tensor],
    config: InstrumentTraining,
    *,
    stage: int,
    epochs: int,
    what: str,
) -> None:
    """Train one network: minimize `loss(rows, generator)` with AdamW over `epochs` passes through the clips.

    `rows` are the clip numbers of a batch. `generator` gives all random numbers of the loss; its seed depends on
    `stage`, which is another number for each network. `what` names the network in the progress line.
    """
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    count = math.ceil(config.clips / config.batch_size)
    progress = tqdm(range(epochs), unit="epoch", desc=what, mininterval=5)
    for epoch in progress:
        total = 0.0
        for index, (rows, draw) in enumerate(batches(config, epoch, stage)):
            warm = min(1.0, (epoch * count + index + 1) / 50)
            for group in optimizer.param_groups:
                fraction = (epoch + index / count) / epochs
                group["lr"] = warm * config.learning_rate * 0.5 * (1 + math.cos(math.pi * fraction))
            value = loss(rows, draw)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item() / count
        progress.set_postfix(loss=f"{total:.4f}", refresh=False)


def pixels(frames: Tensor) -> Tensor:
    """Convert uint8 frames to float32 in [−1, 1]."""
    return frames.float() / 127.5 - 1


def roughened(frames: Tensor, draw: torch.Generator, config: InstrumentTraining) -> Tensor:
    """Add noise of random strength to pixels (N, …).

    A third of them also get coarse grey levels, and another third are blurred.
    """
    kind = torch.randint(3, (len(frames),), generator=draw)
    frames = frames.clone()
    frames[kind == 1] = posterized(frames[kind == 1], torch.rand(int((kind == 1).sum()), generator=draw))
    frames[kind == 2] = blurred(frames[kind == 2], 0.5 * torch.rand(int((kind == 2).sum()), generator=draw))
    return noisy(frames, 2 * config.noise * torch.rand(len(frames), generator=draw), draw)


def train_networks(network: Instruments, clips: Clips, config: InstrumentTraining) -> None:
    """Train FrameNet, ClipNet, the quality network and the aesthetic head, one after the other."""
    labels, tokens = labels_of(clips), [tokens_of(scenario) for scenario in clips.scenarios]

    def random_frames(rows: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        number = torch.randint(FRAMES, (len(rows),), generator=draw)
        return pixels(clips.frames[rows, :, number]), number

    def frames_loss(rows: Tensor, draw: torch.Generator) -> Tensor:
        frames, number = random_frames(rows, draw)
        return frame_loss(network.frames, roughened(frames, draw, config), labels.rows(rows), number)

    def clips_loss(rows: Tensor, draw: torch.Generator) -> Tensor:
        reading = network.clips(roughened(pixels(clips.frames[rows]), draw, config))
        similar = reading.embedding @ network.clips.of_prompts([tokens[row] for row in rows]).T / TEMPERATURE
        heads = F.cross_entropy(reading.motions, labels.motions[rows]) + F.cross_entropy(
            reading.tempos, labels.tempos[rows]
        )
        same = torch.arange(len(rows))
        return heads + (F.cross_entropy(similar, same) + F.cross_entropy(similar.T, same)) / 2

    def quality_loss(rows: Tensor, draw: torch.Generator) -> Tensor:
        frames, _ = random_frames(rows, draw)
        kind = torch.randint(5, (len(rows),), generator=draw)
        severity = torch.rand(len(rows), generator=draw) * (kind > 0)
        damaged = frames.clone()
        for which, damage in enumerate((blurred, posterized, blocky), start=1):
            damaged[kind == which] = damage(frames[kind == which], severity[kind == which])
        damaged = noisy(damaged, 0.8 * severity * (kind == 4), draw)
        return F.binary_cross_entropy_with_logits(network.quality(damaged), 1 - severity)

    def aesthetic_loss(rows: Tensor, draw: torch.Generator) -> Tensor:
        frames, _ = random_frames(rows, draw)
        broken = torch.rand(len(rows), generator=draw) < 0.5
        frames[broken] = recomposed(frames[broken], draw)
        with torch.no_grad():
            feature = network.frames(frames).feature
        return F.binary_cross_entropy_with_logits(network.aesthetic(feature)[:, 0], (~broken).float())

    fit(network.frames.parameters(), frames_loss, config, stage=1, epochs=config.frame_epochs, what="frames")
    fit(network.clips.parameters(), clips_loss, config, stage=2, epochs=config.clip_epochs, what="clips")
    fit(network.quality.parameters(), quality_loss, config, stage=3, epochs=config.quality_epochs, what="quality")
    fit(
        network.aesthetic.parameters(),
        aesthetic_loss,
        config,
        stage=4,
        epochs=config.aesthetic_epochs,
        what="aesthetic",
    )


def held_out_accuracy(network: Instruments, clips: Clips, *, seed: int = 0) -> dict[str, float]:
    """Accuracy of the networks on clips of the data set. Only objects with an opacity above one half count.

    `cell` is the fraction of objects with a detection in their cell or a neighbouring one. `digit` and `colour` are the
    fractions that are correct at the object's cell. `retrieval` is the fraction of clips whose own prompt is the best
    match among 256. `quality` is the correlation of the judged quality with 1 − the severity of the damage.
    `aesthetic` is the fraction of frames that are correctly judged as real or as a broken composition.
    """
    labels, draw = labels_of(clips), torch_generator(seed, Purpose.TRAINING, 5)
    frames = pixels(clips.frames).transpose(1, 2).flatten(0, 1)
    with torch.inference_mode():
        seen, heard = network.frames(frames), network.clips(pixels(clips.frames))
        prompts = network.clips.of_prompts([tokens_of(scenario) for scenario in clips.scenarios])
    cells = labels.cells.transpose(1, 2).flatten(0, 1)  # (frames, object, 2)
    digits, colours = (v[:, None].expand(-1, FRAMES, -1).flatten(0, 1) for v in (labels.digits, labels.colours))
    there = (digits != HIDDEN) & (labels.visible.transpose(1, 2).flatten(0, 1) > 0.5)
    row, index = there.nonzero(as_tuple=True)
    down, across = cells[row, index].unbind(1)
    digit_right = seen.digits[row, :, down, across].argmax(dim=1) == digits[row, index]
    colour_right = seen.colours[row, :, down, across].argmax(dim=1) == colours[row, index]
    near = F.max_pool2d(seen.objectness[:, None], 3, stride=1, padding=1)[:, 0]
    similar = heard.embedding[:256] @ prompts[:256].T
    matching = similar.diagonal()
    quality, severity = damaged_quality(network, frames, draw)
    broken = recomposed(frames, draw)
    with torch.inference_mode():
        judged = [network.aesthetic(network.frames(x).feature)[:, 0] > 0 for x in (frames, broken)]

    def rate(right: Tensor) -> float:
        return right.double().mean().item()

    of_frames = {key: getattr(labels, key).repeat_interleave(FRAMES) for key in ("scenes", "styles")}
    return {
        "cell": rate(near[row, down, across] > 0),
        "digit": rate(digit_right),
        "colour": rate(colour_right[colours[row, index] != HIDDEN]),
        "scene": rate(seen.scenes.argmax(dim=1) == of_frames["scenes"]),
        "style": rate(seen.styles.argmax(dim=1) == of_frames["styles"]),
        "motion": rate(heard.motions.argmax(dim=1) == labels.motions),
        "tempo": rate(heard.tempos.argmax(dim=1) == labels.tempos),
        # A clip whose words another clip shares is not wrong about it.
        "retrieval": rate(similar.amax(dim=1) <= matching + 1e-6),
        "matched_similarity": matching.double().mean().item(),
        "quality": float(torch.corrcoef(torch.stack([quality, 1 - severity]))[0, 1]),
        "aesthetic": (rate(judged[0]) + rate(~judged[1])) / 2,
    }


def damaged_quality(network: Instruments, frames: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Damage frames in one of four ways. Return their judged quality (N,) and the severity of the damage (N,)."""
    severity = torch.rand(len(frames), generator=draw)
    damaged = frames.clone()
    for which, damage in enumerate((blurred, posterized, blocky)):
        damaged[which::4] = damage(frames[which::4], severity[which::4])
    damaged[3::4] = noisy(frames[3::4], 0.8 * severity[3::4], draw)
    with torch.inference_mode():
        return network.quality(damaged).sigmoid(), severity


def train_instruments(folder: Path, *, config: InstrumentTraining | None = None, held_out: int = HELD_OUT) -> Path:
    """Train all networks of mini-VBench and write folder/mini-vbench.safetensors. Return its path.

    The metadata hold the hyperparameters and the accuracies on `held_out` clips of digits that no network has seen. On
    one machine type equal arguments give equal bytes.
    """
    config = config or InstrumentTraining()
    network = Instruments()
    initialize(network, torch_generator(config.seed, Purpose.TRAINING, 0, 0))
    with one_thread():
        clips = make_clips(config.seed + 1, range(config.clips), "train", variants=config.variants, jitter=1)
        train_networks(network, clips, config)
        accuracy = held_out_accuracy(network.eval(), held_out_clips(held_out))
    path = folder / FILE
    save_tensors(path, network.state_dict(), {"training": asdict(config), "held_out_accuracy": accuracy})
    return path


def held_out_clips(count: int) -> Clips:
    """Make clips of held-out digits with a dozen glyphs of each. Digits also stand beside the middle of the frame."""
    return make_clips(2, range(count), "held_out", variants=12, jitter=1)


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Initialize a network: He's normal initialization, zero biases, and N(0, 0.3) for the word vectors."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.EmbeddingBag):
            nn.init.normal_(module.weight, std=0.3, generator=generator)
