"""What the images of a shard were called before they were packed: the `.lst` beside it.

`key<TAB>label(s)<TAB>source path` a line, as MXNet has it. It is read when somebody asks, and by
offsets: 17 million names as Python strings would take gigabytes.
"""

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class ShardList:
    """A `.lst`; knows no names where there is none. Nothing is read before it is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name(self, key: int, number: int) -> str | None:
        """The source path of the image with this key, or None.

        Args:
            key: of its record.
            number: its place among the shard's images, where a list in their order has its line.
        """
        if number < len(self._lines[1]) and (found := self._parse(number)) and found[0] == key:
            return found[1]
        return self.by_key.get(key)

    @functools.cached_property
    def _lines(self) -> tuple[bytes, NDArray[np.int64]]:
        content = self.path.read_bytes() if self.path.is_file() else b""
        ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        return content, np.append(0, ends + 1)[: len(ends) + (content[-1:] not in (b"", b"\n"))]

    @functools.cached_property
    def by_key(self) -> dict[int, str]:
        """Key -> source path of all images, for lists in another order."""
        found = (self._parse(number) for number in range(len(self._lines[1])))
        return dict(pair for pair in found if pair)

    def _parse(self, number: int) -> tuple[int, str] | None:
        """Key and path of a line; None where it is another kind of list."""
        content, starts = self._lines
        end = int(starts[number + 1]) if number + 1 < len(starts) else len(content)
        fields = content[int(starts[number]) : end].rstrip(b"\r\n").split(b"\t")
        try:
            float(fields[1])
            return int(fields[0]), fields[-1].decode("utf-8", "surrogateescape")
        except (IndexError, ValueError):
            return None
