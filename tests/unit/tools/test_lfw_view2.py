"""The View 2 protocol on a small folder in LFW's layout, against its arithmetic written out."""

import argparse
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from facetrain.core.errors import DataError, UserError
from facetrain.data.dataset import FaceDataset
from facetrain.data.evaluation.lfw import read_pairs
from tools.protocols import lfw_view2
from tools.protocols.lfw_sets import View2, check_disjoint, read_people

SIZE, HALF = 16, 3  # pixels the fake backbone takes; pairs of each kind in a set


def write_official(folder: Path) -> None:
    """Ten sets of four people with three noisy images each, `people.txt` and `pairs.txt`."""
    generator = np.random.default_rng(0)
    people, pairs = ["10"], [f"10\t{HALF}"]
    for k in range(10):
        names = [f"Person_{k}{letter}" for letter in "abcd"]
        people += ["4", *(f"{name}\t3" for name in names)]
        for name in names:
            (folder / "images" / name).mkdir(parents=True)
            base = generator.integers(0, 256, (4, 4, 3))
            for number in (1, 2, 3):
                noisy = np.clip(base + generator.normal(0, 60, base.shape), 0, 255)
                image = cv2.resize(noisy.astype(np.uint8), (32, 32), interpolation=0)
                cv2.imwrite(str(folder / "images" / name / f"{name}_{number:04d}.jpg"), image)
        pairs += [f"{names[i]}\t1\t{i % 2 + 2}" for i in range(HALF)]
        pairs += [f"{names[i]}\t{i + 1}\t{names[i + 1]}\t2" for i in range(HALF)]
    (folder / "people.txt").write_text("\n".join(people) + "\n")
    (folder / "pairs.txt").write_text("\n".join(pairs) + "\n")
    (folder / "recipe.yaml").write_text("seed: 0\n")


def options_of(folder: Path, **changes: object) -> argparse.Namespace:
    values = {
        "config": folder / "recipe.yaml",
        "images": folder / "images",
        "people": folder / "people.txt",
        "pairs": folder / "pairs.txt",
        "landmarks": None,
        "out": folder / "out",
        "folds": "1,2,10",
        "threshold": "refit",
        "processes": 1,
        "overrides": ["seed=3"],
    }
    return argparse.Namespace(**{**values, **changes})


def matrix_of(num_kept: int) -> torch.Tensor:
    """The fake model: it depends on how many images it was trained on."""
    generator = torch.Generator().manual_seed(num_kept)
    return torch.randn(3 * SIZE * SIZE, 8, generator=generator)


class Trainer:
    """Stands for the training command: notes what it was given, leaves the number of images."""

    def __init__(self) -> None:
        self.calls: list[dict[str, object]] = []
        self.fail_at: int | None = None

    def run(self, command: list[str], check: bool) -> SimpleNamespace:
        if len(self.calls) == self.fail_at:
            return SimpleNamespace(returncode=1)
        out = Path(command[command.index("--out") + 1])
        given = dict(part.split("=", 1) for part in command if "=" in part)
        data, overlay = Path(given["data.path"]), Path(given["data.overlay"])
        dataset = FaceDataset.open(data, [overlay])
        lines = (data / "train.lst").read_text().splitlines()
        names = {lines[row].split("\t")[-1].split("/")[0] for row in dataset.row}
        self.calls.append({"out": out.name, "names": names, "overrides": given})
        out.mkdir(exist_ok=True)
        (out / "kept.txt").write_text(str(dataset.num_images))
        return SimpleNamespace(returncode=0)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(lfw_view2, "subprocess", SimpleNamespace(run=trainer.run))

    def load(folder: Path, _device: object) -> object:
        matrix = matrix_of(int((folder / "kept.txt").read_text()))

        class Model:
            image_size = SIZE

            def __call__(self, image: torch.Tensor) -> torch.Tensor:
                return image.flatten(1) @ matrix

        return Model()

    monkeypatch.setattr(lfw_view2, "load_backbone", load)
    return trainer


def slow_distances(folder: Path, test_set: int, num_kept: int) -> tuple[list[float], list[bool]]:
    """The pairs of a set from `pairs.txt` and the packed images, one by one."""
    shards = folder / "out" / "faces"
    dataset = FaceDataset.open(shards)
    lines = (shards / "train.lst").read_text().splitlines()
    row = {line.split("\t")[-1]: index for index, line in enumerate(lines)}
    matrix = matrix_of(num_kept).double().numpy()

    def unit(name: str, number: str) -> np.ndarray:
        image = dataset.decode(row[f"{name}/{name}_{int(number):04d}.jpg"], SIZE)
        pixels = image.astype(np.float64) / 127.5 - 1
        views = [pixels, pixels[:, ::-1]]
        embedding = sum(view.transpose(2, 0, 1).reshape(-1) @ matrix for view in views)
        return np.asarray(embedding / np.linalg.norm(embedding))

    distances, same = [], []
    rows = (folder / "pairs.txt").read_text().splitlines()[1:]
    for line in rows[2 * HALF * test_set : 2 * HALF * (test_set + 1)]:
        cells = line.split("\t")
        first, second = (
            (cells[0], cells[1]),
            (cells[-2] if len(cells) == 4 else cells[0], cells[-1]),
        )
        distances.append(float(np.sum((unit(*first) - unit(*second)) ** 2)))
        same.append(len(cells) == 3)
    return distances, same


