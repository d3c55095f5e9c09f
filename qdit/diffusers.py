"""Quantized checkpoints in diffusers.

After `import qdit.diffusers`, `from_pretrained` loads folders of `qdit export`.

    import qdit.diffusers
    from diffusers import DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel.from_pretrained("exported")
    pipeline = DiTPipeline.from_pretrained("facebook/DiT-XL-2-256", transformer=transformer)

`qdit quantize` also writes folders of other transformers of diffusers (FLUX, Wan, …). `from_pretrained` of the
transformer's own class loads them. The quantized layers keep their weights packed and compute in float32, float16 or
bfloat16 (qdit/quant/diffusers_layers.py). The rest of this text is about DiTTransformer2DModel.

Diffusers has no entry points for quantizers, so the import itself registers ours in two tables of diffusers. An
exported folder holds the packed tensors of the checkpoint. The loaded object is a DiTTransformer2DModel with the layers
of our own DiT. So every method, scope and kind of site works, and the output bits are those of `load_checkpoint`. The
object holds float32 weights beside the codes; `pack(transformer)` keeps only the codes and gives the same bits. It
computes in float32. Features that change diffusers' own blocks (LoRA, attention processors, gradient checkpointing) do
not work. docs/diffusers.md says how DiTPipeline's images differ from those of `qdit sample`.
"""

import copy
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import Tensor

from qdit.core.errors import CheckpointError, Unsupported
from qdit.core.files import save_tensors, write_json
from qdit.models.config import DiTConfig
from qdit.models.diffusers_format import REQUIRED, WEIGHTS_FILE
from qdit.models.dit import DiT
from qdit.models.manifest import check_file, write_manifest
from qdit.models.network import require_dit
from qdit.models.weights_files import CONFIG_FILE
from qdit.quant.checkpoint import Checkpoint, build_model, load_checkpoint, stored_tensors
from qdit.quant.compact import compact
from qdit.quant.diffusers_layers import (
    DTYPES,
    disagreement,
    fill_transformer,
    is_generic,
    refuse_adapter,
    require_format,
)
from qdit.quant.folder import QUANTIZER, with_digest
from qdit.quant.integer import integer_layers, prepare_integer
from qdit.quant.late_inputs import defer_unprepared
from qdit.quant.packed import keep_packed

DESCRIBED = ("format", "model", "sites", "record")
"""What of a checkpoint's configuration an exported folder keeps: how to build the modules, and what made them."""


class Method(str, enum.Enum):  # noqa: UP042 - diffusers wants a str whose `value` it can read; format() must give it too
    """Enumeration with the name of our quantizer, in the form that diffusers expects."""

    QDIT = QUANTIZER


class QditConfig(QuantizationConfigMixin):
    """`quantization_config` of an exported folder: the checkpoint's configuration."""

    def __init__(self, checkpoint: Mapping[str, Any], **other: Any) -> None:
        self.quant_method: Any = Method.QDIT  # diffusers' own enumeration cannot have ours
        self.checkpoint = dict(checkpoint)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON."""
        return {"quant_method": Method.QDIT.value, "checkpoint": copy.deepcopy(self.checkpoint)}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the whole configuration. Diffusers calls this to print a configuration."""
        return self.to_dict()


