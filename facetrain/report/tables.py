"""Tables of numbers: their rows, for the page too, and as plain text for a terminal.

The evaluations of a run stand side by side in them, by what each model was trained on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facetrain.core.artifact import Artifact
from facetrain.core.run_folder import EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE, round_of

_FAR = "1e-3"
_CONVENTIONS = {
    "tar_at_far": "at most the FAR",
    "tar_at_far_nearest": "nearest point",
    "tar_at_far_interpolated": "interpolated",
}


TRAINED_ON = {
    EVALUATE: "noisy labels",
    EVALUATE_RETRAIN: "cleaned labels",
    EVALUATE_TRUE: "true labels",
}
"""Folder of an evaluation in a run that cleans -> what its model was trained on."""


def trained_on(path: Path) -> str:
    """What the model of the evaluation in this folder was trained on, in words."""
    number, name = round_of(path), _folder(path)
    return f"round {number}" if number else TRAINED_ON.get(name, name)


def _folder(path: Path) -> str:
    """The folder of an evaluation, that of IJB beside it included: `evaluate_retrain_ijbc`."""
    return path.name.removesuffix("_ijbb").removesuffix("_ijbc")


def _place(stage: Artifact) -> tuple[int, int]:
    """Noisy labels, the rounds, cleaned labels, true labels, whatever else there is."""
    number = round_of(stage.path)
    if number:
        return 1, number
    order, name = [EVALUATE, "", EVALUATE_RETRAIN, EVALUATE_TRUE], _folder(stage.path)
    return (order.index(name) if name in order else len(order)), 0


def evaluations_of(stages: Sequence[Artifact], kind: str = "evaluate") -> list[Artifact]:
    """The evaluations of a run as they follow each other in tables and pictures."""
    return sorted((one for one in stages if one.manifest["stage"] == kind), key=_place)


def compare(stages: Sequence[Artifact], kind: str = "evaluate") -> dict[str, Mapping[str, Any]]:
    """Verification numbers by set, or by set and training where there are several.

    The trainings of a set follow each other: noisy labels, rounds, cleaned labels, true labels.

    Args:
        stages: the finished stages of a run; those that are no evaluation do not matter.
        kind: which evaluations: `evaluate` or `ijb`.
    """
    evaluations = evaluations_of(stages, kind)
    if len(evaluations) == 1:
        return dict(evaluations[0].metrics)
    sets = dict.fromkeys(name for stage in evaluations for name in stage.metrics)
    return {
        f"{name}, {trained_on(stage.path)}": stage.metrics[name]
        for name in sets
        for stage in evaluations
        if name in stage.metrics
    }


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others, which are numbers, to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def verification_rows(
    numbers: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Header and one row a verification set; `-` where a set is too small for a FAR.

    Args:
        numbers: set name -> its numbers, as `verification.json` has them. A FAR that no set can
            measure gets no column.
    """
    fars = [
        far
        for far in ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
        if any(values["tar_at_far"][far] is not None for values in numbers.values())
    ]
    intervals = any(values.get("accuracy_interval") for values in numbers.values())
    header = ["set", "pairs", "accuracy", *(["95 % interval"] if intervals else [])]
    header += [*(f"TAR@{far}" for far in fars), "EER", "AUC"]
    rows = []
    for name, values in numbers.items():
        tars = [values["tar_at_far"][far] for far in fars]
        accuracy = "-"  # IJB has no folds
        if values["accuracy"] is not None:
            accuracy = f"{values['accuracy']:.4f} ± {values['accuracy_std']:.4f}"
        interval = values.get("accuracy_interval")
        between = "-" if interval is None else f"{interval[0]:.4f} - {interval[1]:.4f}"
        cells = map(_cell, [*tars, values["eer"], values["auc"]])
        rows.append(
            [name, str(values["num_pairs"]), accuracy, *([between] if intervals else []), *cells]
        )
    return header, rows


