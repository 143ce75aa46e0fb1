"""Draw synthetic faces as one picture: a row an identity, a column a sample.

    python tools/contact_sheet.py sheet.png --identities 8 --samples 10

The first column is a neutral portrait; the others are drawn as a training set would draw them.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facetrain.data.synthetic import Nuisance, SyntheticConfig, render


def contact_sheet(config: SyntheticConfig, identities: int, samples: int) -> NDArray[np.uint8]:
    """The picture (identities * size, samples * size, 3) uint8 RGB."""
    rows = []
    for identity in range(config.first_identity, config.first_identity + identities):
        row = [render(config, identity, 0, Nuisance(seed=identity))[0]]
        row += [render(config, identity, sample)[0] for sample in range(samples - 1)]
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help=".png or .jpg")
    parser.add_argument("--identities", type=int, default=8)
    parser.add_argument("--first-identity", type=int, default=0)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--difficulty", type=float, default=1.0)
    arguments = parser.parse_args()
    config = SyntheticConfig(
        seed=arguments.seed, first_identity=arguments.first_identity, size=arguments.size,
        difficulty=arguments.difficulty,
    )  # fmt: skip
    sheet = contact_sheet(config, arguments.identities, arguments.samples)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(arguments.out), sheet[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"{arguments.out}: must end in .png or .jpg")


if __name__ == "__main__":
    main()
