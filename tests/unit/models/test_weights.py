"""Backbones to and from files: every kind that is read, and every way a file can be bad."""

import json
import os
import pickle
import resource

import pytest
import safetensors.torch
import torch

from facetrain.core.errors import CheckpointError, ConfigError, OutputError
from facetrain.models.arcface_torch import identify
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.weights import load_backbone, load_module, save_backbone

RESNET = ModelConfig(name="iresnet18", image_size=32, embedding_size=16, dropout=0.1)
MOBILE = ModelConfig(name="mobilefacenet", image_size=48, embedding_size=16, width=64)
SMALL = ModelConfig(name="small", image_size=48, embedding_size=16, width=8, blocks=(1, 2, 1, 1))


def _trained(config):
    """A backbone after one training pass, so that its statistics are not the initial ones."""
    torch.manual_seed(3)
    module = build_backbone(config)
    module(torch.rand(4, 3, config.image_size, config.image_size) * 2 - 1)
    return module


def _assert_same_state(state, expected):
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


@pytest.fixture(scope="module")
def mobile():
    return _trained(MOBILE)


@pytest.mark.parametrize("config", [RESNET, MOBILE, SMALL], ids=lambda c: c.name)
def test_a_saved_backbone_comes_back_bitwise(config, tmp_path):
    module = _trained(config)
    trainable = [p.requires_grad for p in module.parameters()]
    save_backbone(module.to(memory_format=torch.channels_last), config, tmp_path / "b.safetensors")
    loaded, found = load_module(tmp_path / "b.safetensors")
    assert found == config
    _assert_same_state(loaded.state_dict(), module.state_dict())
    assert [p.requires_grad for p in loaded.parameters()] == trainable


def test_a_train_folder_embeds_as_the_module_in_evaluation_mode(mobile, tmp_path):
    save_backbone(mobile, MOBILE, tmp_path / "backbone.safetensors")
    model = load_backbone(tmp_path)
    image = torch.rand(3, 3, 48, 48) * 2 - 1
    found = model(image)
    with torch.no_grad():
        expected = mobile.eval()(image)
        mobile.train()
    # Folded normalisations: the same sums in another order. In training mode it is far off.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert not found.requires_grad
    assert (model.image_size, model.embedding_size) == (48, 16)
    assert model.source == str(tmp_path / "backbone.safetensors")


def _prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


HEAD = {"head.kernel": torch.zeros(3, 4)}
WRAPS = {
    "plain": lambda state: state,
    "DDP": lambda state: _prefixed("module.", state),
    "compiled": lambda state: _prefixed("_orig_mod.", state),
    "compiled in DDP": lambda state: _prefixed("module._orig_mod.", state),
    "arcface_torch's checkpoint": lambda state: {
        "epoch": 3, "state_dict_backbone": _prefixed("module.", state), "state_dict_softmax_fc": {},
    },
    "state_dict": lambda state: {"state_dict": state, "epoch": 1, "optimizer": {"lr": 0.1}},
    "Lightning's": lambda state: {"state_dict": _prefixed("model.", state) | HEAD, "epoch": 1},
    "backbone": lambda state: {"backbone": state, "head": HEAD},
    "model": lambda state: {"model": {"state_dict": state}},
    "backbone and classifier": lambda state: _prefixed("backbone.", state) | HEAD,
    "no counters": lambda state: {
        name: value for name, value in state.items() if not name.endswith("num_batches_tracked")
    },
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_pth_of_arcface_torch_is_recognised(wrap, mobile, tmp_path, caplog):
    caplog.set_level("INFO")
    torch.save(WRAPS[wrap](mobile.state_dict()), tmp_path / "backbone.pth")
    loaded, config = load_module(tmp_path / "backbone.pth")
    # The state dict of a MobileFaceNet tells its block counts, where our default is None.
    assert config == MOBILE.model_copy(update={"blocks": (1, 4, 6, 2)})
    found = loaded.state_dict()
    if wrap == "no counters":
        found = {name: found[name] if value.is_floating_point() else value
                 for name, value in mobile.state_dict().items()}  # fmt: skip
    _assert_same_state(found, mobile.state_dict())
    assert bool(caplog.records) == (wrap != "plain")  # what was done is said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.to(torch.int32), "must be real numbers, got torch.int32"),
        (lambda w: w > 0, "must be real numbers, got torch.bool"),
        (lambda w: w.to(torch.complex64), "must be real numbers, got torch.complex64"),
        (lambda w: w.to_sparse(), "must be real numbers, got sparse torch.float32"),
        (lambda w: w[:1].clone().expand(w.shape), "must hold 512 values of its own, but repeats"),
    ],
)
def test_weights_of_another_type(change, message, mobile, tmp_path):
    state, name = mobile.state_dict(), "conv_sep.layers.1.bias"
    state[name] = change(state[name])
    torch.save(state, tmp_path / "b.pth")
    assert f"{name} {message}" in _message(tmp_path / "b.pth")


