"""Makes tests/golden/judges.npz: values of the reference programs on tiny networks with random weights.

CLIP, BLIP and the tokenizers are those of transformers 5.24; DINOv2 is the publisher's own program
(github.com/facebookresearch/dinov2).

pip install --no-deps --target /tmp/refs transformers==5.24.0 tokenizers
PYTHONPATH=.:/tmp/dinov2:/tmp/refs python tests/metrics/judges_golden.py
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qdit.metrics.byte_pairs import BytePairs, byte_letters
from qdit.metrics.judge_reward import LINEARS, MEAN, SPREAD, TOKENS
from qdit.metrics.vision_transformer import CLIP_MEAN, CLIP_SPREAD, IMAGENET_MEAN, IMAGENET_SPREAD

FILE = Path(__file__).parents[1] / "golden" / "judges.npz"
WIDTH, BLOCKS, VECTOR, LENGTH = 128, 2, 32, 16
CLIP_SIDE, CLIP_PATCH = 32, 8
DINO_PATCH, DINO_GRID = 14, 7
REWARD_SIDE, REWARD_PATCH, REWARD_TEXT, REWARD_HIDDEN = 32, 8, 64, 96
MERGES = [("t", "h"), ("th", "e</w>"), ("a", "n"), ("an", "d</w>"), ("r", "e"), ("re", "d</w>"), ("i", "n"),
          ("in", "g</w>"), ("b", "o"), ("bo", "a"), ("boa", "t</w>"), ("'", "s</w>")]  # fmt: skip
PIECES = ["[PAD]", *(f"[unused{n}]" for n in range(5)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "red", "boat",
          "##s", "##ing", "snow", "the", "cafe", ",", ".", "!", "'", "s", "-", "2",
          "##2", "水", "fall", "and"]  # fmt: skip
TEXTS = (
    "The red boat's sinking, and 22 boats!",
    "a  CAFÉ in snow-fall &amp; the the the the the the the the the the the the the the the",
    "水 boat 水",
    "",
)


def draws(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Random tensors of these shapes. Matrices are scaled so that activations neither vanish nor explode."""
    draw = np.random.Generator(np.random.Philox(seed))

    def one(name: str, shape: tuple[int, ...]) -> Tensor:
        values = draw.standard_normal(shape, np.float32)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "LayerNorm.weight", "layrnorm.weight")):
            return torch.from_numpy(1 + values / 10)
        spread = 1 / np.prod(shape[1:]) ** 0.5 if len(shape) > 1 and "embed" not in name else 0.3
        return torch.from_numpy((values * spread).astype(np.float32))

    return {name: one(name, shape) for name, shape in sorted(shapes.items())}


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def clip_weights() -> dict[str, Tensor]:
    """CLIP in Hugging Face's layout."""
    words, patches = 512 + len(MERGES) + 2, (CLIP_SIDE // CLIP_PATCH) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, CLIP_PATCH, CLIP_PATCH),
        "vision_model.embeddings.class_embedding": (WIDTH,),
        "vision_model.embeddings.position_embedding.weight": (patches + 1, WIDTH),
        "text_model.embeddings.token_embedding.weight": (words, WIDTH),
        "text_model.embeddings.position_embedding.weight": (LENGTH, WIDTH),
        "visual_projection.weight": (VECTOR, WIDTH),
        "text_projection.weight": (VECTOR, WIDTH),
    }
    for name in ("vision_model.pre_layrnorm", "vision_model.post_layernorm", "text_model.final_layer_norm"):
        shapes |= norm(name, WIDTH)
    for half in ("vision_model", "text_model"):
        for number in range(BLOCKS):
            block = f"{half}.encoder.layers.{number}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes |= linear(f"{block}.self_attn.{part}", WIDTH, WIDTH)
            shapes |= linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH) | linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)
            shapes |= norm(f"{block}.layer_norm1", WIDTH) | norm(f"{block}.layer_norm2", WIDTH)
    return draws(shapes, 1)


