"""Commands on what a run left: report, write, export."""

from pathlib import Path

import click

from facetrain.commands.options import ReadablePath, print_result, refuse_input, value_lines


@click.command(short_help="A finished run -> one HTML file.")
@click.argument("run_dir", type=ReadablePath)
def report(run_dir: Path) -> None:
    """Write RUN_DIR/report.html, one self-contained file."""
    from facetrain.report.page import write_report

    print_result(str(write_report(run_dir)))


@click.command(short_help="The set as decided -> folder, rec, lst or csv.")
@click.argument("run_dir", type=ReadablePath)
@click.option(
    "--format", "file_format", required=True,
    type=click.Choice(["folder", "rec", "lst", "csv"]), help="What to write.",
)  # fmt: skip
@click.option("--out", required=True, type=ReadablePath, help="New folder.")
@click.option(
    "--layout", default="header", show_default=True, type=click.Choice(["header", "flat"]),
    help="Of a .rec: InsightFace's with identity records, or images alone (DALI).",
)  # fmt: skip
@click.option("--suggestions", is_flag=True, help="Dropped images go to whom they belong to.")
@click.option("--merges", is_flag=True, help="One person under two names becomes one.")
@click.option("--drop-overlap", is_flag=True, help="People of an evaluation set leave.")
@click.option(
    "--originals", type=ReadablePath,
    help="Folder that was packed: link its files instead of writing the shards' images.",
)  # fmt: skip
def write(
    run_dir: Path,
    file_format: str,
    out: Path,
    layout: str,
    suggestions: bool,
    merges: bool,
    drop_overlap: bool,
    originals: Path | None,
) -> None:
    """Write the set of RUN_DIR as its cleaning, and a review after it, decided.

    folder: a folder for each identity, by its name. rec: train.rec, train.idx and property, as
    MXNet and InsightFace read them. lst: images with a train.lst. The bytes of the images are
    those in the shards. Whatever the format, OUT/images.csv tells of every image of the set what
    was given, what was decided, and why.
    """
    from facetrain.core.config import parse_config
    from facetrain.core.log import configure_logging
    from facetrain.core.run_folder import OVERLAY_FILE, REVIEW
    from facetrain.export.write_set import WriteConfig, write_set
    from facetrain.review import review_overlay

    configure_logging()
    choices = {"suggestions": suggestions, "merges": merges, "drop_overlap": drop_overlap}
    options = {
        "format": file_format,
        "layout": layout,
        "choices": choices,
        "originals": None if originals is None else str(originals),
    }
    review_overlay.refresh(run_dir / REVIEW / OVERLAY_FILE)
    print_result(value_lines(write_set(run_dir, out, parse_config(WriteConfig, options, "write"))))


@click.command(short_help="Backbone -> onnx, pth or safetensors.")
@click.argument("run_dir", type=ReadablePath)
@click.option("--format", "file_format", required=True, help="onnx, pth or safetensors.")
@click.option("--out", required=True, type=ReadablePath)
def export(run_dir: Path, file_format: str, out: Path) -> None:
    """Write the backbone of RUN_DIR (a run, a train folder or a weight file) for other programs.

    Of a run that cleaned its labels, the backbone that was trained on the cleaned ones.
    """
    from facetrain.core.log import configure_logging
    from facetrain.core.run_folder import RETRAIN, TRAIN
    from facetrain.export.export import export as run_export
    from facetrain.models.weights import BACKBONE_FILE

    configure_logging()
    folders = (run_dir / RETRAIN, run_dir / TRAIN)
    nested = next((folder for folder in folders if folder.is_dir()), run_dir)
    suffixes = (".onnx", ".pth", ".safetensors")
    refuse_input("--out", out, suffixes, nested / BACKBONE_FILE)
    done = run_export(nested, file_format, out)
    parity = done.max_relative_difference
    checked = "" if parity is None else f"; onnxruntime agrees to {parity:.1e}"
    print_result(f"{done.path}: {done.config.name} at {done.config.image_size} pixels{checked}")
