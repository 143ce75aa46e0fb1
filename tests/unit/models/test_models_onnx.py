"""ONNX files as backbones, on graphs written node by node so that the answer is known."""

import sys

import numpy as np
import pytest
import torch

from facetrain.core.errors import CheckpointError
from facetrain.models.weights import load_backbone

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT

SIZE = 4
# embedding = (mean red, mean green, mean blue): its value for an image is known by hand
MEANS = np.kron(np.eye(3), np.full((SIZE * SIZE, 1), 1 / (SIZE * SIZE))).astype(np.float32)


def _write(path, *, batch="batch", size=(SIZE, SIZE), scale=None, weight=MEANS, outputs=1):
    """Flatten, then a matrix product; before it Sub and Mul by `scale` = (mean, factor)."""
    constants = {"weight": weight}
    nodes, last = [], "data"
    if scale is not None:
        constants |= {"mean": np.float32(scale[0]), "factor": np.float32(scale[1])}
        nodes += [
            helper.make_node("Sub", ["data", "mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "factor"], ["scaled"]),
        ]
        last = "scaled"
    nodes.append(helper.make_node("Flatten", [last], ["flat"], axis=1))
    nodes += [helper.make_node("MatMul", ["flat", "weight"], [f"out{i}"]) for i in range(outputs)]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("data", FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info(f"out{i}", FLOAT, [batch, 3]) for i in range(outputs)],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def _images(num):
    return torch.rand(num, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(num)) * 2 - 1


@pytest.mark.parametrize("batch", ["batch", 1, 2, 4])
def test_a_free_and_a_fixed_batch_dimension(batch, tmp_path):
    _write(tmp_path / "m.onnx", batch=batch)
    model = load_backbone(tmp_path / "m.onnx")
    assert (model.image_size, model.embedding_size) == (SIZE, 3)
    for num in (1, 5):
        image = _images(num)
        found = model(image.contiguous(memory_format=torch.channels_last))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, image.mean(dim=(2, 3)), rtol=0, atol=1e-6)


def test_a_graph_that_normalises_is_fed_pixels(tmp_path):
    # InsightFace's models from MXNet hold (x - 127.5) * 0.0078125 for pixels x.
    _write(tmp_path / "m.onnx", scale=(127.5, 0.0078125))
    image = _images(3)
    # x = (image + 1) * 127.5, so that (x - 127.5) / 128 = image * 127.5 / 128
    expected = image.mean(dim=(2, 3)) * 127.5 / 128
    torch.testing.assert_close(
        load_backbone(tmp_path / "m.onnx")(image), expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": ("h", "w")}, "must take one image batch (B, 3, S, S) with a fixed S"),
        ({"size": (SIZE, 2 * SIZE), "weight": np.zeros((96, 3), np.float32)}, "(B, 3, S, S)"),
        ({"outputs": 2}, "2 output(s)"),
        ({"weight": np.full_like(MEANS, np.nan)}, "3 values that are not finite"),
    ],
)
def test_a_graph_that_is_no_backbone(options, message, tmp_path):
    path = tmp_path / "m.onnx"
    _write(path, **options)
    with pytest.raises(CheckpointError) as error:
        load_backbone(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_damaged_file(tmp_path):
    path = tmp_path / "m.onnx"
    _write(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="must be an ONNX model that onnxruntime can open"):
        load_backbone(path)


def test_onnxruntime_not_installed(tmp_path, monkeypatch):
    _write(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match=r"pip install facetrain\[onnx\]"):
        load_backbone(tmp_path / "m.onnx")
