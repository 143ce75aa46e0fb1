"""Faces of a data set as one picture: a row an identity, a column an image."""

import contextlib
from pathlib import Path

import cv2
import numpy as np

from facetrain.core.artifact import atomic_path
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.lock import file_lock
from facetrain.data.dataset import FaceDataset
from facetrain.data.images.codec import Image

_SIZE = 112  # pixels
_ROWS, _COLUMNS = 8, 10


def _contact_sheet(dataset: FaceDataset) -> Image:
    """The picture (rows * 112, 10 * 112, 3) uint8 RGB; black where there is no image.

    Identities are spread evenly over the class ids of those with the most images to show, so that
    the same data set gives the same picture.
    """
    counts = np.bincount(dataset.label)
    full = np.flatnonzero(counts >= min(_COLUMNS, counts.max()))
    chosen = full[np.linspace(0, len(full) - 1, min(_ROWS, len(full))).round().astype(int)]
    sheet = np.zeros((len(chosen) * _SIZE, _COLUMNS * _SIZE, 3), np.uint8)
    for row, identity in enumerate(chosen.tolist()):
        for column, image in enumerate(np.flatnonzero(dataset.label == identity)[:_COLUMNS]):
            top, left = row * _SIZE, column * _SIZE
            with contextlib.suppress(DataError):  # it does not decode, and stays black
                sheet[top : top + _SIZE, left : left + _SIZE] = dataset.decode(int(image), _SIZE)
    return sheet


def write_contact_sheet(data: Path, out: Path) -> None:
    """Draw faces of `data`, a `.rec` or a folder of shards, into `out`.

    Raises:
        ConfigError: `out` is neither .png nor .jpg.
        DataError: the data set cannot be read, or holds no image.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"--sheet {out}: must end in .png or .jpg")
    sheet = _contact_sheet(FaceDataset.open(data, on_corrupt="skip"))
    written, encoded = cv2.imencode(out.suffix, sheet[..., ::-1])
    assert written, out
    with file_lock(out), atomic_path(out) as temporary:
        temporary.write_bytes(encoded.tobytes())