def slow_threshold(distances: list[float], same: list[bool]) -> float:
    """Try all 400; the middle one of the best."""
    right = [
        sum((d < step * 0.01) == s for d, s in zip(distances, same, strict=True))
        for step in range(400)
    ]
    best = [step for step in range(400) if right[step] == max(right)]
    return best[len(best) // 2] * 0.01


@pytest.mark.parametrize("threshold", ["refit", "held-out"])
def test_folds_follow_the_protocol(trainer: Trainer, tmp_path: Path, threshold: str) -> None:
    write_official(tmp_path)
    numbers = lfw_view2.run(options_of(tmp_path, threshold=threshold))
    calls = iter(trainer.calls)
    accuracies = []
    for fold in (1, 2, 10):
        test, held_out = fold - 1, fold % 10
        letters = [(k, f"Person_{k}{letter}") for k in range(10) for letter in "abcd"]
        call = next(calls)
        assert call["names"] == {name for k, name in letters if k not in (test, held_out)}
        assert call["overrides"]["seed"] == "3"  # type: ignore[index]
        num_kept = 96  # eight sets of four people with three images
        if threshold == "refit":
            assert next(calls)["names"] == {name for k, name in letters if k != test}
            num_kept = 108
        chosen = slow_threshold(*slow_distances(tmp_path, held_out, 96))
        distances, same = slow_distances(tmp_path, test, num_kept)
        right = [(d < chosen) == s for d, s in zip(distances, same, strict=True)]
        accuracies.append(sum(right) / len(right))
        fold_numbers = numbers["folds"][str(fold)]
        assert fold_numbers["threshold"] == pytest.approx(chosen, abs=1e-9)
        assert fold_numbers["accuracy"] == accuracies[-1]
        assert fold_numbers["num_images"] == num_kept
        assert fold_numbers["num_identities"] == num_kept // 3
    assert not list(calls)
    mean = sum(accuracies) / 3
    assert numbers["accuracy"] == pytest.approx(mean, abs=1e-12)
    spread = math.sqrt(sum((a - mean) ** 2 for a in accuracies) / 2) / math.sqrt(3)
    assert numbers["standard_error"] == pytest.approx(spread, abs=1e-12)


def test_finished_folds_are_kept(trainer: Trainer, tmp_path: Path) -> None:
    write_official(tmp_path)
    trainer.fail_at = 3
    with pytest.raises(UserError, match="fold_02_refit: the training command must succeed"):
        lfw_view2.run(options_of(tmp_path))
    trainer.fail_at = None
    lfw_view2.run(options_of(tmp_path))
    names = [call["out"] for call in trainer.calls]
    assert names[3:] == ["fold_02_held_out", "fold_02_refit", "fold_10_held_out", "fold_10_refit"]
    lfw_view2.run(options_of(tmp_path))
    assert len(trainer.calls) == len(names)
    lfw_view2.run(options_of(tmp_path, folds="1", overrides=["seed=4"]))
    assert len(trainer.calls) == len(names) + 2


def test_standard_error_by_hand() -> None:
    # mean 0.9; squared deviations 0.01 + 0 + 0.01; sample variance 0.01; sqrt(0.01) / sqrt(3)
    assert lfw_view2.standard_error([0.8, 0.9, 1.0]) == pytest.approx(0.1 / math.sqrt(3), abs=1e-12)


def test_the_command_line_writes_the_numbers(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_official(tmp_path)
    given = vars(options_of(tmp_path, folds="3", json=tmp_path / "numbers.json"))
    flags = [
        f"--{name}={value}"
        for name, value in given.items()
        if name != "overrides" and value is not None
    ]
    monkeypatch.setattr(sys, "argv", ["lfw_view2.py", *flags])
    lfw_view2.main()
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert list(numbers["folds"]) == ["3"]
    assert numbers["accuracy"] == numbers["folds"]["3"]["accuracy"]
    assert numbers["standard_error"] is None
    monkeypatch.setattr(sys, "argv", ["lfw_view2.py", *flags, "--folds=0"])
    with pytest.raises(SystemExit) as stop:
        lfw_view2.main()
    assert stop.value.code == 2


def test_a_test_image_that_was_not_packed_is_named(trainer: Trainer, tmp_path: Path) -> None:
    write_official(tmp_path)
    (tmp_path / "images" / "Person_0a" / "Person_0a_0001.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"Person_0a/Person_0a_0001\.jpg first"):
        lfw_view2.run(options_of(tmp_path))


def test_people_on_both_sides_are_refused(tmp_path: Path) -> None:
    write_official(tmp_path)
    people, pairs = read_people(tmp_path / "people.txt"), read_pairs(tmp_path / "pairs.txt")
    check_disjoint(View2(people, pairs))
    with pytest.raises(DataError, match="Person_0a is in sets 1 and 5"):
        check_disjoint(View2([*people[:4], {**people[4], "Person_0a": 3}, *people[5:]], pairs))
    with pytest.raises(DataError, match="set 1 must show its own people, but Person_1a 1 is"):
        check_disjoint(View2(people, [pairs[1], *pairs[1:]]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("people.txt", "10\n4\nA\t3\n"),
        ("people.txt", "A\t3\n"),
        ("pairs.txt", "10\t3\nA\t1\t2\n"),
        ("pairs.txt", "A\t1\t2\n"),
        ("pairs.txt", ""),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    read = read_people if name == "people.txt" else read_pairs
    with pytest.raises(DataError, match=name):
        read(tmp_path / name)
