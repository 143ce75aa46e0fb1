"""From photographs to a clean set, as a newcomer goes: times, what became of every file, accuracy.

    python -m tools.benchmarks.front_door newcomer PHOTOS --backbone B --detector F.onnx --out DIR
    python -m tools.benchmarks.front_door misplaced PHOTOS --backbone B --detector F.onnx --out DIR
    python -m tools.benchmarks.front_door joined DATA.rec --embeddings F.npz --out DIR

newcomer   the three commands of the README, and `write` as a `.rec`; every file of the folder must
           be in the set or named, and the folder that was written must pack to the same bytes.
misplaced  a fifth of the photographs is put into other people's folders first. Share of right
           labels before and in what `write` leaves, and the F1 of the noise; the same for `clean
           --target` on the embeddings of that run. Names of people must come through. With
           --embeddings F.npz in place of backbone and detector these judge.
joined     two sets of other people with some in common, under other names, that are joined by
           data.path=[a, b]: the recall and precision of the people found in both, and the set that
           `write --merges` makes of them. F.npz has `path` as DATA.lst names its images.

Each command is a process of its own, and its time what a user waits for.
"""

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.core.rng import numpy_generator
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.dataset import FaceDataset
from facetrain.data.features import Features, save_features
from facetrain.metrics.noise import noise_detection
from tools.benchmarks.common import make_parser, write_report


