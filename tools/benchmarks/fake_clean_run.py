"""Write a run that looks cleaned: rendered faces, repeated, and decisions drawn at random.

For what must hold many identities (the review page, the report) without training on them.

    python -m tools.benchmarks.fake_clean_run OUT --identities 84000 --images 20
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import facetrain
from facetrain.core.artifact import Manifest, write_sealed
from facetrain.core.digest import file_digest
from facetrain.core.rng import numpy_generator
from facetrain.data.cleaning_result import CleaningResult, Reason
from facetrain.data.dataset import DataConfig, FaceDataset
from facetrain.data.overlay import LabelOverlay
from facetrain.data.shards.face_shard import FaceShardWriter
from facetrain.data.stage_data import write_stage_data
from facetrain.data.synthetic import SyntheticConfig, write_synthetic
from tools.benchmarks.common import make_parser

MERGED, UNDECIDED, COPIED = 0.02, 0.02, 0.005  # shares of identities, identities, images
WRONG, FOUND_HOME, MOVED = 0.2, 0.5, 0.4  # images of others; with a suggestion; moved there
SWAPPED = 25  # every how many identities one exchanges an image with the next
ABSENT = 0.01  # share of images that the overlay beneath leaves out
FIRST_ID, STEP = 1000, 3  # class ids: 1000, 1003, ...


def rendered(num_people: int, per_person: int, size: int) -> list[list[bytes]]:
    """Encoded faces of each person."""
    config = SyntheticConfig(
        num_identities=num_people, min_images=per_person, max_images=per_person, size=size,
        difficulty=0.3,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder), config, quiet=True)
        faces = FaceDataset.open(Path(folder))
        images = [faces.encoded(image) for image in range(faces.num_images)]
    return [images[i : i + per_person] for i in range(0, len(images), per_person)]


def write_run(out: Path, num_identities: int, num_images: int, people: list[list[bytes]]) -> None:
    """Write `out/faces`, `out/noise` and, in `out/run`, what is read of `train` and `clean`.

    Class ids have gaps, and an overlay beneath the cleaner's leaves images out, so that rows,
    images, labels and class numbers all differ.

    Args:
        num_images: of each identity.
        people: faces to use, over and over.
    """
    random = numpy_generator(0, "fake clean run")
    number, home, wrong, first = _planted(random, num_identities, num_images)
    faces, noise = out / "faces", out / "noise" / "overlay.npz"
    with FaceShardWriter(faces / "train.rec") as writer:
        for row, (given, true) in enumerate(zip(number.tolist(), home.tolist(), strict=True)):
            person = people[true % len(people)]
            writer.write(FIRST_ID + STEP * given, person[row % len(person)])
    used = random.random(len(number)) >= ABSENT
    used[::num_images] = True  # every identity keeps an image
    LabelOverlay.make(FIRST_ID + STEP * number, used).save(noise)
    dataset = FaceDataset.open(faces, [noise])
    data = DataConfig(path=faces, overlay=(noise,), workers=0)
    run = out / "run"
    write_stage_data(run / "clean", data)
    swapped = np.isin(dataset.row, [first, first + num_images])
    _write_decisions(run / "clean", random, dataset, home[used], wrong[used], swapped)
    metrics = {"num_images": dataset.num_images, "num_classes": num_identities}
    for stage, config in (("train", {"data": data.model_dump(mode="json")}), ("clean", {})):
        manifest = Manifest(
            stage=stage, config=config, config_digest="", metrics=metrics, seconds=1, world_size=1,
            inputs={"data": dataset.fingerprint}, versions={"facetrain": facetrain.__version__},
            commit=None,
            files={path.name: file_digest(path) for path in (run / stage).glob("*.npz")},
        )  # fmt: skip
        write_sealed(run / stage / "manifest.json", manifest)


def _planted(
    random: np.random.Generator, num_identities: int, num_images: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of each row the person it is given to, the person shown, whether they differ; and the swaps.

    A swap exchanges image `swap` with image `swap + num_images`.
    """
    num_rows = num_identities * num_images
    number = np.repeat(np.arange(num_identities), num_images)
    wrong = random.random(num_rows) < WRONG
    home = np.where(wrong, random.integers(num_identities, size=num_rows), number)
    first = np.arange(0, num_identities - 1, SWAPPED) * num_images  # images of two neighbours
    home[first], home[first + num_images] = number[first + num_images], number[first]
    wrong[first] = wrong[first + num_images] = True
    return number, home, wrong, first


def _write_decisions(
    folder: Path,
    random: np.random.Generator,
    dataset: FaceDataset,
    home: NDArray[Any],
    wrong: NDArray[Any],
    swapped: NDArray[Any],
) -> None:
    """`clean.npz` and `overlay.npz`, as a cleaner might have judged."""
    label, num_identities = dataset.label, dataset.num_classes
    threshold = random.uniform(0.4, 0.85, num_identities).astype(np.float32)
    spread = random.beta(1, 12, len(label)) ** random.choice([0.3, 1], len(label), p=[0.15, 0.85])
    probability = np.where(wrong, spread, 1 - spread).astype(np.float32)
    unsure = random.random(num_identities) < UNDECIDED
    threshold[unsure], undecided = 0, unsure[label]
    probability[undecided] = 0.5
    kept = probability > threshold[label]
    probability[swapped], kept[swapped] = 0.02, False
    told = ~kept & (home != label) & ((random.random(len(label)) < FOUND_HOME) | swapped)
    moved = told & (random.random(len(label)) < MOVED)
    merge = random.integers(num_identities, size=num_identities)
    merge[random.random(num_identities) >= MERGED] = -1
    merge[merge == np.arange(num_identities)] = -1
    copied = np.where(random.random(len(label)) < COPIED, np.arange(len(label)) - 1, -1)
    reason = np.where(kept, Reason.CLEAN, np.where(told, Reason.OTHER_IDENTITY, Reason.NOBODY))
    reason[undecided & ~swapped] = Reason.AMBIGUOUS
    hard = kept & ~undecided & (probability < 0.9)
    reason[hard] = Reason.HARD
    ids = dataset.class_ids
    CleaningResult(
        clean_probability=probability,
        kept=kept,
        suggested_label=np.where(told, ids[home], -1),
        suggested_probability=np.where(told, 1 - probability, 0).astype(np.float32),
        reason=reason.astype(np.uint8),
        merge_label=np.where(merge >= 0, ids[merge], -1)[label],
        duplicate_of=copied,
        overlap=np.zeros(len(label), np.bool_),
        class_id=ids,
        threshold=threshold,
    ).save(folder / "clean.npz")

    def by_row(value: NDArray[Any], absent: int) -> NDArray[Any]:
        column = np.full(dataset.num_rows, absent, value.dtype)
        column[dataset.row] = value
        return column

    LabelOverlay.make(
        by_row(dataset.class_ids[np.where(moved, home, label)], -1),
        by_row(kept | moved, 1),
        source=by_row(np.ones(len(label), np.uint8), 0),
        source_names=("", "clean"),
        dataset_fingerprint=dataset.base_fingerprint,
    ).save(folder / "overlay.npz")


def main() -> None:
    """Write the run that the command line asks for."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("out", type=Path)
    parser.add_argument("--identities", type=int, default=300)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--people", type=int, default=40)
    arguments = parser.parse_args()
    people = rendered(arguments.people, 12, arguments.size)
    write_run(arguments.out, arguments.identities, arguments.images, people)


if __name__ == "__main__":
    main()