def test_two_backbones_in_one_file(mobile, tmp_path):
    state = mobile.state_dict()
    torch.save({"backbone": state, "model": state}, tmp_path / "b.pth")
    assert "both 'backbone' and 'model' could be it" in _message(tmp_path / "b.pth")


def test_metadata_that_asks_for_a_huge_network(mobile, tmp_path):
    path, state = tmp_path / "b.safetensors", mobile.state_dict()
    for asked in ({"blocks": [1000000] * 4}, {"width": 64 << 20}, {"embedding_size": 1 << 40}):
        metadata = json.dumps({"name": "mobilefacenet", **asked})
        safetensors.torch.save_file(state, path, {"facetrain_model_config": metadata})
        with pytest.raises(ConfigError, match=f"{next(iter(asked))}.*less than or equal to"):
            load_module(path)
    torch.save({"fc.weight": torch.zeros(()), "layer4.0.conv1.weight": torch.zeros(())}, path)
    path.rename(tmp_path / "b.pth")
    assert "must be an IResNet" in _message(tmp_path / "b.pth")


@pytest.mark.parametrize(
    "config",
    [
        *(ModelConfig(name=f"iresnet{depth}") for depth in (18, 34, 50, 100, 200)),
        ModelConfig(name="iresnet50", image_size=224, embedding_size=256),
        ModelConfig(name="mobilefacenet", width=128, blocks=(1, 4, 6, 2)),
        ModelConfig(name="mobilefacenet", width=256, blocks=(2, 8, 12, 4), image_size=96),
    ],
)
def test_every_backbone_is_identified_by_names_and_shapes(config):
    with torch.device("meta"):
        module = build_backbone(config)
    assert identify(module.state_dict(), "file") == config


