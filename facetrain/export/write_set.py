"""The set as decided, as files that any trainer takes: a folder a person, `.rec`, `.lst` or CSV.

Whatever the format, `images.csv` says of every image of the set what was decided and why. The
output appears as a whole, under its name, when everything in it is written.
"""

import contextlib
import csv
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from facetrain.core.artifact import (
    Sealed,
    atomic_path,
    fingerprint,
    not_writable,
    read_sealed,
    set_aside,
    write_json,
    write_sealed,
)
from facetrain.core.config import Config, config_digest
from facetrain.core.digest import file_digest
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.lock import file_lock
from facetrain.core.log import logger
from facetrain.core.progress import progress
from facetrain.core.run_folder import CLASSES_FILE, CLEAN_FILE
from facetrain.core.text import printable
from facetrain.data.cleaned_set import cleaning_folder
from facetrain.data.images.codec import decode_image
from facetrain.data.shards.face_shard import FaceShardWriter, write_property
from facetrain.data.shards.recordio import RecordHeader, ShardChangedError, ShardWriter, pack_record
from facetrain.export.decided_set import Choices, DecidedSet
from facetrain.export.set_layout import FileNames, folder_names, image_suffix

SetFormat = Literal["folder", "rec", "lst", "csv"]
Layout = Literal["header", "flat"]
IMAGES_FILE = "images.csv"
_MARK = ".write.json"


class WriteConfig(Config):
    """What is written, and of which decisions."""

    format: SetFormat
    layout: Layout = "header"
    """Of a `.rec`: InsightFace's with record 0 and identity records, or images alone (DALI)."""
    choices: Choices = Choices()
    originals: Path | None = None
    """Folder that was packed: its files, in place of the images in the shards."""


def write_set(
    run_dir: Path, out: Path, config: WriteConfig, show_progress: bool = True
) -> dict[str, Any]:
    """Write the set that a cleaned run decided on; returns what was written, in numbers.

    Args:
        run_dir: a run with a finished stage `clean`, or that stage's folder.
        out: a new folder; with the same result in it, nothing is done.

    Raises:
        DataError: no such run; an image that cannot be written; other content in `out`.
        ConfigError: options that do not go together.
        OutputError: the disk is full, say; nothing is left of what was begun.
    """
    if config.layout != "header" and config.format != "rec":
        raise ConfigError(f"--layout is of --format rec, not of {config.format}; leave it out")
    if config.originals is not None and config.format not in ("folder", "lst"):
        raise ConfigError(f"--originals needs --format folder or lst, not {config.format}")
    out = Path(os.path.abspath(out))
    decided = DecidedSet.open(run_dir, config.choices)
    identity = {
        "config": config_digest(config),
        "data": decided.dataset.fingerprint,
        "overlays": [fingerprint(overlay) for overlay in decided.overlays],
        "judged": fingerprint(cleaning_folder(run_dir) / CLEAN_FILE),
    }
    with file_lock(out):
        done = _finished(out, identity)
        if done is not None:
            return done
        with atomic_path(out) as temporary:
            temporary.mkdir()
            numbers = _Writer(decided, config, temporary, show_progress).write()
            write_sealed(
                temporary / _MARK,
                _Mark(identity=identity, numbers=numbers, files=_digests(temporary)),
            )
            if out.exists():
                out.rmdir()  # only an empty one can be
    return numbers


class _Mark(Sealed):
    """What a written set is of."""

    identity: dict[str, Any]
    numbers: dict[str, Any]
    files: dict[str, str]
    """Name -> `file_digest` of every file but this one."""


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != _MARK)
    return {printable(str(path.relative_to(folder))): file_digest(path) for path in files}


def _finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The numbers of this same set, if `out` holds it whole; None where it is to be written.

    A set that was damaged or edited since is set aside.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise DataError(f"{out}: must be a folder to write to, but is a file; give another --out")
    if not any(out.iterdir()):
        return None
    with contextlib.suppress(DataError):  # no mark, or a damaged one: it may be another set
        mark = read_sealed(out / _MARK, _Mark)
        if mark.identity == identity:
            found = _digests(out)
            changed = [name for name in mark.files if found.get(name) != mark.files[name]]
            if not changed:
                return mark.numbers
            set_aside(out, f"{printable(out / changed[0])}: must be as it was written, but is not")
            return None
    raise DataError(
        f"{out}: must be new or empty, but holds something else, perhaps a set of "
        "other decisions; give another --out, or remove it"
    )


