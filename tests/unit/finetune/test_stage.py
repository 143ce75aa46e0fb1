"""The stage: what it starts from, what it refuses, what it leaves, and that it resumes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.shards import damage_image

from facetrain.core.config import parse_config
from facetrain.core.errors import CheckpointError, ConfigError, DataError
from facetrain.core.log import configure_logging
from facetrain.data.dataset import FaceDataset
from facetrain.data.sample_history import read_samples
from facetrain.data.synthetic import SyntheticConfig, write_synthetic
from facetrain.data.variation.build import build_variations
from facetrain.data.variation.labels import VARIATION_FILE, load_variations
from facetrain.dist.distributed_checkpoint import load_state
from facetrain.dist.mesh import Mesh
from facetrain.finetune import finetune
from facetrain.finetune.margin_prior import variation_margins
from facetrain.finetune.meta_set import MetaSet, known_people
from facetrain.finetune.settings import FinetuneStageConfig
from facetrain.models.weights import load_module
from facetrain.pretrain import train
from facetrain.pretrain.train import TrainConfig

MESH = Mesh.single()
RECIPE: dict[str, Any] = {
    "seed": 3,
    "model": {"name": "small", "image_size": 32, "embedding_size": 16, "width": 4, "dropout": 0.1},
    "head": {"scale": 16, "cosine_margin": 0.2},
    "optimizer": {"learning_rate": 0.02},
    "train": {"batch_size": 12, "epochs": 2, "log_every": 1},
}


def render(folder: Path, first: int, count: int) -> Path:
    config = SyntheticConfig(
        num_identities=count, first_identity=first, min_images=4, max_images=4, size=32
    )
    write_synthetic(folder, config, quiet=True)
    build_variations(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    data = render(folder / "data", 0, 9)
    render(folder / "meta", 9, 6)
    recipe = {**RECIPE, "data": {"path": str(data), "workers": 0}}
    train.run(
        parse_config(TrainConfig, recipe, "test"), FaceDataset.open(data), folder / "train", MESH
    )
    return folder


def config(root: Path, **changes: Any) -> FinetuneStageConfig:
    section = {"meta": {"path": str(root / "meta"), "workers": 0}, "head_epochs": 2}
    recipe = {**RECIPE, "data": {"path": str(root / "data"), "workers": 0}}
    recipe["finetune"] = section | changes.pop("finetune", {})
    for name, value in changes.items():
        recipe[name] = {**recipe.get(name, {}), **value}
    return parse_config(FinetuneStageConfig, recipe, "test")


def run(root: Path, out: Path, **changes: Any) -> Path:
    settings = config(root, **changes)
    finetune.run(settings, FaceDataset.open(root / "data"), root / "train", out, MESH)
    return out


def weights(folder: Path) -> torch.Tensor:
    module, _ = load_module(folder)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def centres(folder: Path) -> torch.Tensor:
    found = torch.zeros(9, 16)
    newest = sorted((folder / "checkpoints").glob("step_*"))[-1]
    load_state({"head/weight": found}, newest, MESH)
    return found


def test_starts_from_the_backbone_and_its_classifier(root: Path, tmp_path: Path) -> None:
    """At a vanishing learning rate nothing moves."""
    still = {"optimizer": {"learning_rate": 1e-12, "weight_decay": 0.0}}
    out = run(root, tmp_path / "still", finetune={"method": "cosface"}, **still)
    torch.testing.assert_close(weights(out), weights(root / "train"), rtol=0, atol=1e-9)
    torch.testing.assert_close(centres(out), centres(root / "train"), rtol=0, atol=1e-9)


def test_every_image_has_its_margin_and_residual(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = run(root, tmp_path / "mvcom")
    samples = read_samples(out)
    assert samples["margin"].values.shape == samples["residual"].values.shape == (2, 36)
    residual = samples["residual"].values
    assert float(np.nanmax(np.abs(residual))) == pytest.approx(0.1)  # the largest of its batch
    # Equal classes: the prior is the head's margin, and the margin is prior plus residual.
    np.testing.assert_allclose(samples["margin"].values - residual, 0.2, atol=1e-6)
    configure_logging()
    prior = run(root, tmp_path / "prior", finetune={"method": "class_margin"})
    assert "the prior alone, but finetune.prior=none" in capfd.readouterr().err
    assert not torch.allclose(weights(out), weights(prior))


def test_a_meta_image_that_cannot_be_decoded_is_skipped_where_the_recipe_says(
    root: Path, tmp_path: Path
) -> None:
    """A step takes all 24 images."""
    shutil.copytree(root / "meta", tmp_path / "meta")
    damage_image(tmp_path / "meta/train.rec", 5)
    section = {"meta": {"path": str(tmp_path / "meta"), "workers": 0}, "head_epochs": 1}
    section |= {"meta_batch_size": 24, "sampling": "none"}
    with pytest.raises(DataError, match=r"record train\.rec:5"):
        run(root, tmp_path / "a", finetune=section, train={"max_steps": 2})
    section["meta"] = {**section["meta"], "on_corrupt": "skip"}
    meta = MetaSet(config(root, finetune=section), FaceDataset.open(tmp_path / "meta"), None, MESH)
    backbone, _ = load_module(root / "train")
    embedding, _, identity = meta.fit_sample(backbone.eval(), 0)
    assert (len(embedding), (identity == 1).sum()) == (23, 3)  # image 4 is the second person's
    run(root, tmp_path / "b", finetune=section, train={"max_steps": 2})


def test_the_variation_prior_gives_rare_levels_more(root: Path, tmp_path: Path) -> None:
    """The margins of the samples are those of the training set's own variation file."""
    prior = {"method": "class_margin", "prior": "variation", "prior_spread": 0.1}
    out = run(root, tmp_path / "prior", finetune=prior)
    dataset = FaceDataset.open(root / "data")
    level = load_variations(root / "data" / VARIATION_FILE, dataset.num_rows).take(dataset.row)
    expected = variation_margins(level.table(), 0.2, 0.1, 0.6)
    margin = read_samples(out)["margin"].values
    np.testing.assert_allclose(margin[0][np.isfinite(margin[0])], expected[np.isfinite(margin[0])],
                               rtol=1e-5)  # fmt: skip
    assert expected.max() - expected.min() > 0.1


