"""What a stage leaves behind: files written atomically, and a manifest that says how.

A stage is finished when `manifest.json` stands in its folder; it is written last. Everything
before that may be half-done and is resumed.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import facetrain
from facetrain.core.config import Config, config_digest
from facetrain.core.errors import DataError

MANIFEST = "manifest.json"
_SAMPLE_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block succeeds.

    The block creates a file or a folder there. A reader sees the old content or the new, never
    a part; a failed block leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: must be a readable JSON file; {error}") from None


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) that changes when the content at `path` changes.

    Files over 3 MiB are sampled (size, first, middle and last MiB) so that a terabyte of shards
    costs milliseconds; a folder combines its files' fingerprints by name, hidden files left out.

    Raises:
        DataError: no such file or folder.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            if child.is_file() and not child.name.startswith("."):
                digest.update(f"{child.relative_to(path)}={fingerprint(child)};".encode())
        return digest.hexdigest()
    if not path.is_file():
        raise DataError(f"{path}: must be a file or a folder, but there is none")
    size = path.stat().st_size
    digest.update(str(size).encode())
    with open(path, "rb") as file:
        if size <= 3 * _SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for offset in (0, size // 2, size - _SAMPLE_BYTES):
                file.seek(offset)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder and what its manifest says."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The numbers the stage reported."""
        metrics: Mapping[str, Any] = self.manifest["metrics"]
        return metrics


def read_artifact(out_dir: Path) -> Artifact | None:
    """The finished stage in `out_dir`, or None when it is absent or unfinished."""
    manifest = out_dir / MANIFEST
    return Artifact(out_dir, read_json(manifest)) if manifest.is_file() else None


def finished(
    out_dir: Path, stage: str, config: Config, inputs: Mapping[str, str]
) -> Artifact | None:
    """The artifact in `out_dir` when it came from this stage, config and inputs; else None."""
    artifact = read_artifact(out_dir)
    if artifact is None:
        return None
    manifest = artifact.manifest
    same = (
        manifest.get("stage") == stage
        and manifest.get("config_digest") == config_digest(config)
        and manifest.get("inputs") == dict(inputs)
    )
    return artifact if same else None


def _commit() -> str | None:
    """The git commit of a source checkout; None for an installed package."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        here = Path(facetrain.__file__).parent
        if not (here.parent / ".git").exists():
            return None
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def write_manifest(
    out_dir: Path,
    stage: str,
    config: Config,
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
    *,
    started: float,
    world_size: int,
) -> Artifact:
    """Mark a stage finished: write `manifest.json`, the last file of its folder.

    Args:
        inputs: name -> fingerprint of each thing the stage read.
        metrics: the stage's numbers, under the field's names.
        started: `time.time()` at the stage's start; its seconds are measured from here.
    """
    import torch

    manifest = {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "config_digest": config_digest(config),
        "inputs": dict(inputs),
        "metrics": dict(metrics),
        "seconds": round(time.time() - started, 3),
        "world_size": world_size,
        "versions": {
            "facetrain": facetrain.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "commit": _commit(),
    }
    write_json(out_dir / MANIFEST, manifest)
    return Artifact(out_dir, manifest)
