"""Exported files give the embeddings of the backbone they came from."""

import importlib.util
import resource
from pathlib import Path

import pytest
import torch

import facetrain
from facetrain.core.errors import UserError
from facetrain.export import export as export_room
from facetrain.export.export import export
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.weights import load_backbone, load_module, save_backbone

CONFIGS = {
    "iresnet18": ModelConfig(name="iresnet18", image_size=32, embedding_size=16),
    "mobilefacenet": ModelConfig(name="mobilefacenet", image_size=32, embedding_size=16, width=64),
    "small": ModelConfig(name="small", image_size=32, embedding_size=16, width=8),
}
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra [onnx]",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A train folder for each network, with statistics that are not the initial ones."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in CONFIGS.items():
        torch.manual_seed(5)
        module = build_backbone(config)
        module(torch.rand(4, 3, 32, 32) * 2 - 1)
        save_backbone(module, config, folder / name / "backbone.safetensors")
    return folder


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])  # small: the next test
def test_onnx_gives_the_same_embeddings_at_any_batch_size(name, runs, tmp_path):
    done = export(runs / name, "onnx", tmp_path / "m.onnx")
    assert done.max_relative_difference is not None
    assert done.max_relative_difference < 1e-4
    model, reference = load_backbone(tmp_path / "m.onnx"), load_backbone(runs / name)
    assert (model.image_size, model.embedding_size) == (32, 16)
    for num in (1, 5):
        image = torch.rand(num, 3, 32, 32) * 2 - 1
        expected = reference(image)
        # Folding batch norm into convolutions reorders float32 sums: 1e-6 measured.
        torch.testing.assert_close(
            model(image), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )
    # No stack traces, which would carry the paths of the machine that exported.
    assert str(Path(facetrain.__file__).parent).encode() not in (tmp_path / "m.onnx").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]  # weights inside, nothing beside


@needs_onnx
def test_an_onnx_that_disagrees_is_not_written(runs, tmp_path, monkeypatch):
    real = export_room.OnnxBackbone

    def wrong(path, device):
        graph = real(path, device)
        return lambda image: graph(image) * 1.001

    monkeypatch.setattr(export_room, "OnnxBackbone", wrong)
    with pytest.raises(UserError, match=r"differ by 1\.00e-03; nothing was written"):
        export(runs / "small", "onnx", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx, onnxscript, onnxruntime, not installed; pip"):
        export(runs / "small", "onnx", tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
def test_pth_is_a_plain_state_dict_of_arcface_torch(name, runs, tmp_path):
    export(runs / name, "pth", tmp_path / "backbone.pth")
    state = torch.load(tmp_path / "backbone.pth", weights_only=True)
    expected, _ = load_module(runs / name)
    assert list(state) == list(expected.state_dict())  # the names of tests/golden
    for key, value in expected.state_dict().items():
        assert torch.equal(state[key], value), key
    # and back: its file is ours again
    export(tmp_path / "backbone.pth", "safetensors", tmp_path / "again.safetensors")
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    again = load_backbone(tmp_path / "again.safetensors")
    assert torch.equal(again(image), load_backbone(runs / name)(image))


def test_safetensors_is_the_same_file(runs, tmp_path):
    export(runs / "small", "safetensors", tmp_path / "b.safetensors")
    original = (runs / "small" / "backbone.safetensors").read_bytes()
    assert (tmp_path / "b.safetensors").read_bytes() == original


def test_what_cannot_be_exported(runs, tmp_path):
    with pytest.raises(UserError, match="IResNet and MobileFaceNet only, got a 'small' backbone"):
        export(runs / "small", "pth", tmp_path / "b.pth")
    with pytest.raises(UserError, match="must be one of onnx, pth, safetensors, got 'tflite'"):
        export(runs / "small", "tflite", tmp_path / "b.tflite")
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"must be a train folder, \.safetensors, \.pth or \.pt"):
        export(tmp_path / "m.onnx", "pth", tmp_path / "b.pth")
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="must be writable"):
        export(runs / "iresnet18", "pth", tmp_path / "blocked" / "b.pth")


@pytest.mark.parametrize(
    "file_format", ["pth", "safetensors", pytest.param("onnx", marks=needs_onnx)]
)
def test_a_full_disk_leaves_nothing(file_format, runs, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write beyond it fails
    try:
        with pytest.raises(UserError, match=r"must be writable.*free space"):
            export(runs / "mobilefacenet", file_format, tmp_path / f"b.{file_format}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
