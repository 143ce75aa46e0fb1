"""The metadata of IJB-B and IJB-C as InsightFace distributes it: faces, templates, pairs, 1:N.

In `meta/`: `<protocol>_face_tid_mid.txt` (image, template, media), `..._name_5pts_score.txt`
(image, ten coordinates, detector score; in the same order), `..._template_pair_label.txt`
(template, template, 0 or 1), and for 1:N the galleries and probes as CSV (template, subject, ...).
The images are in `loose_crop/` beside it.
"""

import dataclasses
import math
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import SHORTAGES, DataError
from facetrain.core.plain_file import read_plain
from facetrain.data.files.csv_file import csv_rows
from facetrain.data.files.integer_table import read_integers
from facetrain.data.files.written_number import read_float, read_int
from facetrain.data.images.align import align
from facetrain.data.images.codec import decode_image

Protocol = Literal["ijbb", "ijbc"]
GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
_LANDMARKS = "_name_5pts_score.txt"
Ints = NDArray[np.int64]


class Subjects(NamedTuple):
    """Templates of a gallery or a probe set: (n,) rows of `IjbMetadata.template_id`, and whose."""

    template: Ints
    subject: Ints


class Pairs(NamedTuple):
    """Template pairs: rows of `IjbMetadata.template_id`, (n,) each, and whether one person."""

    first: Ints
    second: Ints
    same: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class IjbMetadata:
    """Faces and templates of one protocol. N images, T templates."""

    protocol: Protocol  # "ijbb" or "ijbc"
    folder: Path  # where the metadata lies
    name: list[str]  # image files below `images`, in the order of the lists
    template: Ints  # (N,) row of `template_id`
    media: Ints  # (N,) media number
    points: NDArray[np.float64]  # (N, 5, 2) landmarks in pixels
    detector_score: NDArray[np.float64]  # (N,)
    template_id: Ints  # (T,) increasing

    @classmethod
    def open(cls, root: Path, protocol: Protocol) -> "IjbMetadata":
        """Read the lists of faces; `root` holds `IJBB/meta` (`IJBC/meta`) or `meta`.

        Raises:
            DataError: a file is missing, a line is malformed, or the two lists disagree.
        """
        folder = _meta_folder(root, protocol)
        faces = folder / f"{protocol}_face_tid_mid.txt"
        landmarks = folder / f"{protocol}{_LANDMARKS}"
        name, ids = _read_faces(faces, "image template media", 3, "q")  # (N, 2)
        marked, values = _read_faces(landmarks, "image x1 y1 ... x5 y5 score", 12, "d")  # (N, 11)
        if len(marked) != len(name):
            raise DataError(
                f"{landmarks}: must have a line for each of the {len(name)} images of "
                f"{faces.name}, got {len(marked)}; get both from one release"
            )
        if marked != name:
            line = next(i for i, (a, b) in enumerate(zip(marked, name, strict=True)) if a != b)
            raise DataError(
                f"{landmarks}: line {line + 1} must be about {name[line]}, as in {faces.name}, "
                f"got {marked[line]}; get both from one release"
            )
        template_id, template = np.unique(ids[:, 0], return_inverse=True)
        return cls(
            protocol=protocol,
            folder=folder,
            name=name,
            template=template.reshape(-1),
            media=ids[:, 1],
            points=values[:, :10].reshape(-1, 5, 2),
            detector_score=values[:, 10],
            template_id=template_id,
        )

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return self.folder.parent / "loose_crop"

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.name)

    @property
    def num_templates(self) -> int:
        """T."""
        return len(self.template_id)

    @property
    def landmark_file(self) -> Path:
        """The list of landmarks and detector scores."""
        return self.folder / f"{self.protocol}{_LANDMARKS}"

    @property
    def pair_file(self) -> Path:
        """The list of template pairs."""
        return self.folder / f"{self.protocol}_template_pair_label.txt"

    def decode(self, index: int, size: int) -> NDArray[np.uint8]:
        """Image `index`, aligned by its five points: (size, size, 3) RGB.

        Raises:
            DataError: no such file, no image, or points that are all on one spot.
        """
        path = self.images / self.name[index]
        try:
            encoded = read_plain(path)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            raise DataError(f"{path}: must be an image of the protocol; {error.strerror}") from None
        try:
            image = decode_image(encoded, str(path))
            return align(image, self.points[index], size, shrink=False)  # as arcface_torch does
        except DataError as error:
            where = "" if str(path) in str(error) else f"{path}: "
            raise DataError(f"{where}{error}") from None

    def rows_of(self, template_id: Ints, where: Path) -> Ints:
        """(n,) rows of templates by their official numbers (n,); `where` is named in the error.

        Raises:
            DataError: a template that has no face.
        """
        row = np.searchsorted(self.template_id, template_id)
        row[row == self.num_templates] = 0
        unknown = np.flatnonzero(self.template_id[row] != template_id)
        if len(unknown):
            raise DataError(
                f"{where}: every template must have a face in {self.protocol}_face_tid_mid.txt, "
                f"but {len(np.unique(template_id[unknown]))} have none (template "
                f"{template_id[unknown[0]]}); get both from one release"
            )
        return row

    def pairs(self, rank: int = 0, world_size: int = 1) -> Iterator[Pairs]:
        """Yield the pairs in file order, in blocks; a rank reads its share of the file.

        Raises:
            DataError: no such file, a malformed line, a pair of an unknown template.
        """
        path = self.pair_file
        if not path.is_file():
            raise DataError(f"{path}: must be the list of template pairs, but there is none")
        size = path.stat().st_size
        start, stop = rank * size // world_size, (rank + 1) * size // world_size
        for block in read_integers(path, "template template same", start, stop):
            same = block[:, 2]
            if (same > 1).any():
                raise DataError(
                    f"{path}: the third column must be 1 (one person) or 0, got "
                    f"{same[same > 1][0]} for templates {block[same > 1][0, :2].tolist()}"
                )
            rows = self.rows_of(block[:, :2].reshape(-1), path).reshape(-1, 2)
            yield Pairs(rows[:, 0], rows[:, 1], same == 1)

    def searches(self) -> tuple[dict[str, Subjects], Subjects] | None:
        """The galleries by name, and the probes of the mixed 1:N protocol; None without its files.

        Raises:
            DataError: only some of the files are there, or one is malformed.
        """
        names = GALLERIES[self.protocol]
        paths = [self.folder / f"{self.protocol}_1N_gallery_{name}.csv" for name in names]
        paths.append(self.folder / f"{self.protocol}_1N_probe_mixed.csv")
        missing = [path.name for path in paths if not path.is_file()]
        if len(missing) == len(paths):
            return None
        if missing:
            raise DataError(
                f"{self.folder}: must hold all of {', '.join(path.name for path in paths)} or "
                f"none, but lacks {', '.join(missing)}; add them, or remove the others for 1:1 only"
            )
        *galleries, probe = [self._subjects(path) for path in paths]
        return dict(zip(names, galleries, strict=True)), probe

    def subjects_of(self, template: NDArray[np.integer[Any]]) -> Ints | None:
        """Subjects of templates (...) by their rows, numbered from 0; None where 1:N does not tell.

        Raises:
            DataError: as `searches`.
        """
        searches = self.searches()
        if searches is None:
            return None
        galleries, probe = searches
        subject = np.full(self.num_templates, -1)
        for part in (*galleries.values(), probe):
            subject[part.template] = part.subject
        numbered = np.unique(subject, return_inverse=True)[1].reshape(-1)
        return None if (subject[template] < 0).any() else numbered[template]

    def _subjects(self, path: Path) -> Subjects:
        """Templates and subjects of a CSV: its first two columns, repeated lines once."""
        subject_of: dict[int, int] = {}
        for number, row in csv_rows(path, "templates and subjects"):
            try:
                template, subject = (int(np.int64(read_int(cell))) for cell in row[:2])
            except (ValueError, OverflowError):
                if number == 1:
                    continue  # the header
                raise DataError(
                    f"{path}: line {number} must begin with template,subject in whole numbers; "
                    f"got {','.join(row)!r:.80}"
                ) from None
            if subject_of.setdefault(template, subject) != subject:
                raise DataError(
                    f"{path}: a template must show one subject, but template {template} is of "
                    f"{subject_of[template]} and of {subject}; get the file again"
                )
        if not subject_of:
            raise DataError(f"{path}: must hold lines template,subject, but has none")
        template_id = np.fromiter(subject_of, np.int64)
        subject_id = np.fromiter(subject_of.values(), np.int64)
        return Subjects(self.rows_of(template_id, path), subject_id)


