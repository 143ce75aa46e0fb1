"""Tensors of a training state, saved at one world size and loaded at any other.

torch.distributed.checkpoint (DCP) underneath: every rank writes its rows, and a load reads the
rows it needs from wherever they lie. DCP's index (`.metadata`) is a pickle that torch loads
without restriction; here it passes a restricted unpickler, and the tensors are loaded
`weights_only`, so a checkpoint from elsewhere can be refused but cannot run code.

Importing DCP takes a second: import this file where a checkpoint is read or written.
"""

import io
import math
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from facetrain.core.errors import CheckpointError, OutputError, UserError
from facetrain.dist.collectives import any_rank
from facetrain.dist.mesh import LostRankError, Mesh
from facetrain.dist.shard import shard_range
from facetrain.dist.sharded_rows import ShardedRows, State, first_not_finite, local_rows

_METADATA = ".metadata"


def save_state(state: State, folder: Path, mesh: Mesh) -> None:
    """Write `state` into `folder`, each rank its part; a collective call.

    A plain tensor must be equal on all ranks and is written once. The folder is complete when
    every rank has returned; renaming it into place is the caller's part.

    Raises:
        OutputError: the disk refused (full, read-only).
        LostRankError: another rank is gone.
    """
    with _named_failures(folder, "could not be written", mesh, OutputError):
        save(
            _as_tensors(state, mesh),
            storage_writer=FileSystemWriter(folder),
            process_group=mesh.group,
            no_dist=mesh.group is None,
        )


def load_state(template: State, folder: Path, mesh: Mesh) -> None:
    """Fill the tensors of `template` in place with those saved in `folder`; a collective call.

    The world size may differ from the one that saved. Names in the checkpoint that the template
    lacks are left alone.

    Raises:
        CheckpointError: missing, truncated or hostile file; a name, shape or dtype that does not
            fit; a value that is not finite. The template's tensors may then be partly filled.
        LostRankError: another rank is gone.
    """
    reader = _Reader(folder)
    problem: CheckpointError | None = None
    try:
        _check_fit(template, reader.read_metadata(), folder)
    except CheckpointError as error:
        problem = error
    _agree(problem, folder, mesh)
    with _named_failures(folder, "could not be read", mesh):
        load(
            _as_tensors(template, mesh),
            storage_reader=reader,
            process_group=mesh.group,
            no_dist=mesh.group is None,
        )
    bad = first_not_finite(template)
    if bad is not None:
        problem = CheckpointError(
            f"{folder}: {bad!r} must hold finite numbers, but has NaN or infinity; "
            "load an earlier checkpoint"
        )
    _agree(problem, folder, mesh)


def _agree(problem: CheckpointError | None, folder: Path, mesh: Mesh) -> None:
    """Raise on every rank when one of them has a problem, so that none waits for it."""
    if any_rank(problem is not None, mesh):
        raise problem or CheckpointError(f"{folder}: another rank could not load it; see its error")


def _shape(value: Tensor | ShardedRows) -> tuple[int, ...]:
    if isinstance(value, ShardedRows):
        return (value.num_rows, *value.local.shape[1:])
    return tuple(value.shape)


def _as_tensors(state: State, mesh: Mesh) -> dict[str, Any]:
    """DCP's view of `state`: it shares the storage of every tensor."""
    tensors: dict[str, Any] = {}
    device_mesh: DeviceMesh | None = None
    for name, value in sorted(state.items()):
        tensor = local_rows(value)
        if isinstance(value, ShardedRows):
            start, stop = shard_range(value.num_rows, mesh.rank, mesh.world_size)
            assert tensor.shape[0] == stop - start, (name, tensor.shape, start, stop)
        if isinstance(value, ShardedRows) and mesh.group is not None:
            if device_mesh is None:
                device_mesh = DeviceMesh.from_group(mesh.group, mesh.device.type)
            shape = torch.Size(_shape(value))
            stride = torch.empty(shape, device="meta").stride()
            tensor = DTensor.from_local(
                tensor, device_mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
            )
        tensors[name] = tensor
    return tensors


