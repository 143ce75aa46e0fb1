"""Commands on what a user brings."""

from reliability.command import (
    NUM_IMAGES,
    OUT,
    SHARD,
    Command,
    inspected,
    num_files,
    num_lines,
    packed,
    paired,
    planted_all,
)

DATA_COMMANDS = {
    "pack": Command(
        ("pack", "images", "packed", "--size", "32", "--shards", "2", "--workers", "1"),
        reads=("images/*/*",),
        state=("packed/*", "packed/.[!.]*"),
        leaves=("packed/*.rec", "packed/*.idx", "packed/*.lst", "packed/classes.json"),
        unfinished=("packed/*", "packed/.[!.]*"),
        adds_up=packed("packed", num_files),
        often=3,
    ),
    "pack, two workers": Command(
        ("pack", "images.lst", "listed", "--size", "32", "--workers", "2"),
        reads=("images.lst",),
        leaves=("listed/*.rec", "listed/*.idx", "listed/*.lst", "listed/classes.json"),
        unfinished=("listed/*", "listed/.[!.]*"),
        adds_up=packed("listed", lambda folder: num_lines(folder / "images.lst", blank=False)),
        often=2,
    ),
    "pack, a tar": Command(
        ("pack", "images.tar", "untarred", "--size", "32", "--workers", "1"),
        reads=("images.tar",),
        leaves=("untarred/*.rec", "untarred/*.idx", "untarred/*.lst", "untarred/classes.json"),
        unfinished=("untarred/*", "untarred/.[!.]*"),
        adds_up=packed("untarred", lambda folder: NUM_IMAGES),
        often=3,
    ),
    "pack, landmarks": Command(
        ("pack", "images", "aligned", "--size", "32", "--landmarks", "landmarks.csv",
         "--workers", "1"),
        reads=("landmarks.csv", "landmarks.csv", "images/*/*"),
        state=("aligned/*", "aligned/.[!.]*"),
        leaves=("aligned/*.rec", "aligned/*.idx", "aligned/*.lst", "aligned/classes.json"),
        unfinished=("aligned/*", "aligned/.[!.]*"),
        adds_up=packed("aligned", num_files),
    ),
    "pack, pairs": Command(
        ("pack", "images", "paired.bin", "--size", "32", "--pairs", "pairs.csv", "--workers", "1"),
        reads=("pairs.csv", "pairs.csv", "images/*/*"),
        leaves=("paired.bin",),
        unfinished=("paired.bin",),
        adds_up=paired,
        often=2,
    ),
    "pack, templates": Command(
        ("pack", "images", "benchmark", "--size", "32", "--templates", "ijbc", "--workers", "1"),
        reads=("images/*/*",),
        leaves=("benchmark/IJBC/meta/*", "benchmark/IJBC/loose_crop/*"),
        unfinished=("benchmark",),
        adds_up=lambda folder: (
            num_lines(folder / "benchmark/IJBC/meta/ijbc_face_tid_mid.txt")
            + num_lines(folder / "benchmark/skipped.txt")
            + num_lines(folder / "benchmark/ignored.txt")
            == num_files(folder)
        ),
        often=2,
    ),
    "pack, templates of features": Command(
        ("pack", "source.npz", "vectors", "--templates", "ijbb"),
        reads=("source.npz",),
        leaves=("vectors/IJBB/meta/*", "vectors/features.npy"),
        unfinished=("vectors",),
    ),
    "inspect": Command(
        ("inspect", "data", "--json", "inspect.json"), reads=SHARD, adds_up=inspected, often=3
    ),
    "inspect, a sheet": Command(
        ("inspect", "data", "--sheet", "faces.png"), reads=SHARD, leaves=("faces.png",),
        unfinished=("faces.png",),
    ),
    "corrupt": Command(
        ("corrupt", "data", "--flip", "0.2", "--seed", "3", "--out", "planted"),
        reads=SHARD,
        leaves=("planted/overlay.npz", "planted/truth.npz"),
        adds_up=planted_all,
        often=3,
    ),
    "corrupt, outliers": Command(
        ("corrupt", "data", "--outlier", "0.2", "--structured", "0.2", *OUT, "harder/noise.npz"),
        reads=SHARD,
        leaves=("harder/*.npz",),
        unfinished=("harder",),
    ),
    "corrupt, shuffled": Command(
        ("corrupt", "data", "--shuffle", *OUT, "shuffled"),
        reads=SHARD,
        leaves=("shuffled/*.npz",),
        unfinished=("shuffled",),
        often=0.5,
    ),
    "corrupt, features": Command(
        ("corrupt", "features.npz", "--flip", "0.2", "--structured", "0.1", *OUT, "noisy.npz"),
        reads=("features.npz",),
        leaves=("noisy.npz",),
        unfinished=("noisy.npz",),
        often=2,
    ),
    "variations": Command(
        ("variations", "data", "--out", "variation.npz", "--landmarks", "points.csv", "--blur"),
        reads=(*SHARD, "points.csv"),
        leaves=("variation.npz",),
        often=3,
    ),
}  # fmt: skip
