"""Checkpoints that are hostile, damaged or do not fit, in one process."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from facetrain.core.errors import CheckpointError, OutputError
from facetrain.dist import distributed_checkpoint
from facetrain.dist.distributed_checkpoint import load_state, save_state
from facetrain.dist.mesh import Mesh
from facetrain.dist.sharded_rows import ShardedRows

MESH = Mesh.single()


class Touch:
    """Unpickles by creating a file: the smallest harm."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good checkpoint."""
    state = {"weight": torch.arange(4.0), "rows": ShardedRows(torch.ones(3, 2), 3)}
    save_state(state, tmp_path / "saved", MESH)
    return tmp_path / "saved"


def load(folder: Path, **template: torch.Tensor | ShardedRows) -> None:
    load_state(template or {"weight": torch.zeros(4)}, folder, MESH)


def rewrite(folder: Path, change: Callable[[Metadata], object]) -> None:
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(metadata) or metadata))


def test_round_trip_leaves_other_names_alone(folder: Path) -> None:
    weight = torch.zeros(4)
    load(folder, weight=weight)
    assert weight.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_code_in_the_index_is_refused_by_name_and_does_not_run(folder: Path) -> None:
    harm = folder / "harm"
    rewrite(folder, lambda metadata: setattr(metadata, "planner_data", Touch(harm)))
    with pytest.raises(CheckpointError, match=r"asks for builtins\.getattr|asks for pathlib"):
        load(folder)
    assert not harm.exists()
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    with pytest.raises(CheckpointError, match=r"asks for os\.system; do not load this file"):
        load(folder)


def test_opaque_object_is_refused(folder: Path) -> None:
    """DCP would unpickle such an entry without restriction, even for a tensor in the template."""

    def hide(metadata: Metadata) -> None:
        metadata.state_dict_metadata["weight"] = BytesStorageMetadata()

    rewrite(folder, hide)
    with pytest.raises(CheckpointError, match="'weight' must be a tensor, but is an opaque object"):
        load(folder)


def test_path_out_of_the_folder_is_refused(folder: Path) -> None:
    def point_away(metadata: Metadata) -> None:
        metadata.storage_data[MetadataIndex("weight", (0,))].relative_path = "../elsewhere"

    rewrite(folder, point_away)
    with pytest.raises(CheckpointError, match=r"must point to files beside it.*'\.\./elsewhere'"):
        load(folder)


def test_hostile_tensor_payload_does_not_run(folder: Path) -> None:
    harm = folder / "harm"
    (data,) = folder.glob("*.distcp")
    torch.save(Touch(harm), data)
    size = data.stat().st_size

    def resize(metadata: Metadata) -> None:
        for info in metadata.storage_data.values():
            info.offset, info.length = 0, size

    rewrite(folder, resize)
    with pytest.raises(CheckpointError, match="could not be read"):
        load(folder)
    assert not harm.exists()


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_truncated_files_are_named(folder: Path, keep: int) -> None:
    (data,) = folder.glob("*.distcp")
    content = data.read_bytes()
    data.write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match="could not be read"):
        load(folder)
    data.write_bytes(content)
    index = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(index[:keep])
    with pytest.raises(CheckpointError, match=r"must be the index of a checkpoint"):
        load(folder)


def test_missing_data_file_is_named(folder: Path) -> None:
    (data,) = folder.glob("*.distcp")
    data.unlink()
    with pytest.raises(CheckpointError, match="could not be read"):
        load(folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        save_state({"weight": torch.zeros(1)}, tmp_path / "file" / "below", MESH)


def test_misfits_say_what_came(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'weight' must be .* \(5,\), but is .* \(4,\)"):
        load(folder, weight=torch.zeros(5))
    with pytest.raises(CheckpointError, match=r"must be torch.float64 .* but is torch.float32"):
        load(folder, weight=torch.zeros(4, dtype=torch.float64))
    with pytest.raises(CheckpointError, match="must hold 'bias', but does not"):
        load(folder, bias=torch.zeros(4))
    with pytest.raises(CheckpointError, match=r"'rows' must be .* \(9, 2\), but is .* \(3, 2\)"):
        load(folder, rows=ShardedRows(torch.zeros(9, 2), 9))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    save_state({"weight": torch.tensor([1.0, bad, 2.0])}, tmp_path, MESH)
    with pytest.raises(CheckpointError, match="'weight' must hold finite numbers"):
        load(tmp_path, weight=torch.zeros(3))


def test_ctrl_c_while_it_is_read_says_nothing_of_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(distributed_checkpoint._Reader, "read_data", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
