"""A file that a command is told to write is none that it reads: a slip must cost nothing."""

from pathlib import Path

import numpy as np
import pytest
from helpers.cli import Call

from facetrain.data.synthetic import SyntheticConfig, write_pairs, write_synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, pairs, embeddings with a list of theirs, and five points of each image."""
    folder = tmp_path_factory.mktemp("own")
    config = SyntheticConfig(num_identities=4, min_images=3, max_images=3, size=32)
    write_synthetic(folder / "data", config, quiet=True)
    (folder / "data/classes.json").write_text("{}")
    others = config.model_copy(update={"first_identity": 8, "num_identities": 20})
    write_pairs(folder / "pairs.bin", others, num_pairs=20, quiet=True)
    (folder / "r.yaml").write_text(
        "{data: {path: data}, model: {name: small, image_size: 32, embedding_size: 8, width: 4}, "
        "train: {batch_size: 4, epochs: 1}, evaluate: {bins: [pairs.bin]}}"
    )
    paths = np.array([f"{person}/{n}.jpg" for person in "ab" for n in range(10)])
    embedding = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.savez(folder / "paths.npz", embedding=embedding, path=paths)
    lines = [f"{a} {b} {int(a[0] == b[0])}\n" for a in paths for b in paths if a < b]
    (folder / "pairs.txt").write_text("".join(lines))
    points = "11,14,21,14,16,20,12,25,20,25"
    (folder / "points.csv").write_text("".join(f"{i},{points}\n" for i in range(12)))
    return folder


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ("inspect data --json", "data/train.rec"),
        ("inspect data/train.rec --json", "data/train.rec"),
        ("inspect data --json", "data/classes.json"),
        ("inspect data --sheet", "data/train.rec"),
        ("evaluate --backbone net --bin pairs.bin --json", "pairs.bin"),
        ("evaluate r.yaml --backbone net --json", "pairs.bin"),
        ("evaluate --embeddings paths.npz --pairs pairs.txt --json", "paths.npz"),
        ("evaluate --embeddings paths.npz --pairs pairs.txt --json", "pairs.txt"),
        ("variations data --landmarks points.csv --out", "points.csv"),
        ("variations data --landmarks points.csv --out", "data/train.idx"),
        ("export net --format safetensors --out", "net/backbone.safetensors"),
        ("corrupt paths.npz --flip 0.2 --out", "paths.npz"),
    ],
)
def test_what_is_read_is_not_written_over(
    folder: Path, backbone: Path, call: Call, monkeypatch: pytest.MonkeyPatch, words: str, out: str
) -> None:
    monkeypatch.chdir(folder)
    net = folder / "net/backbone.safetensors"
    net.parent.mkdir(exist_ok=True)
    net.write_bytes(backbone.read_bytes())
    path = Path(out)
    content = path.read_bytes()
    told = call.refused(*words.split(), out)
    assert "must be a file of its own" in told or "must not be the source" in told
    assert path.read_bytes() == content


def test_results_beside_the_data_are_written_again(folder: Path, call: Call) -> None:
    """Also beside another program's manifest.json."""
    data = folder / "data"
    (data / "manifest.json").write_text("{}")
    for _ in range(2):
        call.done("inspect", data, "--json", data / "numbers.json", "--sheet", data / "faces.png")
        call.done("variations", data, "--landmarks", folder / "points.csv")
