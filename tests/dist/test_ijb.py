"""IJB over ranks equals one process, and bad input is named by every rank."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from helpers.ijb import Linear, random_faces
from helpers.ranks import Ranks

from facetrain.core.errors import DataError
from facetrain.data.evaluation.template_benchmark import write_template_benchmark
from facetrain.dist.mesh import Mesh
from facetrain.evaluate import ijb, ijb_embedding
from facetrain.evaluate.ijb import IjbConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ijb")
    write_template_benchmark(folder, "ijbb", random_faces(150, 30), num_impostor_pairs=900)
    return folder


def evaluate(mesh: Mesh, root: Path, out: Path, stop_at: int | None = None) -> Any:
    config = IjbConfig(path=root, protocol="ijbb", batch_size=7, workers=0, bootstrap=10)
    backbone: Any = Linear(stop_at)
    try:
        with patch.object(ijb_embedding, "CHUNK", 16):
            done = ijb.run(config, backbone, out, mesh, inputs={})
    except DataError as error:
        return str(error)
    except KeyboardInterrupt:
        return "stopped"
    return dict(done.metrics)["ijbb"]


def assert_same(found: Any, expected: Any, cosine: bool = False) -> None:
    """Counts and their ratios to the bit; the cosines at which they are reached to rounding.

    Ranks embed in other batches, so the float32 sums of a template differ in their last bits: by
    1.2e-7 at most in the thresholds here. Those bits do not reorder the pairs.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value, cosine or name.startswith("threshold"))
    else:
        is_near = cosine and expected is not None  # None: too few pairs for this FAR
        assert found == (pytest.approx(expected, rel=1e-6) if is_near else expected)


def test_ranks_equal_one_process(ranks: Ranks, root: Path, tmp_path: Path) -> None:
    whole = evaluate(Mesh.single(), root, tmp_path / "whole")
    for sharded in ranks.run(evaluate, root, tmp_path / "sharded"):
        assert sharded.keys() == whole.keys()
        for name, value in whole.items():
            if isinstance(value, float):  # an area, summed over the pairs in another order
                assert sharded[name] == pytest.approx(value)
            else:
                assert_same(sharded[name], value, cosine=name.startswith("threshold"))


def test_an_interrupted_run_continues_at_another_world_size(
    ranks: Ranks, root: Path, tmp_path: Path
) -> None:
    whole = evaluate(Mesh.single(), root, tmp_path / "whole")
    assert evaluate(Mesh.single(), root, tmp_path / "out", 120) == "stopped"
    left = list((tmp_path / "out" / "embeddings").rglob("*.npz"))
    assert 1 <= len(left) <= 4
    for sharded in ranks.run(evaluate, root, tmp_path / "out"):
        for name in ("tar_at_far", "identification"):
            assert_same(sharded[name], whole[name])


def test_a_bad_line_of_one_rank_is_named_by_all(ranks: Ranks, root: Path, tmp_path: Path) -> None:
    home = tmp_path / "IJBB"
    (home / "meta").mkdir(parents=True)
    (home / "loose_crop").symlink_to(root / "IJBB" / "loose_crop")
    for path in (root / "IJBB" / "meta").iterdir():
        (home / "meta" / path.name).write_bytes(path.read_bytes())
    with open(home / "meta" / "ijbb_template_pair_label.txt", "a") as file:
        file.write("1 2\n")
    texts = set(ranks.run(evaluate, tmp_path, tmp_path / "out"))
    assert len(texts) == 1
    assert "'1 2'" in texts.pop()
