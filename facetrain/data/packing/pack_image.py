"""What `pack` makes of one image file: an aligned or cropped face, or several, or a reason."""

import dataclasses
import functools
import os
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facetrain.core.artifact import fingerprint
from facetrain.core.config import Config, parse_config
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.progress import progress
from facetrain.data.images.align import align
from facetrain.data.images.codec import Image, encode_jpeg, fit_square
from facetrain.data.images.detection import Choice, Face, choose, loaded_detector
from facetrain.data.images.image_header import read_header
from facetrain.data.images.landmarks import (
    COORDINATES,
    FURTHER,
    MOST_TURN,
    Landmarks,
    check_places,
    misfits,
    read_landmarks,
    turn_of,
)
from facetrain.data.images.suspect import decode_checked
from facetrain.data.images.workers import ordered_map
from facetrain.data.sources.image import SourceImage

_CHUNK, _CHUNK_OF_PHOTOGRAPHS = 32, 8  # images a task
_IMAGES_PER_WORKER, _PHOTOGRAPHS_PER_WORKER = 512, 64  # fewer do not repay a process's start


class PackConfig(Config):
    """What decides the bytes that `pack` writes, besides its inputs."""

    size: int = Field(112, ge=8, le=4096)
    """Side of the images in pixels."""
    num_shards: int = Field(1, ge=1, le=99999)
    """Files to spread them over."""
    quality: int = Field(95, ge=1, le=100)
    """JPEG quality of what must be encoded."""
    faces: Choice = "largest"
    """Of several faces that a detector finds: see `detection.choose`."""


@dataclasses.dataclass(frozen=True, slots=True)
class PackOptions:
    """How images become faces, whatever they are packed as."""

    size: int = 112
    """Side of the images in pixels."""
    quality: int = 95
    """JPEG quality, 1 to 100, of images that must be encoded."""
    landmarks: Path | None = None
    """CSV of five points an image; see `read_landmarks`."""
    detector: Path | None = None
    """ONNX file of YuNet."""
    faces: Choice = "largest"
    """Which of several faces it finds; see `choose`."""
    workers: int | None = None
    """Processes; as many as processors when None. They do not change the result."""
    show_progress: bool = True

    @property
    def aligns(self) -> bool:
        """Whether faces are aligned, rather than images cropped."""
        return self.landmarks is not None or self.detector is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """An image to pack, and how its faces are known."""

    image: SourceImage
    points: tuple[NDArray[np.float64], ...] = ()  # of each face that a list has
    no_points: str | None = None  # why there are none, where landmarks were given
    detector: str | None = None


