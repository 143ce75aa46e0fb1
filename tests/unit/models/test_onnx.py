"""ONNX files as backbones, on graphs written node by node so that the answer is known."""

import sys

import numpy as np
import pytest
import torch

from facetrain.core.errors import CheckpointError
from facetrain.engine.inference import open_backbone
from facetrain.models.input_format import BackboneFile, InputFormat
from facetrain.models.weights import load_backbone

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT

SIZE = 4
# embedding = (mean red, mean green, mean blue): its value for an image is known by hand
MEANS = np.kron(np.eye(3), np.full((SIZE * SIZE, 1), 1 / (SIZE * SIZE))).astype(np.float32)


def _write(path, *, batch="batch", size=(SIZE, SIZE), weight=MEANS, outputs=1):
    """Flatten, then a matrix product."""
    constants = {"weight": weight}
    nodes = [helper.make_node("Flatten", ["data"], ["flat"], axis=1)]
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


def _graph(path, steps, *, dtype=FLOAT, layout="NCHW", constants_as="initializer"):
    """`steps` (operator, constant or attributes) before Flatten and the matrix product."""
    nodes, tensors, last = [], [], "data"
    for number, (operator, given) in enumerate(steps):
        inputs, attributes = [last], {}
        if isinstance(given, dict):
            attributes, given = given, None
        constants = given if isinstance(given, tuple) else (given,)
        for place, constant in enumerate(constants):
            if constant is None:
                continue
            inputs.append(f"c{number}_{place}")
            tensor = onnx.numpy_helper.from_array(np.asarray(constant, np.float32), inputs[-1])
            if constants_as == "node":
                nodes.append(helper.make_node("Constant", [], [inputs[-1]], value=tensor))
            else:
                tensors.append(tensor)
        last = f"step{number}"
        nodes.append(helper.make_node(operator, inputs, [last], **attributes))
    nodes.append(helper.make_node("Flatten", [last], ["flat"], axis=1))
    nodes.append(helper.make_node("MatMul", ["flat", "weight"], ["out"]))
    tensors.append(onnx.numpy_helper.from_array(MEANS, "weight"))
    shape = [3, SIZE, SIZE] if layout == "NCHW" else [SIZE, SIZE, 3]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("data", dtype, ["batch", *shape])],
        [helper.make_tensor_value_info("out", FLOAT, ["batch", 3])],
        tensors,
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


