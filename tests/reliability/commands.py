"""Every command on the workspace: what it reads, what it leaves, and what that must add up to."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

NUM_IMAGES = 40


@dataclasses.dataclass(frozen=True)
class Command:
    """One command on the workspace.

    Attributes:
        argv: its words, with paths relative to the workspace.
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


def _lines(path: Path, *, blank: bool = True) -> int:
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return sum(1 for line in lines if blank or line.strip())


def _packed(out: str, given: Callable[[Path], int]) -> Callable[[Path], bool]:
    """Whether what a pack wrote, skipped and ignored is what it was given."""

    def adds_up(folder: Path) -> bool:
        names = [*(folder / out).glob("train*.lst"), folder / out / "skipped.txt",
                 folder / out / "ignored.txt"]  # fmt: skip
        return sum(map(_lines, names)) == given(folder)

    return adds_up


def _num_files(folder: Path) -> int:
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


def _inspected(folder: Path) -> bool:
    numbers = json.loads((folder / "inspect.json").read_text())
    given = NUM_IMAGES if (folder / "data").is_dir() else 1  # a file in its place: another set
    return bool(numbers["num_images"] + len(numbers["unreadable"]) >= given)


def _rows(name: str, array: str = "") -> Callable[[Path], bool]:
    """Whether an array has a row for every image, and no more."""

    def adds_up(folder: Path) -> bool:
        found = np.load(folder / name)
        return len(found[array] if array else found) == NUM_IMAGES

    return adds_up


def _planted(folder: Path) -> bool:
    """Whether there is a truth for every image; records that cannot be read have none, but a row.

    Of a damaged one it is not known whether it is an image or an identity's.
    """
    return len(np.load(folder / "planted/truth.npz")["is_clean"]) >= NUM_IMAGES


_SHARD = ("data/train.rec", "data/train.idx")
_DATA = (*_SHARD, "noise/overlay.npz")
_TRAINED = ("run/train/backbone.safetensors", "run/train/manifest.json")
_IJB = "ijb/IJBC/meta/*"
_OUT = ("--out",)
_SHORT = (
    "pretrain.num_draws=2", "meta.num_rounds=1", "meta.num_steps=1", "adapter.num_draws=1"
)  # fmt: skip

