"""Which range of pixels an ONNX network expects, read off the arithmetic that it begins with.

Networks trained on pixels in [-1, 1] are exported as they are, or with their normalisation: Sub
and Mul, Sub and Div, Div-Sub-Div, Mul and Add, with casts, transpositions and identities between.
The operations from the input to the first layer are cut out and run on a black and a white image.
The range is the one that they map to something a network is trained on.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import CheckpointError
from facetrain.models.input_format import RANGES, Range

_ARITHMETIC = frozenset((
    "Identity", "Constant", "Cast", "Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Reciprocal",
    "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Gather", "Slice", "Split", "Concat", "Clip",
))  # fmt: skip


def input_range(model: Any, path: Path, blank: NDArray[Any]) -> Range:
    """What black and white pixels should be; [-1, 1] for a graph that begins with a layer.

    Args:
        model: an `onnx.ModelProto`.
        blank: one batch of input, for its shape and type.

    Raises:
        CheckpointError: the graph's own arithmetic fits none of `RANGES`, or several.
    """
    if blank.dtype == np.uint8:
        return RANGES["0,255"]
    nodes, first = _prologue(model.graph)
    if not nodes:
        return RANGES["-1,1"]
    seen = {}
    for name, (low, high) in RANGES.items():
        ends = [_run(model, path, nodes, first, np.full_like(blank, end)) for end in (low, high)]
        seen[name] = (ends[0] + ends[1]) / 2, np.abs(ends[1] - ends[0]) / 2
    for fits in (_is_centred, _is_from_zero):
        found = [name for name, (middle, half) in seen.items() if fits(middle, half)]
        if len(found) == 1:
            return RANGES[found[0]]
    became = ", ".join(
        f"[{name}] to [{(middle - half).min():.3g}, {(middle + half).max():.3g}]"
        for name, (middle, half) in seen.items()
    )
    raise CheckpointError(
        f"{path}: the range of its input must be clear from its first operations, but they map "
        f"{became}; give --input-range {'|'.join(RANGES)}, what it was trained on"
    )


def _is_centred(middle: NDArray[np.float64], half: NDArray[np.float64]) -> bool:
    """About [-1, 1], [-0.5, 0.5], [-128, 128], or a mean and a standard deviation off."""
    sensible = ((half > 0.4) & (half < 3)) | ((half > 100) & (half < 160))
    return bool((sensible & (np.abs(middle) < 0.4 * half)).all())


def _is_from_zero(middle: NDArray[np.float64], half: NDArray[np.float64]) -> bool:
    """About [0, 1] or [0, 255]."""
    sensible = ((half > 0.4) & (half < 0.6)) | ((half > 100) & (half < 160))
    return bool((sensible & (np.abs(middle - half) < 0.02 * half)).all())


def _prologue(graph: Any) -> tuple[list[Any], str]:
    """The nodes between the input and the first layer, and the tensor that this layer takes."""
    constant = {tensor.name for tensor in graph.initializer}
    moved = {one.name for one in graph.input} - constant
    nodes: list[Any] = []
    for node in graph.node:  # ONNX wants them in an order in which they can be run
        inputs = {name for name in node.input if name}
        if node.op_type in _ARITHMETIC and inputs <= constant | moved:
            nodes.append(node)
            (moved if inputs & moved else constant).update(node.output)
        elif inputs & moved and node.op_type != "Shape":
            first = next(name for name in node.input if name in moved)
            touched = any(first in one.output for one in nodes)
            return (nodes if touched else []), first
    return [], ""


def _run(
    model: Any, path: Path, nodes: list[Any], output: str, image: NDArray[Any]
) -> NDArray[np.float64]:
    """The tensor `output` when `image` is the input."""
    import onnx
    import onnxruntime

    used = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        "prologue",
        [one for one in model.graph.input if one.name in used],
        [onnx.ValueInfoProto(name=output)],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    cut = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(cut.SerializeToString(), options, enable_fallback=0)
    (found,) = session.run([output], {session.get_inputs()[0].name: image})
    return np.asarray(found, np.float64)
