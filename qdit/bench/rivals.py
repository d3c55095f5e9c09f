"""List of the libraries that `qdit bench kernels` compares with ours. Each must pass its conformance test first."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from qdit.bench import peers, peers_llama, peers_onednn
from qdit.bench.conformance import Call, Missing, Peer, conforming
from qdit.bench.layers import Operands

PEER_GROUPS = (32, 64, 128)
"""Group sizes at which the other runtimes are measured."""

FLOATS = ("torch fp32", "onednn fp32", "torch bf16", "torch._int_mm (codes, no scales)")
FULL = "onednn u4 and u8 zero points"
"""oneDNN with zero points on both sides, as in our scheme."""


def rivals(group_sizes: Iterable[int]) -> dict[str, Callable[[Operands], Peer]]:
    """Name → function that makes the library's product (a `Peer`) from the operands of a layer."""
    makers: dict[str, Callable[[Operands], Peer]] = {name: partial(_of_torch, name) for name in FLOATS}
    makers["torch dynamic int8"] = peers.dynamic_int8
    for size in sorted(set(group_sizes) & set(PEER_GROUPS)):
        makers[f"openvino u4 g{size}"] = partial(peers.openvino_grouped, group_size=size)
        makers[f"onnxruntime u4 g{size}"] = partial(peers.onnxruntime_grouped, group_size=size)
        makers[f"{FULL} g{size} (codes)"] = partial(peers_onednn.grouped, group_size=size)
        makers[f"onednn u4 zero points g{size} (codes)"] = partial(
            peers_onednn.grouped, group_size=size, input_zeros=False
        )
    for name in peers_llama.FORMATS:
        makers[f"ik_llama.cpp {name} g{peers_llama.GROUP_SIZE}"] = partial(peers_llama.ik_llama, name=name)
    return makers


def calls(makers: Mapping[str, Callable[[Operands], Peer]], o: Operands, missing: dict[str, str]) -> dict[str, Call]:
    """Name → timed call of every library that is installed and correct.

    `missing` gets the reason for each other library.
    """
    timed: dict[str, Call] = {}
    for name, make in makers.items():
        try:
            timed[name] = conforming(make, o)
        except Missing as reason:
            missing[name] = str(reason)
    return timed


def load_first() -> None:
    """Load oneDNN before OpenVINO. After OpenVINO has loaded its own libtbb, SYCL would find no processor."""
    try:
        peers_onednn.library()
    except Missing:
        return


def _of_torch(name: str, o: Operands) -> Peer:
    torch_calls = peers.torch_peers(o)
    if name not in torch_calls:
        raise Missing("torch has no oneDNN")
    return torch_calls[name]
