"""Networks of the user's own, frozen parts, weights to begin with, and the further networks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from facetrain.core.errors import CheckpointError, ConfigError
from facetrain.models.backbone import ModelConfig, TrainedModelConfig, build_backbone
from facetrain.models.freeze import freeze
from facetrain.models.iresnet import SqueezeExcitation
from facetrain.models.weights import load_backbone, load_into, load_module, save_backbone

OWN = """
import os
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self, size, out):
        super().__init__()
        self.fc = nn.Linear(3 * size * size, out)
    def forward(self, image):
        return self.fc(image.flatten(1))

class OfBatch(Flat):
    def forward(self, image):
        x = self.fc(image.flatten(1))
        return x - x.mean(0)

def good(config) -> nn.Module:
    return Flat(config.image_size, config.embedding_size)

def wrong_size(config) -> nn.Module:
    return Flat(config.image_size, config.embedding_size + 1)

def of_batch(config) -> nn.Module:
    return OfBatch(config.image_size, config.embedding_size)

def fails(config) -> nn.Module:
    return nn.Linear(7, 7)

def silent(config):
    return Flat(config.image_size, config.embedding_size)
"""
SIZES = {"image_size": 32, "embedding_size": 6}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module on the path, under a name of its own for each test."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_an_own_network_is_built_saved_and_read_back(own: str, tmp_path: Path) -> None:
    config = ModelConfig(name=f"{own}:good", **SIZES)  # type: ignore[arg-type]
    module = build_backbone(config)
    image = torch.rand(3, 3, 32, 32)
    expected = image.flatten(1) @ module.fc.weight.T + module.fc.bias  # type: ignore[union-attr, operator]
    save_backbone(module, config, tmp_path / "b.safetensors")
    torch.testing.assert_close(load_backbone(tmp_path / "b.safetensors")(image), expected.detach())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong_size", "embeddings (B, 6)"),
        ("of_batch", "rest of its batch"),
        ("fails", "but fails"),
        ("silent", "say so"),
        ("os.system", "importable"),
        ("nothing", "importable"),
    ],
)
def test_a_network_that_breaks_the_contract_is_refused(own: str, name: str, says: str) -> None:
    config = ModelConfig(name=f"{own}:{name}", **SIZES)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as refused:
        build_backbone(config)
    assert says in str(refused.value)


def test_a_file_may_not_call_just_anything() -> None:
    with pytest.raises(ConfigError, match="say so"):
        build_backbone(ModelConfig(name="os:system", **SIZES))  # type: ignore[arg-type]


def test_frozen_parts_stay(tmp_path: Path) -> None:
    module = build_backbone(ModelConfig(name="iresnet18", image_size=32, embedding_size=8))
    freeze(module, ["conv1", "bn1", "layer1"])
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1)
    module(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    for name, value in module.state_dict().items():
        same = torch.equal(value, before[name])
        fixed = name.split(".")[0] in ("conv1", "bn1", "layer1")
        if fixed or name.startswith("layer4.0.conv1"):
            assert same == fixed, name
    for names, says in ((["layer9"], "begins with conv1"), ([""], "begins with")):
        with pytest.raises(ConfigError, match=says):
            freeze(module, names)
    with pytest.raises(ConfigError, match="leave a part"):
        freeze(module, [name for name, _ in module.named_children()])


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    theirs = ModelConfig(name="small", image_size=32, embedding_size=8, width=4)
    first = build_backbone(theirs)
    save_backbone(first, theirs, tmp_path / "b.safetensors")
    again = build_backbone(theirs)
    load_into(again, tmp_path / "b.safetensors", theirs)
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    mine = theirs.model_copy(update={"width": 8})
    with pytest.raises(CheckpointError, match="'width': 4"):
        load_into(build_backbone(mine), tmp_path / "b.safetensors", mine)


def test_squeeze_and_excitation_by_hand() -> None:
    block = SqueezeExcitation(16)
    with torch.no_grad():
        block.fc1.weight.copy_(torch.ones(1, 16, 1, 1))
        block.fc2.weight.copy_(torch.arange(16.0).view(16, 1, 1, 1))
    x = torch.zeros(1, 16, 2, 2)
    x[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # mean 3, which fc1 passes on
    expected = torch.sigmoid(torch.tensor(0.0)) * x
    torch.testing.assert_close(block(x), expected)
    x[0, 1] = 1.0  # mean 1: fc1 gives 4, channel 1 is scaled by sigmoid(4)
    assert block(x)[0, 1, 0, 0].item() == pytest.approx(1 / (1 + 2.718281828**-4), rel=1e-6)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # Width w, 12 layers of 12 w^2 + 13 w; patches 193 w, places and class 198 w, norm 2 w,
        # and D w + 2 D with D = 512.
        (ModelConfig(name="vit_t"), 12 * (12 * 192**2 + 13 * 192) + 391 * 192 + 514 * 192 + 1024),
        (ModelConfig(name="vit_s"), 12 * (12 * 384**2 + 13 * 384) + 391 * 384 + 514 * 384 + 1024),
        (ModelConfig(name="vit_b"), 12 * (12 * 768**2 + 13 * 768) + 391 * 768 + 514 * 768 + 1024),
    ],
)
def test_a_vision_transformer_has_the_papers_parameters(config: ModelConfig, count: int) -> None:
    with torch.device("meta"):
        module = build_backbone(config)
    assert sum(p.numel() for p in module.parameters()) == count


def test_a_vision_transformer_and_ir_se_train_and_are_read_back(tmp_path: Path) -> None:
    for config in (
        ModelConfig(name="vit_t", image_size=32, embedding_size=8),
        ModelConfig(name="iresnet18", image_size=32, embedding_size=8, se=True),
    ):
        module: nn.Module = build_backbone(config)
        module(torch.rand(2, 3, 32, 32)).square().sum().backward()
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
        path = tmp_path / f"{config.name}.safetensors"
        save_backbone(module, config, path)
        again, theirs = load_module(path)
        assert theirs == config
        for name, value in module.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


def test_what_begins_a_training_is_not_kept_with_the_network() -> None:
    config = TrainedModelConfig(name="small", weights=Path("there"), freeze=("stem",))
    assert config.network() == ModelConfig(name="small")
    assert type(config.network()) is ModelConfig
