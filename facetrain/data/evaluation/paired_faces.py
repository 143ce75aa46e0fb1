"""A verification set as a folder of images and a list of pairs."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facetrain.core.config import Config
from facetrain.core.errors import SHORTAGES, DataError
from facetrain.core.log import logger
from facetrain.core.plain_file import read_plain
from facetrain.data.evaluation.pair_lists import KINDS, PairList
from facetrain.data.images.align import align
from facetrain.data.images.codec import decode_image, fit_square
from facetrain.data.images.landmarks import check_places, read_landmarks

# Of LFW's 250 x 250 images (original, funneled or deep-funneled), the square that the ArcFace
# template covers: left, top and side in pixels. Fitted to the median of the landmarks of 202
# deep-funneled images: (61.3, 53.2), 128.5.
LFW_SIZE, LFW_LEFT, LFW_TOP, LFW_SIDE = 250, 61, 53, 128


class FolderSet(Config):
    """A verification set in its official folder, or any folder with a list of pairs."""

    kind: Literal["lfw", "cfp_ff", "cfp_fp", "agedb30", "calfw", "cplfw", "list"]
    """How its pairs are listed: `list` is a list of one's own, or RFW's."""
    images: Path
    """The folder below which the list's images are."""
    pairs: Path | None = None
    """The list (for CFP the folder Protocol); default: where it usually lies in `images`."""
    landmarks: Path | None = None
    """CSV path,x1,y1,...,x5,y5 to align by; without it images count as aligned."""

    @property
    def pair_list(self) -> Path:
        """Where the pairs are listed."""
        return self.pairs or self.images / KINDS[self.kind].pairs

    @property
    def name(self) -> str:
        """Of its results: the kind, or what a list of one's own is called."""
        return self.pair_list.stem if self.kind == "list" else self.kind


RFW_GROUPS = ("African", "Asian", "Caucasian", "Indian")


def rfw_sets(folder: Path) -> tuple[FolderSet, ...]:
    """Racial Faces in the Wild as it is distributed: `data/<group>/`, `txts/<group>/`; four sets.

    Source: Wang et al., "Racial Faces in the Wild", ICCV 2019.

    Raises:
        DataError: a group's images or list are not there, told before any group is embedded.
    """
    sets = tuple(
        FolderSet(
            kind="list",
            images=folder / "data" / group,
            pairs=folder / "txts" / group / f"{group}_pairs.txt",
        )
        for group in RFW_GROUPS
    )
    for path in [path for one in sets for path in (one.images, one.pair_list)]:
        if not path.exists():
            raise DataError(
                f"{path}: must be there, as RFW is distributed, but is not; give the folder that "
                "holds data/ and txts/ of all four groups"
            )
    return sets


@dataclasses.dataclass(frozen=True)
class PairedFaces:
    """P pairs of image files, with the interface of a `VerificationSet`."""

    path: Path  # the images' folder
    kind: str  # see `FolderSet`
    pairs: PairList  # which images
    file: dict[str, Path]
    """The list's name of each image -> its file; some copies have PNG where lists say JPG."""
    landmarks: dict[str, NDArray[np.float64]] | None  # (5, 2) points by image, or None

    @classmethod
    def open(cls, config: FolderSet) -> "PairedFaces":
        """Read the list and the landmarks.

        Raises:
            DataError: a missing or malformed file, an image that is not there, or landmarks of
                other images. One without landmarks that fit a face, among others, is cropped, with
                a warning.
        """
        if not config.images.is_dir():
            raise DataError(f"{config.images}: must be the folder of {config.name}'s images")
        source = config.pair_list
        if not source.exists():
            raise DataError(
                f"{source}: must be the list of pairs of {config.images}, but there is none; give "
                "it with --pairs"
            )
        pairs = KINDS[config.kind].read(source)
        landmarks = read_landmarks(config.landmarks) if config.landmarks else None
        file = find_images(config.images, pairs.name, source)
        if landmarks is not None:
            without = sorted(set(pairs.name) - landmarks.points.keys())
            if len(without) == len(set(pairs.name)):
                named = next(iter({**landmarks.points, **landmarks.misfit}))
                raise DataError(
                    f"{config.landmarks}: must name images as {source} does ({without[0]}), but "
                    f"has points of none of them ({named})"
                )
            if without:  # a detector misses some, but every pair must be judged
                logger.warning(
                    "%s has no points that fit %d images' faces (%s%s): they are cropped instead",
                    config.landmarks, len(without), ", ".join(without[:20]),
                    ", ..." if len(without) > 20 else "",
                )  # fmt: skip
            marked = [name for name in file if name in landmarks.points]
            check_places([(landmarks.points[name], file[name].read_bytes) for name in marked])
        points = None if landmarks is None else landmarks.points
        return cls(config.images, config.kind, pairs, file, points)

    @property
    def same(self) -> NDArray[np.bool_]:
        """(P,)."""
        return self.pairs.same

    @property
    def num_pairs(self) -> int:
        """P."""
        return len(self.pairs.same)

    def encoded(self, index: int) -> bytes:
        """Image file `index` of 0..2P-1; pair i is images 2i and 2i + 1."""
        path = self.file[self.pairs.name[index]]
        try:
            return read_plain(path)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            raise DataError(f"{path}: must be readable; {error.strerror}") from None

    def decode(self, index: int, size: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB: aligned by its points; else LFW's square; else the centre's.

        Raises:
            DataError: the image does not decode, or its points are all on one spot.
        """
        name = self.pairs.name[index]
        image = decode_image(self.encoded(index), str(self.file[name]))
        if self.landmarks is not None and name in self.landmarks:
            try:
                return align(image, self.landmarks[name], size)
            except DataError as error:
                raise DataError(f"{self.file[name]}: {error}") from None
        if self.kind == "lfw" and image.shape[:2] == (LFW_SIZE, LFW_SIZE):
            image = image[LFW_TOP : LFW_TOP + LFW_SIDE, LFW_LEFT : LFW_LEFT + LFW_SIDE]
        return fit_square(image, size)


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def find_images(folder: Path, names: Iterable[str], source: Path) -> dict[str, Path]:
    """Name -> image file below `folder`; where it is not there, the one of another extension.

    Raises:
        DataError: no such image, or several that differ only by their extension.
    """
    found, stems = {}, dict[Path, dict[str, list[Path]]]()
    for name in dict.fromkeys(names):
        path = folder / name
        if path.is_file():
            found[name] = path
            continue
        if path.parent not in stems:
            by_stem = stems.setdefault(path.parent, {})
            for file in path.parent.iterdir() if path.parent.is_dir() else ():
                if file.suffix.lower() in _IMAGE_SUFFIXES:
                    by_stem.setdefault(file.stem, []).append(file)
        others = stems[path.parent].get(path.stem, [])
        if len(others) != 1:
            came = " and ".join(file.name for file in sorted(others)) or "none"
            raise DataError(
                f"{path}: must be an image of {source}, but there is {came}; give the folder that "
                "the list's names start from"
            )
        found[name] = others[0]
    return found
