"""What a stage leaves behind: files written atomically, and a manifest that says how.

A stage is finished when `manifest.json` stands in its folder; it is written last. Everything
before that may be half-done and is resumed. The manifest holds a digest of every file that the
stage left, and of itself, so that damage is seen by whoever reads it.
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
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

import facetrain
from facetrain.core.config import Config, config_digest
from facetrain.core.digest import content_digest, file_digest
from facetrain.core.errors import SHORTAGES, DataError, OutputError, UserError
from facetrain.core.log import logger
from facetrain.core.run_folder import CHECKPOINTS, LOG_FILE, MANIFEST_FILE
from facetrain.core.text import printable

_SAMPLE_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block succeeds.

    The block creates a file or a folder there. A reader sees the old content or the new, never
    a part; a failed block leaves nothing behind.

    Raises:
        OutputError: the disk is full, say; names `path`, or what would be in it. An error of
            another file that the block reads passes through.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        about = {str(error.filename), str(error.filename2)} - {"None"}
        own = {str(one) for one in (temporary, path, path.parent)}
        inside = any(one.startswith(f"{temporary}{os.sep}") for one in about)
        if error.errno in SHORTAGES or (about and not about & own and not inside):
            raise
        raise not_writable(path, error) from None
    except UserError as error:  # of a file inside, which nobody knows by its temporary name
        told = str(error).replace(printable(temporary), printable(path))
        if told == str(error):
            raise
        raise type(error)(told) from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def not_writable(path: Path, error: OSError) -> OutputError:
    """The error of a `path` that could not be written, with what to do about it."""
    reason = error.strerror or str(error)  # NumPy's own says only how much it could write
    return OutputError(
        f"{printable(path)}: must be writable, but {reason}; free space or choose another --out, "
        "then run the same command again: finished work is kept"
    )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: missing or not JSON.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(f"{printable(path)}: must be a readable JSON file, but is no file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            raise
        raise DataError(f"{printable(path)}: must be a readable JSON file; {error}") from None


class Sealed(BaseModel):
    """A record of ours, written with a digest of its own content; strict about its schema."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SealedT = TypeVar("SealedT", bound=Sealed)


def write_sealed(path: Path, record: Sealed) -> None:
    """Write a record as JSON with its digest, atomically."""
    content = json.loads(json.dumps(record.model_dump()))  # as it will be read
    write_json(path, content | {"digest": content_digest(content)})