def test_half_precision_weights_become_float32(mobile, tmp_path):
    torch.save(mobile.half().state_dict(), tmp_path / "backbone.pt")
    mobile.float()
    loaded, _ = load_module(tmp_path / "backbone.pt")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def _message(path):
    with pytest.raises(CheckpointError) as error:
        load_backbone(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_names_that_do_not_fit(mobile, tmp_path):
    path = tmp_path / "b.pth"
    state = mobile.state_dict()
    gone = "layers.3.layers.0.layers.0.layers.0.weight"
    del state[gone]
    state["extra"] = torch.zeros(1)
    torch.save(state, path)
    message = _message(path)
    assert f"1 names are missing: {gone}" in message
    assert "1 names are unexpected: extra" in message


def test_a_shape_that_does_not_fit(mobile, tmp_path):
    path = tmp_path / "b.safetensors"
    state = mobile.state_dict()
    state["conv_sep.layers.1.bias"] = torch.zeros(7)
    safetensors.torch.save_file(state, path)
    assert "conv_sep.layers.1.bias has shape (7,) instead of (512,)" in _message(path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(value, mobile, tmp_path):
    path = tmp_path / "b.pth"
    state = {name: tensor.clone() for name, tensor in mobile.state_dict().items()}
    state["conv_sep.layers.1.running_var"][3] = value
    torch.save(state, path)
    assert "conv_sep.layers.1.running_var has 1 of 512 values NaN or infinite" in _message(path)


class _Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(zipped, tmp_path):
    path, witness = tmp_path / "b.pth", tmp_path / "ran"
    hostile = {"conv1.weight": _Hostile(f"touch {witness}")}
    if zipped:
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    message = _message(path)
    assert "must hold tensors only, but it names posix.system" in message
    assert not witness.exists()


def test_a_whole_pickled_module_is_refused(mobile, tmp_path):
    torch.save(mobile, tmp_path / "b.pth")
    assert "it names facetrain.models.mobilefacenet.MobileFaceNet" in _message(tmp_path / "b.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file(suffix, kept, mobile, tmp_path):
    path = tmp_path / f"b{suffix}"
    if suffix == ".pth":
        torch.save(mobile.state_dict(), path)
    else:
        save_backbone(mobile, MOBILE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    kind = "file of torch.save, whole" if suffix == ".pth" else "whole safetensors file"
    assert f"must be a {kind}" in _message(path)


def test_garbage_in_a_pth(tmp_path):
    (tmp_path / "b.pth").write_bytes(b"garbage" * 100)
    assert "must be a file of torch.save, whole" in _message(tmp_path / "b.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a backbone's state dict (names to tensors), got list"),
        ({"epoch": 3}, "got int under 'epoch'"),
        ({"layer9.weight": torch.zeros(1)}, "must be an arcface_torch IResNet or MobileFaceNet"),
        (
            {"fc.weight": torch.zeros(1), "layer4.0.conv1.weight": torch.zeros(1)},
            "must be an IResNet of a known depth, got (0, 0, 0, 1) blocks a stage",
        ),
    ],
)
def test_content_that_is_no_backbone(content, message, tmp_path):
    torch.save(content, tmp_path / "b.pt")
    assert message in _message(tmp_path / "b.pt")


def test_an_fc_that_no_image_size_gives(tmp_path):
    with torch.device("meta"):
        names = build_backbone(RESNET).state_dict()
    state = {name: torch.zeros(1) for name in names} | {"fc.weight": torch.zeros(4, 512 * 5)}
    torch.save(state, tmp_path / "b.pth")
    assert "fc.weight must be (embedding_size, 512 * (image_size / 16)^2)" in _message(
        tmp_path / "b.pth"
    )


def test_paths_that_are_no_backbone(tmp_path):
    assert "a folder must hold backbone.safetensors" in _message(tmp_path)
    assert "there is none" in _message(tmp_path / "absent.pth")
    (tmp_path / "b.bin").write_bytes(b"x")
    assert "must be a train folder, .safetensors, .pth, .pt or .onnx, got '.bin'" in _message(
        tmp_path / "b.bin"
    )


def test_metadata_of_another_program(mobile, tmp_path):
    path, state = tmp_path / "b.safetensors", mobile.state_dict()
    safetensors.torch.save_file(state, path, {"facetrain_model_config": "{"})
    assert "must be JSON" in _message(path)
    newer = json.dumps({"name": "mobilefacenet", "sparkle": 1})
    safetensors.torch.save_file(state, path, {"facetrain_model_config": newer})
    with pytest.raises(ConfigError, match="unknown key 'sparkle'"):
        load_module(path)


def test_a_full_disk_leaves_the_old_file(mobile, tmp_path):
    path = tmp_path / "b.safetensors"
    save_backbone(mobile, MOBILE, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a write beyond it fails
    try:
        with pytest.raises(OutputError, match=r"b\.safetensors: must be writable, but File"):
            save_backbone(mobile, MOBILE, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
