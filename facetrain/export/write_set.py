"""The set as decided, as files that any trainer takes: a folder a person, `.rec`, `.lst` or CSV.

Whatever the format, `images.csv` says of every image of the set what was decided and why. The
output appears as a whole, under its name, when everything in it is written.
"""

import contextlib
import csv
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
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
from facetrain.core.run_folder import CLASSES_FILE, CLEAN_FILE, SUSPECT_FILE
from facetrain.core.text import printable
from facetrain.data.cleaned_set import cleaning_folder
from facetrain.data.files.lists import write_list
from facetrain.data.images.codec import decode_image
from facetrain.data.shards.face_shard import FaceShardWriter, write_property
from facetrain.data.shards.recordio import RecordHeader, ShardChangedError, ShardWriter, pack_record
from facetrain.export.decided_set import Choices, DecidedSet
from facetrain.export.originals import Originals
from facetrain.export.set_layout import (
    IMAGES_FILE,
    LIST_FILE,
    FileNames,
    folder_names,
    image_suffix,
)

SetFormat = Literal["folder", "rec", "lst", "csv"]
Layout = Literal["header", "flat"]
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
    out = Path(os.path.realpath(out) if out.is_symlink() else os.path.abspath(out))
    decided = DecidedSet.open(run_dir, config.choices)
    identity = {
        "config": config_digest(config),
        "data": decided.dataset.fingerprint,
        "overlays": [fingerprint(overlay) for overlay in decided.overlays],
        "judged": fingerprint(cleaning_folder(run_dir) / CLEAN_FILE),
    }
    originals = None
    if config.originals is not None:
        originals = Originals(config.originals, decided.dataset)
        identity["originals"] = originals.state(np.flatnonzero(decided.kept).tolist())
    with file_lock(out):
        done = _finished(out, identity)
        if done is not None:
            return done
        with atomic_path(out) as temporary:
            temporary.mkdir()
            numbers = _Writer(decided, originals, config, temporary, show_progress).write()
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
        "other decisions or originals; give another --out, or remove it"
    )


