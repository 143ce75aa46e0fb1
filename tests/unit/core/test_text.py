import logging

import pytest

from facetrain.core.log import configure_logging, logger
from facetrain.core.text import printable, printable_lines, printable_size


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Ada_Lovelace/0001.jpg", "Ada_Lovelace/0001.jpg"),
        ("Zoë Łukasz 王", "Zoë Łukasz 王"),
        ("two\nlines\tand a tab\r", r"two\nlines\tand a tab\r"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("right\u202eleft", r"right\u202eleft"),  # reverses what a terminal shows
        ("next\u2028line", r"next\u2028line"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
    ],
)
def test_what_is_not_printable_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown
    shown.encode("utf-8")  # and may be written anywhere


def test_lines_of_a_message_stay_lines() -> None:
    assert printable_lines("a\n\tb\x1b[31m") == "a\n\tb\\x1b[31m"


def test_a_log_line_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    handlers, level = logger.handlers[:], logger.level
    configure_logging()
    try:
        logger.log(logging.INFO, "%s: skipped", "\x1b]0;title\x07face.jpg")
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = True
    assert capsys.readouterr().err == "\\x1b]0;title\\x07face.jpg: skipped\n"


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (35_000, "34.2 KiB"),
        (5 << 19, "2.5 MiB"),
        (3 << 39, "1536.0 GiB"),
    ],
)
def test_a_size_has_the_unit_that_suits_it(num_bytes: int, shown: str) -> None:
    assert printable_size(num_bytes) == shown
