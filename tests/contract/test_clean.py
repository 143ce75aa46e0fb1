"""`facetrain graph` and `facetrain clean` as scripts rely on them: files, arrays, messages."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import QUICK, Call, command

from facetrain.core.artifact import fingerprint
from facetrain.data.features import Features, save_features
from facetrain.data.noise.plant import NoiseConfig, plant
from facetrain.graph.knn import KnnGraph

NUM_CLASSES, NUM_IMAGES = 24, 288
FIRST, STEP = 100, 7  # given labels: 100, 107, ...


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 identities with 12 images each, a quarter of them under wrong labels."""
    generator = np.random.default_rng(0)
    label = np.repeat(np.arange(NUM_CLASSES), NUM_IMAGES // NUM_CLASSES)
    centre = generator.normal(size=(NUM_CLASSES, 16))
    embedding = (centre[label] + 0.35 * generator.normal(size=(NUM_IMAGES, 16))).astype(np.float32)
    planted = plant(label, NoiseConfig(flip=0.15, structured=0.1))
    path = tmp_path_factory.mktemp("features") / "target.npz"
    save_features(path, Features(embedding, FIRST + STEP * planted.label, planted.is_clean))
    return path


@pytest.fixture(scope="module")
def blind(features: Path) -> Path:
    """The same without the truth."""
    path = features.parent / "blind.npz"
    with np.load(features) as arrays:
        np.savez(path, embedding=arrays["embedding"], label=arrays["label"])
    return path


@pytest.fixture(scope="module")
def cleaned(blind: Path) -> Path:
    """`facetrain clean --target` of them, finished."""
    out = blind.parent / "cleaned"
    command("clean", "--target", blind, "--out", out, *QUICK)
    return out


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_features_alone_leave_the_contract_arrays(features: Path, cleaned: Path) -> None:
    truth, arrays = read(features), read(cleaned / "clean.npz")
    probability, threshold, kept = (
        arrays[name] for name in ("clean_probability", "threshold", "kept")
    )
    assert probability.shape == kept.shape == arrays["suggested_label"].shape == (NUM_IMAGES,)
    assert threshold.shape == (NUM_CLASSES,)
    assert np.array_equal(arrays["class_id"], np.unique(truth["label"]))
    assert (probability.dtype, threshold.dtype, kept.dtype) == (np.float32, np.float32, bool)
    place = np.searchsorted(arrays["class_id"], truth["label"])
    assert np.array_equal(kept, probability > threshold[place])
    for name in ("suggested_label", "merge_label"):
        assert np.isin(arrays[name], [-1, *arrays["class_id"]]).all()
    assert np.array_equal(arrays["suggested_label"] >= 0, arrays["suggested_probability"] > 0)
    # One image is of one identity: the given label and another cannot both be certain.
    assert (probability + arrays["suggested_probability"] <= 1 + 1e-6).all()
    reasons = arrays["reason_names"][arrays["reason"]]
    assert set(reasons[~kept]) <= {"another identity", "nobody in the set", "ambiguous", "copy"}
    assert not np.isin(reasons[kept], ["another identity", "nobody in the set"]).any()
    assert not (arrays["suggested_label"][kept] >= 0).any()
    # Well-separated people: a cleaner that guessed would be right in a quarter of its drops.
    assert (~kept & ~truth["is_clean"]).sum() > 0.9 * (~truth["is_clean"]).sum()
    assert (~kept & truth["is_clean"]).sum() < 0.1 * NUM_IMAGES
    metrics = json.loads((cleaned / "manifest.json").read_text())["metrics"]
    assert metrics["num_images"] == NUM_IMAGES
    assert metrics["num_dropped"] == (~kept).sum()
    assert all(isinstance(value, int | float) for value in metrics.values())


def test_a_finished_cleaning_is_skipped_and_a_changed_one_is_not(
    blind: Path, cleaned: Path, call: Call
) -> None:
    manifest = cleaned / "manifest.json"
    before = manifest.read_text()
    stdout = call.done("clean", "--out", cleaned, "--target", blind, *QUICK)
    assert "num_dropped: " in stdout
    assert manifest.read_text() == before
    other = blind.parent / "other"
    assert call("clean", *QUICK, "seed=1", "--target", blind, "--out", other)[0] == 0
    config = json.loads((other / "manifest.json").read_text())["config"]
    assert config["seed"] == 1
    assert config["meta"]["num_steps"] == 4
    first, second = read(cleaned / "clean.npz"), read(other / "clean.npz")
    assert not np.array_equal(first["clean_probability"], second["clean_probability"])


def test_a_source_is_learned_from(features: Path, blind: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    arguments = ("--source", features, "--target", blind, "--out", out)
    assert call("clean", *arguments, *QUICK)[0] == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["config"]["source"] == str(features)
    assert fingerprint(features) in manifest["inputs"].values()
    assert "must hold is_clean" in call.refused("clean", "--source", blind, *arguments[2:])


@pytest.fixture(scope="module")
def embedded(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as the stage `embed`."""
    out = tmp_path_factory.mktemp("run")
    for stage in ("train", "embed"):
        command(stage, recipe, "--out", out / stage)
    return out


def test_graph_finds_the_embeddings_beside_it(
    recipe: Path, embedded: Path, tmp_path: Path, call: Call
) -> None:
    out = embedded / "graph"
    stdout = call.done("graph", recipe, "--out", out, "graph.num_neighbours=5")
    assert "num_neighbours: 5" in stdout.splitlines()
    found = KnnGraph.open(out)
    embedding = np.load(embedded / "embed" / "embedding.npy").astype(np.float32)
    similarity = embedding @ embedding.T
    np.fill_diagonal(similarity, -2)
    best = np.sort(similarity, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(found.similarity, best, atol=2e-3)  # float16 rows, made unit again
    elsewhere = tmp_path / "graph"
    given = ("--embeddings", embedded / "embed", "graph.num_neighbours=5")
    assert call("graph", recipe, "--out", elsewhere, *given)[0] == 0
    assert np.array_equal(KnnGraph.open(elsewhere).neighbours, found.neighbours)


def test_a_graph_with_fewer_neighbours_than_the_cleaner_reads_is_told(
    recipe: Path, embedded: Path, tmp_path: Path, call: Call
) -> None:
    quick = ("clean.pretrain.num_draws=1", "clean.meta.num_rounds=0", "clean.adapter.num_draws=0")
    for num_neighbours, told in ((5, True), (40, False)):
        given = ("--embeddings", embedded / "embed")
        graph = tmp_path / f"graph{num_neighbours}"
        key = f"graph.num_neighbours={num_neighbours}"
        assert call("graph", recipe, "--out", graph, *given, key)[0] == 0
        words = (*given, "--graph", graph, "--out", tmp_path / f"clean{num_neighbours}", *quick)
        _, _, err = call("clean", recipe, *words)
        assert ("but clean.graph.num_context=40 are looked at" in err) == told, err


def test_stages_that_do_not_belong_together_are_refused(
    recipe: Path, embedded: Path, tmp_path: Path, call: Call
) -> None:
    graph, out = tmp_path / "graph", tmp_path / "clean"
    given = ("--embeddings", embedded / "embed")
    assert call("graph", recipe, "--out", graph, *given)[0] == 0
    other = tmp_path / "embed"
    backbone = ("--backbone", embedded / "train")
    assert call("embed", recipe, "--out", other, *backbone, "embed.flip=false")[0] == 0
    assert "was made of other embeddings" in call.refused("clean", recipe, "--out", out)
    keep = np.arange(48) > 2
    np.savez(tmp_path / "overlay.npz", label=np.repeat(np.arange(8), 6), kept=keep)
    overlay = f"data.overlay={tmp_path / 'overlay.npz'}"
    assert "must be of the 45 images" in call.refused(
        "clean", recipe, overlay, "--out", out, *given
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "as DATA or as data.path=..., got neither"),
        (("{recipe}", "--target", "{blind}"), "is cleaned by itself"),
        (("--target", "{blind}", "--graph", "{tmp}"), "is cleaned by itself"),
        (("--target", "{tmp}/none.npz"), "no such file"),
        (("--target", "{blind}", "--source", "{tmp}/none.npz"), "none.npz"),
        (("--target", "{blind}", "--exclude", "{tmp}/none.bin"), "none.bin"),
        (("--target", "{blind}", "sed=1"), "did you mean 'seed'?"),
        (("--target", "{blind}", "clean.sed=1"), "did you mean 'seed'?"),
        (("--target", "{blind}", "seed=x"), "seed='x'"),
        (("--target", "{blind}", "meta.ambiguous=[0.9,0.1]"), "the lower first, got 0.9 and 0.1"),
        (("{recipe}",), "--embeddings: must be the folder of a finished stage embed"),
        (("{recipe}", "--embeddings", "{tmp}"), "--embeddings DIR"),
        (("{recipe}", "clean.sed=1"), "did you mean 'seed'?"),
        (("{recipe}", "clean.source={tmp}/none.npz"), "clean.source must exist"),
        (("{tmp}/none.yaml",), "there is no such file"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(
    arguments: tuple[str, ...], message: str, call: Call, recipe: Path, blind: Path, tmp_path: Path
) -> None:
    places = {"tmp": tmp_path, "recipe": recipe, "blind": blind}
    out = tmp_path / "folder" / "out"
    err = call.refused("clean", *(one.format(**places) for one in arguments), "--out", out)
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (out / "clean.npz").exists()


@pytest.mark.parametrize("command", ["graph", "embed"])
def test_a_missing_earlier_stage_is_named(
    command: str, recipe: Path, tmp_path: Path, call: Call
) -> None:
    code, _, err = call(command, recipe, "--out", tmp_path / "out")
    earlier = {"graph": "embed", "embed": "train"}[command]
    assert code == 2
    assert f"must be the folder of a finished stage {earlier}" in err
    assert f"run `facetrain {earlier}`" in err


def test_help_says_all_forms(call: Call) -> None:
    stdout = call.done("clean", "--help")
    for form in ("clean DATA --backbone B", "clean CONFIG", "clean --target T.npz"):
        assert form in stdout
