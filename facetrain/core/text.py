"""Names that somebody else chose, as text that one line of a list, a log or a terminal can hold."""


def printable(name: object) -> str:
    r"""`str(name)` with what is not printable escaped as in a Python string: `\n`, `\t`, `\x1b`.

    A file may be called anything. Written as it is, its name can break a list of one name a line,
    or move the cursor of whoever reads the log. Bytes that are not UTF-8 (which Python holds as
    surrogates) become `\udc..`. Everything else, of any script, stays.
    """
    return _escaped(str(name), keep="")


def printable_lines(text: str) -> str:
    """The same for text of several lines: newlines and tabs stay."""
    return _escaped(text, keep="\n\t")


def printable_size(num_bytes: int) -> str:
    """An amount of data with the unit that suits it: `820 bytes`, `3.5 MiB`, `12.0 GiB`."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def _escaped(text: str, keep: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii")
        for one in text
    )
