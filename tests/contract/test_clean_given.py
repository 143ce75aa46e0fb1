"""`clean DATA --embeddings F.npz`: a run, whose review shows the faces, from given embeddings."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.cli import QUICK, Call, command
from numpy.typing import NDArray

from facetrain.core.rng import numpy_generator
from facetrain.data.dataset import FaceDataset

PEOPLE, IMAGES = 24, 10
WRONG = [f"p{person:02d}/9.jpg" for person in range(0, 24, 3)]  # of the next person


def label_of(name: str) -> int:
    return int(name[1:3])


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, 60 x 40, each of its own grey; who they show is in the embeddings alone."""
    folder = tmp_path_factory.mktemp("given") / "people"
    for person in range(PEOPLE):
        (folder / f"p{person:02d}").mkdir(parents=True)
        for image in range(IMAGES):
            grey = np.full((40, 60, 3), 10 * image + person, np.uint8)
            cv2.imwrite(str(folder / f"p{person:02d}/{image}.jpg"), grey)
    return folder


@pytest.fixture(scope="module")
def features() -> dict[str, NDArray[np.generic]]:
    """In an order that is not the data set's: people lie along axes, their images around them."""
    generator = numpy_generator(0, "given")
    names = [f"p{person:02d}/{image}.jpg" for person in range(PEOPLE) for image in range(IMAGES)]
    generator.shuffle(names)
    shown = [label_of(name) + (name in WRONG) for name in names]
    embedding = 3 * np.eye(32)[shown] + generator.normal(0, 0.25, (len(names), 32))
    return {"embedding": embedding.astype(np.float32), "path": np.array(names)}


