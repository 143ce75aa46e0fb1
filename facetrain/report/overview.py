"""The head of the report: what came out, in sentences and a few large numbers, and the pipeline."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from facetrain.core.run_folder import CLEAN, EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE, TRAIN
from facetrain.report.blocks import duration
from facetrain.report.cleaning import Outcome, noise_numbers
from facetrain.report.run import Run, Stage
from facetrain.report.tables import compare

_MOST_CARDS = 8


def _numbers(run: Run, name: str) -> Mapping[str, Any]:
    """What the finished stage in a folder found; {} where there is none."""
    found = (one.artifact.metrics for one in run.stages if one.name == name and one.artifact)
    return next(found, {})


def _split(run: Run) -> tuple[int, int, int] | None:
    """Images kept, moved and left out by the run's own cleaning."""
    stage = next((one for one in run.stages if one.name == CLEAN and one.artifact), None)
    if stage is None:
        return None
    outcome = Outcome.of(run.result(stage), run.cleaned.get(CLEAN))
    return int(outcome.kept.sum()), int(outcome.moved.sum()), int(outcome.dropped.sum())


def _noise(run: Run) -> dict[str, Any] | None:
    cleaned = run.cleaned.get(CLEAN)
    return None if cleaned is None else noise_numbers(cleaned)


def findings(run: Run) -> list[str]:
    """What a reader should know first, in sentences."""
    found = []
    if (split := _split(run)) is not None:
        kept, moved, gone = split
        moves = f"{moved:,} got another one, " if moved else ""
        found.append(
            f"{kept:,} of {sum(split):,} images keep their label, {moves}{gone:,} are out."
        )
    noise = _noise(run)
    if noise is not None and noise["precision"] is not None and noise["recall"] is not None:
        found.append(
            f"{100 * noise['recall']:.1f} % of the known noise was found, and "
            f"{100 * noise['precision']:.1f} % of what fell below the threshold is noise."
        )
    before, after = _numbers(run, EVALUATE), _numbers(run, EVALUATE_RETRAIN)
    true = _numbers(run, EVALUATE_TRUE)
    for name in before:
        if name in after and before[name]["accuracy"] and after[name]["accuracy"]:
            found.append(_compared(name, before[name], after[name], true.get(name)))
    waiting = [stage.name for stage in run.stages if stage.artifact is None]
    if waiting:
        found.append(f"Not finished: {', '.join(waiting)}. Start the run again to go on.")
    return found


def _compared(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any], true: Mapping[str, Any] | None
) -> str:
    """Accuracy on one set with noisy, cleaned and true labels, and how sure the difference is."""
    first, second = before["fold_accuracy"], after["fold_accuracy"]
    better = sum(y > x for x, y in zip(first, second, strict=True))
    worse = sum(y < x for x, y in zip(first, second, strict=True))
    bound = f", {100 * true['accuracy']:.2f} % with the true ones" if true else ""
    return (
        f"Accuracy on {name}: {100 * before['accuracy']:.2f} % with the noisy labels, "
        f"{100 * after['accuracy']:.2f} % with the cleaned ones{bound}; cleaning helps in {better} "
        f"of {len(first)} folds and hurts in {worse}."
    )


class Card(NamedTuple):
    """A large number."""

    number: str
    what: str
    remark: str = ""


class Piece(NamedTuple):
    """A stage in the strip that shows how long each took."""

    name: str
    kind: str
    status: str
    took: str
    share: str
    grow: float  # its length against the others'


def _cards(run: Run) -> list[Card]:
    cards: list[Card] = []
    if run.given is not None:
        identities = f"{run.given.num_classes:,} identities"
        cards.append(Card(f"{run.given.num_images:,}", "images", identities))
    elif (numbers := _numbers(run, TRAIN)) and "num_images" in numbers:
        identities = f"{numbers['num_classes']:,} identities"
        cards.append(Card(f"{numbers['num_images']:,}", "images", identities))
    if (split := _split(run)) is not None:
        _, moved, gone = split
        cards.append(Card(f"{gone:,}", "images left out", f"{moved:,} moved" if moved else ""))
    if (noise := _noise(run)) is not None:
        texts = {"recall": "of the noise found", "precision": "of what was found is noise"}
        for key, name in texts.items():
            if noise[key] is not None:
                cards.append(Card(f"{100 * noise[key]:.1f} %", name, key))
    before, after = _numbers(run, EVALUATE), _numbers(run, EVALUATE_RETRAIN)
    for name, numbers in (after or before).items():
        if numbers["accuracy"] is None:
            continue
        gain = ""
        if after and name in before and before[name]["accuracy"] is not None:
            points = 100 * (numbers["accuracy"] - before[name]["accuracy"])
            gain = f"{points:+.2f} points by cleaning"
        cards.append(Card(f"{100 * numbers['accuracy']:.2f} %", f"accuracy on {name}", gain))
    for name, numbers in compare(run.finished, "ijb").items():
        if (tar := numbers["tar_at_far"].get("1e-4")) is not None:
            cards.append(Card(f"{100 * tar:.2f} %", f"TAR on {name}", "at FAR 1e-4"))
    total = _total(run.stages)
    return [*cards[: _MOST_CARDS - 1], *([Card(duration(total), "in all stages")] if total else [])]


def _total(stages: Sequence[Stage]) -> float:
    return sum(stage.seconds or 0.0 for stage in stages)


def pipeline_strip(stages: Sequence[Stage]) -> list[Piece]:
    """The stages, each as long as it took."""
    total, pieces = _total(stages) or 1.0, []
    for stage in stages:
        # Shares that add up to less than 1 would leave the bar unfilled.
        share = 1 / 12 if stage.seconds is None else stage.seconds / total
        took = "under way or stopped" if stage.seconds is None else duration(stage.seconds)
        percent = "" if stage.seconds is None else f"{100 * share:.1f} %"
        pieces.append(Piece(stage.name, stage.kind, stage.status, took, percent, 1 + 100 * share))
    return pieces


class Overview(NamedTuple):
    """The head of the page."""

    findings: list[str]
    cards: list[Card]
    strip: list[Piece]

    @classmethod
    def of(cls, run: Run) -> "Overview":
        """What came out of a run."""
        return cls(findings(run), _cards(run), pipeline_strip(run.stages))
