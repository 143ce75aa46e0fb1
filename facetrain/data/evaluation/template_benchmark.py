"""A template benchmark in the layout of IJB-B and IJB-C, from faces at hand.

Half of the identities are enrolled in each gallery and all are searched, so a probe has a mate in
one gallery. It measures a model on these people; its numbers say nothing about IJB.
"""

import dataclasses
import filecmp
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import DataError
from facetrain.core.rng import numpy_generator
from facetrain.data.evaluation.ijb_metadata import GALLERIES, Protocol


@dataclasses.dataclass(frozen=True)
class LooseFace:
    """One face, loosely cropped."""

    subject: int  # who it is, from 0 on
    encoded: bytes | None  # the image file; None where only features are at hand
    points: NDArray[np.float64]  # (5, 2) pixels


@dataclasses.dataclass
class _Template:
    number: int
    subject: int
    gallery: bool
    media: list[list[int]]  # places of the faces, by media


def _split(places: Sequence[int], sizes: Iterable[int]) -> list[list[int]]:
    """Consecutive parts of the given sizes until nothing is left."""
    parts, rest = [], list(places)
    for size in sizes:
        if not rest:
            break
        parts.append(rest[:size])
        rest = rest[size:]
    return parts


def _draw_templates(subject: NDArray[np.int64], generator: np.random.Generator) -> list[_Template]:
    """One gallery template for everyone with two images or more, and probes of up to four."""
    templates = []
    for person in np.unique(subject).tolist():
        places = generator.permutation(np.flatnonzero(subject == person)).tolist()
        enrolled = min(len(places) // 2, 3)
        rest = places[enrolled:]
        parts = [(True, places[:enrolled])] if enrolled else []
        parts += [(False, part) for part in _split(rest, generator.integers(1, 5, len(rest)))]
        for gallery, part in parts:
            media = _split(part, generator.integers(1, 4, len(part)))
            templates.append(_Template(0, person, gallery, media))
    numbers = generator.permutation(5 * len(templates))  # official numbers have gaps, and no order
    for template, number in zip(templates, numbers.tolist(), strict=False):
        template.number = number + 1
    return templates


def _pair_lines(
    templates: Sequence[_Template], num_impostor_pairs: int, generator: np.random.Generator
) -> list[str]:
    """Gallery against probe: every genuine pair, and impostor pairs drawn without repetition."""
    gallery = [t for t in templates if t.gallery]
    probe = [t for t in templates if not t.gallery]
    same = np.array([t.subject for t in gallery])[:, None] == np.array([t.subject for t in probe])
    impostors = np.argwhere(~same)
    drawn = generator.permutation(len(impostors))[:num_impostor_pairs]
    pairs = np.concatenate([np.argwhere(same), impostors[drawn]])
    pairs = generator.permutation(pairs)
    return [f"{gallery[a].number} {probe[b].number} {int(same[a, b])}" for a, b in pairs.tolist()]


def write_template_benchmark(
    root: Path,
    protocol: Protocol,
    faces: Sequence[LooseFace],
    *,
    num_impostor_pairs: int = 100_000,
    beside: Callable[[list[int]], None] = lambda order: None,
) -> list[int]:
    """Write a benchmark to `root`/IJBB or IJBC; returns each image's place in `faces`.

    The same benchmark may be there already, of a command that was killed at its end.

    Args:
        root: receives a new IJBB/ or IJBC/ with meta/ and loose_crop/.
        protocol: whose file names.
        faces: all identities; those with one image are probes without a mate.
        num_impostor_pairs: at most so many.
        beside: writes what belongs to it, with what is returned, before its folder is there.

    Raises:
        DataError: something else is there already; or no two images are one person's, or no two of
            several.
    """
    generator = numpy_generator(0, "template benchmark")
    subject = np.array([face.subject for face in faces])
    templates = _draw_templates(subject, generator)
    home = root / protocol.upper()
    pairs = _pair_lines(templates, num_impostor_pairs, generator)
    if {line[-1] for line in pairs} != {"0", "1"}:
        raise DataError(
            "a template benchmark needs two people with two images each, of "
            f"{len(faces)} images of {len(np.unique(subject))} people there are none"
        )
    with atomic_path(home) as temporary:
        order = _write(temporary, protocol, faces, templates, pairs, generator)
        if home.exists() and not _same(temporary, home):
            raise DataError(f"{home}: must be new, but is there already; give another OUT")
        beside(order)
    return order


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = {path.relative_to(one) for path in one.rglob("*")}
    return names == {path.relative_to(other) for path in other.rglob("*")} and all(
        filecmp.cmp(one / name, other / name, shallow=False)
        for name in names
        if (one / name).is_file()
    )


def _write(
    home: Path,
    protocol: Protocol,
    faces: Sequence[LooseFace],
    templates: Sequence[_Template],
    pairs: Sequence[str],
    generator: np.random.Generator,
) -> list[int]:
    (home / "meta").mkdir(parents=True)
    (home / "loose_crop").mkdir()
    faces_list, marks, order = [], [], []
    media_number = 0
    for template in templates:
        for media in template.media:
            media_number += 1
            for place in media:
                order.append(place)
                name = f"{len(order)}.jpg"
                encoded = faces[place].encoded
                if encoded is not None:
                    (home / "loose_crop" / name).write_bytes(encoded)
                faces_list.append(f"{name} {template.number} {media_number}")
                points = " ".join(f"{value:.3f}" for value in faces[place].points.reshape(-1))
                marks.append(f"{name} {points} {generator.uniform(0.5, 1):.6f}")

    def write(name: str, lines: Sequence[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        (home / "meta" / f"{protocol}_{name}").write_text(text, encoding="ascii")

    write("face_tid_mid.txt", faces_list)
    write("name_5pts_score.txt", marks)
    write("template_pair_label.txt", pairs)
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME"
    for part, name in enumerate(GALLERIES[protocol]):
        members = [t for t in templates if t.gallery and t.subject % 2 == part]
        rows = [f"{t.number},{t.subject}," for t in members]
        write(f"1N_gallery_{name}.csv", [header, *rows])
    probes = [f"{t.number},{t.subject}," for t in templates if not t.gallery]
    write("1N_probe_mixed.csv", [header, *probes])
    return order
