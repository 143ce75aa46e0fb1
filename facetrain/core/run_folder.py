"""What the files and folders of a run are called, said once (docs/run_folder.md: what is in them).

RUN/train/ evaluate/ embed/ graph/ clean/ retrain/ evaluate_retrain/   a stage each
RUN/train_true/ evaluate_true/      the same on labels known to be right, to compare with
RUN/round_1/                        embed/ to evaluate_retrain/ of an earlier cleaning round
RUN/data/                           shards of the folder that `facetrain clean FOLDER` was given
RUN/review/ pictures/ report.html summary.json
"""

import re
from pathlib import Path

TRAIN, RETRAIN, TRAIN_TRUE, FINETUNE = "train", "retrain", "train_true", "finetune"
EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE = "evaluate", "evaluate_retrain", "evaluate_true"
EMBED, GRAPH, CLEAN, DATA = "embed", "graph", "clean", "data"
REVIEW, PICTURES = "review", "pictures"
SUMMARY_FILE, REPORT_FILE = "summary.json", "report.html"

MANIFEST_FILE = "manifest.json"  # of every finished stage
LOG_FILE, CHECKPOINTS, SAMPLES = "log.jsonl", "checkpoints", "samples"  # of a training
ROW_FILE, LABEL_FILE = "row.npy", "label.npy"  # of embed
EMBEDDING_FILE, NORM_FILE = "embedding.npy", "norm.npy"  # of embed
NEIGHBOURS_FILE, SIMILARITY_FILE = "neighbours.npy", "similarity.npy"  # of graph
CLEAN_FILE, OVERLAY_FILE = "clean.npz", "overlay.npz"  # of clean; the review has an overlay, too
VERIFICATION_FILE, DISTANCES = "verification.json", "distances"  # of an evaluation
ROC_FILE = "roc.npz"  # of an evaluation on IJB
JOURNAL_FILE = "journal.jsonl"  # of a review
DATA_FILE = "data.json"  # of a stage that judged labels: which data set
CLASSES_FILE = "classes.json"  # beside shards, as the next two lines
SKIPPED_FILE, IGNORED_FILE, SUSPECT_FILE = "skipped.txt", "ignored.txt", "suspect.txt"
LANDMARKS_FILE = "landmarks.csv"  # what a detector found, as `--landmarks` reads it
TRUTH_FILE = "truth.npz"  # beside planted noise

STAGE_OF_FOLDER = {
    **dict.fromkeys((TRAIN, RETRAIN, TRAIN_TRUE), "train"),
    **{name: name for name in (FINETUNE, EMBED, GRAPH, CLEAN)},
    **dict.fromkeys((EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE), "evaluate"),
    **{f"{name}_{protocol}": "ijb" for name in (EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE)
       for protocol in ("ijbb", "ijbc")},
}  # fmt: skip
"""Folder -> its stage, which a finished one also says in its manifest."""

_ROUND, _PREVIOUS = "round_", ".previous-"


def round_folder(run_dir: Path, number: int) -> Path:
    """The folder of an earlier cleaning round, counted from 1."""
    return run_dir / f"{_ROUND}{number}"


def round_of(stage: Path) -> int | None:
    """Which earlier round a stage's folder belongs to: `round_2/clean` -> 2."""
    found = re.fullmatch(rf"{_ROUND}(\d+)", stage.absolute().parent.name)
    return int(found[1]) if found else None


def round_folders(run_dir: Path) -> list[Path]:
    """The folders of all earlier rounds."""
    return sorted(path for path in run_dir.glob(f"{_ROUND}*") if path.is_dir())


def previous_folder(stage: Path, number: int) -> Path:
    """Where a training on other labels than now is kept: `retrain.previous-1`."""
    return stage.with_name(f"{stage.name}{_PREVIOUS}{number}")


def is_previous(stage: Path) -> bool:
    """Whether a folder holds a training on other labels, kept beside the one that counts."""
    return _PREVIOUS in stage.name
