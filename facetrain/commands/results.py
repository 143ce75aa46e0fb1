"""Commands on what a run left: evaluate, report, export."""

from collections.abc import Sequence
from pathlib import Path

import click

from facetrain.commands.options import ReadablePath, job, say


@click.command(short_help="Backbone + verification sets -> numbers.")
@click.argument("config", required=False, type=ReadablePath)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--backbone", required=True, type=ReadablePath, help="Train folder or weight file.")
@click.option("--bin", "bins", multiple=True, type=ReadablePath, help="Verification .bin set.")
@click.option("--out", type=ReadablePath, help="Folder for the numbers, distances and pictures.")
@click.option("--json", "json_path", type=ReadablePath, help="Write the numbers here.")
def evaluate(
    config: Path | None,
    overrides: Sequence[str],
    backbone: Path,
    bins: Sequence[Path],
    out: Path | None,
    json_path: Path | None,
) -> None:
    """Verify BACKBONE (ours, arcface_torch's .pth or an .onnx) on InsightFace .bin sets.

    Either CONFIG --out DIR, with the sets in evaluate.bins, or --bin F.bin [--bin ...].
    """
    from facetrain import pipeline
    from facetrain.core.artifact import write_json
    from facetrain.report.gallery import draw_pictures
    from facetrain.report.table import verification_table

    with job() as mesh:
        settings = pipeline.evaluate_settings(config, overrides, bins)
        if out:
            numbers = pipeline.evaluate_stage(settings, backbone, out, mesh).metrics
            if mesh.is_main:
                draw_pictures(out)
        else:
            numbers = pipeline.verify(settings, backbone, mesh)
        if json_path and mesh.is_main:
            write_json(json_path, numbers)
        say(verification_table(numbers), mesh)


@click.command(short_help="A finished run -> one HTML file.")
@click.argument("run_dir", type=ReadablePath)
def report(run_dir: Path) -> None:
    """Write RUN_DIR/report.html, one self-contained file."""
    from facetrain.report.summary import write_report

    say(str(write_report(run_dir)))


@click.command(short_help="Backbone -> onnx, pth or safetensors.")
@click.argument("run_dir", type=ReadablePath)
@click.option("--format", "file_format", required=True, help="onnx, pth or safetensors.")
@click.option("--out", required=True, type=ReadablePath)
def export(run_dir: Path, file_format: str, out: Path) -> None:
    """Write the backbone of RUN_DIR (a run, a train folder or a weight file) for other programs.

    Of a run that cleaned its labels, the backbone that was trained on the cleaned ones.
    """
    from facetrain.export.export import export as run_export

    folders = (run_dir / "retrain", run_dir / "train")
    nested = next((folder for folder in folders if folder.is_dir()), run_dir)
    done = run_export(nested, file_format, out)
    parity = done.max_relative_difference
    checked = "" if parity is None else f"; onnxruntime agrees to {parity:.1e}"
    say(f"{done.path}: {done.config.name} at {done.config.image_size} pixels{checked}")
