"""Folders and tars of images, a folder a person."""

import tarfile
from pathlib import Path

import numpy as np

from facetrain.data.images.codec import encode_jpeg
from facetrain.data.sources.image import Listing
from facetrain.data.sources.list_images import list_images

JPEG = encode_jpeg(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))


def tree(folder: Path, *names: str) -> Path:
    """Files below `folder`: images, or words in a .txt; a name with / at its end is a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(b"some words" if name.endswith(".txt") else JPEG)
    return folder


def as_tar(folder: Path, around: str = ".") -> Path:
    path = folder.with_name(f"{folder.name}-{around.replace('/', '_')}.tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=around)
    return path


def listed(source: Path) -> Listing:
    return list_images(source, source.parent / "out" / "scratch.tar")