class _Writer:
    """One writing of a decided set into a folder that nobody else knows yet."""

    def __init__(
        self, decided: DecidedSet, config: WriteConfig, folder: Path, show_progress: bool
    ) -> None:
        self.decided = decided
        self.dataset = decided.dataset
        self.config = config
        self.folder = folder
        self.show_progress = show_progress
        self.class_ids = decided.class_ids.tolist()
        self.dense = {label: number for number, label in enumerate(self.class_ids)}
        self.names = decided.names(self.class_ids)
        self.written = [""] * len(decided.kept)  # by row: where the image is
        self.num_linked = 0

    def write(self) -> dict[str, Any]:
        kept = np.flatnonzero(self.decided.kept)
        rows = kept[np.argsort(self.decided.label[kept], kind="stable")]
        bar = progress(
            rows.tolist(), "write", total=len(rows), unit="img", enabled=self.show_progress
        )
        if self.config.format == "folder":
            self._write_folder(bar)
        elif self.config.format == "rec":
            self._write_rec(bar)
        elif self.config.format == "lst":
            self._write_lst(bar)
        self._write_csv()
        return {
            "num_images": int(self.decided.kept.sum()),
            "num_identities": len(self.class_ids),
            "num_dropped": int((~self.decided.kept).sum()),
            "num_relabelled": int((self.decided.label != self.decided.given).sum()),
            "format": self.config.format,
            **({"num_linked": self.num_linked} if self.config.originals else {}),
        }

    def _write_folder(self, rows: Iterator[int]) -> None:
        names = FileNames()
        folders = dict(zip(self.class_ids, folder_names(self.class_ids, self.names), strict=True))
        for folder in folders.values():
            (self.folder / folder).mkdir(parents=True)
        for row in rows:
            folder = folders[int(self.decided.label[row])]
            source = self.dataset.row_source(row)
            key = self.dataset.row_key(row).rpartition("/")[2].replace(":", "_")
            if self.config.originals is not None:
                original = self._original(row, source)
                name = names.next(folder, source, key, original.suffix)
                self._link(original, self.folder / folder / name)
            elif (encoded := self._encoded(row)) is not None:
                name = names.next(folder, source, key, image_suffix(encoded))
                (self.folder / folder / name).write_bytes(encoded)
            else:
                continue
            self.written[row] = f"{folder}/{name}"

    def _write_lst(self, rows: Iterator[int]) -> None:
        """Images in folders with their list; of originals, the list alone, with their paths."""
        if self.config.originals is None:
            self._write_folder(rows)
        else:
            for row in rows:
                original = self._original(row, self.dataset.row_source(row))
                self.written[row] = os.path.abspath(original)
        self._write_list(first=0)

    def _write_rec(self, rows: Iterator[int]) -> None:
        path = self.folder / "train.rec"
        size = 112
        first = 0 if self.config.layout == "flat" else 1
        with contextlib.ExitStack() as stack:
            if self.config.layout == "flat":
                flat = stack.enter_context(ShardWriter(path))
            else:
                shard = stack.enter_context(FaceShardWriter(path))
            number = 0
            for row in rows:
                encoded, label = self._encoded(row), self.dense[int(self.decided.label[row])]
                if encoded is None:
                    continue
                if number == 0:
                    size = decode_image(encoded, self.dataset.row_key(row)).shape[0]
                if self.config.layout == "flat":
                    header = RecordHeader(0, np.array([label], np.float32), number, 0)
                    flat.write(number, pack_record(header, encoded))
                else:
                    shard.write(label, encoded)
                self.written[row] = f"train.rec:{number + first}"
                number += 1
        write_property(self.folder, len(self.class_ids), size)
        names = {str(number): name for number, name in enumerate(self.names) if name}
        write_json(self.folder / CLASSES_FILE, names)
        self._write_list(first)

    def _write_list(self, first: int) -> None:
        """`index<TAB>label<TAB>path` of what was written: its path, or what it was called."""
        order = [row for row, where in enumerate(self.written) if where]
        order.sort(key=lambda row: self.decided.label[row])
        in_rec = self.config.format == "rec"
        with open(
            self.folder / "train.lst", "w", encoding="utf-8", errors="surrogateescape"
        ) as file:
            for number, row in enumerate(order, start=first):
                path = self.written[row]
                if in_rec:
                    path = self.dataset.row_source(row) or self.dataset.row_key(row)
                label = self.dense[int(self.decided.label[row])]
                file.write(f"{number}\t{label}\t{_one_cell(path)}\n")

    def _write_csv(self) -> None:
        labels = np.unique(np.concatenate([self.decided.given, self.decided.label]))
        named = dict(zip(labels.tolist(), self.decided.names(labels), strict=True))
        rows = (self._image_row(row, named) for row in range(len(self.decided.kept)))
        path, first = self.folder / IMAGES_FILE, next(rows)
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            table = csv.DictWriter(file, list(first), lineterminator="\n")
            table.writeheader()
            table.writerow(first)
            table.writerows(rows)

    def _image_row(self, row: int, named: Mapping[int, str]) -> dict[str, object]:
        """Column -> what was given, decided and found of an image."""
        decided, dataset = self.decided, self.dataset
        given, label, kept = int(decided.given[row]), int(decided.label[row]), decided.kept[row]
        copied, suggested = int(decided.duplicate_of[row]), int(decided.suggested_label[row])
        merge, probability = int(decided.merge_label[row]), decided.clean_probability[row]
        certain = f"{decided.suggested_probability[row]:.6g}"
        return {
            "key": dataset.row_key(row),
            "source": dataset.row_source(row) or "",
            "given_label": given if given >= 0 else "",
            "given_name": named[given],
            "label": label if kept else "",
            "name": named[label] if kept else "",
            "kept": int(kept),
            "written": self.written[row],
            "written_label": self.dense[label] if kept else "",
            "clean_probability": "" if np.isnan(probability) else f"{probability:.6g}",
            "reason": decided.reason[row],
            "suggested_label": suggested if suggested >= 0 else "",
            "suggested_probability": certain if suggested >= 0 else "",
            "duplicate_of": dataset.row_key(copied) if copied >= 0 else "",
            "merge_label": merge if merge >= 0 else "",
            "overlap": int(decided.overlap[row]),
            "by_person": int(decided.by_person[row]),
        }

    def _encoded(self, row: int) -> bytes | None:
        """The image file of a row; None for one that is passed over, as data.on_corrupt has it."""
        try:
            encoded = self.dataset.row_encoded(row)
            image_suffix(encoded)
        except DataError as error:
            if self.decided.on_corrupt == "error" or isinstance(error, ShardChangedError):
                raise DataError(f"record {self.dataset.row_key(row)}: {error}") from None
            logger.warning("left out: record %s: %s", self.dataset.row_key(row), error)
            self.decided.leave_out(row)
            return None
        return encoded

    def _original(self, row: int, source: str | None) -> Path:
        assert self.config.originals is not None
        if source is None:
            raise DataError(
                f"record {self.dataset.row_key(row)}: must be in the .lst of its shard for "
                "--originals, but is not; write the images of the shards: leave the option out"
            )
        path = PurePosixPath(source)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(
                f"{printable(source)}: must be a path below --originals, as `pack` lists it"
            )
        original = self.config.originals / path
        if not original.is_file():
            raise DataError(
                f"{printable(original)}: must be the file that was packed, but there is none; give "
                "the folder that `pack` was given as --originals, or leave the option out"
            )
        return original

    def _link(self, original: Path, path: Path) -> None:
        """A hard link, or a copy where there can be none."""
        try:
            os.link(original.resolve(), path)
            self.num_linked += 1
        except OSError:
            try:
                shutil.copyfile(original, path)
            except OSError as error:
                raise not_writable(path, error) from None


def _one_cell(path: str) -> str:
    """A path that one cell of a list can hold."""
    return printable(path) if any(one in path for one in "\t\n\r") else path