def dino_weights() -> dict[str, Tensor]:
    """DINOv2 in the publisher's layout. Its grid of positions is not that of images of 224 pixels."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, DINO_GRID**2 + 1, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, DINO_PATCH, DINO_PATCH),
        "patch_embed.proj.bias": (WIDTH,),
    }
    shapes |= norm("norm", WIDTH)
    for number in range(BLOCKS):
        block = f"blocks.{number}"
        shapes |= linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        shapes |= linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH) | linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)
        shapes |= norm(f"{block}.norm1", WIDTH) | norm(f"{block}.norm2", WIDTH)
        shapes |= {f"{block}.ls1.gamma": (WIDTH,), f"{block}.ls2.gamma": (WIDTH,)}
    return draws(shapes, 2)


def reward_weights() -> dict[str, Tensor]:
    """ImageReward in the authors' layout."""
    vision, text, patches = "blip.visual_encoder", "blip.text_encoder", (REWARD_SIDE // REWARD_PATCH) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        f"{vision}.cls_token": (1, 1, WIDTH),
        f"{vision}.pos_embed": (1, patches + 1, WIDTH),
        f"{vision}.patch_embed.proj.weight": (WIDTH, 3, REWARD_PATCH, REWARD_PATCH),
        f"{vision}.patch_embed.proj.bias": (WIDTH,),
        f"{text}.embeddings.word_embeddings.weight": (len(PIECES) + 2, REWARD_TEXT),
        f"{text}.embeddings.position_embeddings.weight": (TOKENS + 5, REWARD_TEXT),
    }
    shapes |= norm(f"{vision}.norm", WIDTH) | norm(f"{text}.embeddings.LayerNorm", REWARD_TEXT)
    for number in range(BLOCKS):
        block = f"{vision}.blocks.{number}"
        shapes |= linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        shapes |= linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH) | linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)
        shapes |= norm(f"{block}.norm1", WIDTH) | norm(f"{block}.norm2", WIDTH)
        layer = f"{text}.encoder.layer.{number}"
        for kind, context in (("attention", REWARD_TEXT), ("crossattention", WIDTH)):
            shapes |= linear(f"{layer}.{kind}.self.query", REWARD_TEXT, REWARD_TEXT)
            shapes |= linear(f"{layer}.{kind}.self.key", context, REWARD_TEXT)
            shapes |= linear(f"{layer}.{kind}.self.value", context, REWARD_TEXT)
            shapes |= linear(f"{layer}.{kind}.output.dense", REWARD_TEXT, REWARD_TEXT)
            shapes |= norm(f"{layer}.{kind}.output.LayerNorm", REWARD_TEXT)
        shapes |= linear(f"{layer}.intermediate.dense", REWARD_TEXT, REWARD_HIDDEN)
        shapes |= linear(f"{layer}.output.dense", REWARD_HIDDEN, REWARD_TEXT)
        shapes |= norm(f"{layer}.output.LayerNorm", REWARD_TEXT)
    sizes = (REWARD_TEXT, 1024, 128, 64, 16, 1)
    for place, inputs, outputs in zip(LINEARS, sizes, sizes[1:], strict=False):
        shapes |= linear(f"mlp.layers.{place}", inputs, outputs)
    return draws(shapes, 3)


def random_images() -> np.ndarray:
    """Smooth uint8 images (4, 3, 45, 61): low frequencies and noise."""
    draw = np.random.Generator(np.random.Philox(9))
    coarse = draw.integers(0, 256, (len(TEXTS), 5, 7, 3), dtype=np.uint8)
    images = [np.asarray(Image.fromarray(image).resize((61, 45), Image.Resampling.BILINEAR)) for image in coarse]
    noise = draw.integers(-20, 20, (len(TEXTS), 45, 61, 3))
    return np.ascontiguousarray((np.stack(images) + noise).clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2))


