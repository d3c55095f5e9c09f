"""CLIP score: 100 · max(0, cos) of CLIP's vectors of an image and of its prompt (Hessel et al., EMNLP 2021, eq. 1).

Hessel et al. multiply by 2.5; 100 is the factor of torchmetrics, which the papers of this field take. The network is
CLIP in the layout of Hugging Face's safetensors files; papers mostly take `openai/clip-vit-large-patch14`. The
vocabulary is OpenAI's `bpe_simple_vocab_16e6.txt.gz`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qdit.core.devices import torch_device
from qdit.core.errors import CheckpointError
from qdit.metrics.byte_pairs import BytePairs, read_byte_pairs
from qdit.metrics.vision_transformer import (
    HEAD,
    Block,
    block_count,
    filled,
    quick_gelu,
    read_weights,
    scores_of_pairs,
    with_class_token,
)

EPS = 1e-5
VISION, TEXT = "vision_model.encoder.layers.", "text_model.encoder.layers."
LAYERS = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "out": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
"""Part of a block → its name in the file."""
PARTS = {
    "image.patch.weight": "vision_model.embeddings.patch_embedding.weight",
    "image.token": "vision_model.embeddings.class_embedding",
    "image.positions": "vision_model.embeddings.position_embedding.weight",
    "image.before.weight": "vision_model.pre_layrnorm.weight",
    "image.before.bias": "vision_model.pre_layrnorm.bias",
    "image.after.weight": "vision_model.post_layernorm.weight",
    "image.after.bias": "vision_model.post_layernorm.bias",
    "image.projection.weight": "visual_projection.weight",
    "text.words.weight": "text_model.embeddings.token_embedding.weight",
    "text.positions": "text_model.embeddings.position_embedding.weight",
    "text.after.weight": "text_model.final_layer_norm.weight",
    "text.after.bias": "text_model.final_layer_norm.bias",
    "text.projection.weight": "text_projection.weight",
}
"""Our names of the tensors outside the blocks → those in the file."""


class ImageHalf(nn.Module):
    """CLIP's vision transformer: normalized images (N, 3, S, S) → vectors (N, d)."""

    def __init__(self, width: int, patch: int, tokens: int, blocks: int, vector: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.token, self.positions = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(tokens, width))
        self.before, self.after = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.blocks = nn.Sequential(*(Block(width, activation=quick_gelu, eps=EPS) for _ in range(blocks)))
        self.projection = nn.Linear(width, vector, bias=False)

    @property
    def side(self) -> int:
        """Side length in pixels of the images that the network takes."""
        return round((len(self.positions) - 1) ** 0.5) * self.patch.kernel_size[0]

    def forward(self, images: Tensor) -> Tensor:
        x = self.before(with_class_token(self.patch(images), self.token) + self.positions)
        return self.projection(self.after(self.blocks(x)[:, 0]))


class TextHalf(nn.Module):
    """CLIP's text transformer: tokens (N, L) → vectors (N, d), taken at the end-of-text token (the largest number)."""

    def __init__(self, words: int, length: int, width: int, blocks: int, vector: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Block(width, activation=quick_gelu, eps=EPS, causal=True) for _ in range(blocks)))
        self.after, self.projection = nn.LayerNorm(width, eps=EPS), nn.Linear(width, vector, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.after(self.blocks(self.words(tokens) + self.positions))
        return self.projection(x[torch.arange(len(x)), tokens.argmax(dim=1)])


class Clip(nn.Module):
    """The whole CLIP network: its image transformer and its text transformer."""

    def __init__(self, image: ImageHalf, text: TextHalf) -> None:
        super().__init__()
        self.image, self.text = image, text

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Cosine (N,) between the vectors of each normalized image and its prompt's tokens."""
        return nn.functional.cosine_similarity(self.image(images), self.text(tokens), eps=1e-12)


def read_clip(path: Path) -> Clip:
    """Load CLIP from a safetensors file in Hugging Face's layout.

    The shapes of the tensors give the size of the network. CheckpointError for a file of another network, and for
    attention heads that are not 64 wide.
    """
    tensors = read_weights(path)
    try:
        tokens, width = tensors[PARTS["image.positions"]].shape
        words, text_width = tensors[PARTS["text.words.weight"]].shape
        patch, vector = tensors[PARTS["image.patch.weight"]].shape[-1], len(tensors[PARTS["text.projection.weight"]])
        length = len(tensors[PARTS["text.positions"]])
    except (KeyError, ValueError) as problem:
        raise CheckpointError(
            f"{path}: not CLIP in Hugging Face's layout (no {problem}); give its safetensors"
        ) from None
    if width % HEAD or text_width % HEAD:
        raise CheckpointError(f"{path}: CLIP is {width} and {text_width} wide, allowed are multiples of {HEAD}")
    image = ImageHalf(width, patch, tokens, block_count(tensors, VISION), vector)
    text = TextHalf(words, length, text_width, block_count(tensors, TEXT), vector)
    ours = {name: tensors[stored] for name, stored in PARTS.items() if stored in tensors}
    try:
        for prefix, half, blocks in ((VISION, "image", image.blocks), (TEXT, "text", text.blocks)):
            for number in range(len(blocks)):
                ours |= block_tensors(tensors, f"{prefix}{number}.", f"{half}.blocks.{number}.")
    except KeyError as problem:
        raise CheckpointError(f"{path}: not a whole CLIP, has no {problem}; fetch it again") from None
    network = filled(Clip(image, text), ours, path, "CLIP")
    assert isinstance(network, Clip)
    return network


def block_tensors(tensors: Mapping[str, Tensor], stored: str, ours: str) -> dict[str, Tensor]:
    """The tensors of one block, renamed from the file's names to ours. Query, key and value become one linear layer."""
    kinds = ("weight", "bias")
    block = {
        f"{ours}{part}.{kind}": tensors[f"{stored}{name}.{kind}"] for part, name in LAYERS.items() for kind in kinds
    }
    for kind in kinds:
        block[f"{ours}qkv.{kind}"] = torch.cat([tensors[f"{stored}self_attn.{name}_proj.{kind}"] for name in "qkv"])
    return block


class ClipScore:
    """Function from uint8 images (N, 3, H, W) and their prompts to CLIP scores (N,), float64."""

    def __init__(self, network: Clip, vocabulary: BytePairs, device: str = "cpu") -> None:
        if vocabulary.size != network.text.words.num_embeddings:
            raise CheckpointError(
                f"CLIP knows {network.text.words.num_embeddings} tokens, the vocabulary {vocabulary.size}; give the"
                " vocabulary that the weights belong to"
            )
        self.network, self.vocabulary, self.device = network.to(torch_device(device)), vocabulary, device

    def __call__(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        image = self.network.image
        return scores_of_pairs(images, prompts, self._score, side=image.side, device=self.device, judge="CLIP score")

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        length = len(self.network.text.positions)
        tokens = torch.tensor([self.vocabulary.tokens(text, length) for text in prompts])
        return 100 * self.network(pixels, tokens.to(self.device)).double().clamp(min=0)


def load(files: Mapping[str, Path], device: str) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    """Load the CLIP judge from the files `weights` and `vocabulary`."""
    return ClipScore(read_clip(files["weights"]), read_byte_pairs(files["vocabulary"]), device)
