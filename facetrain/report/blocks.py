"""What a section of the report is made of: data that `page.html.j2` lays out and escapes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Bar:
    """A cell: a small bar, full at 1, and the share in percent."""

    share: float


@dataclasses.dataclass(frozen=True)
class Link:
    """A cell: the name of a stage, which leads to its configuration."""

    stage: str


@dataclasses.dataclass(frozen=True)
class Status:
    """A cell: how far a stage is."""

    text: str


Cell = str | Bar | Link | Status


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first column names the row; the others hold numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    style: str = ""  # a CSS class, for one that differs


@dataclasses.dataclass(frozen=True)
class Heading:
    """Above a part of a section."""

    text: str


@dataclasses.dataclass(frozen=True)
class Note:
    """A paragraph that explains what stands above it."""

    text: str
    is_code: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """Which stages the numbers above are from."""

    stages: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Details:
    """What unfolds on a click: tables, or text as it is."""

    summary: str
    content: Sequence["Table | Note | str"]
    stage: str = ""  # whose configuration it is, for links


Block = Table | Heading | Note | Source | Details


def words(value: Any) -> str:
    """A number as a person reads it; text as it is; `-` for None."""
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def plain_numbers(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The scalar metrics of a stage, and accuracies, in words a reader knows."""
    found = {
        name.removeprefix("num_").replace("_", " "): words(value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }
    for name, value in {**metrics, **metrics.get("evaluation", {})}.items():
        if isinstance(value, Mapping) and value.get("accuracy") is not None:
            found[f"accuracy on {name}"] = f"{value['accuracy']:.4f}"
    return found


def duration(seconds: float) -> str:
    """`12.7 s`, `3 min 28 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