def prepared(side: int, mean: tuple[float, ...], spread: tuple[float, ...], *, crop: bool) -> Tensor:
    """The images by torchvision's transforms, as the authors' programs prepare them."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    cut = [CenterCrop(side)] if crop else []
    size = side if crop else (side, side)
    steps = Compose([Resize(size, InterpolationMode.BICUBIC), *cut, ToTensor(), Normalize(mean, spread)])
    return torch.stack([steps(Image.fromarray(image.transpose(1, 2, 0))) for image in random_images()])


def loaded(model: Any, state: dict[str, Tensor], free: tuple[str, ...] = ()) -> Any:
    wrong = model.load_state_dict(state, strict=False)
    assert not wrong.unexpected_keys, wrong.unexpected_keys
    assert all(name.endswith(("position_ids", *free)) for name in wrong.missing_keys), wrong.missing_keys
    return model.double().eval()


def clip_values() -> dict[str, np.ndarray]:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    shape = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": BLOCKS}
    shape |= {"num_attention_heads": WIDTH // 64, "hidden_act": "quick_gelu", "projection_dim": VECTOR}
    vocabulary = BytePairs(tuple(MERGES))
    text = {
        **shape,
        "vocab_size": vocabulary.size,
        "max_position_embeddings": LENGTH,
        "eos_token_id": vocabulary.size - 1,
    }
    vision = {**shape, "image_size": CLIP_SIDE, "patch_size": CLIP_PATCH}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=VECTOR)
    model = loaded(CLIPModel(config), clip_weights(), ("logit_scale",))
    tokenizer = CLIPTokenizer(vocab=vocabulary.numbers, merges=MERGES, pad_token="!")
    tokens = tokenizer(list(TEXTS), padding=False, truncation=True, max_length=LENGTH)["input_ids"]
    padded = np.array([row + [0] * (LENGTH - len(row)) for row in tokens])
    pixels = prepared(CLIP_SIDE, CLIP_MEAN, CLIP_SPREAD, crop=True).double()
    with torch.no_grad():
        output = model(input_ids=torch.from_numpy(padded), pixel_values=pixels)
    cosines = (output.image_embeds * output.text_embeds).sum(dim=1)
    return {"clip-tokens": padded, "clip": (100 * cosines.clamp(min=0)).numpy(), "clip-cosines": cosines.numpy()}


def dino_values() -> dict[str, np.ndarray]:
    from dinov2.models.vision_transformer import DinoVisionTransformer

    model = DinoVisionTransformer(
        img_size=DINO_GRID * DINO_PATCH,
        patch_size=DINO_PATCH,
        embed_dim=WIDTH,
        depth=BLOCKS,
        num_heads=WIDTH // 64,
        init_values=1.0,
        block_chunks=0,
    )
    pixels = prepared(224, IMAGENET_MEAN, IMAGENET_SPREAD, crop=False).double()
    with torch.no_grad():
        return {"dino": loaded(model, dino_weights())(pixels).numpy()}


def reward_values() -> dict[str, np.ndarray]:
    from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    state = reward_weights()
    vision = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=WIDTH // 64,
            image_size=REWARD_SIDE,
            patch_size=REWARD_PATCH,
            layer_norm_eps=1e-6,
            hidden_act="gelu",
        )
    )
    names = {"cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding"}
    names |= {"patch_embed.proj": "embeddings.patch_embedding", "norm": "post_layernorm"}
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("blip.visual_encoder."):
            own = name.removeprefix("blip.visual_encoder.")
            own = own.replace("blocks.", "encoder.layers.").replace("attn.qkv", "self_attn.qkv")
            own = own.replace("attn.proj", "self_attn.projection")
            own = own.replace("norm1", "layer_norm1").replace("norm2", "layer_norm2")
            first = own.removesuffix(".weight").removesuffix(".bias")
            renamed[own.replace(first, names.get(first, first))] = tensor
    text = BlipTextModel(
        BlipTextConfig(
            vocab_size=len(PIECES) + 2,
            hidden_size=REWARD_TEXT,
            encoder_hidden_size=WIDTH,
            intermediate_size=REWARD_HIDDEN,
            num_hidden_layers=BLOCKS,
            num_attention_heads=1,
            max_position_embeddings=TOKENS + 5,
            layer_norm_eps=1e-12,
            hidden_act="gelu",
            is_decoder=True,
        ),
        add_pooling_layer=False,
    )
    prefix = "blip.text_encoder."
    vision = loaded(vision, renamed)
    text = loaded(
        text, {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.txt")
        path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
        tokenizer = BertTokenizer(vocab={piece: n for n, piece in enumerate(PIECES)}, do_lower_case=True)
        rows = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    pixels = prepared(REWARD_SIDE, CLIP_MEAN, CLIP_SPREAD, crop=True).double()
    with torch.no_grad():
        seen = vision(pixel_values=pixels).last_hidden_state
        hidden = text(
            input_ids=rows["input_ids"],
            attention_mask=rows["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2]),
            is_decoder=False,
        ).last_hidden_state[:, 0]
        for place in LINEARS:
            hidden = (
                hidden @ state[f"mlp.layers.{place}.weight"].double().T + state[f"mlp.layers.{place}.bias"].double()
            )
    return {"reward-tokens": rows["input_ids"].numpy(), "reward": ((hidden[:, 0] - MEAN) / SPREAD).numpy()}


def main() -> None:
    """Write the golden values."""
    assert len(byte_letters()) == 256
    np.savez(FILE, **clip_values(), **dino_values(), **reward_values())


if __name__ == "__main__":
    main()
