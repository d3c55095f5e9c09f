"""The process that opens I3D's TorchScript file. It reads clips and writes features.

    python -I i3d_process.py WEIGHTS SHA256 FOLDER OUT.npz BATCH

FOLDER holds one npz with `frames` uint8 (T, H, W, 3) for each clip. The digest is checked on the same bytes that are
opened. The TorchScript file does the preprocessing, with StyleGAN-V's arguments: `rescale` maps 0…255 to [−1, 1],
`resize` gives 224×224. The process imports only the standard library, numpy and torch.
"""

import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import torch


def main(weights: str, sha256: str, folder: str, out: str, batch: str) -> None:
    """Compute the features (N, 400) float32 of the clips in a folder, and write them as array `features`."""
    content = Path(weights).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        sys.exit(f"{weights}: is not the file with sha256 {sha256[:12]}…")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torch.jit.load(io.BytesIO(content), map_location=device).eval()
    paths = sorted(Path(folder).glob("[0-9]*.npz"))
    rows = []
    with torch.inference_mode():
        for first in range(0, len(paths), int(batch)):
            clips = np.stack(
                [np.load(path, allow_pickle=False)["frames"] for path in paths[first : first + int(batch)]]
            )
            x = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().to(device)
            rows.append(network(x, rescale=True, resize=True, return_features=True).float().cpu().numpy())
    np.savez(out, features=np.concatenate(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
