"""How a CPU run allocates memory."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Make glibc's malloc keep what is freed, for this process, instead of returning it.

    A training step frees and allocates the same large arrays again and again; given back to the
    kernel, each comes again as fresh pages to be faulted in. Measured on the small network at 64
    pixels: 15 to 20 % more images a second. Without glibc nothing changes.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
