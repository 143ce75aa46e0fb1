"""What a command on the workspace reads, what it leaves, and what that must add up to."""

import dataclasses
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

NUM_IMAGES = 40
SHARD = ("data/train.rec", "data/train.idx")
DATA = (*SHARD, "noise/overlay.npz")
TRAINED = ("run/train/backbone.safetensors", "run/train/manifest.json")
OUT = ("--out",)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command on the workspace.

    Attributes:
        argv: its words, with paths relative to the workspace; or `python` and a program.
        reads: files of the user that it reads, as globs.
        state: files of ours that it reads or resumes from, as globs.
        leaves: what must be the same bytes however the command got there.
        unfinished: removed to make it run again, and go on from what else is there.
        adds_up: whether what it left accounts for every image it was given.
        often: how often it is drawn; the slow ones less.
    """

    argv: tuple[str, ...]
    reads: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    adds_up: Callable[[Path], bool] = lambda folder: True
    often: float = 1.0


def num_lines(path: Path, *, blank: bool = True) -> int:
    """Lines of a file; 0 where there is none."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return sum(1 for line in lines if blank or line.strip())


def packed(out: str, given: Callable[[Path], int]) -> Callable[[Path], bool]:
    """Whether what a pack wrote, skipped and ignored is what it was given."""

    def adds_up(folder: Path) -> bool:
        names = [*(folder / out).glob("train*.lst"), folder / out / "skipped.txt",
                 folder / out / "ignored.txt"]  # fmt: skip
        return sum(map(num_lines, names)) == given(folder)

    return adds_up


def num_files(folder: Path) -> int:
    """Files below `images`; a folder's link to one that it lies in counts as one."""

    def count(place: Path, around: frozenset[Path]) -> int:
        total = 0
        for path in place.iterdir():
            real = Path(os.path.realpath(path))
            deeper = path.is_dir() and real not in around
            total += count(path, around | {real}) if deeper else 1
        return total

    images = folder / "images"
    return count(images, frozenset([Path(os.path.realpath(images))]))


def inspected(folder: Path) -> bool:
    """Whether every image was counted or named."""
    numbers = json.loads((folder / "inspect.json").read_text())
    given = NUM_IMAGES if (folder / "data").is_dir() else 1  # a file in its place: another set
    return bool(numbers["num_images"] + len(numbers["unreadable"]) >= given)


def rows(name: str, array: str = "") -> Callable[[Path], bool]:
    """Whether an array has a row for every image, and no more."""

    def adds_up(folder: Path) -> bool:
        found = np.load(folder / name)
        return len(found[array] if array else found) == NUM_IMAGES

    return adds_up


def planted_all(folder: Path) -> bool:
    """Whether there is a truth for every image; records that cannot be read have none, but a row.

    Of a damaged one it is not known whether it is an image or an identity's.
    """
    return len(np.load(folder / "planted/truth.npz")["is_clean"]) >= NUM_IMAGES


def paired(folder: Path) -> bool:
    """Whether every listed pair is in the `.bin`, but for those of an image named as skipped."""
    _, same = pickle.loads((folder / "paired.bin").read_bytes())
    named = folder / "paired.bin.skipped.txt"
    skipped = named.read_bytes().splitlines() if named.is_file() else []
    names = {line.split(b"\t")[0] for line in skipped}
    pairs = (
        re.split(rb"[\s,]+", line) for line in (folder / "pairs.csv").read_bytes().splitlines()
    )
    return len(same) == sum(1 for pair in pairs if any(pair) and names.isdisjoint(pair))


def written(out: str) -> Callable[[Path], bool]:
    """Whether a table tells of every image."""
    return lambda folder: num_lines(folder / out / "images.csv") == NUM_IMAGES + 1


def outcome(folder: Path, command: Command) -> dict[str, bytes]:
    """Name -> bytes of what the command leaves."""
    paths = sorted(path for glob in command.leaves for path in folder.glob(glob))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
