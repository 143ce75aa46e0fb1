"""One run as one HTML file: stages, numbers, pictures, configuration; nothing is fetched."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from facetrain.core.artifact import Artifact, atomic_path
from facetrain.report.cleaning import noise_rows
from facetrain.report.comparison import compare
from facetrain.report.gallery import Picture, draw_pictures, finished_stages, open_cleaned
from facetrain.report.table import verification_rows

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #2b2a27; --soft: #75736c; --line: #e4e2dc;
  --card: #f8f7f4; --accent: #0b6e99; }
@media (prefers-color-scheme: dark) { :root { --paper: #191918; --ink: #e8e6e1; --soft: #9b9890;
  --line: #373632; --card: #22211f; --accent: #5cb3dd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 15px/1.55 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; letter-spacing: -0.02em; }
h2 { margin: 2.5rem 0 .8rem; font-size: 1.1rem; }
.soft, figcaption { color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.5rem 0; }
.card { flex: 1 1 9rem; padding: .9rem 1.1rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); }
.card b { display: block; font-size: 1.55rem; letter-spacing: -0.02em; color: var(--accent); }
.scroll { overflow-x: auto; }
.stages th:last-child, .stages td:last-child { white-space: normal; text-align: left;
  padding-left: 1.5rem; width: 65%; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 1rem 0 1.8rem; }
img { display: block; width: 100%; padding: .6rem; border: 1px solid var(--line);
  border-radius: 10px; background: #fff; }
figcaption { margin-top: .4rem; font-size: .9rem; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); font-size: .85rem; line-height: 1.45; }
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _figure(picture: Picture) -> str:
    content = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    caption = html.escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{content}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def _plain_numbers(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The scalar metrics of a stage, in words a reader knows."""
    return {
        name.removeprefix("num_").replace("_", " "): _short(value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }


def _cards(
    stages: Sequence[Artifact], noise: Mapping[str, Any] | None, verified: Mapping[str, Any]
) -> str:
    """The few numbers a reader looks for first."""
    cards: dict[str, str] = {}
    for stage in stages:
        numbers = _plain_numbers(stage.metrics)
        if stage.manifest["stage"] == "train":
            cards = {
                name: numbers[name] for name in ("images", "classes") if name in numbers
            } | cards
        if stage.manifest["stage"] == "clean":
            cards["images dropped"] = numbers["dropped"]
    if noise is not None:
        for name, key in (
            ("of the noise found", "recall"),
            ("of the dropped are noise", "precision"),
        ):
            if noise[key] is not None:
                cards[name] = f"{100 * noise[key]:.1f} %"
    for name, values in verified.items():
        cards[f"accuracy on {name}"] = f"{100 * values['accuracy']:.2f} %"
    cards["seconds in all"] = f"{sum(stage.manifest['seconds'] for stage in stages):,.0f}"
    inner = "".join(
        f'<div class="card"><b>{html.escape(value)}</b>{html.escape(name)}</div>'
        for name, value in cards.items()
    )
    return f'<div class="cards">{inner}</div>'


def _name(stage: Artifact, run_dir: Path) -> str:
    """The stage's folder in the run, which tells two trainings apart."""
    return str(stage.manifest["stage"]) if stage.path == run_dir else stage.path.name


def _stage_table(stages: Sequence[Artifact], run_dir: Path) -> str:
    rows = []
    for stage in stages:
        manifest = stage.manifest
        numbers = _plain_numbers(stage.metrics)
        summary = "  ·  ".join(f"{key} {value}" for key, value in numbers.items())
        seconds, ranks = f"{manifest['seconds']:,.1f}", str(manifest["world_size"])
        rows.append([_name(stage, run_dir), seconds, ranks, summary])
    header = ["stage", "seconds", "ranks", "numbers"]
    return f'<h2>Stages</h2><div class="stages">{_table(header, rows)}</div>'


def _cleaning(stages: Sequence[Artifact], noise: Mapping[str, Any] | None) -> str:
    """The cleaner's numbers, and how right it was where the truth is known."""
    parts = []
    for stage in stages:
        if stage.manifest["stage"] == "clean":
            numbers = _plain_numbers(stage.metrics)
            parts.append(_table(list(numbers), [list(numbers.values())]))
    if noise is not None:
        parts.append(_table(*noise_rows(noise)))
        parts.append(
            "<p class='soft'>Against the truth, which the cleaner did not see: noise that was "
            "found and missed, images dropped though their label was right; how many images got "
            "another label suggested, and for how many it is the right one.</p>"
        )
    return "<h2>Cleaning</h2>" + "".join(parts) if parts else ""


def _verification(verified: Mapping[str, Any]) -> str:
    if not verified:
        return ""
    return (
        f"<h2>Verification</h2>{_table(*verification_rows(verified))}<p class='soft'>Accuracy: "
        "ten folds, each at the threshold the others chose; ± is the spread over the folds. TAR at "
        "the largest threshold whose false accepts stay within the FAR; “-”: too few pairs to "
        "say.</p>"
    )


def _configs(stages: Sequence[Artifact], run_dir: Path) -> str:
    parts = []
    for stage in stages:
        manifest = stage.manifest
        text = yaml.safe_dump(manifest["config"], sort_keys=False)
        versions = json.dumps({**manifest["versions"], "commit": manifest["commit"]})
        parts.append(
            f"<details><summary>{html.escape(_name(stage, run_dir))}</summary>"
            f"<pre>{html.escape(text)}</pre><p class='soft'>{html.escape(versions)}</p></details>"
        )
    return "<h2>Configuration</h2>" + "".join(parts)


def write_report(run_dir: Path) -> Path:
    """Draw a run's pictures and write `run_dir/report.html`, one file with everything in it.

    Args:
        run_dir: the `--out` of `run`, or of one stage.

    Returns:
        The HTML file.

    Raises:
        DataError: no finished stage.
    """
    stages = finished_stages(run_dir)
    pictures = draw_pictures(run_dir)
    own = next((stage for stage in stages if stage.path.name == "clean"), None)
    cleaned = open_cleaned(own, stages)
    noise = None if cleaned is None else cleaned.noise_numbers()
    verified = compare(stages)
    title = html.escape(run_dir.resolve().name)
    figures = "".join(map(_figure, pictures))
    names = " → ".join(html.escape(_name(stage, run_dir)) for stage in stages)
    sections = _cleaning(stages, noise) + _verification(verified)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · facetrain</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1><div class='soft'>{names}</div>{_cards(stages, noise, verified)}"
        f"{sections}{'<h2>Pictures</h2>' if figures else ''}{figures}"
        f"{_stage_table(stages, run_dir)}{_configs(stages, run_dir)}</body></html>\n"
    )
    path = run_dir / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