class _Writer:
    """One writing of a decided set into a folder that nobody else knows yet."""

    def __init__(
        self,
        decided: DecidedSet,
        originals: Originals | None,
        config: WriteConfig,
        folder: Path,
        show_progress: bool,
    ) -> None:
        self.decided = decided
        self.dataset = decided.dataset
        self.originals = originals
        self.config = config
        self.folder = folder
        self.show_progress = show_progress
        self.class_ids = decided.class_ids.tolist()
        self.dense = {label: number for number, label in enumerate(self.class_ids)}
        self.names = decided.names(self.class_ids)
        self.written = [""] * len(decided.kept)  # by row: where the image is
        self.num_linked = 0
        self.suspect: list[tuple[str, str]] = []  # originals, and why

    def write(self) -> dict[str, Any]:
        kept = np.flatnonzero(self.decided.kept)
        rows = kept[np.argsort(self.decided.label[kept], kind="stable")]
        images: Iterator[tuple[int, bytes | Path]] = (
            self._records(rows.tolist())
            if self.originals is None
            else self._intact_originals(rows.tolist())
        )
        bar = progress(images, "write", total=len(rows), unit="img", enabled=self.show_progress)
        if self.config.format == "folder":
            self._write_folder(bar)
        elif self.config.format == "rec":
            self._write_rec(bar)
        elif self.config.format == "lst":
            self._write_lst(bar)
        self._write_csv()
        originals = {}
        if self.originals is not None:
            write_list(self.folder / SUSPECT_FILE, self.suspect)
            originals = {"num_linked": self.num_linked, "num_suspect": len(self.suspect)}
        return {
            "num_images": int(self.decided.kept.sum()),
            "num_identities": len(self.class_ids),
            "num_dropped": int((~self.decided.kept).sum()),
            "num_relabelled": int((self.decided.label != self.decided.given).sum()),
            "format": self.config.format,
            **originals,
        }

    def _write_folder(self, images: Iterator[tuple[int, bytes | Path]]) -> None:
        names = FileNames()
        folders = dict(zip(self.class_ids, folder_names(self.class_ids, self.names), strict=True))
        for folder in folders.values():
            (self.folder / folder).mkdir(parents=True)
        for row, image in images:
            folder = folders[int(self.decided.label[row])]
            source = self.dataset.row_source(row)
            key = self.dataset.row_key(row).rpartition("/")[2].replace(":", "_")
            suffix = image_suffix(image) if isinstance(image, bytes) else image.suffix
            name = names.next(folder, source, key, suffix)
            if isinstance(image, bytes):
                (self.folder / folder / name).write_bytes(image)
            else:
                self._link(image, self.folder / folder / name)
            self.written[row] = f"{folder}/{name}"

    def _write_lst(self, images: Iterator[tuple[int, bytes | Path]]) -> None:
        """Images in folders with their list; of originals, the list alone, with their paths."""
        if self.originals is None:
            self._write_folder(images)
        else:
            for row, original in images:
                assert isinstance(original, Path)
                self.written[row] = os.path.abspath(original)
        self._write_list(first=0)

    def _write_rec(self, images: Iterator[tuple[int, bytes | Path]]) -> None:
        path = self.folder / "train.rec"
        size = 112
        first = 0 if self.config.layout == "flat" else 1
        with contextlib.ExitStack() as stack:
            if self.config.layout == "flat":
                flat = stack.enter_context(ShardWriter(path))
            else:
                shard = stack.enter_context(FaceShardWriter(path))
            for number, (row, encoded) in enumerate(images):
                assert isinstance(encoded, bytes)
                label = self.dense[int(self.decided.label[row])]
                if number == 0:
                    size = decode_image(encoded, self.dataset.row_key(row)).shape[0]
                if self.config.layout == "flat":
                    header = RecordHeader(0, np.array([label], np.float32), number, 0)
                    flat.write(number, pack_record(header, encoded))
                else:
                    shard.write(label, encoded)
                self.written[row] = f"train.rec:{number + first}"
        write_property(self.folder, len(self.class_ids), size)
        names = {str(number): name for number, name in enumerate(self.names) if name}
        write_json(self.folder / CLASSES_FILE, names)
        self._write_list(first)

    def _write_list(self, first: int) -> None:
        """`index<TAB>label<TAB>path` of what was written: its path, or what it was called."""
        order = [row for row, where in enumerate(self.written) if where]
        order.sort(key=lambda row: self.decided.label[row])
        in_rec = self.config.format == "rec"
        with open(self.folder / LIST_FILE, "w", encoding="utf-8", errors="surrogateescape") as file:
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

    def _records(self, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """The rows' image files; those in damaged records are left out, as data.on_corrupt has it.

        Raises:
            DataError: a record is damaged, under `data.on_corrupt=error`.
        """
        for row in rows:
            try:
                encoded = self.dataset.row_encoded(row)
                image_suffix(encoded)
            except DataError as error:
                if self.decided.on_corrupt == "error" or isinstance(error, ShardChangedError):
                    raise DataError(f"record {self.dataset.row_key(row)}: {error}") from None
                logger.warning("left out: record %s: %s", self.dataset.row_key(row), error)
                self.decided.leave_out(row)
                continue
            yield row, encoded

    def _intact_originals(self, rows: Sequence[int]) -> Iterator[tuple[int, Path]]:
        """The rows' originals; those that do not decode are left out, as data.on_corrupt has it.

        Raises:
            DataError: one does not decode, under `data.on_corrupt=error`.
        """
        assert self.originals is not None
        for row, path, refused, suspect in self.originals.look_at(rows):
            where = printable(path)
            if refused is not None:
                if self.decided.on_corrupt == "error":
                    raise DataError(
                        f"{where}: must be the image that was packed, but {refused}; restore it, "
                        "or leave --originals out"
                    )
                logger.warning("left out: %s: %s", where, refused)
                self.decided.leave_out(row)
                continue
            if suspect is not None:
                logger.warning("%s: suspect: %s", where, suspect)
                self.suspect.append((self.dataset.row_source(row) or "", suspect))
            yield row, path

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
