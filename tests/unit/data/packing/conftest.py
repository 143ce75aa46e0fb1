"""What the tests of packing share."""

from pathlib import Path

import pytest
from helpers.packing import picture

from facetrain.data.images.codec import encode_jpeg


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Identities b, a, e (nothing decodes), c; one broken image among those of b."""
    source = tmp_path / "source"
    for i, name in enumerate(["b/2", "b/1", "a/x", "c/1", "c/2", "c/3"]):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / f"{name}.jpg").write_bytes(encode_jpeg(picture(i)))
    (source / "b" / "broken.jpg").write_bytes(b"not an image")
    (source / "c" / "cut.jpg").write_bytes(encode_jpeg(picture(9))[:-30])
    (source / "e").mkdir()
    (source / "bad").mkdir()
    (source / "bad" / "x.png").write_bytes(b"")
    (source / "notes.txt").write_text("no identity")
    (source / "a" / ".hidden").write_text("hidden")
    return source