def facetrain(*words: object) -> dict[str, Any]:
    """Run one command; its seconds, and the processor's."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "facetrain", *map(str, words)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.perf_counter() - begun, 1), "processor": round(processor, 1)}


def files_below(folder: Path) -> set[str]:
    """Names of all files of a folder."""
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


def table(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV with a header."""
    with open(file, encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def contents(data: FaceDataset) -> Counter[tuple[str, bytes]]:
    """(identity's name, image file) of every image."""
    names = data.names
    return Counter(
        (names[label], data.encoded(index)) for index, label in enumerate(data.label.tolist())
    )


def newcomer(options: argparse.Namespace) -> dict[str, Any]:
    """The README's commands on a folder, and whether every file is accounted for."""
    run, out = options.out / "cleaned", options.out
    seconds = {
        "clean": facetrain(
            "clean", options.data, "--backbone", options.backbone,
            "--detector", options.detector, "--out", run,
        ),
        "report": facetrain("report", run),
        "write folder": facetrain("write", run, "--format", "folder", "--out", out / "people"),
        "write rec": facetrain("write", run, "--format", "rec", "--out", out / "rec"),
    }  # fmt: skip
    files = files_below(options.data)
    images = table(out / "people" / "images.csv")
    named = {
        line.partition("\t")[0]
        for name in ("skipped.txt", "ignored.txt")
        for line in (run / "data" / name).read_text(encoding="utf-8").splitlines()
    }
    written = {row["written"] for row in images if row["written"]}
    facetrain("pack", out / "people", out / "again")
    decided = contents(FaceDataset.open(out / "rec" / "train.rec"))
    return {
        "seconds": seconds,
        "seconds_in_all": round(sum(one["seconds"] for one in seconds.values()), 1),
        "files": len(files),
        "in_the_set": len({row["source"].partition("#")[0] for row in images}),
        "skipped_or_ignored": len(named),
        "unaccounted": sorted(files - {row["source"].partition("#")[0] for row in images} - named),
        "written": len(written),
        "written_are_there": written == files_below(out / "people") - {"images.csv", ".write.json"},
        "packed_again_is_the_rec": contents(FaceDataset.open(out / "again")) == decided,
    }


def misplaced(options: argparse.Namespace) -> dict[str, Any]:
    """Right labels before and after, where a share of the photographs is in other folders."""
    noisy, run, out = options.out / "noisy", options.out / "cleaned", options.out
    generator = numpy_generator(options.seed, "misplaced")
    photographs = sorted(options.data.glob("*/*"))
    people = sorted({one.parent.name for one in photographs})
    chosen = generator.permutation(len(photographs))[: round(options.rate * len(photographs))]
    owner = {}
    for number, photograph in enumerate(photographs):
        own = folder = photograph.parent.name
        if number in chosen:
            others = [one for one in people if one != own]
            folder = others[int(generator.integers(len(others)))]
        (noisy / folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photograph, noisy / folder / photograph.name)
        owner[f"{folder}/{photograph.name}"] = own
    judge: tuple[object, ...] = ("--backbone", options.backbone, "--detector", options.detector)
    if options.embeddings is not None:
        given = np.load(options.embeddings)
        lies = {f"{own}/{Path(name).name}": name for name, own in owner.items()}
        rows = [row for row, name in enumerate(given["path"].tolist()) if name in lies]
        path = np.array([lies[given["path"][row]] for row in rows])
        np.savez(out / "F.npz", embedding=given["embedding"][rows], path=path)
        judge = ("--embeddings", out / "F.npz")
    facetrain("clean", noisy, *judge, "--out", run, f"seed={options.seed}")
    results: dict[str, Any] = {"photographs": len(photographs), "misplaced": len(chosen)}
    for name, words in {"kept": (), "with suggestions": ("--suggestions",)}.items():
        folder = out / f"written {name}".replace(" ", "_")
        facetrain("write", run, "--format", "folder", "--out", folder, *words)
        written = [row for row in table(folder / "images.csv") if row["written"]]
        right = sum(owner[row["source"]] == Path(row["written"]).parent.name for row in written)
        results[name] = {"images": len(written), "right": round(right / len(written), 4)}
        folders = {one.name for one in folder.iterdir() if one.is_dir()}
        results[name]["names_kept"] = folders <= set(people)
    cleaned = CleanedSet.open_run(run)
    data = cleaned.dataset
    sources = [data.source(index) or "" for index in range(data.num_images)]
    is_clean = np.array([owner[one] == Path(one).parent.name for one in sources])
    embedding = np.load(run / "embed" / "embedding.npy")
    save_features(out / "target.npz", Features(embedding, data.class_ids[data.label]))
    facetrain(
        "clean", "--target", out / "target.npz", "--out", out / "target", f"seed={options.seed}"
    )
    with np.load(out / "target" / "clean.npz") as answer:
        alone = np.asarray(answer["kept"])
    for name, kept in (("of the run", cleaned.result.kept), ("of clean --target", alone)):
        found = noise_detection(None, kept, is_clean)
        results[name] = {key: found.numbers()[key] for key in ("precision", "recall", "f1")}
    results["before"] = round(float(is_clean.mean()), 4)
    return results


def joined(options: argparse.Namespace) -> dict[str, Any]:
    """Recall and precision of the people found under two names, where two sets are joined."""
    out, generator = options.out, numpy_generator(options.seed, "joined")
    data = FaceDataset.open(options.data)
    count = np.bincount(data.label)
    able = np.flatnonzero(count >= options.least)
    common = set(generator.permutation(able)[: round(options.common * len(able))].tolist())
    given, path = np.load(options.embeddings), dict[str | None, str]()
    side = generator.integers(2, size=data.num_classes)
    pseudonym = generator.permutation(2 * data.num_classes)
    seen: Counter[int] = Counter()
    for index in generator.permutation(data.num_images).tolist():
        label = int(data.label[index])
        half = (seen[label] % 2) if label in common else int(side[label])
        seen[label] += 1
        name = f"n{pseudonym[2 * label + half]:05d}/{index}.jpg"
        target = out / "ab"[half] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encoded(index))
        path[data.source(index)] = name
    found = [place for place, name in enumerate(given["path"].tolist()) if name in path]
    names = np.array([path[given["path"][place]] for place in found])
    np.savez(out / "F.npz", embedding=given["embedding"][found], path=names)
    for letter in "ab":
        facetrain("pack", out / letter, out / f"shards_{letter}")
    run = out / "cleaned"
    seconds = facetrain(
        "clean", f"data.path=[{out / 'shards_a'},{out / 'shards_b'}]", "--embeddings",
        out / "F.npz", "--out", run, f"seed={options.seed}",
    )  # fmt: skip
    cleaned = CleanedSet.open_run(run)
    person = {f"n{name:05d}": place // 2 for place, name in enumerate(pseudonym.tolist())}
    merged = [
        (person[cleaned.names[one]], person[cleaned.names[other]])
        for one, other in enumerate(cleaned.merge.tolist())
        if other >= 0
    ]
    rightly = {one for one, other in merged if one == other}
    facetrain("write", run, "--format", "folder", "--merges", "--out", out / "one")
    rows = [row for row in table(out / "one" / "images.csv") if row["written"]]
    folders: dict[int, set[str]] = {}
    for row in rows:
        who = person[Path(row["source"]).parent.name]
        folders.setdefault(who, set()).add(Path(row["written"]).parent.name)
    return {
        "images": data.num_images,
        "people": data.num_classes,
        "in_both": len(common),
        "seconds": seconds,
        "found": len(merged),
        "rightly": len(rightly & common),
        "recall": round(len(rightly & common) / len(common), 4),
        "precision": round(sum(a == b for a, b in merged) / max(len(merged), 1), 4),
        "dropped": int((~cleaned.result.kept).sum()),
        "in_both_written_as_one": sum(len(folders.get(one, ())) == 1 for one in common),
        "folders_written": len({Path(row["written"]).parent.name for row in rows}),
    }


def main() -> None:
    """Parse, run, print."""
    parser = make_parser(__doc__)
    parser.add_argument("what", choices=("newcomer", "misplaced", "joined"))
    parser.add_argument("data", type=Path, help="folder a person; of joined, a .rec")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--embeddings", type=Path)
    parser.add_argument("--rate", type=float, default=0.2, help="of photographs in other folders")
    parser.add_argument("--common", type=float, default=0.5, help="of people, those in both sets")
    parser.add_argument("--least", type=int, default=6, help="images of a person in both sets")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    options.out = Path(os.path.abspath(options.out))
    work = {"newcomer": newcomer, "misplaced": misplaced, "joined": joined}[options.what]
    write_report(work(options), options.json)


if __name__ == "__main__":
    main()