COMMANDS = {
    "pack": Command(
        ("pack", "images", "packed", "--size", "32", "--shards", "2", "--workers", "1"),
        reads=("images/*/*",),
        state=("packed/*", "packed/.[!.]*"),
        leaves=("packed/*.rec", "packed/*.idx", "packed/*.lst", "packed/classes.json"),
        unfinished=("packed/*", "packed/.[!.]*"),
        adds_up=_packed("packed", _num_files),
        often=3,
    ),
    "pack, two workers": Command(
        ("pack", "images.lst", "listed", "--size", "32", "--workers", "2"),
        reads=("images.lst",),
        leaves=("listed/*.rec", "listed/*.idx", "listed/*.lst", "listed/classes.json"),
        unfinished=("listed/*", "listed/.[!.]*"),
        adds_up=_packed("listed", lambda folder: _lines(folder / "images.lst", blank=False)),
        often=2,
    ),
    "pack, a tar": Command(
        ("pack", "images.tar", "untarred", "--size", "32", "--workers", "1"),
        reads=("images.tar",),
        leaves=("untarred/*.rec", "untarred/*.idx", "untarred/*.lst", "untarred/classes.json"),
        unfinished=("untarred/*", "untarred/.[!.]*"),
        adds_up=_packed("untarred", lambda folder: NUM_IMAGES),
        often=3,
    ),
    "inspect": Command(
        ("inspect", "data", "--json", "inspect.json"), reads=_SHARD, adds_up=_inspected, often=3
    ),
    "corrupt": Command(
        ("corrupt", "data", "--flip", "0.2", "--seed", "3", "--out", "planted"),
        reads=_SHARD,
        leaves=("planted/overlay.npz", "planted/truth.npz"),
        adds_up=_planted,
        often=3,
    ),
    "variations": Command(
        ("variations", "data", "--out", "variation.npz", "--landmarks", "points.csv", "--blur"),
        reads=(*_SHARD, "points.csv"),
        leaves=("variation.npz",),
        often=3,
    ),
    "train": Command(
        ("train", "recipe.yaml", *_OUT, "run/train"),
        reads=(*_DATA, "recipe.yaml", "pairs.bin"),
        state=("run/train/**/*", "run/train/checkpoints/*/.metadata"),
        leaves=("run/train/backbone.safetensors",),
        unfinished=("run/train/manifest.json", "run/train/backbone.safetensors"),
    ),
    "train, two workers": Command(
        ("train", "recipe.yaml", *_OUT, "loaded", "data.workers=2"),
        reads=_DATA,
        state=("loaded/checkpoints/*/*", "loaded/checkpoints/*/.metadata"),
        leaves=("loaded/backbone.safetensors",),
        unfinished=("loaded/manifest.json", "loaded/backbone.safetensors"),
        often=0.5,
    ),
    "embed": Command(
        ("embed", "recipe.yaml", *_OUT, "run/embed"),
        reads=(*_DATA, "recipe.yaml"),
        state=("run/embed/*", "run/embed/.progress/*", *_TRAINED),
        leaves=("run/embed/*.npy",),
        unfinished=("run/embed/manifest.json",),
        adds_up=_rows("run/embed/embedding.npy"),
        often=1.5,
    ),
    "graph": Command(
        ("graph", "recipe.yaml", *_OUT, "run/graph"),
        reads=("recipe.yaml",),
        state=("run/graph/*", "run/graph/.progress/*", "run/embed/*"),
        leaves=("run/graph/*.npy",),
        unfinished=("run/graph/manifest.json",),
        often=3,
    ),
    "clean": Command(
        ("clean", "recipe.yaml", *_OUT, "run/clean"),
        reads=(*_DATA, "recipe.yaml", "source.npz"),
        state=("run/clean/*", "run/clean/source_graph/*", "run/graph/*", "run/embed/*"),
        leaves=("run/clean/clean.npz", "run/clean/overlay.npz"),
        unfinished=("run/clean/manifest.json",),
        adds_up=_rows("run/clean/clean.npz", "kept"),
        often=1.5,
    ),
    "run": Command(
        ("run", "recipe.yaml", *_OUT, "run"),
        reads=("recipe.yaml", *_DATA),
        state=("run/*/*", "run/train/checkpoints/*/*", "run/retrain/checkpoints/*/*"),
        leaves=("run/train/backbone.safetensors", "run/clean/clean.npz",
                "run/retrain/backbone.safetensors"),
        unfinished=("run/retrain/manifest.json", "run/clean/manifest.json"),
        often=0.2,
    ),
    "clean, two files": Command(
        ("clean", "--source", "source.npz", "--target", "source.npz", *_OUT, "arrays",
         *_SHORT),
        reads=("source.npz",),
        state=("arrays/*",),
        leaves=("arrays/clean.npz",),
        unfinished=("arrays/manifest.json",),
        often=0.5,
    ),
    "clean, no recipe": Command(
        ("clean", "data", "--backbone", "run/train", *_OUT, "straight", "source=source.npz",
         "embed.workers=1", "graph.num_neighbours=6", *_SHORT),
        reads=(*_SHARD, "source.npz"),
        state=("straight/*/*", *_TRAINED),
        leaves=("straight/clean/clean.npz",),
        unfinished=("straight/clean/manifest.json",),
        adds_up=_rows("straight/clean/clean.npz", "kept"),
        often=0.5,
    ),
    "evaluate": Command(
        ("evaluate", "recipe.yaml", "--backbone", "run/train", *_OUT, "run/evaluate"),
        reads=("pairs.bin", "recipe.yaml"),
        state=("run/evaluate/*", "run/evaluate/distances/*", *_TRAINED),
        leaves=("run/evaluate/verification.json",),
        unfinished=("run/evaluate/manifest.json",),
    ),
    "evaluate, a network of another's": Command(
        ("evaluate", "--backbone", "net.safetensors", "--bin", "pairs.bin", "--json",
         "numbers.json"),
        reads=("pairs.bin", "net.safetensors"),
        leaves=("numbers.json",),
    ),
    "evaluate, an ONNX network": Command(
        ("evaluate", "--backbone", "net.onnx", "--bin", "pairs.bin", "--json", "of_onnx.json"),
        reads=("net.onnx",),
        often=0.7,
    ),
    "evaluate, IJB": Command(
        ("evaluate", "--backbone", "run/train", "--ijb", "ijb", *_OUT, "templates"),
        reads=(_IJB, "ijb/IJBC/loose_crop/*"),
        state=("templates/ijbc/*", "templates/ijbc/embeddings/*/*", *_TRAINED),
        leaves=("templates/ijbc/verification.json", "templates/ijbc/roc.npz"),
        unfinished=("templates/ijbc/manifest.json",),
        often=0.7,
    ),
    "evaluate, people": Command(
        ("evaluate", "--backbone", "run/train", "--gallery", "gallery", "--probe", "images",
         "--json", "people.json"),
        reads=("gallery/*/*", "images/*/*"),
        often=0.7,
    ),
    "evaluate, embeddings": Command(
        ("evaluate", "--embeddings", "paths.npz", "--pairs", "pairs.csv", "--json", "scores.json"),
        reads=("paths.npz", "pairs.csv"),
        leaves=("scores.json",),
        often=1.5,
    ),
    "finetune": Command(
        ("finetune", "tune.yaml", "--from", "run/train", *_OUT, "run/tuned"),
        reads=(*_DATA, "tune.yaml"),
        state=("run/tuned/**/*", "run/train/checkpoints/*/*", "run/train/manifest.json"),
        leaves=("run/tuned/backbone.safetensors",),
        unfinished=("run/tuned/manifest.json", "run/tuned/backbone.safetensors"),
        often=0.7,
    ),
    "export": Command(
        ("export", "run", "--format", "safetensors", *_OUT, "out.safetensors"),
        state=_TRAINED,
        leaves=("out.safetensors",),
        often=2,
    ),
    "write": Command(
        ("write", "run", "--format", "rec", *_OUT, "decided"),
        reads=_DATA,
        state=("run/clean/*", "run/train/manifest.json", "decided/*", "decided/.[!.]*"),
        leaves=("decided/*.rec", "decided/images.csv"),
        unfinished=("decided/*", "decided/.[!.]*"),
        adds_up=lambda folder: _lines(folder / "decided/images.csv") == NUM_IMAGES + 1,
        often=3,
    ),
    "write, a folder": Command(
        ("write", "run", "--format", "folder", *_OUT, "people"),
        reads=_DATA,
        state=("run/clean/*", "people/*/*", "people/images.csv", "people/.[!.]*"),
        leaves=("people/*/*", "people/images.csv"),
        unfinished=("people",),
        adds_up=lambda folder: _lines(folder / "people/images.csv") == NUM_IMAGES + 1,
    ),
    "report": Command(
        ("report", "run"),
        reads=("run/train/log.jsonl",),
        state=("run/*/manifest.json", "run/clean/*", "run/evaluate/distances/*"),
        often=0.15,
    ),
    "review": Command(
        ("review", "run", "--no-open"),
        state=("run/*/manifest.json", "run/clean/*", "run/review/*"),
    ),
}  # fmt: skip
"""`config` reads nothing, and `demo` is `run` on faces of its own."""


def outcome(folder: Path, command: Command) -> dict[str, bytes]:
    """Name -> bytes of what the command leaves."""
    paths = sorted(path for glob in command.leaves for path in folder.glob(glob))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
