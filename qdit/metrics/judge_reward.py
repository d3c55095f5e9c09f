"""ImageReward (Xu et al., NeurIPS 2023, Section 3): how much people would prefer an image for a prompt.

The network is BLIP: a vision transformer (ViT-L/16), a BERT whose layers also attend to the image, and linear layers on
the first token. The weights are the authors' `ImageReward.pt`, the vocabulary is `vocab.txt` of bert-base-uncased.
Rewards are shifted and scaled as in the authors' program. That program needs an old version of transformers, so the
network is written out here.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.devices import torch_device
from qdit.core.errors import CheckpointError
from qdit.metrics.vision_transformer import (
    HEAD,
    Block,
    block_count,
    filled,
    read_weights,
    renamed,
    scores_of_pairs,
    with_class_token,
)
from qdit.metrics.word_pieces import WordPieces, read_word_pieces

TOKENS = 35
"""Tokens of a prompt; longer prompts are cut."""
MEAN, SPREAD = 0.16717362830052426, 1.0333394966054072
"""Of the authors' rewards on their training data."""
IMAGE_EPS, TEXT_EPS = 1e-6, 1e-12
LINEARS = (0, 2, 4, 6, 7)
"""Places of the linear layers among the authors' layers; the others drop out values in training."""
VISION, TEXT = "blip.visual_encoder.", "blip.text_encoder."
VISION_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "qkv": "attn.qkv",
    "out": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
TEXT_LAYER = {
    f"{ours}.{part}": f"{stored}.{name}"
    for ours, stored in (("own", "attention"), ("cross", "crossattention"))
    for part, name in (
        ("query", "self.query"),
        ("key", "self.key"),
        ("value", "self.value"),
        ("out", "output.dense"),
        ("norm", "output.LayerNorm"),
    )
} | {"fc1": "intermediate.dense", "fc2": "output.dense", "norm": "output.LayerNorm"}
"""Part of a layer → its name in the file."""


class ImageHalf(nn.Module):
    """BLIP's vision transformer: normalized images (N, 3, S, S) → tokens (N, L, width)."""

    def __init__(self, width: int, patch: int, tokens: int, blocks: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, stride=patch)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, activation=F.gelu, eps=IMAGE_EPS) for _ in range(blocks)))
        self.after = nn.LayerNorm(width, eps=IMAGE_EPS)

    @property
    def side(self) -> int:
        """Side length in pixels of the images that the network takes."""
        return round((self.positions.shape[1] - 1) ** 0.5) * self.patch.kernel_size[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.blocks(with_class_token(self.patch(images), self.token) + self.positions))


