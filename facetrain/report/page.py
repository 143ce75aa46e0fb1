"""One run as one HTML file: what came out, pictures, numbers, configuration; nothing is fetched."""

import base64
import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import cv2
import jinja2
import numpy as np

from facetrain.core.artifact import atomic_path
from facetrain.core.lock import file_lock, folder_lock
from facetrain.core.run_folder import PICTURES, REPORT_FILE
from facetrain.report.blocks import Block
from facetrain.report.gallery import draw_run
from facetrain.report.overview import Overview
from facetrain.report.run import Run
from facetrain.report.sections import (
    cleaning_section,
    data_section,
    stage_section,
    training_section,
    verification_section,
)
from facetrain.report.style import Picture

_JPEG_QUALITY = 88


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page that the table of contents knows."""

    name: str
    title: str
    blocks: Sequence[Block]
    pictures: Sequence[Picture] = ()


def write_report(run_dir: Path) -> Path:
    """Draw a run's pictures and write `run_dir/report.html`, one file with everything in it.

    A run that is under way, or was stopped, is shown as far as it came.

    Args:
        run_dir: the `--out` of `run`, or of one stage.

    Returns:
        The HTML file.

    Raises:
        DataError: no stage, finished or not; or a data set that cannot be read.
    """
    run, path = Run(run_dir), run_dir / REPORT_FILE
    with file_lock(path), folder_lock(run_dir / PICTURES):
        return _write(run, path)


def _write(run: Run, path: Path) -> Path:
    pictures = draw_run(run)
    of_section = {
        name: [one for one in pictures if one.section == name]
        for name in ("data", "training", "cleaning", "verification")
    }
    sections = [
        Section("data", "Data", data_section(run), of_section["data"]),
        Section("training", "Training", training_section(run), of_section["training"]),
        Section("cleaning", "Cleaning", cleaning_section(run), of_section["cleaning"]),
        Section(
            "verification", "Verification", verification_section(run), of_section["verification"]
        ),
    ]
    here = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=here, autoescape=True, undefined=jinja2.StrictUndefined)
    content = templates.get_template("page.html.j2").render(
        title=run.folder.resolve().name,
        made_by=_made_by(run),
        style=(Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
        overview=Overview.of(run),
        sections=[
            Section("overview", "Overview", ()),
            *(one for one in sections if one.blocks or one.pictures),
            Section("stages", "Stages and configuration", stage_section(run)),
        ],
        anchor=anchor,
        embedded=embedded,
        kind=lambda value: type(value).__name__,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
    return path


def anchor(stage: str) -> str:
    """The id of a stage's configuration."""
    return "config-" + "".join(c if c.isalnum() or c in "-_" else "-" for c in stage)


def embedded(picture: Picture) -> str:
    """A picture as an address that holds it; faces as JPEG."""
    content, kind = picture.path.read_bytes(), "png"
    if picture.photo:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        done, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert done
        content, kind = encoded.tobytes(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _made_by(run: Run) -> str:
    """When and by which version."""
    parts = [datetime.now().strftime("%Y-%m-%d %H:%M")]
    if run.finished:
        last = run.finished[-1].manifest
        parts.append(f"facetrain {last['versions']['facetrain']}")
        if last["commit"]:
            parts.append(f"commit {last['commit'][:10]}")
    return "  ·  ".join(parts)
