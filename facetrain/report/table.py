"""Plain text tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any


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
        measured = [*tars, values["eer"], values["auc"]]
        cells = ["-" if value is None else f"{value:.4f}" for value in measured]
        rows.append(
            [name, str(values["num_pairs"]), accuracy, *([between] if intervals else []), *cells]
        )
    return header, rows


def verification_table(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """The verification numbers as text, for the end of a command."""
    return format_table(*verification_rows(numbers))
