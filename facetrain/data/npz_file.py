"""Arrays of an `.npz` that somebody else may have written."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.core.errors import DataError


def read_npz(path: Path, content: str) -> dict[str, NDArray[Any]]:
    """Every array by name; nothing in the file is executed.

    Args:
        path: the file.
        content: what it should hold, for the message.

    Raises:
        DataError: no such file, or not an `.npz` of plain arrays.
    """
    if not path.is_file():
        raise DataError(f"{path}: must be {content}, but there is no such file")
    must = f"{path}: must be {content}, whole and of plain arrays"
    if not zipfile.is_zipfile(path):  # NumPy would go on to ask for trust in a pickle
        raise DataError(f"{must}, but is no .npz archive; copy or write it again")
    where = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {}
            for name in archive.files:
                where = f"array {name}: "
                arrays[name] = archive[name]
            return arrays
    except Exception as error:  # a damaged archive may raise anything
        raise DataError(f"{must}; {where}{error}") from None
