"""Other libraries at the same shapes: torch's linears, OpenVINO and ONNX Runtime.

oneDNN and ik_llama.cpp are in files of their own. Each function returns a `Peer`, or raises `Missing` with the reason.
If a library quantizes its input, it does so inside the timed call, as ours does. The names of the other libraries say
that they take codes as input.
"""

import warnings
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.bench.conformance import DYNAMIC, EXACT, Missing, Peer, linear, nibbles, random_codes, tensor
from qdit.bench.layers import Operands
from qdit.kernels.dense import DenseLinear


def torch_peers(o: Operands) -> dict[str, Peer]:
    """Torch's linears by name: float32 (MKL), float32 by oneDNN (packed), bfloat16, and int8 codes without scales."""
    packed = DenseLinear(o.weight, o.bias)
    x16, weight16, bias16 = (t.bfloat16() for t in (o.x, o.weight, o.bias))
    expected = o.x.double() @ o.weight.double().T + o.bias.double()
    peers = {
        "torch fp32": Peer(lambda: F.linear(o.x, o.weight, o.bias), tensor, expected, EXACT),
        "torch bf16": Peer(lambda: F.linear(x16, weight16, bias16), tensor, expected, DYNAMIC),
    }
    if packed.packs:
        peers["onednn fp32"] = Peer(lambda: packed(o.x), tensor, expected, EXACT)
    generator = torch.Generator().manual_seed(0)
    x8, weight8 = (torch.randint(-127, 128, t.shape, generator=generator, dtype=torch.int8) for t in (o.x, o.weight))
    product = x8.double() @ weight8.double().T
    peers["torch._int_mm (codes, no scales)"] = Peer(lambda: torch._int_mm(x8, weight8.t()), tensor, product, EXACT)
    return peers


def dynamic_int8(o: Operands) -> Peer:
    """Torch's dynamic int8 linear.

    It has one range for the whole input, and one for each output channel of the weight.
    """
    engines = torch.backends.quantized.supported_engines
    if "onednn" not in engines:
        raise Missing(f"torch has no onednn engine for quantized linears (it has {', '.join(engines)})")
    torch.backends.quantized.engine = "onednn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = nn.Linear(o.weight.shape[1], len(o.weight))
        module.weight, module.bias = nn.Parameter(o.weight), nn.Parameter(o.bias)
        kind = torch.ao.quantization.per_channel_dynamic_qconfig
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(module), {nn.Linear: kind}, dtype=torch.qint8)
    expected = o.x.double() @ o.weight.double().T + o.bias.double()
    return Peer(lambda: quantized(o.x), tensor, expected, 2 * DYNAMIC)


def openvino_grouped(o: Operands, group_size: int) -> Peer:
    """OpenVINO's linear: 4-bit weights with zero points in groups. Inputs have symmetric ranges per token and group."""
    try:
        import numpy as np
        import openvino as ov
        from openvino import opset13 as op
    except ImportError:
        raise Missing("openvino is not installed (pip install 'qdit[bench]')") from None
    outputs, inputs = o.weight.shape
    codes, zero_point, scale = random_codes(o, group_size)

    def four_bits(values: Tensor) -> "ov.Node":
        packed = ov.Tensor(nibbles(values.flatten()).numpy(), list(values.shape), ov.Type.u4)
        return op.convert(op.constant(packed, shared_memory=False), ov.Type.f16)

    x = op.parameter([-1, inputs], ov.Type.f32)
    factor = op.constant(scale.numpy().astype(np.float16))
    values = op.multiply(op.subtract(four_bits(codes), four_bits(zero_point)), factor)
    flat = op.convert(op.reshape(values, [outputs, inputs], special_zero=False), ov.Type.f32)
    product = op.add(op.matmul(x, flat, transpose_a=False, transpose_b=True), op.constant(o.bias.numpy()[None]))
    settings = {
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group_size),
        "INFERENCE_NUM_THREADS": "1",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = ov.Core().compile_model(ov.Model([product], [x]), "CPU", settings)
    request, inputs_array = compiled.create_infer_request(), o.x.numpy()
    return Peer(
        lambda: request.infer({0: inputs_array}, share_inputs=True, share_outputs=True),
        lambda results: torch.from_numpy(results[0].copy()),  # type: ignore[index]
        linear(o.x, codes, zero_point, scale, o.bias),
    )


def onnxruntime_grouped(o: Operands, group_size: int) -> Peer:
    """ONNX Runtime's MatMulNBits at accuracy level 4: 4-bit weights with zero points.

    Inputs have symmetric ranges per block.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise Missing("onnxruntime or onnx is not installed (pip install 'qdit[bench]')") from None
    if group_size & (group_size - 1):
        raise Missing(f"MatMulNBits takes powers of two, not {group_size}")
    outputs, inputs = o.weight.shape
    codes, zero_point, scale = random_codes(o, group_size)
    constants = {
        "codes": nibbles(codes).numpy(),
        "scale": scale.flatten().numpy(),
        "zero": nibbles(zero_point[..., 0]).flatten().numpy(),
        "bias": o.bias.numpy(),
    }
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", "codes", "scale", "zero", "", "bias"],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=4,
        block_size=group_size,
        accuracy_level=4,
    )
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "linear",
        [onnx.helper.make_tensor_value_info("x", real, [None, inputs])],
        [onnx.helper.make_tensor_value_info("y", real, [None, outputs])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    operators = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=operators, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Peer(
        partial(session.run, None, {"x": o.x.numpy()}),
        lambda results: torch.from_numpy(results[0]),  # type: ignore[index]
        linear(o.x, codes, zero_point, scale, o.bias),
    )
