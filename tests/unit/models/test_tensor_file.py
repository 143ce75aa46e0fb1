"""A file of tensors comes back as it was written, or is known to have changed."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from facetrain.core.errors import CheckpointError
from facetrain.models.tensor_file import read_tensors, save_tensors

STATE = {
    "half": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.empty(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
}


def test_a_round_trip(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_tensors(tmp_path / name, STATE, "of", {"b": [1, 2], "a": "x"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    state, about = read_tensors(tmp_path / "one", "of")
    assert about == {"b": [1, 2], "a": "x"}
    assert all(torch.equal(value, STATE[name]) for name, value in state.items())
    assert state.keys() == STATE.keys()


def test_any_bit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_tensors(path, STATE, "of", {"a": "x"})
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    state, about = read_tensors(path, "of")
    for place in range(len(content)):
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        )
        try:
            found, said = read_tensors(path, "of")
        except CheckpointError:
            continue
        # What is left is the two words under which the digest is found, and white space.
        assert place < size
        assert said in (about, None) or said.keys() != about.keys()
        assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_files_of_others_have_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    safetensors.torch.save_file({"a": torch.ones(2)}, path)
    assert read_tensors(path, "of")[1] is None
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"of": json.dumps({"width": 3})})
    assert read_tensors(path, "of")[1] == {"width": 3}
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"of": "{"})
    with pytest.raises(CheckpointError, match="of in its metadata must be JSON"):
        read_tensors(path, "of")
