"""A label overlay that shuffles all labels of a data set: the control of every training claim.

    python tools/shuffle_labels.py train.rec shuffled.npz
    facetrain train RECIPE --out runs/control data.overlay=shuffled.npz

Identities keep their number of images. A recipe that still verifies well on shuffled labels
learned nothing from them.
"""

import argparse
from pathlib import Path

import numpy as np

from facetrain.core.rng import numpy_generator
from facetrain.data.dataset import FaceDataset
from facetrain.data.overlay import LabelOverlay


def main() -> None:
    """Parse, shuffle, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dataset = FaceDataset.open(arguments.data)
    assert dataset.num_images == dataset.num_rows
    label = dataset.class_ids[dataset.label]
    shuffled = numpy_generator(arguments.seed, "shuffled labels").permutation(label)
    LabelOverlay.make(
        shuffled, np.ones(len(label), np.bool_), dataset_fingerprint=dataset.base_fingerprint
    ).save(arguments.out)
    print(f"{arguments.out}: {(shuffled != label).mean():.4f} of {len(label)} labels changed")


if __name__ == "__main__":
    main()
