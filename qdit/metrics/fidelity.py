"""Connection to torch-fidelity: it can use our extractors, and its values are an independent check of ours.

torch-fidelity (and with it torchvision) is imported only when a function of this module runs.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from qdit.metrics.features import Extractor
from qdit.metrics.scores import NEIGHBOURS, SPLIT_SIZE

LAYERS = {"pool": "pool", "spatial": "spatial", "logits_unbiased": "logits"}
"""torch-fidelity's layer name → field of Features."""


class ImageDataset(Dataset[Tensor]):
    """Dataset of uint8 images (N, C, H, W) as plain tensors, for torch-fidelity."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def register(extractor: Extractor) -> str:
    """Register an extractor with torch-fidelity and return its name there. A second call changes nothing.

    The name contains the digest of the weights, because the cache of torch-fidelity knows extractors by name only. Its
    layers have the names pool, spatial and logits_unbiased there.
    """
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    name = f"{extractor.name}-{extractor.digest[:12]}"
    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name

    class Bridge(FeatureExtractorBase):
        """The extractor behind torch-fidelity's interface."""

        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return tuple(LAYERS)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return {"isc": "logits_unbiased", "fid": "pool", "kid": "pool", "prc": "pool"}[metric]

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> None:
            return None

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            features = extractor(images)
            return tuple(torch.from_numpy(getattr(features, LAYERS[layer])) for layer in self.features_list)

    register_feature_extractor(name, Bridge)
    return name


def fidelity_metrics(generated: np.ndarray, real: np.ndarray, *, extractor: Extractor) -> dict[str, float]:
    """`fid`, `sfid`, `is`, `precision` and `recall` of uint8 images (N, C, H, W), computed by torch-fidelity.

    Its inception score (`is`) divides the images into equal splits. So it equals ADM's inception score only if N is at
    most 5000 or a multiple of 5000.
    """
    from torch_fidelity import calculate_metrics

    def calculate(**options: Any) -> dict[str, float]:
        return calculate_metrics(
            input1=ImageDataset(generated),
            input2=ImageDataset(real),
            feature_extractor=register(extractor),
            cuda=False,
            cache=False,
            save_cpu_ram=True,
            verbose=False,
            **options,
        )

    splits = -(-len(generated) // SPLIT_SIZE)
    values = calculate(
        isc=True, fid=True, prc=True, isc_splits=splits, samples_shuffle=False, prc_neighborhood=NEIGHBOURS
    )
    spatial = calculate(fid=True, feature_layer_fid="spatial")
    return {
        "fid": values["frechet_inception_distance"],
        "sfid": spatial["frechet_inception_distance"],
        "is": values["inception_score_mean"],
        "precision": values["precision"],
        "recall": values["recall"],
    }