def verification_table(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """The verification numbers as text, for the end of a command."""
    return format_table(*verification_rows(numbers))


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _with_interval(value: float | None, interval: list[float] | None) -> str:
    if value is None or interval is None:
        return _cell(value)
    return f"{value:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]"


def threshold_table(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """The cosine above which a pair is accepted at each FAR that a set can measure; "" for none."""
    fars = [
        far
        for far in next(iter(numbers.values()))["tar_at_far"]
        if any(one.get("threshold_at_far", {}).get(far) is not None for one in numbers.values())
    ]  # too few pairs of two people; runs of 0.1 have none
    if not fars:
        return ""
    rows = [
        [name, *(_cell(one.get("threshold_at_far", {}).get(far)) for far in fars)]
        for name, one in numbers.items()
    ]
    return format_table(["accept above cosine", *(f"FAR {far}" for far in fars)], rows)


def identification_rows(
    found: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each gallery, its `mean` included, from the 1:N numbers."""
    first = next(iter(found.values()))
    ranks = sorted((name for name in first if name.startswith("rank_")), key=lambda n: int(n[5:]))
    fpirs = list(first["tpir_at_fpir"])
    header = ["gallery", *(name.replace("_", "-") for name in ranks)]
    header += [f"TPIR@FPIR {fpir}" for fpir in fpirs]
    with_threshold = all("threshold_at_fpir" in numbers for numbers in found.values())
    header += [f"cosine@FPIR {fpir}" for fpir in fpirs if with_threshold]
    rows = []
    for gallery, numbers in found.items():
        rates = [numbers[name] for name in ranks]
        rates += [numbers["tpir_at_fpir"][fpir] for fpir in fpirs]
        rates += [numbers["threshold_at_fpir"][fpir] for fpir in fpirs if with_threshold]
        rows.append([gallery, *map(_cell, rates)])
    return header, rows


def subgroup_table(subgroups: Mapping[str, Mapping[str, Any]]) -> str:
    """Every level and every two levels of each attribute, one a line."""
    header = ["subgroup", "pairs", "accuracy", f"TAR@{_FAR}", f"own FAR@{_FAR}"]
    rows = []
    for name, attribute in subgroups.items():
        for level, numbers in {**attribute["levels"], **attribute["across"]}.items():
            rates = [("accuracy", numbers["accuracy"], numbers["accuracy_interval"])]
            rates += [
                (key, numbers[key][_FAR], numbers[f"{key}_interval"][_FAR])
                for key in ("tar_at_far", "own_far")
            ]
            cells = [_with_interval(value, interval) for _, value, interval in rates]
            rows.append([f"{name}: {level}", str(numbers["num_pairs"]), *cells])
    return format_table(header, rows)


def evaluation_text(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """All tables of an evaluation, from the numbers of each set in `verification.json`."""
    pairs = {name: values for name, values in numbers.items() if "tar_at_far" in values}
    parts = [verification_table(pairs), threshold_table(pairs)] if pairs else []
    for name, values in numbers.items():
        if "identification" in values:
            table = format_table(*identification_rows(values["identification"]))
            parts.append(f"{name}, 1:N\n{table}")
        if "subgroups" in values:
            text = f"{name} by subgroup, at the thresholds of all pairs, with 95 % intervals\n"
            parts.append(text + subgroup_table(values["subgroups"]))
    return "\n\n".join(filter(None, parts))


def ijb_rows(numbers: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each protocol and reading of the ROC, from the stage `ijb`'s numbers."""
    first = next(iter(numbers.values()))
    fars = sorted(first["tar_at_far"], key=float)
    header = ["protocol", "TAR read", *(f"FAR {far}" for far in fars), "EER", "pairs", "templates"]
    rows = []
    for name, one in numbers.items():
        for key, convention in _CONVENTIONS.items():
            main = key == "tar_at_far"
            tars = [_cell(one[key].get(far)) for far in fars]
            rest = [_cell(one["eer"]), f"{one['num_pairs']:,}", f"{one['num_templates']:,}"]
            rows.append([name if main else "", convention, *tars, *(rest if main else [""] * 3)])
    return header, rows
