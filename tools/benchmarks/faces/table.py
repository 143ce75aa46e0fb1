"""The table of faces/run.py: rows over seeds, and what each wins back of the noise's cost."""

from collections.abc import Sequence

from facetrain.report.tables import format_table
from tools.benchmarks.common import markdown_table, mean_and_spread
from tools.benchmarks.faces.rows import DROP, ROWS

Numbers = dict[str, float]
Rows = dict[str, Numbers]


def with_recovered(rows: Rows) -> Rows:
    """The rows with the share of what noise costs that each wins back.

    What stands before a colon is how long was trained: only rows of one length are compared.
    """
    for name, row in rows.items():
        length = name[: name.find(": ") + 2] if ": " in name else ""
        plain, true = rows.get(f"{length}plain"), rows.get(f"{length}true labels")
        if plain is None or true is None:
            continue
        for key in row.keys() & {"accuracy", "auc", "tar"}:
            lost = true[key] - plain[key]
            row[f"recovered_{key}"] = (row[key] - plain[key]) / lost if lost else 0.0
    return rows


COLUMNS = {"accuracy": ".4f", "auc": ".4f", "tar": ".3f", "recovered_accuracy": ".2f",
           "recovered_auc": ".2f", "recovered_tar": ".2f", "f1": ".3f", "auroc": ".3f",
           "right": ".0f", "wrong": ".0f", "seconds": ".0f"}  # fmt: skip


def table(runs: Sequence[Rows], markdown: bool) -> str:
    """Mean and spread over the seeds, a line a row."""

    def cell(row: str, key: str, form: str) -> str:
        values = [run[row][key] for run in runs if key in run.get(row, {})]
        return mean_and_spread(values, form)

    head = ["", *(name.replace("_", " ").replace("tar", "TAR@1e-3") for name in COLUMNS)]
    found = list(dict.fromkeys(row for run in runs for row in run))
    first = ["plain", *ROWS, "sub-centres", DROP]
    order = [*(row for row in first if row in found), *(r for r in found if r not in first)]
    if "true labels" in order:
        order.append(order.pop(order.index("true labels")))
    lines = [[row, *(cell(row, *column) for column in COLUMNS.items())] for row in order]
    return (markdown_table if markdown else format_table)(head, lines)
