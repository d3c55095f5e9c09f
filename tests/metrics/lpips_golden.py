"""Makes tests/golden/lpips.npz: LPIPS of the authors' program (PyPI lpips 0.1.4) on random weights of the real shapes.

pip install --no-deps --target /tmp/lpips lpips==0.1.4
PYTHONPATH=.:/tmp/lpips python tests/metrics/lpips_golden.py
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models import alexnet, vgg16

SHAPES = {"alex": (alexnet, (64, 192, 384, 256, 256)), "vgg": (vgg16, (64, 128, 256, 512, 512))}
FILE = Path(__file__).parents[1] / "golden" / "lpips.npz"


def random_weights(network: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random weights under the names of torchvision's file and of the authors' file of linear weights."""
    build, channels = SHAPES[network]
    with torch.device("meta"):
        shapes = {f"features.{name}": tuple(value.shape) for name, value in build().features.state_dict().items()}
    draw = np.random.Generator(np.random.Philox(7))

    def tensor(shape: tuple[int, ...]) -> Tensor:
        spread = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.01
        return torch.from_numpy((draw.standard_normal(shape, np.float32) * spread).astype(np.float32))

    backbone = {name: tensor(shape) for name, shape in shapes.items()}
    return backbone, {f"lin{n}.model.1.weight": tensor((1, size, 1, 1)).abs() for n, size in enumerate(channels)}


def random_images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Three uint8 pairs: noise beside changed noise, noise beside noise, black beside white."""
    draw = np.random.Generator(np.random.Philox(8))
    images = draw.integers(0, 256, (3, 3, height, width), dtype=np.uint8)
    others = draw.integers(0, 256, images.shape, dtype=np.uint8)
    others[0] = np.clip(images[0].astype(int) + others[0] % 40 - 20, 0, 255)
    images[2], others[2] = 0, 255
    return images, others


def main() -> None:
    """Write the golden values."""
    import lpips

    values = {}
    for network in SHAPES:
        model = lpips.LPIPS(net=network, pnet_rand=True, pretrained=False, verbose=False)
        backbone, linear = random_weights(network)
        layers = [layer for n in range(1, 6) for layer in getattr(model.net, f"slice{n}")]
        with torch.no_grad():
            for number, layer in enumerate(layers):
                for name in ("weight", "bias") if hasattr(layer, "weight") else ():
                    getattr(layer, name).copy_(backbone[f"features.{number}.{name}"])
            for n in range(5):
                model.lins[n].model[1].weight.copy_(linear[f"lin{n}.model.1.weight"])
            for size in ((64, 64), (33, 70)):
                pair = [torch.from_numpy(images).double() / 127.5 - 1 for images in random_images(*size)]
                key = f"{network}-{size[0]}x{size[1]}"
                values[key] = model.double()(*pair).flatten().numpy()
                model.float()
    np.savez(FILE, **values)


if __name__ == "__main__":
    main()