@pytest.fixture(scope="module")
def cleaned(
    people: Path, features: dict[str, NDArray[np.generic]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("cleaned")
    stored = dict(features, path=np.char.add("./people/", features["path"].astype(str)))
    np.savez(folder / "F.npz", **stored)  # type: ignore[arg-type]
    command("clean", people, "--embeddings", folder / "F.npz", "--out", folder / "out", *QUICK)
    return folder / "out"


def test_every_image_has_the_embedding_of_its_name(
    cleaned: Path, features: dict[str, NDArray[np.generic]]
) -> None:
    data = FaceDataset.open(cleaned / "data")
    by_name = dict(zip(features["path"].tolist(), features["embedding"], strict=True))
    unit = np.load(cleaned / "embed" / "embedding.npy")
    norm = np.load(cleaned / "embed" / "norm.npy")
    for index in range(data.num_images):
        name = data.source(index)
        assert name is not None
        assert np.allclose(unit[index] * norm[index], by_name[name], atol=1e-5)
    assert np.array_equal(np.load(cleaned / "embed" / "row.npy"), np.arange(PEOPLE * IMAGES))


def test_the_answer_is_that_of_the_embeddings(cleaned: Path) -> None:
    data = FaceDataset.open(cleaned / "data")
    wrong = np.array([data.source(index) in WRONG for index in range(data.num_images)])
    with np.load(cleaned / "clean.npz") as answer:
        assert np.array_equal(~answer["kept"], wrong)  # people lie 90 degrees apart
        assert np.array_equal(answer["suggested_label"][wrong], data.label[wrong] + 1)


def test_the_review_shows_the_photographs(cleaned: Path) -> None:
    from facetrain.data.cleaned_set import CleanedSet

    opened = CleanedSet.open_run(cleaned)
    index = next(
        i for i in range(opened.dataset.num_images) if opened.dataset.source(i) == WRONG[2]
    )
    grey = opened.dataset.decode(index, 112)
    assert abs(int(grey.mean()) - (10 * 9 + 6)) <= 1  # image 9 of p06


def test_report_and_write_take_it(cleaned: Path, tmp_path: Path, call: Call) -> None:
    assert call("report", cleaned)[0] == 0
    stdout = call.done("write", cleaned, "--format", "folder", "--out", tmp_path / "clean")
    kept = {str(one.relative_to(tmp_path / "clean")) for one in (tmp_path / "clean").glob("*/*")}
    every = {f"p{person:02d}/{image}.jpg" for person in range(PEOPLE) for image in range(IMAGES)}
    assert kept == every - set(WRONG)
    assert "num_dropped: 8" in stdout


def test_keys_and_rows_mean_the_same(
    cleaned: Path, features: dict[str, NDArray[np.generic]], tmp_path: Path, call: Call
) -> None:
    data = FaceDataset.open(cleaned / "data")
    order = {data.source(index): index for index in range(data.num_images)}
    place = np.array([order[name] for name in features["path"].tolist()])
    keys = np.array([data.key(index) for index in place])
    numbers = np.array([int(key.rpartition(":")[2]) for key in keys])
    for name, column in {"key": keys, "key_number": numbers, "row": place}.items():
        file, out = tmp_path / f"{name}.npz", tmp_path / name
        np.savez(file, embedding=features["embedding"], **{name.partition("_")[0]: column})
        words = ("clean", cleaned / "data", "--embeddings", file, "--out", out, *QUICK)
        assert call(*words)[0] == 0
        assert not (out / "data").exists()  # shards are used as they lie there
        ours, theirs = (np.load(one / "embed" / "embedding.npy") for one in (out, cleaned))
        assert np.array_equal(ours, theirs)


def test_who_has_none_is_counted_and_not_judged(
    cleaned: Path, features: dict[str, NDArray[np.generic]], tmp_path: Path, call: Call
) -> None:
    """Two images lose their embedding, one embedding is of nobody: both are named."""
    path = features["path"].copy()
    lost = [str(path[3]), str(path[4])]
    embedding = np.delete(features["embedding"], 3, axis=0)
    path = np.delete(path, 3)
    path[3] = "p00/x.jpg"
    np.savez(tmp_path / "F.npz", embedding=embedding, path=path)
    words = ("clean", cleaned / "data", "--embeddings", tmp_path / "F.npz")
    code, _, err = call(*words, "--out", tmp_path / "out", *QUICK)
    assert code == 0
    assert "2 images of the data set have no embedding" in err
    assert all(name in err for name in lost)
    assert "1 embeddings are of no image of the data set (p00/x.jpg)" in err
    metrics = json.loads((tmp_path / "out" / "embed" / "manifest.json").read_text())["metrics"]
    assert (metrics["num_skipped"], metrics["num_unused"]) == (2, 1)
    data = FaceDataset.open(cleaned / "data")
    without = np.array([data.source(index) in lost for index in range(data.num_images)])
    with np.load(tmp_path / "out" / "clean.npz") as answer:
        reason = answer["reason_names"][answer["reason"]]
        assert (reason[without] == "not judged").all()
        assert answer["kept"][without].all()


def test_what_is_not_understood_is_refused(
    people: Path,
    cleaned: Path,
    features: dict[str, NDArray[np.generic]],
    tmp_path: Path,
    call: Call,
) -> None:
    embedding, path = features["embedding"], features["path"]
    twice = path.copy()
    twice[7] = twice[2]
    files = {
        "nobody": ({"embedding": embedding, "label": np.arange(240)}, "must say which image each"),
        "twice": ({"embedding": embedding, "path": twice}, f"{path[2]} is there twice"),
        "others": (
            {"embedding": embedding, "path": np.char.add("x", path.astype(str))},
            "names none of them (p00/0.jpg, ...)",
        ),
        "short": ({"embedding": embedding, "path": path[:-1]}, r"path must be (240,) names"),
        "float": ({"embedding": embedding, "row": np.arange(240.0)}, "(240,) integers"),
    }
    for name, (arrays, message) in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        words = ("clean", cleaned / "data", "--embeddings", tmp_path / f"{name}.npz")
        code, _, err = call(*words, "--out", tmp_path / name)
        assert code == 2
        assert message in err
        assert "Traceback" not in err
    good = tmp_path / "good.npz"
    np.savez(good, embedding=embedding, path=path)
    for extra, message in (
        (("--backbone", "b.onnx", "--embeddings", good), "give one"),
        (("--embeddings", good, "--graph", tmp_path), "--graph belongs to CONFIG"),
        (("--embeddings", tmp_path), "must be an .npz where DATA is given"),
        (("--embeddings", good, "embed.batch_size=2"), "nothing is embedded"),
        ((), "or --embeddings F.npz"),
    ):
        assert message in call.refused("clean", people, *extra, "--out", tmp_path / "out")


def test_columns_that_contradict_each_other_are_refused(
    cleaned: Path, features: dict[str, NDArray[np.generic]], tmp_path: Path, call: Call
) -> None:
    data = FaceDataset.open(cleaned / "data")
    order = {data.source(index): index for index in range(data.num_images)}
    row = np.array([order[name] for name in features["path"].tolist()])
    words = ("clean", cleaned / "data", "--embeddings", tmp_path / "F.npz", "--out", tmp_path / "o")
    row[[3, 8]] = row[[8, 3]]
    np.savez(tmp_path / "F.npz", row=row, **features)  # type: ignore[arg-type]
    assert "path and row must name the same image in a row, but differ about 2 of 240 images" in (
        call.refused(*words)
    )
    row[[3, 8]] = row[[8, 3]]
    np.savez(tmp_path / "F.npz", row=row, **features)  # type: ignore[arg-type]
    assert call(*words, *QUICK)[0] == 0


def test_labels_that_the_data_set_contradicts_are_counted(
    cleaned: Path, features: dict[str, NDArray[np.generic]], tmp_path: Path, call: Call
) -> None:
    """Names of people, two of them wrong; the same as numbers that are not the data set's."""
    right = np.array([f"person {label_of(name)}" for name in features["path"].tolist()])
    wrong = right.copy()
    wrong[5], wrong[7] = "person 99", right[right != right[7]][0]
    data = cleaned / "data"
    for name, label, number in (("right", right, 0), ("wrong", wrong, 2)):
        numbered = np.unique(label, return_inverse=True)[1]
        for kind, column in (("names", label), ("numbers", numbered)):
            file, out = tmp_path / f"{name}_{kind}.npz", tmp_path / f"{name}_{kind}"
            np.savez(file, label=column, **features)  # type: ignore[arg-type]
            code, _, err = call("clean", data, "--embeddings", file, "--out", out, *QUICK)
            assert code == 0
            assert (f"label has {number} images in other classes" in err) == bool(number)
            metrics = json.loads((out / "embed" / "manifest.json").read_text())["metrics"]
            assert metrics["num_other_labels"] == number
    np.savez(tmp_path / "F.npz", label=right[:-1], **features)  # type: ignore[arg-type]
    words = ("clean", data, "--embeddings", tmp_path / "F.npz", "--out", tmp_path / "out")
    assert "label must be (240,) integers or names" in call.refused(*words)
