"""The sections of the report: data, training, cleaning, verification, the stages themselves."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from facetrain.core.artifact import Artifact
from facetrain.core.run_folder import CLEAN, TRAIN
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import CleaningResult
from facetrain.report.blocks import (
    Bar,
    Block,
    Cell,
    Details,
    Heading,
    Link,
    Note,
    Source,
    Status,
    Table,
    duration,
    plain_numbers,
    words,
)
from facetrain.report.class_sizes import size_rows
from facetrain.report.cleaning import (
    Row,
    finding_rows,
    noise_numbers,
    noise_rows,
    outcome_rows,
    reason_rows,
)
from facetrain.report.run import Run, Stage, journal_counts
from facetrain.report.tables import compare, identification_rows, ijb_rows, verification_rows


def data_section(run: Run) -> list[Block]:
    """How many images and identities, by whose labels."""
    if not run.sizes or run.data is None:
        return []
    overlays = "".join(f" + {path}" for path in run.data.overlay)
    where = Note(f"{run.data.where}{overlays}", is_code=True)
    return [
        where,
        Table(*size_rows(run.sizes)),
        Source([stage.name for stage in run.stages if stage.name in (TRAIN, CLEAN)][:1]),
    ]


def training_section(run: Run) -> list[Block]:
    """What each training was, and how it ended."""
    rows, waiting = [], list[Block]()
    trainings = [stage for stage in run.stages if stage.is_training]
    for stage in trainings:
        if stage.artifact is None:
            waiting.append(Note(f"{stage.name} is not finished: {stage.so_far()}."))
            continue
        metrics, config = stage.artifact.metrics, stage.artifact.manifest["config"]
        model, loop = config.get("model") or {}, config.get("train") or {}
        cells: list[Any] = [
            model.get("name"),
            (config.get("head") or {}).get("margin"),
            _method(config),
            metrics.get("num_images"),
            metrics.get("num_classes"),
            loop.get("epochs"),
            metrics.get("loss"),
            metrics.get("images_per_second"),
        ]
        rows.append([stage.name, *map(words, cells)])
    if not rows:
        return waiting
    header = ["training", "backbone", "margin", "method", "images", "identities", "epochs"]
    header += ["last loss", "images/s"]
    names = [stage.name for stage in trainings if stage.artifact]
    explained = (
        "Losses of two trainings can be compared only with equal margins and identities; noisy "
        "labels keep a loss high, cleaned ones let it fall."
    )
    return [Table(header, rows), *waiting, Note(explained), Source(names)]


def _method(config: Mapping[str, Any]) -> str:
    """What a training did besides: its section `robust` or `finetune`."""
    robust, tuned = config.get("robust"), config.get("finetune")
    if robust:
        return str(robust["name"])
    return str(tuned["method"]) if tuned else "plain"


def _image_table(rows: list[Row], num_images: int, truth: str, meaning: str) -> Table:
    """Images by what became of them, or why."""
    cells: list[list[Cell]] = [
        [row.what, f"{row.num_images:,}", Bar(row.num_images / max(num_images, 1)), row.truth,
         row.meaning]
        for row in rows
    ]  # fmt: skip
    return Table(["images", "", "share", truth, meaning], cells, "account")


def cleaning_section(run: Run) -> list[Block]:
    """What was dropped, moved and kept, why, and how right that was."""
    blocks, noise = list[Block](), []
    stages = [stage for stage in run.stages if stage.kind == "clean"]
    for stage in stages:
        if len(stages) > 1 or stage.artifact is None:
            blocks.append(Heading(stage.name))
        if stage.artifact is None:
            blocks.append(Note(stage.so_far()))
            continue
        cleaned = run.cleaned.get(stage.name)
        blocks += [*_account(run.result(stage), cleaned), _all_numbers(stage.artifact)]
        blocks.append(Source([stage.name]))
        if cleaned is not None and (numbers := noise_numbers(cleaned)) is not None:
            header, rows = noise_rows(numbers)
            noise.append([stage.name, *rows[0]])
    if noise:
        blocks += [
            Heading("Against the truth"),
            Table(["cleaning", *header], noise),
            Note(
                "The cleaner did not see it: noise that was found and missed, images dropped "
                "though their label was right; how many images got another label suggested, and "
                "for how many it is the right one. ECE, the expected calibration error: how far "
                "the probabilities are from the shares of right labels."
            ),
        ]
    return blocks + _review(run)


def _account(result: CleaningResult, cleaned: CleanedSet | None) -> list[Block]:
    """What became of the images and why, and what else was noticed."""
    truth = "by the truth" if cleaned is not None and cleaned.true_label is not None else ""
    total = len(result.kept)
    blocks: list[Block] = [
        _image_table(outcome_rows(result, cleaned), total, truth, ""),
        Heading("Reasons"),
        _image_table(reason_rows(result, cleaned), total, truth, "what it means"),
    ]
    if found := finding_rows(result, cleaned):
        blocks.append(Heading("Noticed, and left to you"))
        blocks.append(_image_table(found, total, "", "what it means"))
    return blocks


def _all_numbers(stage: Artifact) -> Details:
    numbers = plain_numbers(stage.metrics)
    return Details("all numbers of the cleaner", [Table(list(numbers), [list(numbers.values())])])


def _review(run: Run) -> list[Block]:
    """What a person decided afterwards."""
    counts = journal_counts(run.folder)
    if counts is None:
        return []
    seen = counts.pop("seen")[0]
    rows = [[action, f"{n:,}", f"{images:,}"] for action, (n, images) in counts.items()]
    return [
        Heading("Decided by a person"),
        Table(["review", "decisions", "images"], rows),
        Note(f"{seen:,} identities were looked at. The next `run` trains on these decisions."),
    ]


def verification_section(run: Run) -> list[Block]:
    """Every evaluation of the run."""
    blocks: list[Block] = []
    pairs, ijb = compare(run.finished), compare(run.finished, "ijb")
    if pairs:
        blocks += [
            Table(*verification_rows(pairs)),
            Note(
                "Accuracy: ten folds, each at the threshold the others chose; ± is the spread over "
                "the folds. TAR at the largest threshold whose false accepts stay within the FAR; "
                "“-”: too few pairs to say."
            ),
            Source([one.name for one in run.stages if one.kind == "evaluate"]),
        ]
    if not ijb:
        return blocks
    blocks += [
        Heading("IJB, 1:1"),
        Table(*ijb_rows(ijb)),
        Note(
            "Template pairs. Published tables read the TAR at the nearest point of the ROC; "
            "“at most” never accepts more impostors than the FAR allows."
        ),
    ]
    found = {
        f"{name}, {gallery}": numbers
        for name, one in ijb.items()
        for gallery, numbers in (one.get("identification") or {}).items()
    }
    if found:
        blocks += [
            Heading("IJB, 1:N"),
            Table(*identification_rows(found)),
            Note(
                "Rank k: the share of searched people who are among the k most alike of the "
                "gallery. TPIR at FPIR: found above a threshold that at most this share of "
                "strangers passes."
            ),
        ]
    return [*blocks, Source([one.name for one in run.stages if one.kind == "ijb"])]


def stage_section(run: Run) -> list[Block]:
    """Every stage with its status, time, ranks and numbers, then how each was configured."""
    rows = list[list[Cell]]()
    total = sum(stage.seconds or 0.0 for stage in run.stages) or 1.0
    for stage in run.every_stage:
        link, status = Link(stage.name), Status(stage.status)
        if stage.artifact is None:
            rows.append([link, status, "", "", "", stage.so_far()])
            continue
        numbers = plain_numbers(stage.artifact.metrics)
        summary = "  ·  ".join(f"{key} {value}" for key, value in numbers.items())
        seconds = float(stage.artifact.manifest["seconds"])
        share = "" if stage.set_aside else Bar(seconds / total)
        ranks = str(stage.artifact.manifest["world_size"])
        rows.append([link, status, duration(seconds), share, ranks, summary])
    header = ["stage", "status", "time", "share", "ranks", "numbers"]
    return [Table(header, rows, "stages"), *map(_configuration, run.every_stage)]


def _configuration(stage: Stage) -> Details:
    summary = f"configuration of {stage.name}"
    if stage.manifest is None:
        return Details(summary, [Note("It is known once the stage is finished.")], stage.name)
    text = yaml.safe_dump(stage.manifest["config"], sort_keys=False)
    parts = {"inputs": stage.manifest["inputs"], "versions": stage.manifest["versions"]}
    made = json.dumps({**parts, "commit": stage.manifest["commit"]}, indent=1)
    return Details(summary, [text, made], stage.name)
