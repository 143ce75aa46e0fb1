"""The GCN as evidence: what it says of whom, and what is taken up of an earlier training."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.people import GRAPH, PRETRAIN, embedded, known, noisy_people, people

from facetrain.clean import adc
from facetrain.clean.adapter import AdapterConfig
from facetrain.clean.adc import PRETRAINED_FILE, AdcConfig, learn_adc, pretrained
from facetrain.clean.clean import CleanConfig, run_features
from facetrain.clean.labelled_set import LEAST_IMAGES, LabelledSet
from facetrain.clean.training import MetaConfig
from facetrain.data.cleaning_result import CleaningResult
from facetrain.data.features import Features, save_features
from facetrain.dist.mesh import Mesh

OF_ONE = {"facetrain_cleaner": json.dumps({"inputs": "one"})}
MESH = Mesh.single(torch.device("cpu"))
CONFIG = AdcConfig(
    graph=GRAPH,
    pretrain=PRETRAIN.model_copy(update={"num_draws": 4}),
    meta=MetaConfig(num_rounds=0),
    adapter=AdapterConfig(num_draws=0),
)


def state(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cleaner that has been trained, digest "one"."""
    folder = tmp_path_factory.mktemp("trained")
    pretrained(CONFIG, known(0, 20), folder / PRETRAINED_FILE, MESH, "one")
    return folder


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "bit":  # of a weight
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    if how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    if how == "empty":
        path.write_bytes(b"")
    if how == "text":
        path.write_text("not weights")
    if how == "NaN":
        weights = state(path)
        next(iter(weights.values()))[:] = torch.nan
        safetensors.torch.save_file(weights, path, OF_ONE)
    if how == "lacks an array":
        weights = state(path)
        weights.pop("mean")
        safetensors.torch.save_file(weights, path, OF_ONE)
    if how == "another size":
        weights = {name: value.repeat(2, *[1] * (value.dim() - 1))
                   for name, value in state(path).items() if value.dim()}  # fmt: skip
        safetensors.torch.save_file(weights, path, OF_ONE)
    if how == "no digest":
        safetensors.torch.save_file(state(path), path)


DAMAGES = ["bit", "cut", "empty", "text", "NaN", "lacks an array", "another size", "no digest"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_cleaner_is_trained_anew(
    how: str, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To the very weights it had; the file is whole again."""
    path = tmp_path / PRETRAINED_FILE
    shutil.copy(trained / PRETRAINED_FILE, path)
    damage(path, how)
    found = pretrained(CONFIG, known(0, 20), path, MESH, "one")
    expected = state(trained / PRETRAINED_FILE)
    for weights in (found.state_dict(), state(path)):
        assert weights.keys() == expected.keys()
        for name, value in weights.items():
            assert torch.equal(value, expected[name]), name
    told = [record.message for record in caplog.records]
    if how in ("NaN", "no digest"):
        assert told == []
    else:
        assert len(told) == 1
        assert f"{path}: cannot be read, trained anew" in told[0]
    assert [one.name for one in tmp_path.iterdir()] == [PRETRAINED_FILE]


def test_a_whole_cleaner_is_taken_up_by_its_digest(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / PRETRAINED_FILE
    shutil.copy(trained / PRETRAINED_FILE, path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(adc, "pretrain", refuse)
    found = pretrained(CONFIG, known(0, 20), path, MESH, "one")
    for name, value in found.state_dict().items():
        assert torch.equal(value, state(path)[name]), name
    with pytest.raises(AssertionError, match="trained again"):
        pretrained(CONFIG, known(0, 20), path, MESH, "two")


def test_of_small_classes_it_says_nothing(trained: Path, tmp_path: Path) -> None:
    """0 for classes of fewer than four, and for absent images; else the noise, and with an adapter
    its distance from the class's threshold.
    """
    shutil.copy(trained / PRETRAINED_FILE, tmp_path)
    embedding, label, is_clean = noisy_people(5, 16)
    label = label.copy()
    label[2::9] = -1
    for number, size in ((0, 1), (1, 3), (2, 4)):
        label[np.flatnonzero(label == number)[size:]] = -1
    target = LabelledSet(embedded(embedding), label, GRAPH)
    source = known(0, 20)
    found = learn_adc(CONFIG, source, target, tmp_path, MESH, "one")
    logit = found.logit(target, MESH).numpy()
    size = np.bincount(label[label >= 0])
    silent = (label < 0) | (size[label] < LEAST_IMAGES)
    assert np.array_equal(logit == 0, silent)
    assert logit[~silent & is_clean].mean() > 1 > -0.5 > logit[~silent & ~is_clean].mean()
    adapted = CONFIG.model_copy(update={"adapter": AdapterConfig(num_draws=3, margin=0.4)})
    moved = learn_adc(adapted, source, target, tmp_path, MESH, "one").logit(target, MESH)
    levels = []
    for one in np.unique(label[~silent]):
        shift = (moved.numpy() - logit)[label == one]
        np.testing.assert_allclose(shift, shift[0], atol=1e-4)  # one threshold for a class
        levels.append(shift[0])
    assert np.ptp(levels) > 0.01
    assert np.array_equal(moved.numpy() == 0, silent)


def test_noise_planted_into_a_set_is_known_and_another_each_time() -> None:
    source = known(0, 20)
    draws = [source.with_noise(0, "calibrate", draw) for draw in range(2)]
    for draw in draws:
        assert draw.true_label is not None
        assert torch.equal(draw.true_label, source.label_of_row)
        assert ((draw.label_of_row != draw.true_label) & (draw.label_of_row >= 0)).any()
    assert not torch.equal(draws[0].label_of_row, draws[1].label_of_row)


@pytest.mark.parametrize("gcn", [False, True], ids=["posterior alone", "with the GCN"])
def test_a_set_is_cleaned_with_and_without_it(gcn: bool, tmp_path: Path) -> None:
    embedding, label, is_clean = noisy_people(2, 24)
    save_features(tmp_path / "target.npz", Features(embedding, label, is_clean))
    embedding, label = people(3, 20)
    source = Features(embedding, label, np.ones(len(label), np.bool_))
    save_features(tmp_path / "source.npz", source)
    config = CleanConfig(**CONFIG.model_dump(), gcn=gcn, source=tmp_path / "source.npz")
    found = run_features(config, tmp_path / "target.npz", tmp_path / "out", MESH)
    assert (tmp_path / "out" / PRETRAINED_FILE).exists() == gcn
    result = CleaningResult.load(tmp_path / "out" / "clean.npz")
    assert found.metrics["f1"] > 0.9  # at random a quarter
    assert found.metrics["num_dropped"] == (~result.kept).sum()