def read_sealed(path: Path, model: type[SealedT]) -> SealedT:
    """Read a record that `write_sealed` wrote.

    Raises:
        DataError: missing, not JSON, of another schema, or changed since it was written.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "digest" not in content:
        raise DataError(f"{printable(path)}: must be a record with a digest, but has none")
    digest = content.pop("digest")
    try:
        record = model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{printable(path)}: must be what {facetrain.__name__} wrote, but {where}: "
            f"{first['msg']}"
        ) from None
    if digest != content_digest(content):
        raise DataError(f"{printable(path)}: must be as it was written, but has changed since")
    return record


def set_aside(path: Path, why: object) -> None:
    """Rename a damaged file or folder of ours to `damaged_<name>`, so that it is made again.

    What was set aside before stays too: a written set may be "damaged" by its owner's work on it.
    """
    aside, number = path.with_name(f"damaged_{path.name}"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"damaged_{path.name}_{number}")
    os.replace(path, aside)
    logger.warning("%s; kept as %s, and made again", why, aside.name)


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) that changes when the content at `path` changes.

    Files over 3 MiB are sampled (size, first, middle and last MiB) so that a terabyte of shards
    costs milliseconds; a folder combines its files' fingerprints by name, hidden files left out.
    It tells one input from another; `file_digest` tells whether a file of ours is damaged.

    Raises:
        DataError: no such file or folder, or it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for child in sorted(path.rglob("*")):
                if child.is_file() and not child.name.startswith("."):
                    name = str(child.relative_to(path))
                    digest.update(f"{name}={fingerprint(child)};".encode(errors="surrogateescape"))
            return digest.hexdigest()
        if not path.is_file():
            raise DataError(f"{printable(path)}: must be a file or a folder, but there is none")
        size = path.stat().st_size
        digest.update(str(size).encode())
        with open(path, "rb") as file:
            if size <= 3 * _SAMPLE_BYTES:
                digest.update(file.read())
            else:
                for offset in (0, size // 2, size - _SAMPLE_BYTES):
                    file.seek(offset)
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise DataError(f"{printable(path)}: must be readable, but {error.strerror}") from None
    return digest.hexdigest()


class Manifest(Sealed):
    """What `manifest.json` says of a finished stage."""

    stage: str
    config: dict[str, Any]
    config_digest: str
    inputs: dict[str, str]
    metrics: dict[str, Any]
    seconds: float
    world_size: int
    versions: dict[str, str]
    commit: str | None
    files: dict[str, str]
    """Name below the folder -> `file_digest` of every file that the stage left."""


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

    def verify(self, *names: str) -> None:
        """Return if these files, or all where none is named, are as the stage left them.

        Each is read whole, once a process: see `file_digest` for the cost.

        Raises:
            DataError: one is missing, damaged, or none of the stage's; says how to mend it.
        """
        files: Mapping[str, str] = self.manifest["files"]
        for name in names or files:
            path = self.path / name
            problem = "is not among the files it left" if name not in files else ""
            try:
                if name in files and file_digest(path) != files[name]:
                    problem = "has changed since"
            except DataError:
                problem = "is missing or unreadable"
            if problem:
                raise DataError(
                    f"{printable(path)}: must be as the stage {self.manifest['stage']} left it, "
                    f"but {problem}; run that stage again, which makes it anew"
                )


def read_artifact(out_dir: Path) -> Artifact | None:
    """The finished stage in `out_dir`, or None when it is absent or unfinished.

    Raises:
        DataError: its manifest is damaged. The other files are not looked at: see `verify`.
    """
    path = out_dir / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        return Artifact(out_dir, read_sealed(path, Manifest).model_dump())
    except DataError as error:
        raise DataError(f"{error}; run the stage that writes it again") from None


def made_by(
    out_dir: Path, stage: str, config: Config, inputs: Mapping[str, str]
) -> Artifact | None:
    """The artifact in `out_dir` when it came from this stage, config and inputs; else None.

    Its files are not looked at. A damaged manifest counts as none, with a warning.
    """
    try:
        artifact = read_artifact(out_dir)
    except DataError as error:
        logger.warning("%s", error)
        return None
    if artifact is None:
        return None
    manifest = artifact.manifest
    same = (
        manifest["stage"] == stage
        and manifest["config_digest"] == config_digest(config)
        and manifest["inputs"] == dict(inputs)
    )
    return artifact if same else None


def finished(
    out_dir: Path, stage: str, config: Config, inputs: Mapping[str, str]
) -> Artifact | None:
    """As `made_by`, when all its files are as they were left; a damaged one warns and is None."""
    artifact = made_by(out_dir, stage, config, inputs)
    if artifact is None:
        return None
    try:
        artifact.verify()
    except DataError as error:
        logger.warning("%s", error)
        return None
    return artifact


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


_OWN_DIGESTS = (CHECKPOINTS,)  # folders whose files are verified by records of their own
_FOR_PEOPLE = (LOG_FILE, "tensorboard")  # appended to, or drawn again, after the stage
_PICTURES = (".png", ".html", ".svg")


def _digests(out_dir: Path) -> dict[str, str]:
    """Name -> digest of a stage's files: not of pictures, logs, or of stages in folders below."""
    found: dict[str, str] = {}
    pending = [out_dir] if out_dir.is_dir() else []
    while pending:
        for child in sorted(pending.pop().iterdir()):
            name = child.relative_to(out_dir).as_posix()
            if child.name.startswith((".", "damaged_")) or name in (*_OWN_DIGESTS, *_FOR_PEOPLE):
                continue
            if child.is_dir():
                if not (child / MANIFEST_FILE).exists():
                    pending.append(child)
            elif child.suffix not in _PICTURES and name != MANIFEST_FILE:
                found[name] = file_digest(child)
    return found


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

    manifest = Manifest(
        stage=stage,
        config=config.model_dump(mode="json"),
        config_digest=config_digest(config),
        inputs=dict(inputs),
        metrics=json.loads(json.dumps(dict(metrics))),
        seconds=round(time.time() - started, 3),
        world_size=world_size,
        versions={
            "facetrain": facetrain.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        commit=_commit(),
        files=_digests(out_dir),
    )
    write_sealed(out_dir / MANIFEST_FILE, manifest)
    return Artifact(out_dir, manifest.model_dump())