class Preparation(NamedTuple):
    """Options that were checked, their files read."""

    config: PackConfig
    landmarks: Landmarks | None  # five points by image
    detector: str | None  # file of a detector
    inputs: dict[str, str]  # name -> fingerprint of these files
    workers: int | None
    show_progress: bool

    @classmethod
    def of(cls, options: PackOptions, num_shards: int = 1) -> "Preparation":
        """The options, checked.

        Raises:
            ConfigError: an option out of range, or one that does not fit another.
            DataError: a file that is not what it should be.
        """
        decisive = {name: getattr(options, name) for name in ("size", "quality", "faces")}
        config = parse_config(PackConfig, {**decisive, "num_shards": num_shards}, "pack")
        landmarks, detector = options.landmarks, options.detector
        if landmarks is not None and detector is not None:
            raise ConfigError("--landmarks and --detector both say where the faces are; give one")
        if options.faces != "largest" and detector is None:
            raise ConfigError(
                f"--faces {options.faces} is for what --detector F.onnx finds; give that too"
            )
        marked = None if landmarks is None else read_landmarks(Path(landmarks))
        if detector is not None:
            loaded_detector(str(detector))
        files = {"landmarks": landmarks, "detector": detector}
        inputs = {name: fingerprint(Path(file)) for name, file in files.items() if file is not None}
        network = None if detector is None else str(detector)
        return cls(config, marked, network, inputs, options.workers, options.show_progress)

    def tasks(self, images: Sequence[SourceImage], around: str = "") -> list["Task"]:
        """What to do with each; `around` is a folder that landmarks may have before its name."""
        if self.landmarks is None:
            return [Task(image, detector=self.detector) for image in images]
        tasks = [_marked(image, around, self.landmarks) for image in images]
        check_places([(task.points[0], task.image.read) for task in tasks if task.points])
        return tasks

    def prepare(
        self, tasks: Sequence["Task"], title: str
    ) -> Generator[tuple["Task", "Result"], None, None]:
        """Each task with its result, in order, from up to `workers` processes."""
        photographs = bool(tasks) and tasks[0].detector is not None
        least = _PHOTOGRAPHS_PER_WORKER if photographs else _IMAGES_PER_WORKER
        chunk = _CHUNK_OF_PHOTOGRAPHS if photographs else _CHUNK
        chunks = (tasks[i : i + chunk] for i in range(0, len(tasks), chunk))
        workers = max(1, min(self.workers or os.cpu_count() or 1, len(tasks) // least))
        one_chunk = functools.partial(_prepare_chunk, config=self.config)
        results = (one for part in ordered_map(one_chunk, chunks, workers) for one in part)
        bar = progress(results, title, total=len(tasks), unit="img", enabled=self.show_progress)
        yield from zip(tasks, bar, strict=True)


class PackedFace(NamedTuple):
    """One face as it is stored."""

    name: str  # the image's, with `#2` for its second face
    encoded: bytes  # the image file
    suspect: str | None  # why it may be damaged
    found: Face | None  # what a detector found


Result = list[PackedFace] | str
"""The faces of an image file, one or more; or why there are none."""


def _marked(image: SourceImage, around: str, landmarks: Landmarks) -> Task:
    known = (landmarks.points, landmarks.misfit)
    name = image.name.strip()
    if not any(name in one for one in known):
        name = around + name
    points, reason, number, key = [], "has no landmarks", 1, name
    while any(key in one for one in known):
        if key in landmarks.points:
            points.append(landmarks.points[key])
        elif number == 1:
            reason = landmarks.misfit[key]
        number += 1
        key = f"{name}#{number}"
    return Task(image, tuple(points), None if points else reason)


def _prepare_chunk(tasks: Iterable[Task], config: PackConfig) -> list[Result]:
    results: list[Result] = []
    for task in tasks:
        try:
            results.append(_prepare(task, config))
        except DataError as error:
            results.append(str(error))
    return results


def _prepare(task: Task, config: PackConfig) -> list[PackedFace]:
    """The faces that go into a shard; raises DataError: why there are none."""
    if task.no_points is not None:
        raise DataError(task.no_points)
    name, encoded = task.image.name, task.image.read()
    image, suspect = decode_checked(encoded, "image")
    if task.points or task.detector is not None:
        _check_points(task, image, encoded)
        faces = [None] * len(task.points) if task.detector is None else _find(image, task, config)
        every = task.points or [face.points for face in faces if face is not None]
        return [
            PackedFace(
                name if number == 1 else f"{name}#{number}",
                encode_jpeg(align(image, points, config.size), config.quality),
                suspect,
                face,
            )
            for number, (points, face) in enumerate(zip(every, faces, strict=True), 1)
        ]
    if passes_through(image, encoded, config.size):
        return [PackedFace(name, encoded, suspect, None)]
    square = encode_jpeg(fit_square(image, config.size), config.quality)
    return [PackedFace(name, square, suspect, None)]


def passes_through(image: Image, encoded: bytes, size: int) -> bool:
    """Whether an image file is stored byte for byte: an upright JPEG of size x size."""
    header = read_header(encoded)
    return (
        image.shape[:2] == (size, size)
        and header is not None
        and (header.format, header.orientation) == ("JPEG", 1)  # else others would see it turned
    )


def _check_points(task: Task, image: Image, encoded: bytes) -> None:
    """Refuse landmarks of another size, or as the image lay before EXIF: they crop anything."""
    height, width = image.shape[:2]
    for points in task.points:
        outside = ((points < 0) | (points > (width, height))).any(axis=1)
        if outside.sum() > 2:
            raise DataError(
                f"its landmarks lie outside its {width} x {height} pixels; they must be in pixels "
                "of this image, turned upright"
            )
        header = read_header(encoded)
        if header is not None and header.orientation != 1 and turn_of(points) > MOST_TURN:
            raise DataError(
                f"its landmarks are turned by {turn_of(points):.0f} degrees, as of the image "
                "before its EXIF orientation turns it; they must be those of the upright image"
            )


def _find(image: Image, task: Task, config: PackConfig) -> list[Face]:
    assert task.detector is not None
    detector = loaded_detector(task.detector)
    height, width = image.shape[:2]
    chosen = choose(detector.find(image), width, height, config.faces)
    if not chosen:
        raise DataError("shows no face that the detector finds")
    # As they are written in the list of landmarks, which then gives the same bytes.
    faces = [detector.refined(image, face) for face in chosen]
    faces = [face._replace(points=np.round(face.points, 2)) for face in faces]
    wrong = misfits(np.stack([face.points for face in faces]))
    fitting = [face for face, why in zip(faces, wrong, strict=True) if why is None]
    if not fitting:
        raise DataError(f"shows no face: {wrong[0]}")
    return fitting


LANDMARK_HEADER = ("path", *COORDINATES, *FURTHER)


def landmark_row(face: PackedFace) -> list[str]:
    """A line of landmarks.csv, which `read_landmarks` reads."""
    assert face.found is not None
    numbers = [f"{value:.2f}" for value in face.found.points.ravel()]
    return [face.name, *numbers, f"{face.found.score:.4f}", f"{face.found.size:.1f}"]
