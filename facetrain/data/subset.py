"""Some images of a data set as an image source of its own."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.cleaned_set import class_place
from facetrain.data.dataset import FaceDataset


class Subset:
    """M images, under the labels of the data set or under others.

    Args:
        images: (M,) positions in `dataset`.
        label: (M,) dense classes; the data set's own without it.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        images: NDArray[np.integer],
        label: NDArray[np.int64] | None = None,
    ) -> None:
        self.dataset, self.images = dataset, images
        self.label = dataset.label[images] if label is None else label

    @property
    def num_images(self) -> int:
        """M."""
        return len(self.images)

    @property
    def row(self) -> NDArray[np.int64]:
        """(M,) rows among all images of the shards."""
        row: NDArray[np.int64] = self.dataset.row[self.images]
        return row

    def decode(self, index: int, size: int) -> NDArray[np.uint8]:
        """As `FaceDataset.decode`."""
        return self.dataset.decode(int(self.images[index]), size)


def trusted_images(dataset: FaceDataset, overlay: Path) -> Subset:
    """The images that an overlay keeps, under the classes of a training set.

    A trusted label may differ from the one that is trained: it is the overlay's. Images of
    identities that the training set does not have are left out.

    Args:
        overlay: what it keeps is trusted, e.g. of the stage `clean`, or of a person's review.

    Raises:
        DataError: no trusted image of any trained identity.
    """
    trusted = dataset.with_overlay((overlay,))
    place = class_place(dataset.class_ids, trusted.class_ids[trusted.label])
    known = np.flatnonzero(place >= 0)
    if len(known) == 0:
        raise DataError(
            f"{overlay}: must keep images of identities that are trained, but keeps "
            f"{trusted.num_images} of others; give an overlay of the same labels"
        )
    return Subset(trusted, known, place[known])
