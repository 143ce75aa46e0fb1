"""Manifests and progress records as a stage writes them, with what a test wants in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from facetrain.core.artifact import Manifest, read_sealed, write_sealed
from facetrain.core.run_folder import MANIFEST_FILE


def plain_manifest(folder: Path, stage: str, **fields: Any) -> None:
    """`manifest.json` of a stage of which only some fields matter."""
    plain: dict[str, Any] = {
        "stage": stage, "config": {}, "config_digest": "", "inputs": {}, "metrics": {},
        "seconds": 0.0, "world_size": 1, "versions": {}, "commit": None, "files": {},
    }  # fmt: skip
    write_sealed(folder / MANIFEST_FILE, Manifest(**{**plain, **fields}))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit `manifest.json` as if the stage had written it so."""
    fields = read_sealed(folder / MANIFEST_FILE, Manifest).model_dump()
    change(fields)
    write_sealed(folder / MANIFEST_FILE, Manifest(**fields))