@pytest.mark.parametrize("residual", [{"persist": True}, {"of": "level"}])
def test_resumes_to_the_same_bits(root: Path, tmp_path: Path, residual: dict[str, Any]) -> None:
    kept = {"residual": {**residual, "head_learning_rate": 0.1}}
    whole = run(root, tmp_path / "whole", finetune=kept)
    run(root, tmp_path / "parts", finetune=kept, train={"max_steps": 2})
    parts = run(root, tmp_path / "parts", finetune=kept)
    assert torch.equal(weights(whole), weights(parts))
    np.testing.assert_array_equal(
        read_samples(whole)["residual"].values[1], read_samples(parts)["residual"].values[1]
    )


def test_planted_levels_need_no_labels(root: Path, tmp_path: Path) -> None:
    out = run(root, tmp_path / "planted", finetune={"plant": {}, "sampling": "none"})
    assert np.isfinite(read_samples(out)["residual"].values).all()


def test_the_meta_set_must_have_other_people(root: Path, tmp_path: Path) -> None:
    same = {"meta": {"path": str(root / "data"), "workers": 0}}
    says = r"9 of its 9 are in both \(0, 1, 2, 3, 4, ...\).*finetune\.meta\.same_numbering=false"
    with pytest.raises(DataError, match=says):
        run(root, tmp_path, finetune=same)


def test_people_who_look_trained_are_found() -> None:
    centre = torch.eye(4)
    embedding = torch.tensor([[3.0, 0.3, 0, 0], [2.0, -0.3, 0, 0], [1.0, 1, 1, 1], [0, 0, 0, -1.0]])
    identity = torch.tensor([7, 7, 8, 9])
    np.testing.assert_array_equal(known_people(embedding, identity, centre, 0.6), [7])
    np.testing.assert_array_equal(known_people(embedding, identity, centre, 0.45), [7, 8])


def test_numbering_of_its_own_leaves_similar_people_out(root: Path, tmp_path: Path) -> None:
    """With a threshold below every similarity all people would go; above all, none does."""
    own = {"path": str(root / "data"), "workers": 0, "same_numbering": False}
    section = {"meta": {**own, "duplicate_similarity": 0.999}, "meta_batch_size": 4}
    settings = config(root, finetune=section)
    artifact = finetune.run(
        settings, FaceDataset.open(root / "data"), root / "train", tmp_path / "none", MESH
    )
    assert artifact.metrics["num_meta_identities"] == 9
    section["meta"] = {**own, "duplicate_similarity": 0.01}
    with pytest.raises(DataError, match="the meta set holds"):
        run(root, tmp_path / "all", finetune=section)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"head": {"margin": "arcface", "cosine_margin": None}}, "subtracted from the cosine"),
        ({"train": {"margin_warmup_epochs": 1.0}}, "must be 0, since fine-tuning"),
        ({"head": {"scale": 20}}, "section 'head' must be what was trained"),
        ({"model": {"width": 8}}, "section 'model' must be what was trained"),
        ({"finetune": {"meta": None}}, "set finetune.meta.path"),
        ({"finetune": {"factors": ["hat"]}}, "must hold the factors hat, but holds pose"),
        ({"finetune": {"residual": {"forget": ["hat"]}}}, "which are pose, .*; got 'hat'"),
        ({"finetune": {"meta_batch_size": 99}}, "holds 24 images, but a step needs 99"),
    ],
)
def test_what_does_not_fit_is_named(
    root: Path, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=text):
        run(root, tmp_path, **changes)


def test_a_folder_that_is_no_training_is_named(root: Path, tmp_path: Path) -> None:
    data = FaceDataset.open(root / "data")
    with pytest.raises(ConfigError, match="must be the folder of a finished training"):
        finetune.run(config(root), data, tmp_path, tmp_path / "out", MESH)
    other = render(tmp_path / "other", 0, 5)
    with pytest.raises(ConfigError, match="since the classifier is kept"):
        finetune.run(config(root), FaceDataset.open(other), root / "train", tmp_path / "out", MESH)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("manifest.json", "backbone.safetensors"):
        (moved / name).write_bytes((root / "train" / name).read_bytes())
    with pytest.raises(
        CheckpointError, match="must hold a whole checkpoint, with the class centres"
    ):
        finetune.run(config(root), data, moved, tmp_path / "out", MESH)
