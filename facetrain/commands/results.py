"""Commands on what a run left: report, export."""

from pathlib import Path

import click

from facetrain.commands.options import ReadablePath, say


@click.command(short_help="A finished run -> one HTML file.")
@click.argument("run_dir", type=ReadablePath)
def report(run_dir: Path) -> None:
    """Write RUN_DIR/report.html, one self-contained file."""
    from facetrain.report.page import write_report

    say(str(write_report(run_dir)))


@click.command(short_help="Backbone -> onnx, pth or safetensors.")
@click.argument("run_dir", type=ReadablePath)
@click.option("--format", "file_format", required=True, help="onnx, pth or safetensors.")
@click.option("--out", required=True, type=ReadablePath)
def export(run_dir: Path, file_format: str, out: Path) -> None:
    """Write the backbone of RUN_DIR (a run, a train folder or a weight file) for other programs.

    Of a run that cleaned its labels, the backbone that was trained on the cleaned ones.
    """
    from facetrain.core.run_folder import RETRAIN, TRAIN
    from facetrain.export.export import export as run_export

    folders = (run_dir / RETRAIN, run_dir / TRAIN)
    nested = next((folder for folder in folders if folder.is_dir()), run_dir)
    done = run_export(nested, file_format, out)
    parity = done.max_relative_difference
    checked = "" if parity is None else f"; onnxruntime agrees to {parity:.1e}"
    say(f"{done.path}: {done.config.name} at {done.config.image_size} pixels{checked}")
