"""Which faces a contact sheet shows, and where."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from facetrain.core.errors import ConfigError
from facetrain.data.contact_sheet import write_contact_sheet
from facetrain.data.shards.face_shard import FaceShardWriter


def test_a_row_an_identity_and_a_column_an_image(tmp_path: Path) -> None:
    """Twelve people with 3 images of the grey 20 * person; one image does not decode."""
    (tmp_path / "set").mkdir()
    with FaceShardWriter(tmp_path / "set" / "train.rec") as writer:
        for person in range(12):
            for number in range(3):
                grey = np.full((112, 112, 3), 20 * person, np.uint8)
                encoded = cv2.imencode(".png", grey)[1].tobytes()
                writer.write(person, b"\xff\xd8 no" if (person, number) == (11, 1) else encoded)
    write_contact_sheet(tmp_path / "set", tmp_path / "sheets" / "s.png")
    sheet = cv2.imread(str(tmp_path / "sheets" / "s.png"))
    assert sheet.shape == (8 * 112, 10 * 112, 3)
    tiles = sheet[56::112, 56::112, 0]
    people = [0, 2, 3, 5, 6, 8, 9, 11]  # 0, 1.57, 3.14, ... rounded: evenly spread over twelve
    expected = np.zeros((8, 10), int)
    expected[:, :3] = 20 * np.array(people)[:, None]
    expected[7, 1] = 0
    np.testing.assert_array_equal(tiles, expected)
    with pytest.raises(ConfigError, match=r"must end in .png or .jpg"):
        write_contact_sheet(tmp_path / "set", tmp_path / "s.gif")
