"""Tensors and what they are of, in one safetensors file that tells when it was damaged.

safetensors itself notices a file that was cut short, but no flipped bit.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import xxhash
from torch import Tensor

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import CheckpointError
from facetrain.core.text import printable

_DIGEST = "digest"


def save_tensors(
    path: Path, state: Mapping[str, Tensor], key: str, about: Mapping[str, Any]
) -> None:
    """Write tensors, and `about` as JSON under `key` of the metadata, atomically.

    Equal content is equal files: safetensors writes several keys of metadata in an order that
    changes from run to run, so there is one.

    Raises:
        OutputError: the file cannot be written.
    """
    whole = {name: value.cpu().contiguous() for name, value in state.items()}
    about = {**about, _DIGEST: _digest(whole, about)}
    content = safetensors.torch.save(whole, {key: json.dumps(about)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path, key: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a safetensors file, on the CPU, and the JSON under `key` of its metadata.

    None stands for it where the file has no such key. Files without a digest, of others or of
    version 0.1, are taken as they are.

    Raises:
        CheckpointError: no whole safetensors file, no JSON, or changed since `save_tensors`.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{printable(path)}: must be a whole safetensors file; {error}; copy or export it again"
        ) from None
    if key not in metadata:
        return state, None
    try:
        about = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{printable(path)}: {key} in its metadata must be JSON; {error}"
        ) from None
    if isinstance(about, dict) and _DIGEST in about:
        digest = about.pop(_DIGEST)
        if digest != _digest(state, about):
            raise CheckpointError(
                f"{printable(path)}: must be as it was written, but has changed since; copy or "
                "make it again"
            )
    return state, about


def _digest(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """XXH3 (128 bits, hex) of every name, type, shape and byte."""
    digest = xxhash.xxh3_128(json.dumps(dict(about), sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
