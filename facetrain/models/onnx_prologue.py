"""Which range of pixels an ONNX network expects, read off the arithmetic that it begins with.

Networks trained on pixels in [-1, 1] are exported as they are, or with their normalisation: Sub
and Mul, Sub and Div, Div-Sub-Div, Mul and Add, a batch normalisation, a convolution of 1 x 1, with
casts, transpositions and identities between. The operations from the input to the first layer are
cut out and run on a black and a white image. The range is the one that they map to something a
network is trained on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import CheckpointError
from facetrain.models.input_format import RANGES, Range

_ARITHMETIC = frozenset((
    "Identity", "Cast", "CastLike", "Dropout", "BatchNormalization", "Add", "Sum", "Sub", "Mul",
    "Div", "Neg", "Abs", "Pow", "Round", "Floor", "Ceil", "Max", "Min", "Clip", "Relu",
    "QuantizeLinear", "DequantizeLinear", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Reshape",
    "Expand", "Gather", "Slice", "Split", "Concat", "Pad", "Resize", "AveragePool", "MaxPool",
    "SpaceToDepth", "DepthToSpace",
))  # fmt: skip
_LAYERS = frozenset((
    "Conv", "QLinearConv", "ConvInteger", "Gemm", "MatMul", "QLinearMatMul", "MatMulInteger",
    "DynamicQuantizeLinear", "InstanceNormalization",
))  # fmt: skip
"""What a network begins with; before anything else nobody knows what became of the pixels."""


def input_range(model: Any, path: Path, blank: NDArray[Any]) -> Range:
    """What black and white pixels should be; [-1, 1] for a graph that begins with a layer.

    Args:
        model: an `onnx.ModelProto`.
        path: its file, beside which constants may lie.
        blank: one batch of input, for its shape and type.

    Raises:
        CheckpointError: the graph's own arithmetic fits none of `RANGES`, or several; or what
            follows it is no layer, so that it may be more of the same.
    """
    if blank.dtype == np.uint8:
        return RANGES["0,255"]
    nodes, first, layer = _prologue(model.graph)
    if layer not in _LAYERS:
        raise CheckpointError(
            f"{path}: the range of its input must be clear from its first operations, but the "
            f"first that is no plain arithmetic is {layer}, not a layer known here; give "
            f"--input-range {'|'.join(RANGES)}, what it was trained on"
        )
    if not nodes:
        return RANGES["-1,1"]
    cut = _cut(model, path, nodes, first)
    seen = {}
    for name, (low, high) in RANGES.items():
        ends = [_run(cut, first, np.full_like(blank, end)) for end in (low, high)]
        half = np.abs(ends[1] - ends[0]) / 2
        image = half > 0  # the rest is what it pads with
        seen[name] = ((ends[0] + ends[1]) / 2)[image], half[image]
    for fits in (_is_centred, _is_from_zero):
        found = [name for name, (middle, half) in seen.items() if fits(middle, half)]
        if len(found) == 1:
            return RANGES[found[0]]
    became = ", ".join(
        f"[{name}] to [{(middle - half).min(initial=0):.3g}, {(middle + half).max(initial=0):.3g}]"
        for name, (middle, half) in seen.items()
    )
    raise CheckpointError(
        f"{path}: the range of its input must be clear from its first operations, but they map "
        f"{became}; give --input-range {'|'.join(RANGES)}, what it was trained on"
    )


def _is_centred(middle: NDArray[np.float64], half: NDArray[np.float64]) -> bool:
    """About [-1, 1], [-0.5, 0.5], [-128, 128], or a mean and a standard deviation off."""
    sensible = ((half > 0.4) & (half < 3)) | ((half > 100) & (half < 160))
    return half.size > 0 and bool((sensible & (np.abs(middle) < 0.4 * half)).all())


def _is_from_zero(middle: NDArray[np.float64], half: NDArray[np.float64]) -> bool:
    """About [0, 1] or [0, 255]."""
    sensible = ((half > 0.4) & (half < 0.6)) | ((half > 100) & (half < 160))
    return half.size > 0 and bool((sensible & (np.abs(middle - half) < 0.02 * half)).all())


def _prologue(graph: Any) -> tuple[list[Any], str, str]:
    """The nodes before the first layer, the tensor that this layer takes, and its operator."""
    shape_of = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    constant = set(shape_of)
    moved = {one.name for one in graph.input} - constant
    nodes: list[Any] = []
    for node in graph.node:  # ONNX wants them in an order in which they can be run
        inputs = {name for name in node.input if name}
        if node.op_type == "Constant":
            shape_of[node.output[0]] = tuple(node.attribute[0].t.dims)
        if inputs <= constant and not any(one.HasField("g") for one in node.attribute):
            nodes.append(node)
            constant.update(node.output)
        elif node.op_type == "Shape" and inputs <= moved:
            nodes.append(node)
            constant.update(node.output)  # whatever the pixels are
        elif inputs <= constant | moved and _is_arithmetic(node, shape_of):
            nodes.append(node)
            moved.update(node.output)
        elif inputs & moved:
            first = next(name for name in node.input if name in moved)
            touched = any(first in one.output for one in nodes)
            return (nodes if touched else []), first, node.op_type
    return [], "", "nothing"


def _is_arithmetic(node: Any, shape_of: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a node maps single pixels or moves them; so does a 1 x 1 convolution to 3 colours."""
    if node.op_type != "Conv":
        return node.op_type in _ARITHMETIC
    out, _, *kernel = shape_of.get(node.input[1], (0, 0))
    return out == 3 and kernel == [1, 1]


def _cut(model: Any, path: Path, nodes: Sequence[Any], output: str) -> Any:
    """A session of `nodes` alone, with the tensor `output` as what it gives.

    A batch normalisation with statistics of its own goes without scale and shift: mean and variance
    are those of the images that the network was trained on, and tell their range.
    """
    import onnx
    import onnxruntime

    used = {name for node in nodes for name in node.input}
    array = {
        tensor.name: onnx.numpy_helper.to_array(tensor, str(path.parent))
        for tensor in model.graph.initializer
        if tensor.name in used
    }
    for node in nodes:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            array[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    kept = []
    for number, node in enumerate(nodes):
        names = [*node.input]
        if node.op_type == "BatchNormalization" and {names[3], names[4]} <= array.keys():
            mean, variance = array[names[3]], array[names[4]]
            if mean.any() or (variance != 1).any():
                names[1:3] = f"scale of 1, {number}", f"shift of 0, {number}"
                array |= {names[1]: np.ones_like(mean), names[2]: np.zeros_like(mean)}
        kept.append(onnx.NodeProto())
        kept[-1].CopyFrom(node)
        kept[-1].ClearField("input")
        kept[-1].input.extend(names)
    made = {name for node in nodes for name in node.output}
    graph = onnx.helper.make_graph(
        kept,
        "prologue",
        [one for one in model.graph.input if one.name in used - array.keys()],
        [onnx.ValueInfoProto(name=output)],
        [onnx.numpy_helper.from_array(v, name) for name, v in array.items() if name not in made],
    )
    cut = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(cut.SerializeToString(), options, enable_fallback=0)


def _run(cut: Any, output: str, image: NDArray[Any]) -> NDArray[np.float64]:
    """The tensor `output` when `image` is the input."""
    (found,) = cut.run([output], {cut.get_inputs()[0].name: image})
    return np.asarray(found, np.float64)
