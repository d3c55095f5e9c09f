"""How many samples one forward pass takes, so that its temporary memory has a limit."""

from torch import Tensor

from qdit.core.errors import Unsupported
from qdit.models.config import DiffusersConfig, DiTConfig, STDiT3Config
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network, NetworkConfig
from qdit.quant.batches import Batch, Keywords

ELEMENTS = 2**28
"""Probabilities of attention and hidden units of a block's MLP that exist at once: 1 GiB of each kind in float32."""
MOST_ROWS = 256
"""Samples at once of a small network."""

GRAPH_ELEMENTS = 2**31
"""Values that a backward pass through the whole network keeps: 8 GiB in float32."""
BLOCK_WIDTHS = 40
"""Such values of a block for each token, in widths of the model."""


def rows_per_pass(config: NetworkConfig, x: Tensor, *, most: int = MOST_ROWS) -> int:
    """Return how many of the noisy samples x (N, C, …) one forward pass takes, so that its memory has a limit.

    For DiT-XL/2 these are 120 at 256×256 and 12 at 512×512. The count assumes that attention stores all its
    probabilities: heads · tokens² for each sample. `most` limits the number for small networks.
    """
    config = require_patches(config)
    tokens = max(1, x[0, 0].numel() // config.patch_size**2)
    each = config.num_heads * tokens**2 + config.mlp_ratio * config.hidden_size * tokens
    return max(1, min(most, ELEMENTS // each))


def rows_of_pass(model: Network, batch: Batch) -> int:
    """Return how many samples of a batch one forward pass takes; `MOST_ROWS` for keyword arguments (unknown tokens)."""
    if isinstance(batch, Keywords) or isinstance(model, DiffusersNetwork):
        return MOST_ROWS
    return rows_per_pass(model.config, batch[0])


def rows_with_gradients(config: NetworkConfig, x: Tensor) -> int:
    """Return how many samples one forward and backward pass of the whole network takes (see `rows_per_pass`)."""
    config = require_patches(config)
    tokens = max(1, x[0, 0].numel() // config.patch_size**2)
    each = config.depth * (BLOCK_WIDTHS * config.hidden_size + 4 * config.num_heads * tokens) * tokens
    return max(1, GRAPH_ELEMENTS // each)


def require_patches(config: NetworkConfig) -> DiTConfig | STDiT3Config:
    """Return the configuration of a DiT or STDiT3; raise Unsupported for a diffusers network (no patch size)."""
    if isinstance(config, DiffusersConfig):
        raise Unsupported("passes: the tokens of a transformer of diffusers are not known from its configuration")
    return config
