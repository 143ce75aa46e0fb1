"""Memory of a process, as Linux accounts for it."""

import re
from pathlib import Path


def memory_mib(what: str = "VmHWM", process: int | str = "self") -> float:
    """A line of /proc/<process>/status in MiB: VmHWM (peak resident), VmRSS, RssAnon.

    `getrusage` will not do for a peak: a process starts with that of the one that started it.
    """
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    assert found, f"no {what} in /proc/{process}/status"
    return int(found[1]) / 1024
