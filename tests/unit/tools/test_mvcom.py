"""The benchmark of MvCoM: its sets, its rank test, and what it scores."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facetrain.data.dataset import FaceDataset
from facetrain.data.variation.labels import VARIATION_FILE, load_variations
from tools.benchmarks.common import ROOT, memory_mib
from tools.benchmarks.mvcom import run as bench_mvcom
from tools.benchmarks.mvcom import score as mvcom_score
from tools.benchmarks.mvcom.sets import lfw_sets, synthetic_sets, tail_levels


def margins(order: int) -> dict[str, dict[str, np.ndarray]]:
    """Residuals that rise (order 1) or fall (-1) with rarity, in four factors."""
    found = {}
    for factor, levels in (("pose", 7), ("occlusion", 5), ("blur", 4), ("group", 4)):
        share = np.linspace(0.1, 0.9, levels)
        found[factor] = {"residual": -order * share, "share": share}
    return found


def test_rank_test_finds_margins_that_rise_with_rarity_and_no_others() -> None:
    rising = mvcom_score.margin_rank_test([margins(1)])
    falling = mvcom_score.margin_rank_test([margins(-1)])
    assert rising["mean"] == pytest.approx(1)
    assert rising["p_value"] < 0.01
    assert falling["mean"] == pytest.approx(-1)
    assert falling["p_value"] > 0.99
    both = mvcom_score.margin_rank_test([margins(1), margins(-1), margins(-1)])
    assert both["mean"] == pytest.approx(-1)  # of the mean residuals over seeds
    constant = mvcom_score.margin_rank_test([margins(0)])
    assert constant["mean"] == 0
    assert constant["p_value"] == pytest.approx(1)


def test_paired_line_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3)."""
    text = mvcom_score.paired_line("a - b", [2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert text.startswith("a - b: +2.0000 +- 0.5774 (s.e.), 3 of 3 seeds, p = 0.07")


def test_scores_are_tars_of_the_pairs_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow count over all pairs, at a FAR of 1e-1 that so small a set can measure."""
    data = synthetic_sets(tmp_path, 0, (3, 2, 4))[2]
    dataset = FaceDataset.open(data)
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((dataset.num_images, 6)).astype(np.float32)
    unit += 2 * rng.standard_normal((4, 6)).astype(np.float32)[dataset.label]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    monkeypatch.setattr(mvcom_score, "embeddings", lambda *_: unit)
    monkeypatch.setattr(mvcom_score, "FAR", "1e-1")
    found = mvcom_score.score_test_set(tmp_path, data, {"blur": np.array([2, 3])})
    level = load_variations(data / VARIATION_FILE, dataset.num_rows).level["blur"]

    def slow(wanted: int | None) -> float:
        genuine, impostor = [], []
        for i in range(len(unit)):
            for j in range(i + 1, len(unit)):
                if wanted is None or wanted in (level[i], level[j]):
                    same = dataset.label[i] == dataset.label[j]
                    (genuine if same else impostor).append(float(-unit[i] @ unit[j]))
        cut = sorted(impostor)[len(impostor) // 10]
        return float(np.mean(np.array(genuine) < cut))

    # A pair may lie within float32 of the threshold.
    assert found["overall_tar"] == pytest.approx(slow(None), abs=0.005)
    assert found["tail_tar"] == pytest.approx((slow(2) + slow(3)) / 2, abs=0.005)


def test_synthetic_sets_share_nobody_and_have_tails(tmp_path: Path) -> None:
    folders = synthetic_sets(tmp_path, 1, (12, 3, 3))
    people = [set(FaceDataset.open(folder).class_ids.tolist()) for folder in folders]
    assert not (people[0] & people[1])
    assert not (people[0] & people[2])
    assert not (people[1] & people[2])
    tails = tail_levels(folders[0])
    assert {0, 6} <= set(tails["pose"].tolist())
    assert 3 not in tails["pose"]


def test_real_sets_share_nobody(lfw: Path, tmp_path: Path) -> None:
    from tools.benchmarks.mvcom import sets as mvcom_sets

    def few(dataset: FaceDataset, out: Path, people: np.ndarray, *_: object) -> None:
        out.mkdir(parents=True)
        np.save(out / "people.npy", people)

    original = mvcom_sets._write_planted
    mvcom_sets._write_planted = few  # type: ignore[assignment]
    try:
        folders = lfw_sets(lfw, tmp_path, 0)
    finally:
        mvcom_sets._write_planted = original
    people = [np.load(folder / "people.npy") for folder in folders]
    assert len(np.unique(np.concatenate(people))) == sum(map(len, people))
    assert [round(len(one) / sum(map(len, people)), 2) for one in people] == [0.6, 0.15, 0.25]


def test_the_whole_benchmark_on_a_few_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file holds both numbers of every method and seed, and the margins' rank test."""
    monkeypatch.setattr(bench_mvcom, "SIZES", (8, 4, 8))
    for section, epochs in ((bench_mvcom.PRETRAIN, 2), (bench_mvcom.FINETUNE, 1)):
        loop = {**section["train"], "epochs": epochs, "batch_size": 32, "margin_warmup_epochs": 0}
        monkeypatch.setitem(section, "train", loop)
    monkeypatch.setattr(bench_mvcom, "COMMON", copy.deepcopy(bench_mvcom.COMMON))
    file = tmp_path / "numbers.json"
    words = ["--seeds", "2", "--image-size", "32", "--no-cost", "--json", str(file)]
    words += ["--methods", *bench_mvcom.SECTIONS]
    monkeypatch.setattr(sys, "argv", ["bench_mvcom.py", *words])
    bench_mvcom.main()
    found = json.loads(file.read_text())
    for method in ("pretrained", *bench_mvcom.SECTIONS):
        for key in ("tail_tar", "overall_tar"):
            assert len(found[method][key]) == 2
            assert all(0 <= value <= 1 for value in found[method][key])
    assert set(found["margin_and_rarity"]["spearman"]) == {"pose", "occlusion", "blur", "group"}
    assert "mvcom - cosface, tail_tar" in capsys.readouterr().out


def test_peak_memory_is_the_process_own() -> None:
    """A child of a large process is small; `getrusage` would give it its parent's peak."""
    large = np.ones(1 << 25)  # 256 MiB
    assert memory_mib() > 256
    code = "from tools.benchmarks.common import memory_mib; print(memory_mib())"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert float(child.stdout) < 128 < large.nbytes / 2**20
