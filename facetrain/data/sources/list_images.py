"""What `pack` reads: a folder per identity, an MXNet `.lst`, or a tar of identity folders."""

import errno
from pathlib import Path

from facetrain.core.errors import DataError
from facetrain.data.sources.folder import find_in_folder
from facetrain.data.sources.identity_folders import arrange
from facetrain.data.sources.image import Listing
from facetrain.data.sources.lst import list_lst
from facetrain.data.sources.tar import list_tar


def list_images(source: Path, scratch: Path) -> Listing:
    """List a source. Names and sizes are read, and the first bytes of files with unusual names.

    Args:
        source: folder of identity folders, `.lst`, or tar (`.tar`, `.tar.gz`, ...).
        scratch: where a compressed tar is unpacked to, as one plain tar; what is in the folder
            around it is not of the source.

    Raises:
        DataError: there is no such source, it cannot be read to its end, or it holds no images.
    """
    try:
        if source.is_dir():
            listing = arrange(source, find_in_folder(source, scratch.parent))
        elif source.suffix == ".lst" and source.is_file():
            listing = list_lst(source)
        elif source.is_file():
            listing = list_tar(source, scratch)
        else:
            raise DataError(f"{source}: must be a folder, a .lst or a tar, but there is none")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
            raise
        raise DataError(f"{source}: must be readable, but {error.strerror}") from None
    if not listing.images:
        raise DataError(
            f"{source}: must hold images (identity/image.jpg, or index<TAB>label<TAB>path lines), "
            "but none was found"
        )
    return listing
