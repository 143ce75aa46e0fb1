"""The sections of the report on data, training, cleaning and the stages themselves."""

import html
import json
from collections.abc import Mapping
from typing import Any

import yaml

from facetrain.core.artifact import Artifact
from facetrain.core.run_folder import CLEAN_FILE
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.cleaning_result import CleaningResult
from facetrain.report.class_sizes import size_rows
from facetrain.report.cleaning import (
    Row,
    finding_rows,
    noise_numbers,
    noise_rows,
    outcome_rows,
    reason_rows,
)
from facetrain.report.markup import (
    Html,
    anchor,
    bar,
    duration,
    note,
    plain_numbers,
    source,
    table,
    words,
)
from facetrain.report.run import Run
from facetrain.report.stages import Stage, journal_counts


def data_section(run: Run) -> str:
    """How many images and identities, by whose labels."""
    if not run.sizes or run.data is None:
        return ""
    overlays = "".join(f" + {path}" for path in run.data.overlay)
    where = f"<p class='soft'><code>{html.escape(f'{run.data.where}{overlays}')}</code></p>"
    return where + table(*size_rows(run.sizes)) + source("train")


def training_section(run: Run) -> str:
    """What each training was, and how it ended."""
    rows, waiting = [], ""
    trainings = [stage for stage in run.stages if stage.is_training]
    for stage in trainings:
        if stage.artifact is None:
            waiting += note(f"{stage.name} is not finished: {stage.so_far()}.")
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
        rows.append([stage.name, *map(_cell, cells)])
    if not rows:
        return waiting
    header = ["training", "backbone", "margin", "method", "images", "identities", "epochs"]
    header += ["last loss", "images/s"]
    names = [stage.name for stage in trainings if stage.artifact]
    explained = (
        "Losses of two trainings can be compared only with equal margins and identities; noisy "
        "labels keep a loss high, cleaned ones let it fall."
    )
    return table(header, rows) + waiting + note(explained) + source(*names)


def _method(config: Mapping[str, Any]) -> str:
    """What a training did besides: its section `robust` or `finetune`."""
    robust, tuned = config.get("robust"), config.get("finetune")
    if robust:
        return str(robust["name"])
    return str(tuned["method"]) if tuned else "plain"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else words(value)


def _image_table(rows: list[Row], num_images: int, truth: str, meaning: str) -> str:
    """A table of images by what became of them, or why; nothing without rows."""
    cells = [
        [row.what, f"{row.num_images:,}", bar(row.num_images / max(num_images, 1)), row.truth,
         row.meaning]
        for row in rows
    ]  # fmt: skip
    return table(["images", "", "share", truth, meaning], cells, "account") if rows else ""


def cleaning_section(run: Run) -> str:
    """What was dropped, moved and kept, why, and how right that was."""
    parts, noise = [], []
    stages = [stage for stage in run.stages if stage.kind == "clean"]
    for stage in stages:
        if stage.artifact is None:
            parts.append(f"<h3>{html.escape(stage.name)}</h3>{note(stage.so_far())}")
            continue
        cleaned = run.cleaned.get(stage.name)
        if len(stages) > 1:
            parts.append(f"<h3>{html.escape(stage.name)}</h3>")
        parts.append(_account(stage.artifact, cleaned) + source(stage.name))
        if cleaned is not None and (numbers := noise_numbers(cleaned)) is not None:
            header, rows = noise_rows(numbers)
            noise.append([stage.name, *rows[0]])
    if noise:
        parts.append("<h3>Against the truth</h3>" + table(["cleaning", *header], noise))
        parts.append(
            note(
                "The cleaner did not see it: noise that was found and missed, images dropped "
                "though their label was right; how many images got another label suggested, and "
                "for how many it is the right one."
            )
        )
    return "".join(parts) + _review(run)


def _account(stage: Artifact, cleaned: CleanedSet | None) -> str:
    """What became of the images and why, what else was noticed, and the stage's numbers."""
    result = cleaned.result if cleaned else CleaningResult.load(stage.path / CLEAN_FILE)
    truth = "by the truth" if cleaned is not None and cleaned.true_label is not None else ""
    num_images = len(result.kept)
    account = _image_table(outcome_rows(result, cleaned), num_images, truth, "")
    account += "<h3>Reasons</h3>"
    account += _image_table(reason_rows(result, cleaned), num_images, truth, "what it means")
    if found := finding_rows(result, cleaned):
        account += "<h3>Noticed, and left to you</h3>"
        account += _image_table(found, num_images, "", "what it means")
    numbers = plain_numbers(stage.metrics)
    inner = table(list(numbers), [list(numbers.values())])
    return account + f"<details><summary>all numbers of the cleaner</summary>{inner}</details>"


def _review(run: Run) -> str:
    """What a person decided afterwards."""
    counts = journal_counts(run.folder)
    if counts is None:
        return ""
    seen = counts.pop("seen")[0]
    rows = [[action, f"{n:,}", f"{images:,}"] for action, (n, images) in counts.items()]
    return (
        "<h3>Decided by a person</h3>"
        + table(["review", "decisions", "images"], rows)
        + note(f"{seen:,} identities were looked at. The next `run` trains on these decisions.")
    )


def stage_section(run: Run) -> str:
    """Every stage with its status, time, ranks and numbers, then how each was configured."""
    rows = []
    total = sum(stage.seconds or 0.0 for stage in run.stages) or 1.0
    for stage in run.every_stage:
        link = Html(f'<a href="#{anchor(stage.name)}">{html.escape(stage.name)}</a>')
        status = Html(
            f'<span class="status {stage.status.replace(" ", "-")}">{stage.status}</span>'
        )
        if stage.artifact is None:
            rows.append([link, status, "", "", "", stage.so_far()])
            continue
        numbers = plain_numbers(stage.artifact.metrics)
        summary = "  ·  ".join(f"{key} {value}" for key, value in numbers.items())
        seconds = float(stage.artifact.manifest["seconds"])
        share = "" if stage.set_aside else bar(seconds / total)
        ranks = str(stage.artifact.manifest["world_size"])
        rows.append([link, status, duration(seconds), share, ranks, summary])
    header = ["stage", "status", "time", "share", "ranks", "numbers"]
    return table(header, rows, "stages") + "".join(map(_configuration, run.every_stage))


def _configuration(stage: Stage) -> str:
    name = html.escape(stage.name)
    start = f'<details id="{anchor(stage.name)}"><summary>configuration of {name}</summary>'
    if stage.manifest is None:
        return f"{start}{note('It is known once the stage is finished.')}</details>"
    text = yaml.safe_dump(stage.manifest["config"], sort_keys=False)
    parts = {"inputs": stage.manifest["inputs"], "versions": stage.manifest["versions"]}
    made = json.dumps({**parts, "commit": stage.manifest["commit"]}, indent=1)
    return f"{start}<pre>{html.escape(text)}</pre><pre>{html.escape(made)}</pre></details>"