class QuantizedTransformer(DiTTransformer2DModel):
    """A DiTTransformer2DModel that computes with `network`, our DiT."""

    network: DiT

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Predict noise and variance (N, 2C, L, L) from latents (N, C, L, L) at timesteps (N,) with labels (N,)."""
        output = self.network(hidden_states, timestep, class_labels)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


# A folder that `save_pretrained` writes names the class of its model; only the base class can be loaded from there.
QuantizedTransformer.__name__ = DiTTransformer2DModel.__name__
QuantizedTransformer.__module__ = DiTTransformer2DModel.__module__


class QditQuantizer(DiffusersQuantizer):
    """Puts a quantized network in place of a DiTTransformer2DModel's layers while `from_pretrained` loads it.

    In a transformer of another class it puts quantized layers in the place of linears and convolutions.
    """

    requires_calibration = True
    """Only checkpoints that are quantized already can be loaded."""
    use_keep_in_fp32_modules = True
    """The modules that a class wants in float32 stay so."""

    def __init__(self, quantization_config: QditConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.checkpoint = quantization_config.checkpoint
        self.tensors: dict[str, Tensor] = {}
        self.device: Any = "cpu"
        self.dtype = torch.float32
        self.in_full: list[str] = []
        self.is_generic = is_generic(self.checkpoint)
        self.in_integers = False

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raise Unsupported for a dtype or a device map with which quantized layers cannot be loaded."""
        dtype = kwargs.get("torch_dtype") or self.dtype
        if self.is_generic and dtype not in DTYPES:
            raise Unsupported(f"torch_dtype {dtype}: allowed are float32, float16 and bfloat16")
        self.dtype = dtype
        if not self.is_generic and dtype != torch.float32:
            raise Unsupported(
                f"torch_dtype {dtype}: quantized layers compute in float32; load the transformer without torch_dtype"
                " and give it to the pipeline"
            )
        places = set((kwargs.get("device_map") or {}).values()) if isinstance(kwargs.get("device_map"), dict) else set()
        if len(places) > 1:
            raise Unsupported(f"device_map over {len(places)} devices: quantized models are kept whole; give one")

    def update_device_map(self, device_map: Any) -> None:
        """Store the one device that the caller chose. Diffusers has no other module to place."""
        if isinstance(device_map, dict):
            self.validate_environment(device_map=device_map)
            self.device = next(iter(device_map.values()), "cpu")
        elif device_map is not None:
            self.device = "cuda" if device_map in ("auto", "balanced") and torch.cuda.is_available() else "cpu"

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Check the files against the manifest. The tensors are named later, when the network is built."""
        for file in checkpoint_files or []:
            if Path(file).suffix != ".safetensors":
                raise CheckpointError(f"{file}: pickled weights are never used; save the model as safetensors")
            check_file(Path(file))
        return []

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """Report no missing keys to diffusers, because `build_model` raises an error for missing tensors."""
        return []

    def maybe_update_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep the tensors as they are stored, and give diffusers none, because it would convert them."""
        self.tensors |= state_dict
        return {}

    @property
    def supports_parallel_loading(self) -> bool:
        """False: files are loaded one after the other, because their tensors are collected here."""
        return False

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        """Drop the layers that diffusers made, if the transformer is a DiT. Another transformer keeps its layers."""
        self.in_full = kwargs.get("keep_in_fp32_modules") or []
        if self.is_generic:
            return
        for name in list(model._modules):
            delattr(model, name)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
        """Build the quantized network from the collected tensors."""
        if self.is_generic:
            self.put_layers(model)
            return
        network, self.tensors = restore(self.checkpoint, self.tensors), {}
        require_same_shape(model.config, network.config)
        take(model, network.to(self.device))

    def put_layers(self, model: Any) -> None:
        """Put the quantized layers and all tensors into a transformer that is not a DiT of this suite."""
        tensors, self.tensors = self.tensors, {}
        in_full = self.in_full if self.dtype != torch.float32 else []
        fill_transformer(model, self.checkpoint, tensors, dtype=self.dtype, in_full=in_full)
        kept = {key: self.checkpoint[key] for key in DESCRIBED}
        self.checkpoint = with_digest(kept)
        cast(QditConfig, self.quantization_config).checkpoint = self.checkpoint
        model.add_adapter = model.load_lora_adapter = refuse_adapter
        model.to(self.device)

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Tensor], safe_serialization: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the packed tensors, as `qdit quantize` and `qdit export` write them."""
        if self.is_generic:
            return {name: compact(tensor) for name, tensor in state_dict.items()}, {}
        state = {name.removeprefix("network."): tensor for name, tensor in state_dict.items()}
        return stored_tensors(state, DiTConfig(**self.checkpoint["model"]["config"])), {}

    @property
    def is_serializable(self) -> bool:
        """Whether `save_pretrained` works. It does not after `integer`."""
        return not self.in_integers

    @property
    def is_trainable(self) -> bool:
        """False: codes have no gradients."""
        return False

    @property
    def is_compileable(self) -> bool:
        """Whether torch.compile can compile a block without a graph break."""
        return self.is_generic


AUTO_QUANTIZER_MAPPING[Method.QDIT.value] = QditQuantizer
AUTO_QUANTIZATION_CONFIG_MAPPING[Method.QDIT.value] = QditConfig


def restore(checkpoint: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DiT:
    """Build the network from an exported configuration and its tensors; CheckpointError if they do not fit."""
    require_format(checkpoint)
    try:
        network = require_dit(build_model(checkpoint, tensors), where="exported checkpoint")
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise disagreement(problem) from None
    return network.eval()


def require_same_shape(config: Mapping[str, Any], shape: DiTConfig) -> None:
    """Raise CheckpointError if the part of config.json that pipelines read does not state the shape of our DiT."""
    for name, value in diffusers_config(shape).items():
        if config.get(name) != value:
            raise CheckpointError(
                f"exported checkpoint: {CONFIG_FILE} says {name} {config.get(name)!r}, its tensors are of {name}"
                f" {value!r}; export it again"
            )


def take(model: Any, network: DiT) -> None:
    """Replace all layers of a DiTTransformer2DModel with `network`."""
    model.__class__ = QuantizedTransformer
    model.network = defer_unprepared(network.requires_grad_(False))


def pack(transformer: Any) -> Any:
    """Keep the weights of a loaded quantized transformer packed in memory, in place.

    The outputs stay the same, bit for bit. Every forward pass unpacks each layer. Raises Unsupported for a
    transformer that this package did not quantize.
    """
    if not isinstance(transformer, QuantizedTransformer):
        raise Unsupported(
            f"a {type(transformer).__name__} that is not quantized cannot be packed; load a folder of `qdit export`"
        )
    keep_packed(transformer.network)
    return transformer


def integer(transformer: Any) -> Any:
    """Let the quantized layers of a loaded transformer multiply integers, in place.

    Layers whose input is not quantized stay as they are. The transformer can be moved, but not saved. Raises
    Unsupported for a transformer that this package did not quantize, and for quantizers without an integer kernel, with
    the name of the first such layer; load the transformer again after that.
    """
    quantizer = getattr(transformer, "hf_quantizer", None)
    if not isinstance(quantizer, QditQuantizer):
        raise Unsupported(f"a {type(transformer).__name__} that is not quantized has no integers; quantize it first")
    if isinstance(transformer, QuantizedTransformer):
        prepare_integer(transformer.network)
    else:
        integer_layers(transformer)
    quantizer.in_integers = True
    return transformer


def from_checkpoint(folder: Path | str, *, packed: bool = False) -> DiTTransformer2DModel:
    """Load the DiTTransformer2DModel of a checkpoint folder of `qdit quantize`; errors as in `load_checkpoint`.

    With `packed` its weights stay packed in memory (see `pack`). Raises Unsupported for a checkpoint with a correction
    of the predicted noise (PTQD), because a pipeline has no place for it.
    """
    loaded = load_checkpoint(Path(folder))
    require_no_correction(loaded, str(folder))
    config = QditConfig(described(loaded))
    with torch.device("meta"):
        model: Any = DiTTransformer2DModel(**diffusers_config(loaded.model.config))
    quantizer = QditQuantizer(config, pre_quantized=True)
    quantizer.preprocess_model(model)
    take(model, loaded.model)
    model.hf_quantizer = quantizer
    model.register_to_config(quantization_config=config)
    return pack(model.eval()) if packed else model.eval()


def export_checkpoint(checkpoint: Path, folder: Path) -> list[Path]:
    """Write a checkpoint as a folder that diffusers can load after `import qdit.diffusers`; return its files.

    The files are config.json with the digest of its own content, diffusion_pytorch_model.safetensors with the packed
    tensors, and a manifest with their sha256. Raises the errors of `from_checkpoint`.
    """
    loaded = load_checkpoint(checkpoint)
    require_no_correction(loaded, str(checkpoint))
    values = {"_class_name": DiTTransformer2DModel.__name__, **diffusers_config(loaded.model.config)}
    save_tensors(folder / WEIGHTS_FILE, stored_tensors(loaded.model.state_dict(), loaded.model.config))
    write_json(folder / CONFIG_FILE, values | {"quantization_config": QditConfig(described(loaded)).to_dict()})
    return [folder / CONFIG_FILE, folder / WEIGHTS_FILE, write_manifest(folder)]


def require_no_correction(loaded: Checkpoint, where: str) -> None:
    """Raise Unsupported for a checkpoint that corrects the predicted noise after guidance."""
    if loaded.correction is not None:
        raise Unsupported(
            f"{where}: {loaded.config['record']['method']} corrects the predicted noise after guidance, which pipelines"
            " of diffusers do not do; use `qdit sample`"
        )


def described(loaded: Checkpoint) -> dict[str, Any]:
    """Return the part of a checkpoint's configuration that an exported folder keeps, with a digest of this part."""
    return with_digest({key: loaded.config[key] for key in DESCRIBED})


def diffusers_config(config: DiTConfig) -> dict[str, Any]:
    """Return the configuration of a DiT with the key names of DiTTransformer2DModel."""
    return {
        **REQUIRED,
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "sample_size": config.input_size,
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": config.num_classes,
        "norm_eps": 1e-6,
    }
