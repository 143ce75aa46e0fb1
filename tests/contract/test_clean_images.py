"""`clean DATA --backbone B`: from a folder of images and any network to a run, without a recipe."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.cli import QUICK, Call, command
from helpers.networks import untrained

from facetrain.core.rng import numpy_generator
from facetrain.data.dataset import FaceDataset

PEOPLE, IMAGES, SIZE = 24, 10, 32


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that nobody trained: it keeps apart what looks apart."""
    folder = tmp_path_factory.mktemp("backbone")
    return untrained(folder, embedding_size=64, width=16)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a person, each a pattern of colours; image 9 of p00 to p11 is of the next person."""
    generator = numpy_generator(0, "patterns")
    pattern = generator.integers(0, 256, (PEOPLE, 4, 4, 3)).astype(np.float64)
    folder = tmp_path_factory.mktemp("photos") / "people"
    for person in range(PEOPLE):
        (folder / f"p{person:02d}").mkdir(parents=True)
        for image in range(IMAGES):
            shown = person + 1 if image == 9 and person < 12 else person
            small = pattern[shown] + generator.normal(0, 20, (4, 4, 3))
            large = cv2.resize(small.clip(0, 255).astype(np.uint8), (SIZE, SIZE))
            cv2.imwrite(str(folder / f"p{person:02d}" / f"{image}.png"), large)
    return folder


@pytest.fixture(scope="module")
def cleaned(people: Path, backbone: Path) -> Path:
    out = people.parent / "my run"
    command("clean", people, "--backbone", backbone, "--out", out, *QUICK, "embed.workers=0")
    return out


def stages(run: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in run.glob("*/manifest.json")}


def test_it_leaves_a_run_with_the_contracts_files(cleaned: Path, people: Path) -> None:
    assert set(stages(cleaned)) == {"data", "embed", "graph", "clean"}
    dataset = FaceDataset.open(cleaned / "data")
    assert dataset.num_images == PEOPLE * IMAGES
    names = json.loads((cleaned / "data" / "classes.json").read_text())
    folders = sorted(one.name for one in people.iterdir())
    assert names == {str(label): name for label, name in enumerate(folders)}
    with np.load(cleaned / "clean.npz") as arrays:
        kept, suggested = arrays["kept"], arrays["suggested_label"]
    assert kept.shape == (PEOPLE * IMAGES,)
    wrong = np.zeros((PEOPLE, IMAGES), np.bool_)
    wrong[:12, 9] = True
    wrong = wrong.ravel()
    # The patterns lie far apart; one who guessed would find one in twenty.
    assert (~kept & wrong).sum() >= 10
    assert (~kept & ~wrong).sum() <= 6
    home = wrong & (suggested == dataset.label + 1)
    assert home.sum() >= 8
    below = FaceDataset.open(cleaned / "data", [cleaned / "overlay.npz"])
    assert below.num_images == kept.sum()


def test_started_again_nothing_is_done_again(
    cleaned: Path, people: Path, backbone: Path, call: Call
) -> None:
    before = stages(cleaned)
    code, stdout, err = call(
        "clean", people, "--backbone", backbone, "--out", cleaned, *QUICK, "embed.workers=0"
    )
    assert code == 0
    assert err.count("finished before, skipped") == 3
    assert "240 files, 240 images of 24 identities packed" in stdout
    assert f"facetrain review '{cleaned}'" in stdout  # as a shell takes it
    assert f"facetrain write '{cleaned}'" in stdout
    assert stages(cleaned) == before


def test_folders_are_what_they_are_called(tmp_path: Path, call: Call) -> None:
    data, run = tmp_path / "people=all", tmp_path / "no run"
    for folder in (data, run):
        folder.mkdir()
    assert "needs --backbone B" in call.refused("clean", data, "--out", run)  # it is no KEY=VALUE
    assert f"--backbone B --out '{run}'`" in call.refused("review", run)


def test_a_key_goes_by_its_section_or_is_cleans_own(
    cleaned: Path, backbone: Path, tmp_path: Path, call: Call
) -> None:
    out, shards = tmp_path / "out", cleaned / "data"
    keys = (*QUICK, "clean.seed=3", "embed.batch_size=7", "graph.num_neighbours=30")
    assert call("clean", shards, "--backbone", backbone, "--out", out, *keys)[0] == 0
    written = {name: json.loads(text)["config"] for name, text in stages(out).items()}
    assert set(written) == {"embed", "graph", "clean"}  # shards are used as they lie there
    assert written["clean"]["seed"] == 3
    assert written["clean"]["meta"]["num_steps"] == 4
    assert written["embed"]["batch_size"] == 7
    assert written["graph"]["num_neighbours"] == 30
    named = (f"data.path={shards}", "--backbone", backbone, "--out", out, *keys)
    assert call("clean", *named)[0] == 0
    assert "named once" in call.refused("clean", shards, *named)
    assert "unknown key 'clean.sed'; did you mean 'seed'?" in call.refused(
        "clean", shards, "--backbone", backbone, "--out", out, "sed=1"
    )


def test_the_report_and_the_review_take_it(cleaned: Path, call: Call) -> None:
    assert call("report", cleaned)[0] == 0
    from facetrain.review.review import serving

    with serving(cleaned, 0) as server:
        assert server.address.startswith("http://127.0.0.1")


def test_photographs_need_a_way_to_find_the_faces(
    people: Path, backbone: Path, tmp_path: Path, call: Call
) -> None:
    copy = tmp_path / "people"
    shutil.copytree(people, copy)
    cv2.imwrite(str(copy / "p23" / "9.png"), np.zeros((50, 40, 3), np.uint8))
    err = call.refused("clean", copy, "--backbone", backbone, "--out", tmp_path / "out")
    assert "p23/9.png has 40 x 50" in err
    assert "--detector" in err
    assert not (tmp_path / "out" / "data" / "manifest.json").exists()
    assert "p23/9.png has 40 x 50" in call.refused(
        "embed", copy, "--backbone", backbone, "--out", tmp_path / "out"
    )


def test_embed_and_graph_need_no_recipe(
    people: Path, cleaned: Path, backbone: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "embed"
    keys = ("workers=0", "dtype=float32")
    assert call("embed", people, "--backbone", backbone, "--out", out, *keys)[0] == 0
    ours, theirs = (np.load(folder / "embedding.npy") for folder in (out, cleaned / "embed"))
    assert ours.dtype == np.float32
    assert np.allclose(ours, theirs, atol=1e-3)  # float16 there
    label = np.load(out / "label.npy")
    np.savez(tmp_path / "features.npz", embedding=ours, label=label)
    for name, given in (("a", out), ("b", tmp_path / "features.npz")):
        assert call(
            "graph", "--embeddings", given, "--out", tmp_path / name, "num_neighbours=9"
        )[0] == 0  # fmt: skip
    first, second = (np.load(tmp_path / name / "neighbours.npy") for name in "ab")
    assert first.shape == (PEOPLE * IMAGES, 9)
    assert np.array_equal(first, second)
    unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(len(unit))
    assert np.array_equal(first[:, 0], cosine.argmax(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clean", "nowhere", "--backbone", "BACKBONE"), "nowhere: must be a folder"),
        (("clean", "PEOPLE"), "clean of images needs --backbone"),
        (("embed", "PEOPLE"), "embed of images needs --backbone"),
        (("clean", "--backbone", "BACKBONE"), "must be named once"),
        (("clean", "PEOPLE", "--target", "x.npz"), "cleaned by itself"),
        (("clean", "PEOPLE", "--backbone", "BACKBONE", "--graph", "x"), "belongs to CONFIG"),
        (("graph",), "needs CONFIG, or --embeddings"),
        (("clean", "SHARDS", "--backbone", "BACKBONE", "--landmarks", "x.csv"), "packed already"),
        (("clean", "PEOPLE", "--backbone", "nothing.onnx"), "there is none"),
        (("clean", "gone.yaml"), "gone.yaml: must be a YAML recipe"),
    ],
)
def test_what_does_not_go_is_told_in_one_line(
    arguments: tuple[str, ...],
    message: str,
    people: Path,
    cleaned: Path,
    backbone: Path,
    tmp_path: Path,
    call: Call,
) -> None:
    given = {"PEOPLE": people, "BACKBONE": backbone, "SHARDS": cleaned / "data"}
    words = [given.get(word, word) for word in arguments]
    assert message in call.refused(*words, "--out", tmp_path / "out")


def test_photographs_are_embedded_by_the_faces_found(
    lfw: Path, tmp_path: Path, backbone: Path, call: Call
) -> None:
    """One row a photograph, of the face that --detector finds, aligned."""
    yunet = lfw.parent / "models" / "face_detection_yunet.onnx"
    if not yunet.is_file():
        pytest.skip(f"no face detector at {yunet}")
    for name in ("Angela_Merkel", "Mike_Myers"):
        shutil.copytree(lfw / "folder" / name, tmp_path / "people" / name)
    (tmp_path / "people" / "Mike_Myers" / "wall.png").write_bytes(
        cv2.imencode(".png", np.full((90, 90, 3), 90, np.uint8))[1].tobytes()
    )
    out = ("--backbone", backbone, "--detector", yunet, "--out", tmp_path / "embed")
    call.done("embed", tmp_path / "people", *out)
    data = FaceDataset.open(tmp_path / "embed" / "data")
    photographs = len(list((tmp_path / "people").rglob("*.jpg")))
    assert np.load(tmp_path / "embed" / "embedding.npy").shape == (photographs, 64)
    assert data.num_images == photographs
    assert data.decode(0, 112).shape == (112, 112, 3)
    skipped = (tmp_path / "embed" / "data" / "skipped.txt").read_text()
    assert skipped == "Mike_Myers/wall.png\tshows no face that the detector finds\n"
