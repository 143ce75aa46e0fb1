"""An MXNet `.lst` as `pack` reads it: `index<TAB>label(s)<TAB>path`, paths relative to it."""

import re
from collections.abc import Sequence
from pathlib import Path

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.core.plain_file import refuse_hole
from facetrain.core.text import printable
from facetrain.data.shards.record_table import FLOAT32_INTEGERS
from facetrain.data.sources.image import Listing, SourceImage, state_digest

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_LARGEST = 3.4028234663852886e38  # float32


def list_lst(source: Path) -> Listing:
    """Labels stay as the `.lst` numbers them; images are put in the order of their class.

    Raises:
        DataError: the list cannot be read, or a line is not so, or has a label that a record
            cannot hold; names the line.
    """
    try:
        with open(source, encoding="utf-8-sig", errors="surrogateescape") as file:
            refuse_hole(file.fileno(), source)
            text = file.read()
    except OSError as error:
        raise DataError(f"{source}: must be a readable list, but {error.strerror}") from None
    images, keys = [], set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        key, *labels, name = [""] * (2 - line.count("\t") - 1) + line.rstrip("\r").split("\t")
        if wrong := _wrong(labels, name):
            raise DataError(
                f"{source}: line {number} must be index<TAB>label(s)<TAB>path, but {wrong}; got "
                f"{line!r:.80}"
            )
        label = tuple(float(one) for one in labels)
        images.append(SourceImage(name, label, str(source.parent / name)))
        keys.add(key.strip())
    if len(keys) < len(images) == len({image.label[0] for image in images}):
        raise DataError(
            f"{source}: lines must be index<TAB>label(s)<TAB>path, but each of the {len(images)} "
            f"has a label of its own and they share {len(keys)} indices; exchange the two columns"
        )
    _tell_repeats(source, images)
    images.sort(key=lambda image: image.label[0])
    return Listing(images, None, [], [], state_digest(images))


def _tell_repeats(source: Path, images: Sequence[SourceImage]) -> None:
    """Warn of images that a list has more than once: each line becomes an image of the set."""
    label_of: dict[str, float] = {}
    repeated, contradicted = [], []
    for image in images:
        name, label = image.name.removeprefix("./"), image.label[0]
        if name in label_of:
            repeated.append(image.name)
            if label_of[name] != label:
                contradicted.append(image.name)
        label_of.setdefault(name, label)
    if repeated:
        logger.warning(
            "%s: %d lines name an image that another line names (%s), %d of them under another "
            "class%s; every line is packed",
            source, len(repeated), printable(repeated[0]), len(contradicted),
            f" ({printable(contradicted[0])})" if contradicted else "",
        )  # fmt: skip


def _wrong(labels: Sequence[str], name: str) -> str | None:
    """What keeps a line from being packed; None where nothing does."""
    if not labels:
        return "it has fewer than three columns"
    if not all(_NUMBER.fullmatch(one) for one in labels):
        return "its labels are not numbers"
    identity = float(labels[0])
    if not (identity.is_integer() and identity >= 0):
        return f"its class {labels[0]} is no integer from 0 up; number the people from 0"
    if identity >= FLOAT32_INTEGERS:
        return (
            f"its class {labels[0]} is not below 2^24 = {FLOAT32_INTEGERS}, beyond which float32 "
            "labels merge neighbours; number the people from 0 without gaps"
        )
    if not all(abs(float(one)) <= _LARGEST for one in labels[1:]):
        return "a further label is beyond float32"
    if not name.strip() or "\0" in name:
        return "its path is no file name"
    return None
