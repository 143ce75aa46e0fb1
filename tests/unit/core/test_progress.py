import logging

import pytest

from facetrain.core import progress as module
from facetrain.core.progress import progress


def test_items_pass_unchanged_and_a_log_gets_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))  # ten seconds a look
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, logger="facetrain"):
        assert list(progress(range(5), "embed", total=5, unit="batch")) == [0, 1, 2, 3, 4]
    # Looks at 10, 20, ... seconds: a line once more than 15 have passed, so every second look.
    assert [record.getMessage() for record in caplog.records] == [
        "embed: 1 of 5 batch, 0.1/s, 80 s left",
        "embed: 3 of 5 batch, 0.1/s, 27 s left",
    ]
    assert list(progress(range(3), "quiet", enabled=False)) == [0, 1, 2]
