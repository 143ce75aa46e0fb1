"""The few pieces of HTML that the report is made of; every text is escaped here."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from facetrain.report.pictures import Picture

_JPEG_QUALITY = 88


class Html(str):
    """Text that is HTML already."""


def escape(text: str) -> str:
    """`text` as HTML, unless it is."""
    return text if isinstance(text, Html) else html.escape(text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table whose first column names the row; the others hold numbers.

    Args:
        kind: a CSS class, for one that differs.
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><tr>{head}</tr>{body}</table></div>'


def note(text: str) -> str:
    """A paragraph that explains what stands above it."""
    return f"<p class='soft'>{escape(text)}</p>"


def source(*names: str) -> Html:
    """Which stages the numbers above are from, with links to their configuration."""
    links = ", ".join(f'<a href="#{anchor(name)}">{html.escape(name)}</a>' for name in names)
    return Html(f"<p class='source'>from {links}</p>") if names else Html("")


def anchor(name: str) -> str:
    """The id of a stage's configuration."""
    return "config-" + "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def figure(picture: Picture) -> str:
    """A picture with its caption, held by the page itself; faces as JPEG."""
    content, kind = picture.path.read_bytes(), "png"
    if picture.photo:
        pixels = cv2.imread(str(picture.path))
        assert pixels is not None
        done, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert done
        content, kind = encoded.tobytes(), "jpeg"
    classes = f"{picture.width} photo" if picture.photo else picture.width
    caption = html.escape(picture.caption)
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<figure class="{classes}"><img alt="{caption}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def figures(pictures: Sequence[Picture], section: str) -> str:
    """The pictures of one section, in their order."""
    inner = "".join(figure(one) for one in pictures if one.section == section)
    return f'<div class="figures">{inner}</div>' if inner else ""


def section(name: str, title: str, content: str) -> str:
    """A part of the page that the table of contents knows; nothing without content."""
    if not content:
        return ""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def bar(share: float) -> Html:
    """A small bar, full at 1, and the share in percent."""
    percent = 100 * share
    return Html(
        f'<span class="bar" style="--share:{percent:.2f}%"></span><span>{percent:.1f} %</span>'
    )


def words(value: Any) -> str:
    """A number as a person reads it."""
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


def page_style() -> str:
    """The page's CSS."""
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