def _check_fit(template: State, metadata: Metadata, folder: Path) -> None:
    for name, value in template.items():
        saved = metadata.state_dict_metadata.get(name)
        if saved is None:
            raise CheckpointError(f"{folder}: must hold {name!r}, but does not; check the recipe")
        assert isinstance(saved, TensorStorageMetadata)  # _checked_metadata saw to it
        came = (tuple(saved.size), saved.properties.dtype)
        wanted = (_shape(value), local_rows(value).dtype)
        if came != wanted:
            raise CheckpointError(
                f"{folder}: {name!r} must be {wanted[1]} of shape {wanted[0]}, but is {came[1]} "
                f"of shape {came[0]}; use the recipe and the data it was trained with"
            )
        volume = sum(math.prod(chunk.sizes) for chunk in saved.chunks)
        if volume != math.prod(came[0]):
            raise CheckpointError(
                f"{folder}: {name!r} must be complete, but {volume} of {math.prod(came[0])} "
                "values are indexed; load an earlier checkpoint"
            )


_ALLOWED = {
    ("collections", "OrderedDict"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib._local", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}


class _MetadataUnpickler(pickle.Unpickler):
    """Builds DCP's own metadata classes and torch dtypes, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise CheckpointError(
            f"a checkpoint index must hold only tensor shapes and places, but it asks for "
            f"{module}.{name}; do not load this file"
        )


class _Reader(FileSystemReader):
    """DCP's reader with the index read once, restricted and checked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder
        self._metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._metadata = _checked_metadata(self._folder)
            if self._metadata.storage_meta is None:
                self._metadata.storage_meta = StorageMeta()
            self._metadata.storage_meta.load_id = self.load_id
        return self._metadata


def _checked_metadata(folder: Path) -> Metadata:
    path = folder / _METADATA
    try:
        metadata = _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:
        raise CheckpointError(
            f"{path}: must be the index of a checkpoint, but cannot be read "
            f"({type(error).__name__}: {error}); load an earlier checkpoint"
        ) from None
    if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
        raise CheckpointError(f"{path}: must be the index of a checkpoint, got {type(metadata)}")
    for name, entry in metadata.state_dict_metadata.items():
        # DCP would unpickle anything that is not a tensor without restriction.
        if not isinstance(entry, TensorStorageMetadata):
            raise CheckpointError(f"{path}: {name!r} must be a tensor, but is an opaque object")
    for info in metadata.storage_data.values():
        if Path(info.relative_path).name != info.relative_path:
            raise CheckpointError(
                f"{path}: must point to files beside it, but names {info.relative_path!r}"
            )
    return metadata


@contextmanager
def _named_failures(
    folder: Path, what: str, mesh: Mesh, kind: type[UserError] = CheckpointError
) -> Iterator[None]:
    """DCP reports a failure of any rank on every rank; name the first in one line."""
    advice = "check the disk, or load an earlier checkpoint"
    if kind is OutputError:
        advice = "free space or choose another --out, then run the same command again"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as failure:
        if any(isinstance(error, KeyboardInterrupt) for error, _ in failure.failures.values()):
            raise KeyboardInterrupt from None  # Ctrl-C, which says nothing of the disk
        rank, (error, _) = next(iter(failure.failures.items()))
        text = f"{type(error).__name__} on rank {rank}: {error}"
        raise kind(f"{folder}: {what} ({text}); {advice}") from None
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        if mesh.group is not None and not isinstance(error, OSError | KeyError):
            raise LostRankError(
                f"rank {mesh.rank} of {mesh.world_size}: {folder} {what}: a rank died ({error}); "
                "start the same command again to resume"
            ) from None
        raise kind(f"{folder}: {what} ({type(error).__name__}: {error}); {advice}") from None
