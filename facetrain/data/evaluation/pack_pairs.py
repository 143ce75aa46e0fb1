"""Write a verification `.bin` from any list of pairs of images."""

from pathlib import Path
from typing import Any

import numpy as np

from facetrain.core.errors import ConfigError, DataError
from facetrain.core.lock import file_lock
from facetrain.core.log import logger
from facetrain.core.text import printable
from facetrain.data.evaluation.pair_lists import read_any
from facetrain.data.evaluation.paired_faces import find_images
from facetrain.data.evaluation.verification_bin import write_bin
from facetrain.data.files.lists import write_list
from facetrain.data.packing.pack_image import PackOptions, Preparation
from facetrain.data.sources.image import SourceImage


def pack_pairs(images: Path, out: Path, pairs: Path, options: PackOptions) -> dict[str, Any]:
    """Write the pairs of a list into `out`, a `.bin` of InsightFace; return what was counted.

    Images are cropped or aligned as `pack` does. A pair with an image that cannot be (it does not
    decode, has no landmarks, shows no face) is left out and named in `<out>.skipped.txt`.

    Args:
        images: the folder that the list's paths start from.
        out: a file that ends in `.bin`.
        pairs: lines `path path 0|1`, or LFW's `pairs.txt`; see `read_any`.
        options: as of `pack`, but not all faces.

    Raises:
        DataError: a list or an image that is missing or malformed, or no pair that is whole.
        ConfigError: an option that does not fit.
    """
    images, out = Path(images), Path(out)
    if out.suffix != ".bin" or out.is_dir():
        raise ConfigError(f"{out}: with --pairs, OUT must be a file that ends in .bin")
    if options.faces == "all":
        raise ConfigError("faces=all: a pair has two faces; choose largest, centred or skip")
    preparation = Preparation.of(options)
    listed = read_any(Path(pairs))
    files = find_images(images, listed.name, Path(pairs))
    sources = [SourceImage(name, (0.0,), str(file)) for name, file in files.items()]
    packed: dict[str, bytes] = {}
    skipped: dict[str, str] = {}
    for task, result in preparation.prepare(preparation.tasks(sources), out.name):
        if isinstance(result, str):
            skipped[task.image.name] = result
        else:
            packed[task.image.name] = result[0].encoded
    both = list(zip(listed.name[::2], listed.name[1::2], strict=True))
    whole = [one in packed and other in packed for one, other in both]
    if not any(whole):
        name, reason = next(iter(skipped.items()))
        raise DataError(
            f"{pairs}: no pair of it can be packed; the first image, {printable(name)}: {reason}"
        )
    same = listed.same[np.array(whole)]
    encoded = [
        packed[name] for pair, good in zip(both, whole, strict=True) if good for name in pair
    ]
    with file_lock(out):
        write_bin(out, encoded, same)
        write_list(out.with_name(f"{out.name}.skipped.txt"), skipped.items())
    if skipped:
        logger.warning(
            "%s: %d of %d pairs are left out, for %d images that %s.skipped.txt names",
            out, whole.count(False), len(whole), len(skipped), out.name,
        )  # fmt: skip
    return {
        "num_pairs": len(same),
        "num_same": int(same.sum()),
        "num_images": len(packed),
        "num_skipped_images": len(skipped),
        "num_skipped_pairs": whole.count(False),
    }
