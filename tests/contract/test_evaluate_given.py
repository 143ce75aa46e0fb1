"""`evaluate` by embeddings that are given, and by a gallery and probes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import Call
from helpers.pairs import write_lfw

from facetrain.data.images.align import align
from facetrain.data.images.codec import decode_image
from facetrain.data.images.landmarks import read_landmarks
from facetrain.models.weights import load_backbone


def test_pairs_of_given_embeddings(call: Call, lfw: Path, tmp_path: Path) -> None:
    """Cosines by NumPy, the threshold that they give at FAR 1e-2, and what is accepted there."""
    features = np.load(lfw / "features_mobilefacenet.npz")
    path, embedding = features["path"], features["embedding"].astype(np.float64)
    label, generator = features["label"], np.random.default_rng(0)
    same = [(i, i + 1) for i in range(len(label) - 1) if label[i] == label[i + 1]]
    same = [same[k] for k in generator.permutation(len(same))[:300]]
    drawn = generator.integers(len(label), size=(900, 2)).tolist()
    other = [(a, b) for a, b in drawn if label[a] != label[b]][:600]
    rows = np.array([pair for k in range(300) for pair in (same[k], *other[2 * k : 2 * k + 2])])
    flags = label[rows[:, 0]] == label[rows[:, 1]]
    lines = [f"{path[a]} {path[b]} {int(f)}" for (a, b), f in zip(rows, flags, strict=True)]
    (tmp_path / "mine.txt").write_text("\n".join(lines).replace(".jpg ", ".png ", 1))
    common = ("evaluate", "--pairs", tmp_path / "mine.txt", "--json", tmp_path / "n.json")
    embeddings = ("--embeddings", lfw / "features_mobilefacenet.npz")
    code, out, err = call(*common, *embeddings)
    assert code == 0, err
    assert "accept above cosine" in out
    numbers = json.loads((tmp_path / "n.json").read_text())["mine"]
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosine = (unit[rows[:, 0]] * unit[rows[:, 1]]).sum(axis=1)
    highest = np.sort(cosine[~flags])[::-1]
    threshold = highest[6]  # FAR 1e-2 of 600 allows six
    assert numbers["threshold_at_far"]["1e-2"] == pytest.approx(threshold, abs=1e-12)
    assert numbers["tar_at_far"]["1e-2"] == pytest.approx((cosine[flags] > threshold).mean())
    assert numbers["threshold_at_far"]["1e-3"] is None
    assert (numbers["num_pairs"], numbers["interval_over"]) == (900, "identities")
    for text, message in (
        ("nobody.jpg AJ_Cook/AJ_Cook_0001.jpg 0", "1 have no embedding (nobody.jpg, ...)"),
        ("AJ_Cook/AJ_Cook_0001.jpg AJ_Cook/AJ_Cook_0001.jpg 2", "every line must be"),
    ):
        (tmp_path / "mine.txt").write_text(text)
        code, _, err = call(*common, *embeddings)
        assert (code, message in err) == (2, True), err
    assert "needs --pairs LIST" in call.refused("evaluate", *embeddings)


def test_probes_that_tell_nothing_are_told(call: Call, backbone: Path, tmp_path: Path) -> None:
    write_lfw(tmp_path / "lfw", half=1, size=32)
    images = tmp_path / "lfw" / "images"
    for name in ("Person_0a", "Person_0b"):
        first, second = sorted((images / name).iterdir())
        for kind, file in (("known", first), ("seen", second)):
            (tmp_path / kind / name).mkdir(parents=True)
            (tmp_path / kind / name / "x.jpg").write_bytes(file.read_bytes())
    common = ("evaluate", "--backbone", backbone, "--gallery", tmp_path / "known", "--probe")
    assert "images of the gallery" not in call(*common, tmp_path / "seen")[2]
    enrolled = images / "Person_0a" / "Person_0a_0001.jpg"
    (tmp_path / "seen" / "Person_0b" / "y.jpg").write_bytes(enrolled.read_bytes())
    code, _, err = call(*common, tmp_path / "seen")
    assert code == 0
    assert "1 of 3 probes are images of the gallery" in err
    assert "(Person_0b/y.jpg)" in err
    for name in ("a", "b"):
        (tmp_path / "seen" / f"Person_0{name}").rename(tmp_path / "seen" / name)
    assert "no probe's person is in" in call(*common, tmp_path / "seen")[2]


def test_a_gallery_and_probes_of_ones_own(
    call: Call, backbone: Path, lfw: Path, tmp_path: Path
) -> None:
    """Photographs with landmarks: against a search written out in NumPy."""
    people = sorted(folder for folder in (lfw / "folder").iterdir() if folder.is_dir())
    for place, folder in enumerate(people):
        files = sorted(folder.iterdir())
        known = files[: len(files) // 2] if place % 4 else []  # every fourth is a stranger
        for kind, chosen in (("known", known), ("seen", files[len(known) :])):
            for file in chosen:
                (tmp_path / kind / folder.name).mkdir(parents=True, exist_ok=True)
                (tmp_path / kind / folder.name / file.name).symlink_to(file)
    common = ("evaluate", "--backbone", backbone, "--landmarks", lfw / "folder_5pts.csv")
    folders = ("--gallery", tmp_path / "known", "--probe", tmp_path / "seen")
    out = call.done(*common, *folders, "--json", tmp_path / "n.json")
    assert "rank-1" in out
    numbers = json.loads((tmp_path / "n.json").read_text())["seen"]

    model = load_backbone(backbone)
    points = read_landmarks(lfw / "folder_5pts.csv").points

    def embed(kind: str) -> tuple[np.ndarray, list[str]]:
        files = sorted((tmp_path / kind).glob("*/*"))
        found = []
        for file in files:
            image = decode_image(file.read_bytes(), file.name)
            face = align(image, points[f"{file.parent.name}/{file.name}"], 32) / 127.5 - 1
            both = torch.from_numpy(np.stack([face, face[:, ::-1]])).permute(0, 3, 1, 2).float()
            found.append(model(both).double().sum(dim=0).numpy())
        unit = np.stack(found)
        return unit / np.linalg.norm(unit, axis=1, keepdims=True), [f.parent.name for f in files]

    (gallery, owner), (probe, who) = embed("known"), embed("seen")
    names = sorted(set(owner))
    template = np.stack([gallery[np.array(owner) == name].mean(axis=0) for name in names])
    similarity = probe @ (template / np.linalg.norm(template, axis=1, keepdims=True)).T
    rank = [
        1 + int((similarity[k] > similarity[k, names.index(name)]).sum())
        for k, name in enumerate(who)
        if name in names
    ]
    stranger = np.array([name not in names for name in who])
    alarms = np.sort(similarity[stranger].max(axis=1))[::-1]
    found = numbers["identification"]["known"]
    assert (found["num_mated_probes"], found["num_unmated_probes"]) == (
        len(rank), stranger.sum(),
    )  # fmt: skip
    for k in (1, 5):
        assert found[f"rank_{k}"] == pytest.approx(np.mean(np.array(rank) <= k), abs=0.02)
    threshold = alarms[stranger.sum() // 10]
    assert found["threshold_at_fpir"]["1e-1"] == pytest.approx(threshold, abs=1e-4)
    assert numbers["num_gallery_identities"] == len(names)
    assert "--backbone B, all three" in call.refused("evaluate", *folders)


@pytest.mark.parametrize(
    ("way", "other"),
    [
        (["--gallery", ".", "--probe", "."], ["--pairs", "."]),
        (["--gallery", ".", "--probe", "."], ["--folds", "3"]),
        (["--gallery", ".", "--probe", "."], ["--attributes", "."]),
        (["--gallery", ".", "--probe", "."], ["--bin", "."]),
        (["--gallery", ".", "--probe", "."], ["--no-norm-weighting"]),
        (["--embeddings", ".", "--pairs", "."], ["--landmarks", "."]),
        (["--embeddings", ".", "--pairs", "."], ["--no-flip"]),
        (["--embeddings", ".", "--pairs", "."], ["--images", "."]),
    ],
)
def test_an_option_that_a_way_does_not_read_is_refused(
    call: Call, way: list[str], other: list[str]
) -> None:
    code, _, err = call("evaluate", *way, *other)
    message = f"{way[0]} is evaluated by itself, without {other[0]}; leave it out"
    assert (code, message in err) == (2, True), err