class Attention(nn.Module):
    """Attention layer of BERT: norm(x + attention of the tokens x to the tokens `context`)."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(context, width), nn.Linear(context, width)
        self.norm = nn.LayerNorm(width, eps=TEXT_EPS)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """The tokens x after attention. `mask` (N, L) is true at the tokens of the context that are not padding."""
        tokens = (self.query(x), self.key(context), self.value(context))
        q, k, v = (of.unflatten(-1, (-1, HEAD)).transpose(1, 2) for of in tokens)
        seen = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
        return self.norm(x + self.out(mixed))


class TextLayer(nn.Module):
    """A layer of BERT: attention to its own tokens, then attention to the image, then an MLP."""

    def __init__(self, width: int, hidden: int, image: int) -> None:
        super().__init__()
        self.own, self.cross = Attention(width, width), Attention(width, image)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=TEXT_EPS)

    def forward(self, x: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        x = self.cross(self.own(x, x, mask), image)
        return self.norm(x + self.fc2(F.gelu(self.fc1(x))))


class Reward(nn.Module):
    """The ImageReward network: normalized images, tokens (N, L) and their mask (0 for padding) → rewards (N,)."""

    def __init__(self, image: ImageHalf, words: tuple[int, int, int], layers: int, hidden: int) -> None:
        super().__init__()
        count, length, width = words
        self.image, self.words = image, nn.Embedding(count, width)
        self.positions, self.before = nn.Parameter(torch.zeros(length, width)), nn.LayerNorm(width, eps=TEXT_EPS)
        context = image.positions.shape[2]
        self.layers = nn.ModuleList(TextLayer(width, hidden, context) for _ in range(layers))
        sizes = (width, 1024, 128, 64, 16, 1)
        self.linears = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        seen = self.image(images)
        x = self.before(self.words(tokens) + self.positions[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x, mask, seen)
        return (self.linears(x[:, 0])[:, 0] - MEAN) / SPREAD


def names_of(blocks: int, layers: int) -> dict[str, str]:
    """Our name of each tensor → its name in the authors' file."""
    kinds = ("weight", "bias")
    pairs = {"image.patch": f"{VISION}patch_embed.proj", "image.after": f"{VISION}norm"}
    pairs |= {"before": f"{TEXT}embeddings.LayerNorm"}
    pairs |= {f"linears.{number}": f"mlp.layers.{place}" for number, place in enumerate(LINEARS)}
    for number in range(blocks):
        pairs |= {
            f"image.blocks.{number}.{ours}": f"{VISION}blocks.{number}.{name}" for ours, name in VISION_BLOCK.items()
        }
    for number in range(layers):
        stored = f"{TEXT}encoder.layer.{number}."
        pairs |= {f"layers.{number}.{ours}": stored + name for ours, name in TEXT_LAYER.items()}
    names = {f"{ours}.{kind}": f"{stored}.{kind}" for ours, stored in pairs.items() for kind in kinds}
    return names | {
        "image.token": f"{VISION}cls_token",
        "image.positions": f"{VISION}pos_embed",
        "words.weight": f"{TEXT}embeddings.word_embeddings.weight",
        "positions": f"{TEXT}embeddings.position_embeddings.weight",
    }


def read_reward(path: Path) -> Reward:
    """Load ImageReward from the authors' file. The shapes of the tensors give the size of the network.

    CheckpointError for another file.
    """
    tensors = read_weights(path)
    blocks, layers = block_count(tensors, f"{VISION}blocks."), block_count(tensors, f"{TEXT}encoder.layer.")
    if not blocks or not layers:
        raise CheckpointError(f"{path}: not the weights of ImageReward (no blocks of BLIP); give ImageReward.pt")
    state = renamed(tensors, names_of(blocks, layers), path)
    width, patch = state["image.patch.weight"].shape[0], state["image.patch.weight"].shape[-1]
    count, text = state["words.weight"].shape
    if width % HEAD or text % HEAD:
        raise CheckpointError(f"{path}: ImageReward is {width} and {text} wide, allowed are multiples of {HEAD}")
    image = ImageHalf(width, patch, state["image.positions"].shape[1], blocks)
    network = Reward(image, (count, len(state["positions"]), text), layers, len(state["layers.0.fc1.weight"]))
    network = filled(network, state, path, "ImageReward")  # type: ignore[assignment]
    return network


class ImageReward:
    """Function from uint8 images (N, 3, H, W) and their prompts to rewards (N,), float64."""

    def __init__(self, network: Reward, vocabulary: WordPieces, device: str = "cpu") -> None:
        if len(vocabulary.numbers) > network.words.num_embeddings:
            raise CheckpointError(
                f"ImageReward knows {network.words.num_embeddings} tokens, the vocabulary {len(vocabulary.numbers)};"
                " give vocab.txt of bert-base-uncased"
            )
        self.network, self.vocabulary, self.device = network.to(torch_device(device)), vocabulary, device

    def __call__(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        image = self.network.image
        return scores_of_pairs(images, prompts, self._score, side=image.side, device=self.device, judge="ImageReward")

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        tokens = torch.tensor([self.vocabulary.tokens(text, TOKENS) for text in prompts]).to(self.device)
        score: Tensor = self.network(pixels, tokens, tokens != self.vocabulary.padding)
        return score


def load(files: Mapping[str, Path], device: str) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    """Load the ImageReward judge from the files `weights` and `vocabulary`."""
    return ImageReward(read_reward(files["weights"]), read_word_pieces(files["vocabulary"]), device)
