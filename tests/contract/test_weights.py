"""Training from weights: a new classifier on an old network, from the command line."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.cli import Call, command

from facetrain.data.dataset import FaceDataset
from facetrain.dist.mesh import Mesh
from facetrain.engine.inference import embed_images
from facetrain.engine.settings import TrainingConfig
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.models.weights import load_backbone, load_module
from facetrain.pretrain.initial_weights import initial_backbone


@pytest.fixture(scope="module")
def trained(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training to begin with."""
    out = tmp_path_factory.mktemp("weights") / "train"
    command("train", recipe, "--out", out, "train.max_steps=2")
    return out


@pytest.mark.parametrize("centres", [1, 3])
def test_centres_begin_at_the_class_means(
    faces: Path, trained: Path, tmp_path: Path, centres: int
) -> None:
    dataset = FaceDataset.open(faces)
    model = {"name": "small", "image_size": 32, "embedding_size": 16, "width": 4}
    config = TrainingConfig.model_validate(
        {
            "data": {"path": faces, "workers": 0},
            "model": {**model, "weights": trained},
            "train": {"epochs": 1},
        }
    )
    head = MarginHead(HeadConfig(num_centres=centres), dataset.num_classes, 16, Mesh.single(), 0)
    drawn = head.weight.detach().clone()
    initial_backbone(config, dataset, head, Mesh.single(), tmp_path)
    backbone = load_backbone(trained)
    images = torch.stack(
        [torch.from_numpy(dataset.decode(i, 32)).permute(2, 0, 1) for i in range(48)]
    )
    unit = F.normalize(embed_images(backbone, images, torch.device("cpu"), flip=False))
    means = torch.stack([unit[dataset.label == c].mean(0) for c in range(8)])
    weight = head.weight.detach().view(8, centres, 16)
    first = F.normalize(weight[:, 0])
    torch.testing.assert_close(first, F.normalize(means), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.weight.detach().norm(dim=-1), drawn.norm(dim=-1))
    if centres > 1:
        apart = F.cosine_similarity(weight[:, 1], weight[:, 0])
        assert ((apart > 0.98) & (apart < 0.9999)).all()


def test_a_training_begins_with_weights_and_says_so(
    recipe: Path, trained: Path, tmp_path: Path, call: Call
) -> None:
    words = (f"model.weights={trained}", "model.freeze=[stem]", "train.max_steps=3")
    call.done("train", recipe, "--out", tmp_path / "a", *words)
    old, _ = load_module(trained)
    new, config = load_module(tmp_path / "a")
    assert "weights" not in config.model_dump()
    before, after = old.state_dict(), new.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before if n.startswith("stem."))
    assert not torch.equal(after["fc.weight"], before["fc.weight"])
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert "weights" in manifest["inputs"]
    # Nearer to what it began with than a training from scratch comes.
    assert call("train", recipe, "--out", tmp_path / "b", "train.max_steps=3")[0] == 0
    scratch = load_module(tmp_path / "b")[0].state_dict()["fc.weight"]
    start = before["fc.weight"]
    assert (after["fc.weight"] - start).norm() < 0.5 * (scratch - start).norm()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("model.weights=nowhere.pth",), "nowhere.pth"),
        (("model.freeze=[stem]",), "freeze=['stem'] does nothing without weights"),
        (("model.centres=class_means",), "centres=class_means does nothing without weights"),
        (("model.weights={trained}", "model.freeze=[layer9]"), "begins with stem"),
        (("model.name=nobody.here:net",), "importable"),
    ],
)
def test_a_wrong_beginning_is_one_message(
    recipe: Path, trained: Path, tmp_path: Path, call: Call, words: tuple[str, ...], says: str
) -> None:
    filled = [word.format(trained=trained) for word in words]
    assert says in call.refused("train", recipe, "--out", tmp_path / "a", *filled)


def test_weights_of_another_network_are_refused(
    recipe: Path, trained: Path, tmp_path: Path, call: Call
) -> None:
    words = (f"model.weights={trained}", "model.width=8")
    assert "set the recipe's section model to that" in call.refused(
        "train", recipe, "--out", tmp_path / "a", *words
    )
