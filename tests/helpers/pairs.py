"""Verification sets in their official layouts, with images that a test can tell apart."""

from pathlib import Path

import cv2
import numpy as np

LFW_BOX = (61, 53, 128)  # left, top, side of the square a face fills


def write_image(path: Path, image: np.ndarray) -> None:
    """An RGB image as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def write_lfw(folder: Path, half: int, size: int = 250) -> None:
    """Ten sets of four people with two images each: `images/` and `pairs.txt`."""
    generator = np.random.default_rng(0)
    lines = [f"10\t{half}"]
    for k in range(10):
        names = [f"Person_{k}{letter}" for letter in "abcd"]
        for name in names:
            own = generator.integers(0, 256, (8, 8, 3))
            for number in (1, 2):
                small = (own + generator.integers(0, 200, (8, 8, 3))) // 2
                image = cv2.resize(small.astype(np.uint8), (size, size))
                write_image(folder / "images" / name / f"{name}_{number:04d}.jpg", image)
        lines += [f"{name}\t1\t2" for name in names[:half]]
        lines += [f"{names[i]}\t1\t{names[i + 1]}\t2" for i in range(half)]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
