"""One run as one HTML file: stages, numbers, pictures, configuration; nothing is fetched."""

import base64
import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from facetrain.core.artifact import Artifact, atomic_path, read_artifact
from facetrain.core.errors import DataError
from facetrain.data.verification_bin import VerificationSet
from facetrain.engine.meter import read_run_log
from facetrain.metrics.verification import Bools, Floats
from facetrain.report.pictures import draw_roc, draw_training_curves
from facetrain.report.sheets import draw_hardest_pairs
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


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG of a run and what it shows."""

    path: Path
    caption: str


def finished_stages(run_dir: Path) -> list[Artifact]:
    """The finished stages of a run, or the one stage whose folder this is, oldest first.

    Raises:
        DataError: there is none.
    """
    folders = [run_dir, *sorted(path for path in run_dir.glob("*") if path.is_dir())]
    stages = [artifact for folder in folders if (artifact := read_artifact(folder)) is not None]
    if not stages:
        raise DataError(
            f"{run_dir}: must be the --out folder of a run or a stage, but no finished stage "
            "(manifest.json) is there; give another folder, or start the run again to finish it"
        )
    return sorted(stages, key=lambda stage: (stage.path / "manifest.json").stat().st_mtime_ns)


def _read_distances(stage: Artifact) -> dict[str, tuple[Floats, Bools]]:
    sets = {}
    for name in stage.metrics:
        with np.load(stage.path / "distances" / f"{name}.npz", allow_pickle=False) as arrays:
            sets[name] = (arrays["distance"], arrays["same"])
    return sets


def _draw_evaluation(stage: Artifact, folder: Path) -> list[Picture]:
    pictures = []
    sets = _read_distances(stage)
    if draw_roc(folder / "roc.png", sets):
        caption = "ROC: how many pairs of one person are accepted, for each rate of false accepts."
        pictures.append(Picture(folder / "roc.png", caption))
    for path in map(Path, stage.manifest["config"]["bins"]):
        distance, _ = sets[path.stem]
        if not path.is_file():
            continue
        threshold = float(np.mean(stage.metrics[path.stem]["fold_threshold"]))
        picture = folder / f"hardest_{path.stem}.png"
        draw_hardest_pairs(picture, VerificationSet.open(path), distance, threshold)
        pictures.append(
            Picture(
                picture,
                f"{path.stem}: the pairs the model finds hardest; red ones are judged wrongly at "
                f"cosine {1 - threshold / 2:.2f}, the mean threshold of the folds.",
            )
        )
    return pictures


def draw_pictures(run_dir: Path) -> list[Picture]:
    """Draw every picture of a run's finished stages into `run_dir/pictures`.

    Raises:
        DataError: no finished stage.
    """
    folder = run_dir / "pictures"
    pictures: list[Picture] = []
    for stage in finished_stages(run_dir):
        curves = folder / "training.png"
        if draw_training_curves(curves, read_run_log(stage.path / "log.jsonl")):
            pictures.append(Picture(curves, "Training: loss, learning rate and accuracy by step."))
        if stage.manifest["stage"] == "evaluate":
            pictures += _draw_evaluation(stage, folder)
    return pictures


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


def _cards(stages: Sequence[Artifact]) -> str:
    """The few numbers a reader looks for first."""
    cards: dict[str, str] = {}
    for stage in stages:
        if stage.manifest["stage"] == "train":
            numbers = _plain_numbers(stage.metrics)
            cards |= {name: numbers[name] for name in ("images", "classes") if name in numbers}
        if stage.manifest["stage"] == "evaluate":
            for name, values in stage.metrics.items():
                cards[f"accuracy on {name}"] = f"{100 * values['accuracy']:.2f} %"
    cards["seconds in all"] = f"{sum(stage.manifest['seconds'] for stage in stages):,.0f}"
    inner = "".join(
        f'<div class="card"><b>{html.escape(value)}</b>{html.escape(name)}</div>'
        for name, value in cards.items()
    )
    return f'<div class="cards">{inner}</div>'


def _sections(stages: Sequence[Artifact]) -> str:
    rows, parts = [], []
    for stage in stages:
        manifest = stage.manifest
        name = str(manifest["stage"])
        numbers = _plain_numbers(stage.metrics)
        summary = "  ·  ".join(f"{key} {value}" for key, value in numbers.items())
        rows.append([name, f"{manifest['seconds']:,.1f}", str(manifest["world_size"]), summary])
        if name == "evaluate":
            table = _table(*verification_rows(stage.metrics))
            parts.append(
                f"<h2>Verification</h2>{table}<p class='soft'>Accuracy: ten folds, each at the "
                "threshold the others chose; ± is the spread over the folds. TAR at the largest "
                "threshold whose false accepts stay within the FAR; “-”: too few pairs to say.</p>"
            )
    header = ["stage", "seconds", "ranks", "numbers"]
    return f'<h2>Stages</h2><div class="stages">{_table(header, rows)}</div>' + "".join(parts)


def _configs(stages: Sequence[Artifact]) -> str:
    parts = []
    for stage in stages:
        manifest = stage.manifest
        text = yaml.safe_dump(manifest["config"], sort_keys=False)
        versions = json.dumps({**manifest["versions"], "commit": manifest["commit"]})
        parts.append(
            f"<details><summary>{html.escape(manifest['stage'])}</summary>"
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
    title = html.escape(run_dir.resolve().name)
    figures = "".join(map(_figure, pictures))
    names = " → ".join(html.escape(stage.manifest["stage"]) for stage in stages)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · facetrain</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1><div class='soft'>{names}</div>{_cards(stages)}{_sections(stages)}"
        f"{'<h2>Pictures</h2>' if figures else ''}{figures}{_configs(stages)}</body></html>\n"
    )
    path = run_dir / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
