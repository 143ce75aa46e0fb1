"""Images whose labels are trusted, as a source of batches beside the training set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError
from facetrain.data.cleaned_set import class_place
from facetrain.data.dataset import FaceDataset


class TrustedImages:
    """The images that an overlay keeps, under the classes of a training set.

    A trusted label may differ from the one that is trained: it is the overlay's. Images of
    identities that the training set does not have are left out.

    Args:
        overlay: what it keeps is trusted, e.g. of the stage `clean`, or of a person's review.

    Raises:
        DataError: no trusted image of any trained identity.
    """

    label: NDArray[np.int64]
    """(num_images,) dense classes of the training set."""
    row: NDArray[np.int64]
    """(num_images,) rows among all images of the shards."""
    fingerprint: str

    def __init__(self, dataset: FaceDataset, path: Path | Sequence[Path], overlay: Path) -> None:
        self._trusted = FaceDataset.open(path, (overlay,))
        self.fingerprint = self._trusted.fingerprint
        label = self._trusted.class_ids[self._trusted.label]  # as the overlay names it
        place = class_place(dataset.class_ids, label)
        known = place >= 0
        self._image = np.flatnonzero(known)
        self.label, self.row = place[known], self._trusted.row[known]
        if len(self.label) == 0:
            raise DataError(
                f"{overlay}: must keep images of identities that are trained, but keeps "
                f"{self._trusted.num_images} of others; give an overlay of the same labels"
            )

    @property
    def num_images(self) -> int:
        """Trusted images of trained identities."""
        return len(self.label)

    def decode(self, index: int, size: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB of trusted image `index`."""
        return self._trusted.decode(int(self._image[index]), size)
