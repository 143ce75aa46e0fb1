"""What `evaluate` says at its end: verification, identification and subgroups as text."""

from collections.abc import Mapping
from typing import Any

from facetrain.report.table import format_table, verification_table

_FAR = "1e-3"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _with_interval(value: float | None, interval: list[float] | None) -> str:
    if value is None or interval is None:
        return _cell(value)
    return f"{value:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]"


def threshold_table(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """The cosine above which a pair is accepted at each FAR that a set can measure."""
    fars = [
        far
        for far in next(iter(numbers.values()))["tar_at_far"]
        if any(one["threshold_at_far"][far] is not None for one in numbers.values())
    ]
    rows = [
        [name, *(_cell(one["threshold_at_far"][far]) for far in fars)]
        for name, one in numbers.items()
    ]
    return format_table(["accept above cosine", *(f"FAR {far}" for far in fars)], rows)


def identification_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The 1:N numbers, one gallery a line."""
    names = next(iter(found.values()))
    ranks = sorted((n for n in names if n.startswith("rank_")), key=lambda n: int(n[5:]))
    fpirs = list(next(iter(found.values()))["tpir_at_fpir"])
    header = ["gallery", *(name.replace("_", "-") for name in ranks)]
    header += [f"TPIR@FPIR {fpir}" for fpir in fpirs]
    rows = []
    for gallery, numbers in found.items():
        rates = [numbers[name] for name in ranks]
        rates += [numbers["tpir_at_fpir"][fpir] for fpir in fpirs]
        rows.append([gallery, *map(_cell, rates)])
    return format_table(header, rows)


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
    """All tables of an evaluation.

    Args:
        numbers: set name -> its numbers, as `verification.json` has them.
    """
    parts = [verification_table(numbers), threshold_table(numbers)]
    for name, values in numbers.items():
        if "identification" in values:
            parts.append(f"{name}, 1:N\n" + identification_table(values["identification"]))
        if "subgroups" in values:
            text = f"{name} by subgroup, at the thresholds of all pairs, with 95 % intervals\n"
            parts.append(text + subgroup_table(values["subgroups"]))
    return "\n\n".join(parts)
