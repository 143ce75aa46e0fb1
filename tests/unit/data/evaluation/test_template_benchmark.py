"""A template benchmark from faces at hand: who is in which template, and that it is evaluated."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.evaluation import pack_templates as pack_templates_file
from facetrain.data.evaluation.pack_templates import pack_templates
from facetrain.data.features import Features, save_features
from facetrain.data.packing.pack_image import PackOptions
from facetrain.dist.mesh import Mesh
from facetrain.evaluate.ijb import IjbConfig, evaluate_ijb

PEOPLE, IMAGES = 6, 5


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Every person has one grey; the first image of the first is no image."""
    root = tmp_path / "people"
    for person in range(PEOPLE):
        (root / f"p{person}").mkdir(parents=True)
        for number in range(IMAGES):
            grey = np.full((112, 112, 3), 40 * person, np.uint8)
            cv2.imwrite(str(root / f"p{person}" / f"{number}.jpg"), grey)
    (root / "p0" / "0.jpg").write_bytes(b"no image")
    return root


def lines(path: Path) -> list[list[str]]:
    return [line.replace(",", " ").split() for line in path.read_text().splitlines()]


def test_every_image_is_in_one_template_of_its_person(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (photographs / "p0" / "notes.txt").write_text("no image by its name either")
    found = pack_templates(photographs, out, "ijbc", PackOptions(workers=1, show_progress=False))
    assert found == {"num_images": PEOPLE * IMAGES - 1, "num_identities": PEOPLE, "num_skipped": 1,
                     "num_ignored": 1}  # fmt: skip
    assert (out / "skipped.txt").read_text().startswith("p0/0.jpg\t")
    assert (out / "ignored.txt").read_text().startswith("p0/notes.txt\t")
    meta = out / "IJBC" / "meta"
    subject = {}
    for part in ("gallery_G1", "gallery_G2", "probe_mixed"):
        for template, person, *_ in lines(meta / f"ijbc_1N_{part}.csv")[1:]:
            assert int(template) not in subject
            subject[int(template)] = int(person)
    counted = np.zeros(PEOPLE, int)
    for name, template, _ in lines(meta / "ijbc_face_tid_mid.txt"):
        person = subject[int(template)]
        counted[person] += 1
        image = cv2.imread(str(out / "IJBC" / "loose_crop" / name))
        assert abs(int(image[50, 50, 0]) - 40 * person) < 3
    assert counted.tolist() == [IMAGES - 1] + [IMAGES] * (PEOPLE - 1)
    for one, other, same in lines(meta / "ijbc_template_pair_label.txt"):
        assert (subject[int(one)] == subject[int(other)]) == (same == "1")


def test_features_stay_with_their_templates(tmp_path: Path) -> None:
    """Embeddings that are one direction a person give a benchmark that is solved; moved, not."""
    label = np.repeat(np.arange(PEOPLE), IMAGES)
    embedding = np.eye(PEOPLE, dtype=np.float32)[label]
    save_features(tmp_path / "f.npz", Features(embedding, label))
    pack_templates(tmp_path / "f.npz", tmp_path, "ijbb", PackOptions(show_progress=False))
    config = IjbConfig(
        path=tmp_path, protocol="ijbb", features=tmp_path / "features.npy", bootstrap=0
    )
    numbers = evaluate_ijb(config, None, Mesh.single())["ijbb"]
    assert numbers["tar_at_far"]["1e-1"] == numbers["identification"]["mean"]["rank_1"] == 1
    np.save(tmp_path / "features.npy", np.roll(np.load(tmp_path / "features.npy"), 7, axis=0))
    numbers = evaluate_ijb(config, None, Mesh.single())["ijbb"]
    assert numbers["tar_at_far"]["1e-1"] < 0.5


def test_what_cannot_be_a_benchmark(photographs: Path, tmp_path: Path) -> None:
    save_features(tmp_path / "f.npz", Features(np.eye(4, dtype=np.float32), np.arange(4)))
    with pytest.raises(DataError, match="needs two people with two images each, of 4 images of 4"):
        pack_templates(tmp_path / "f.npz", tmp_path / "a", "ijbc", PackOptions())
    with pytest.raises(ConfigError, match="embeddings have no landmarks"):
        pack_templates(
            tmp_path / "f.npz", tmp_path / "a", "ijbc", PackOptions(landmarks=tmp_path / "l.csv")
        )


def test_the_same_command_again_ends_alike_and_replaces_nothing_else(
    photographs: Path, tmp_path: Path
) -> None:
    options, out = PackOptions(workers=1, show_progress=False), tmp_path / "out"
    counts = pack_templates(photographs, out, "ijbc", options)
    assert pack_templates(photographs, out, "ijbc", options) == counts
    (photographs / "p1" / "0.jpg").unlink()
    (photographs / "p1" / "notes.txt").write_text("x")
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    with pytest.raises(DataError, match=r"IJBC: must be new, but is there already"):
        pack_templates(photographs, out, "ijbc", options)
    assert {path: path.read_bytes() for path in before} == before


def test_a_benchmark_is_there_when_all_beside_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the features and the folder, the same command goes on to the same files."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    label = np.repeat(np.arange(PEOPLE), IMAGES)
    save_features(tmp_path / "f.npz", Features(np.eye(PEOPLE, dtype=np.float32)[label], label))
    options = PackOptions(show_progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(pack_templates_file, "write_npy", killed)
        with pytest.raises(KeyboardInterrupt):
            pack_templates(tmp_path / "f.npz", tmp_path / "out", "ijbb", options)
    assert not (tmp_path / "out" / "IJBB").exists()
    pack_templates(tmp_path / "f.npz", tmp_path / "out", "ijbb", options)
    assert (tmp_path / "out" / "features.npy").is_file()
