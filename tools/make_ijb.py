r"""A small template benchmark in the layout of IJB-B or IJB-C, from faces at hand.

    python tools/make_ijb.py OUT --synthetic 60
    python tools/make_ijb.py OUT --folder lfw --landmarks lfw_5pts.csv
    python tools/make_ijb.py OUT --features features.npz

--synthetic renders faces of that many identities; --folder takes a folder of folders (one an
identity) whose five points are in a CSV; --features takes the arrays `embedding` and `label` and
writes, instead of images, OUT/features.npy for `facetrain evaluate --features`. Half of the
identities are enrolled in each gallery and all are searched, so a probe has a mate in one gallery.
It is a check of the protocol's machinery; its numbers say nothing about IJB.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError, UserError
from facetrain.core.rng import numpy_generator
from facetrain.data.align import ARCFACE_POINTS
from facetrain.data.ijb_metadata import GALLERIES, Protocol
from facetrain.data.images import encode_jpeg
from facetrain.data.landmarks import read_landmarks
from facetrain.data.synthetic import SyntheticConfig, all_samples, draw_nuisance, render


@dataclasses.dataclass(frozen=True)
class LooseFace:
    """One face.

    Attributes:
        subject: who it is, from 0 on.
        encoded: the image file; None where only features are at hand.
        points: (5, 2) pixels.
    """

    subject: int
    encoded: bytes | None
    points: NDArray[np.float64]


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


def write_ijb(
    root: Path,
    protocol: Protocol,
    faces: Sequence[LooseFace],
    *,
    num_impostor_pairs: int = 10_000,
    seed: int = 0,
) -> list[int]:
    """Write a benchmark below `root`/IJBB or IJBC; returns each image's place in `faces`.

    Args:
        root: receives IJBB/ or IJBC/ with meta/ and loose_crop/.
        protocol: whose file names.
        faces: all identities; those with one image are probes without a mate.
        num_impostor_pairs: at most so many.
        seed: of the templates and the pairs.
    """
    generator = numpy_generator(seed, "template benchmark")
    subject = np.array([face.subject for face in faces])
    templates = _draw_templates(subject, generator)
    home = root / protocol.upper()
    (home / "meta").mkdir(parents=True, exist_ok=True)
    (home / "loose_crop").mkdir(exist_ok=True)
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
    write("template_pair_label.txt", _pair_lines(templates, num_impostor_pairs, generator))
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME"
    for part, name in enumerate(GALLERIES[protocol]):
        members = [t for t in templates if t.gallery and t.subject % 2 == part]
        rows = [f"{t.number},{t.subject}," for t in members]
        write(f"1N_gallery_{name}.csv", [header, *rows])
    probes = [f"{t.number},{t.subject}," for t in templates if not t.gallery]
    write("1N_probe_mixed.csv", [header, *probes])
    return order


def synthetic_faces(config: SyntheticConfig) -> list[LooseFace]:
    """Rendered faces with their exact landmarks."""
    faces = []
    for sample in all_samples(config):
        state = draw_nuisance(config, sample.identity, sample.sample)
        image, labels = render(config, sample.identity, sample.sample, state)
        points = np.asarray(labels.landmarks, np.float64)
        faces.append(LooseFace(sample.identity - config.first_identity, encode_jpeg(image), points))
    return faces


def folder_faces(folder: Path, landmarks: Path) -> list[LooseFace]:
    """The images of a folder of folders that have landmarks.

    Raises:
        DataError: there are none.
    """
    points = read_landmarks(landmarks).points
    paths = sorted(path for path in points if (folder / path).is_file())
    if not paths:
        raise DataError(f"{landmarks}: must name images below {folder}, but none of them is there")
    people = sorted({Path(path).parent for path in paths})
    return [
        LooseFace(people.index(Path(path).parent), (folder / path).read_bytes(), points[path])
        for path in paths
    ]


def feature_faces(path: Path) -> tuple[list[LooseFace], NDArray[np.float32]]:
    """Faces without images, and their embeddings (N, D)."""
    with np.load(path, allow_pickle=False) as arrays:
        embedding, label = arrays["embedding"].astype(np.float32), arrays["label"]
    return [LooseFace(int(one), None, ARCFACE_POINTS) for one in label], embedding


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--synthetic", type=int, metavar="IDENTITIES")
    source.add_argument("--folder", type=Path)
    source.add_argument("--features", type=Path)
    parser.add_argument("--landmarks", type=Path, help="CSV path,x1,y1,...,x5,y5 of --folder")
    parser.add_argument("--protocol", choices=tuple(GALLERIES), default="ijbc")
    parser.add_argument("--impostor-pairs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if (options.folder is None) != (options.landmarks is None):
        parser.error("--folder and --landmarks go together")
    return options


def main() -> None:
    """Parse and write."""
    options = _parse()
    embedding = None
    try:
        if options.synthetic:
            config = SyntheticConfig(num_identities=options.synthetic, seed=options.seed)
            faces = synthetic_faces(config)
        elif options.folder:
            faces = folder_faces(options.folder, options.landmarks)
        else:
            faces, embedding = feature_faces(options.features)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    count = options.impostor_pairs
    order = write_ijb(
        options.out, options.protocol, faces, num_impostor_pairs=count, seed=options.seed
    )
    if embedding is not None:
        np.save(options.out / "features.npy", embedding[order])
    print(f"{options.out}: {len(order)} images in the layout of {options.protocol}")


if __name__ == "__main__":
    main()
