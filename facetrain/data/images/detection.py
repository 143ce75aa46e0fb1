"""Faces in photographs: where they are, and their five landmarks, by OpenCV's YuNet.

Source: Wu, Peng, Yu, "YuNet: a tiny millisecond-level face detector", Machine Intelligence
Research 2023. The network's file is the user's own: `face_detection_yunet_*.onnx` of OpenCV's model
zoo.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.images.align import warp
from facetrain.data.images.codec import Image
from facetrain.data.images.decoder_warnings import with_warnings

Choice = Literal["largest", "centred", "all", "skip"]

_LEAST_SCORE = 0.7
# The network finds faces of about 10 to 300 pixels. Two sizes of the image are always searched, the
# others while nothing was found.
_SIDES, _FURTHER_SIDES = (320, 640), (1280, 2560)
_LEAST_SIDE = 160
_SAME_FACE = 0.6  # of the smaller box inside the other
# The landmarks of one pass jitter by 4 % of a face. They are averaged over six views of it: 160
# pixels wide, the face filling 1 / 1.5 to 1 / 2.2 of that, each also mirrored.
_VIEW_SIDE, _VIEWS = 160, (1.5, 1.8, 2.2)
_MIRRORED = [1, 0, 2, 4, 3]
_CENTRE_WEIGHT = 4.0


class Face(NamedTuple):
    """One face."""

    points: NDArray[np.float64]
    """(5, 2) pixels: eyes, nose tip, mouth corners, the image's left ones first."""
    score: float  # the detector's confidence, up to 1
    box: NDArray[np.float64]  # left, top, width, height in pixels

    @property
    def size(self) -> float:
        """The longer side of the box, pixels."""
        return float(self.box[2:].max())

    @property
    def centre(self) -> NDArray[np.float64]:
        """(2,) of the box."""
        return self.box[:2] + self.box[2:] / 2


class FaceDetector:
    """YuNet from an ONNX file, at several scales. Not to be shared between threads."""

    def __init__(self, path: Path) -> None:
        """Load the network and try it.

        Raises:
            DataError: no such file, or no YuNet.
        """
        if not path.is_file():
            raise DataError(f"{path}: must be a face detector's ONNX file, but there is none")
        self.path = path
        try:
            self._image, self._view = self._load(), self._load()
            self._search(np.zeros((_LEAST_SIDE, _LEAST_SIDE, 3), np.uint8), _LEAST_SIDE)
        except (cv2.error, ValueError, IndexError) as error:
            why = str(error).strip().splitlines()[-1:] or [""]
            raise DataError(
                f"{path}: must be YuNet, face_detection_yunet_*.onnx of OpenCV's model zoo, but "
                f"OpenCV {cv2.__version__} cannot run it as that ({why[0]:.200})"
            ) from None

    def _load(self) -> Any:
        # Its bytes: OpenCV dies of a name that is not UTF-8.
        network, nothing = np.frombuffer(self.path.read_bytes(), np.uint8), np.empty(0, np.uint8)

        def create() -> Any:
            return cv2.FaceDetectorYN.create(
                "onnx", network, nothing, (_VIEW_SIDE, _VIEW_SIDE), _LEAST_SCORE
            )

        return with_warnings(create)[0]  # OpenCV 5 prints a warning about its own default

    def find(self, image: Image) -> list[Face]:
        """Every face in an (H, W, 3) RGB image, surest first; their landmarks are of one pass."""
        longest = max(image.shape[:2])
        faces = self._search(image, _SIDES[0])
        if longest > _SIDES[0]:
            faces += self._search(image, _SIDES[1])
        if not faces:
            faces = self._search_framed(image)
        for side in _FURTHER_SIDES:
            if not faces and longest > side / 2:
                faces = self._search(image, side)
        return _merged(faces)

    def refined(self, image: Image, face: Face) -> Face:
        """The same face with landmarks averaged over several views of it."""
        views = [
            points
            for side in _VIEWS
            for mirror in (False, True)
            if (points := self._seen(image, face, side, mirror)) is not None
        ]
        return face._replace(points=np.mean(views, axis=0)) if views else face

    def _search(self, image: Image, side: int) -> list[Face]:
        """In the image shrunk so that its longer side is at most `side`, and at least 160."""
        height, width = image.shape[:2]
        scale = np.clip(1.0, _LEAST_SIDE / max(height, width), side / max(height, width))
        small = (max(round(width * scale), 1), max(round(height * scale), 1))
        if small != (width, height):
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image = cast(Image, cv2.resize(image, small, interpolation=how))
        back = np.array([width, height]) / small
        return [
            Face(face.points * back, face.score, face.box * np.tile(back, 2))
            for face in _run(self._image, image)
        ]

    def _search_framed(self, image: Image) -> list[Face]:
        """With a black frame: a face that fills the image is too near for the network."""
        side = max(image.shape[:2]) // 2
        framed = cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_CONSTANT)
        shift = np.array([side, side])
        return [
            Face(face.points - shift, face.score, face.box - np.append(shift, (0, 0)))
            for face in self._search(cast(Image, framed), _SIDES[0])
        ]

    def _seen(self, image: Image, face: Face, side: float, mirror: bool) -> Any:
        """The landmarks (5, 2) in the image as one view gives them; None where it shows no face."""
        scale = _VIEW_SIDE / (side * face.size)
        turn = np.array([[-scale if mirror else scale, 0.0], [0.0, scale]])
        shift = _VIEW_SIDE / 2 - turn @ face.centre
        try:
            view = warp(image, np.column_stack([turn, shift]), _VIEW_SIDE)
        except DataError:
            return None
        middle = np.array([_VIEW_SIDE / 2, _VIEW_SIDE / 2])
        found = _run(self._view, view)
        distances = [float(np.linalg.norm(one.centre - middle)) for one in found]
        if not found or min(distances) > _VIEW_SIDE / 4:
            return None
        points = found[int(np.argmin(distances))].points
        if mirror:
            points = points[_MIRRORED]
        return (points - shift) / np.diag(turn)


