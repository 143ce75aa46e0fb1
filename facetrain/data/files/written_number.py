"""Numbers as lists and tables write them.

Python's own reading takes `1_0` for ten, and digits of any script.
"""


def read_float(text: str) -> float:
    """The number, `nan` and `inf` too.

    Raises:
        ValueError: none, or one that only Python writes so.
    """
    return float(_plain(text))


def read_int(text: str) -> int:
    """The whole number.

    Raises:
        ValueError: none, or one that only Python writes so.
    """
    return int(_plain(text))


def _plain(text: str) -> str:
    if "_" in text or not text.isascii():
        raise ValueError(f"must be a number in plain digits, got {text!r:.40}")
    return text