def _meta_folder(root: Path, protocol: Protocol) -> Path:
    candidates = (root / protocol.upper() / "meta", root / "meta")
    for folder in candidates:
        if (folder / f"{protocol}_face_tid_mid.txt").is_file():
            return folder
    raise DataError(
        f"{root}: must hold {protocol}_face_tid_mid.txt in {candidates[0]} or {candidates[1]}, but "
        "neither has it; give the folder that InsightFace's IJB package was unpacked to, and the "
        "right --protocol"
    )


def _read_faces(
    path: Path, columns: str, num_columns: int, code: Literal["d", "q"]
) -> tuple[list[str], NDArray[Any]]:
    """First words (N,) of the lines, and their numbers (N, num_columns - 1).

    `code` is `array`'s: d for float64, q for int64.
    """
    if not path.is_file():
        raise DataError(f"{path}: must be a text file of lines {columns!r}, but there is none")
    convert: Callable[[str], Any] = read_float if code == "d" else read_int
    names, values = [], array(code)
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            name, *cells = line.split() or [""]
            try:
                values.extend(map(convert, cells))
            except (ValueError, OverflowError):
                cells = []
            if len(cells) != num_columns - 1 or not all(
                map(math.isfinite, values[1 - num_columns :])
            ):
                raise DataError(
                    f"{path}: line {number} must be {columns!r}, a name and {num_columns - 1} "
                    f"numbers; got {line.rstrip()!r:.80}"
                )
            names.append(name)
    if not names:
        raise DataError(f"{path}: must hold lines {columns!r}, but has none")
    return names, np.array(values).reshape(len(names), num_columns - 1)