def _run(network: Any, image: Image) -> list[Face]:
    height, width = image.shape[:2]
    network.setInputSize((width, height))
    _, rows = network.detect(np.ascontiguousarray(image[..., ::-1]))  # it was trained on BGR
    if rows is None:
        return []
    return [
        Face(row[4:14].reshape(5, 2), float(row[14]), row[:4])
        for row in np.asarray(rows, np.float64)
        if np.isfinite(row).all() and row[2] > 1 and row[3] > 1
    ]


def _merged(faces: Sequence[Face]) -> list[Face]:
    """Without the less sure of two boxes around one face."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if not any(_shared(face.box, other.box) > _SAME_FACE for other in kept):
            kept.append(face)
    return kept


def _shared(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The part of the smaller box that is in both."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    area = min(one[2:].prod(), other[2:].prod())
    return float(np.maximum(high - low, 0).prod() / area)


def choose(faces: Sequence[Face], width: int, height: int, choice: Choice) -> list[Face]:
    """Which faces of an image stand for it; none where there is none.

    `largest`: the largest near the centre, by area * exp(-4 d^2 / R^2) with d the face's distance
    from the image's centre and R half its diagonal. `centred`: the nearest to it. `all`: every
    one, in that first order.

    Raises:
        DataError: several faces, and `choice` is `skip`.
    """
    centre = np.array([width, height]) / 2

    def off(face: Face) -> float:
        return float(((face.centre - centre) ** 2).sum() / (centre**2).sum())

    def weight(face: Face) -> float:
        return float(face.box[2:].prod() * np.exp(-_CENTRE_WEIGHT * off(face)))

    if choice == "skip" and len(faces) > 1:
        raise DataError(f"shows {len(faces)} faces")
    by_weight = sorted(faces, key=weight, reverse=True)
    if choice == "centred":
        return sorted(by_weight, key=off)[:1]
    return by_weight if choice == "all" else by_weight[:1]


@functools.lru_cache(maxsize=1)
def loaded_detector(path: str) -> FaceDetector:
    """The detector of this process; loaded once."""
    return FaceDetector(Path(path))