MEAN, STD = (np.array(v).reshape(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
TO_FLOAT = ("Cast", {"to": FLOAT})
NCHW = ("Transpose", {"perm": [0, 3, 1, 2]})


def _bn(*parameters):
    """Scale, shift, mean and variance, alike for the three colours."""
    return tuple(np.full(3, one, np.float32) for one in parameters)


# name -> what the graph does, and the range of pixels that makes sense before it
PROLOGUES = {
    "none": ([], (-1, 1)),
    "identities": ([("Sub", 0.0), ("Identity", None), ("Mul", 1.0)], (-1, 1)),
    "Sub+Mul": ([("Sub", 127.5), ("Mul", 0.0078125)], (0, 255)),
    "Sub+Div": ([("Sub", 127.5), ("Div", 128.0)], (0, 255)),
    "Div-Sub-Div": ([("Div", 255.0), ("Sub", MEAN), ("Div", STD)], (0, 255)),
    "Sub-Div, mean and deviation": ([("Sub", MEAN), ("Div", STD)], (0, 1)),
    "Mul+Add": ([("Mul", 1 / 127.5), ("Add", -1.0)], (0, 255)),
    "an identity before": ([("Mul", 1.0), ("Sub", 127.5), ("Div", 127.5)], (0, 255)),
    "half a unit": ([("Sub", 0.5), ("Div", 0.5)], (0, 1)),
    "Mul+Sub by two": ([("Mul", 2.0), ("Sub", 1.0)], (0, 1)),
    "to unit pixels": ([("Div", 255.0)], (0, 255)),
    "to unit pixels from [-1, 1]": ([("Mul", 0.5), ("Add", 0.5)], (-1, 1)),
    "to pixels from unit pixels": ([("Mul", 255.0)], (0, 1)),
    "a mean only": ([("Sub", np.array([131.1, 103.9, 91.5]).reshape(3, 1, 1))], (0, 255)),
    "casts": ([TO_FLOAT, ("Sub", 127.5), TO_FLOAT, ("Div", 128.0)], (0, 255)),
    "Mul, Sum": ([("Mul", 1 / 127.5), ("Sum", -1.0)], (0, 255)),
    "within bounds": ([("Max", 0.0), ("Min", 255.0), ("Sub", 127.5), ("Div", 128.0)], (0, 255)),
    "BatchNormalization of pixels": ([("BatchNormalization", _bn(1, 0, 127.5, 128**2))], (0, 255)),
    "of unit pixels, learned": ([("BatchNormalization", _bn(0.3, 1.1, 0.46, 0.07))], (0, 1)),
    "of [-1, 1], learned": ([("BatchNormalization", _bn(0.1, -2, -0.1, 0.3))], (-1, 1)),
    "as scale and shift": ([("BatchNormalization", _bn(1 / 127.5, -1, 0, 1))], (0, 255)),
    "Conv of the colours": ([("Conv", (np.eye(3).reshape(3, 3, 1, 1) * 2, [-1.0] * 3))], (0, 1)),
    "transposed twice": (
        [("Transpose", {"perm": [0, 2, 3, 1]}), ("Sub", [[[127.5] * 3]]), ("Div", 128.0), NCHW],
        (0, 255),
    ),
}


def _after(steps, pixels):
    """(B, 3) what the graph gives, in NumPy."""
    for operator, constant in steps:
        if operator in ("Cast", "Identity"):
            continue
        if operator == "Transpose":
            pixels = pixels.transpose(constant["perm"])
            continue
        if operator == "BatchNormalization":
            scale, shift, mean, variance = (one.reshape(3, 1, 1) for one in constant)
            pixels = (pixels - mean) / np.sqrt(variance + 1e-5) * scale + shift
            continue
        if operator == "Conv":  # of each colour by itself
            pixels = pixels * constant[0][0, 0] + constant[1][0]
            continue
        function = {
            "Sub": np.subtract, "Add": np.add, "Sum": np.add, "Mul": np.multiply, "Div": np.divide,
            "Max": np.maximum, "Min": np.minimum,
        }  # fmt: skip
        pixels = function[operator](pixels, constant)
    return pixels.mean(axis=(2, 3))


@pytest.mark.parametrize("constants_as", ["initializer", "node"])
@pytest.mark.parametrize("name", PROLOGUES)
def test_a_graph_that_normalises_is_fed_what_it_wants(name, constants_as, tmp_path):
    steps, (low, high) = PROLOGUES[name]
    _graph(tmp_path / "m.onnx", steps, constants_as=constants_as)
    image = _images(3)
    pixels = low + (image.numpy() + 1) / 2 * (high - low)
    model = load_backbone(tmp_path / "m.onnx")
    assert model.input_format.range == (low, high)
    expected = _after(steps, pixels)
    np.testing.assert_allclose(model(image), expected, rtol=1e-5, atol=1e-5)
    swapped = BackboneFile(tmp_path / "m.onnx", InputFormat(order="bgr"))
    expected = _after(steps, pixels[:, ::-1])
    np.testing.assert_allclose(load_backbone(swapped)(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["FLOAT16", "UINT8", "DOUBLE", "FLOAT"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_inputs_of_other_types_and_layouts(dtype, layout, tmp_path):
    steps = [TO_FLOAT, *([NCHW] if layout == "NHWC" else []), ("Sub", 127.5), ("Div", 127.5)]
    _graph(tmp_path / "m.onnx", steps, dtype=getattr(onnx.TensorProto, dtype), layout=layout)
    pixels = torch.randint(0, 256, (3, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    model = load_backbone(tmp_path / "m.onnx")
    assert (model.image_size, model.input_format.range) == (SIZE, (0, 255))
    image = pixels / 127.5 - 1  # whole numbers, which float16 and uint8 hold exactly
    torch.testing.assert_close(model(image), image.mean(dim=(2, 3)), rtol=0, atol=1e-5)


def test_a_range_that_is_not_clear_must_be_given(tmp_path):
    _graph(tmp_path / "m.onnx", [("Mul", 0.01)])
    with pytest.raises(
        CheckpointError, match=r"m.onnx: the range .*\[0,255\] to \[0, 2.55\].*--input"
    ):
        load_backbone(tmp_path / "m.onnx")
    given = BackboneFile(tmp_path / "m.onnx", InputFormat(range=(0.0, 255.0)))
    image = _images(2)
    expected = (image + 1).mean(dim=(2, 3)) * 1.275
    torch.testing.assert_close(load_backbone(given)(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("Softplus", {}), ("LpNormalization", {"axis": 1}), ("Einsum", {"equation": "bchw->bchw"})],
)
def test_a_beginning_that_is_no_layer_must_be_explained(operator, attributes, tmp_path):
    """What is not understood may normalise: it is not taken for the first layer."""
    _graph(tmp_path / "m.onnx", [("Sub", 0.0), (operator, attributes)])
    with pytest.raises(CheckpointError, match=rf"m.onnx: the range .* {operator}, .*--input-range"):
        load_backbone(tmp_path / "m.onnx")
    given = BackboneFile(tmp_path / "m.onnx", InputFormat(range=(-1.0, 1.0)))
    assert load_backbone(given)(_images(2)).shape == (2, 3)


def test_ten_faces_of_one_embedding_are_refused(tmp_path):
    """A network for [0, 255] whose normalisation is hidden behind its first layer."""
    path = tmp_path / "m.onnx"
    generator = np.random.default_rng(0)
    size = 32
    weight = generator.normal(size=(3 * size * size, 8)).astype(np.float32) / 100
    bias = -127.5 * weight.sum(axis=0)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["data"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["out"]),
        ],
        "affine",
        [helper.make_tensor_value_info("data", FLOAT, ["b", 3, size, size])],
        [helper.make_tensor_value_info("out", FLOAT, ["b", 8])],
        [onnx.numpy_helper.from_array(v, n) for v, n in ((weight, "weight"), (bias, "bias"))],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    cpu = torch.device("cpu")
    with pytest.raises(
        CheckpointError, match=r"must tell people apart, .* try another --input-ran"
    ):
        open_backbone(path, cpu)
    model = open_backbone(BackboneFile(path, InputFormat(range=(0.0, 255.0))), cpu)
    image = _images(1).repeat(1, 1, 8, 8)
    expected = (image.numpy() * 127.5).reshape(1, -1) @ weight
    np.testing.assert_allclose(model(image), expected, rtol=1e-3, atol=1e-3)


def _loop(path, turns):
    """Adds 1 to the image `turns` times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["x", "one"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", FLOAT, None),
        ],
    )
    constants = {"one": np.float32(1), "turns": np.int64(turns), "go": np.bool_(True)}
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["turns", "go", "data"], ["sum"], body=body),
            helper.make_node("Flatten", ["sum"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "weight"], ["out"]),
        ],
        "loop",
        [helper.make_tensor_value_info("data", FLOAT, ["b", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("out", FLOAT, ["b", 3])],
        [
            onnx.numpy_helper.from_array(np.asarray(v), n)
            for n, v in {**constants, "weight": MEANS}.items()
        ],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def test_a_graph_that_does_not_end_is_stopped(tmp_path, monkeypatch):
    _loop(tmp_path / "short.onnx", 3)
    image = _images(1)
    found = load_backbone(BackboneFile(tmp_path / "short.onnx", InputFormat((-1.0, 1.0))))(image)
    torch.testing.assert_close(found, image.mean(dim=(2, 3)) + 3, rtol=0, atol=1e-5)
    monkeypatch.setattr("facetrain.models.onnx_model.FIRST_RUN_SECONDS", 0.3)
    _loop(tmp_path / "long.onnx", 2**62)
    with pytest.raises(CheckpointError, match=r"long.onnx: must run on images .* end within"):
        load_backbone(tmp_path / "long.onnx")


def test_a_graph_that_fails_while_it_runs_is_named(tmp_path):
    """A Reshape that holds for the one image of the trial only."""
    path = tmp_path / "m.onnx"
    constants = {"shape": np.array([1, 3 * SIZE * SIZE]), "weight": MEANS}
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["data", "shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["out"]),
        ],
        "one",
        [helper.make_tensor_value_info("data", FLOAT, ["b", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("out", FLOAT, ["b", 3])],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    model = load_backbone(path)
    torch.testing.assert_close(model(_images(1)), _images(1).mean(dim=(2, 3)), rtol=0, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"m.onnx: must run on images \(5, 3, 4, 4\)"):
        model(_images(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": ("h", "w")}, "(B, S, S, 3) with a fixed S"),
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


@pytest.mark.parametrize(
    "shape", [[1, 3, 1 << 30, 1 << 30], ["b", 5000, 5000, 3], [1 << 40, 3, 112, 112], [1, 3, 0, 0]]
)
def test_a_graph_of_endless_images(shape, tmp_path):
    """They would be made before they are refused."""
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(
        [helper.make_node("Identity", ["data"], ["out"])],
        "large",
        [helper.make_tensor_value_info("data", FLOAT, shape)],
        [helper.make_tensor_value_info("out", FLOAT, shape)],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    with pytest.raises(CheckpointError, match="must take images of 1 to 4096 pixels a side"):
        load_backbone(path)


def test_a_damaged_file(tmp_path):
    path = tmp_path / "m.onnx"
    _write(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="must be an ONNX model that onnxruntime can open"):
        load_backbone(path)


def test_onnxruntime_not_installed(tmp_path, monkeypatch):
    _write(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match=r"pip install '\.\[onnx\]' in"):
        load_backbone(tmp_path / "m.onnx")
