"""One run as one HTML file: what came out, pictures, numbers, configuration; nothing is fetched."""

import html
from datetime import datetime
from pathlib import Path

from facetrain.core.artifact import atomic_path
from facetrain.core.run_folder import REPORT_FILE
from facetrain.report.gallery import draw_run
from facetrain.report.markup import figures, page_style, section
from facetrain.report.overview import overview
from facetrain.report.run import Run
from facetrain.report.sections import (
    cleaning_section,
    data_section,
    stage_section,
    training_section,
)
from facetrain.report.verification_section import verification_section


def _made_by(run: Run) -> str:
    """When and by which version."""
    parts = [datetime.now().strftime("%Y-%m-%d %H:%M")]
    if run.finished:
        last = run.finished[-1].manifest
        parts.append(f"facetrain {last['versions']['facetrain']}")
        if last["commit"]:
            parts.append(f"commit {last['commit'][:10]}")
    return "  ·  ".join(parts)


def write_report(run_dir: Path) -> Path:
    """Draw a run's pictures and write `run_dir/report.html`, one file with everything in it.

    A run that is under way, or was stopped, is told as far as it came.

    Args:
        run_dir: the `--out` of `run`, or of one stage.

    Returns:
        The HTML file.

    Raises:
        DataError: no stage, finished or not; or a data set that cannot be read.
    """
    run = Run(run_dir)
    pictures = draw_run(run)
    contents = {
        "overview": ("Overview", overview(run)),
        "data": ("Data", data_section(run) + figures(pictures, "data")),
        "training": ("Training", training_section(run) + figures(pictures, "training")),
        "cleaning": ("Cleaning", cleaning_section(run) + figures(pictures, "cleaning")),
        "verification": (
            "Verification",
            verification_section(run) + figures(pictures, "verification"),
        ),
        "stages": ("Stages and configuration", stage_section(run)),
    }
    title = html.escape(run_dir.resolve().name)
    links = "".join(
        f'<a href="#{name}">{title}</a>' for name, (title, content) in contents.items() if content
    )
    body = "".join(section(name, title, content) for name, (title, content) in contents.items())
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · facetrain</title><style>{page_style()}</style></head><body>"
        f'<nav aria-label="contents"><b>{title}</b>{links}</nav><main>'
        f"<header><h1>{title}</h1><div class='soft'>{html.escape(_made_by(run))}</div></header>"
        f"{body}</main></body></html>\n"
    )
    path = run_dir / REPORT_FILE
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
