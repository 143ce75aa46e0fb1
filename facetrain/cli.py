"""The command line: parse, build the mesh, call one stage. Every user error exits with status 2."""

import contextlib
import errno
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import facetrain
from facetrain.core.errors import UserError

if TYPE_CHECKING:  # importing torch takes seconds; `--help` must not
    from facetrain.dist.mesh import Mesh

ReadablePath = click.Path(path_type=Path)


class _Commands(click.Group):
    """Lists commands in the order of a pipeline rather than of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(facetrain.__version__, package_name="facetrain")
def cli() -> None:
    """Turn a face-image set into a verified face-recognition model.

    Images become RecordIO shards (pack), shards a backbone (train), a backbone embeddings (embed)
    and numbers (evaluate); `run` does the last three, resumable at any point. Under torchrun every
    stage runs on all its processes: torchrun --nproc-per-node 8 -m facetrain run ...

    Shell completion: eval "$(_FACETRAIN_COMPLETE=bash_source facetrain)"
    """


@contextlib.contextmanager
def _job() -> Iterator["Mesh"]:
    """The mesh of this process among those torchrun started, left cleanly."""
    from facetrain.core.log import configure_logging
    from facetrain.dist.mesh import Mesh

    mesh = Mesh.from_env()
    configure_logging(is_main=mesh.is_main)
    try:
        yield mesh
    finally:
        mesh.close()


def _recipe_options(function: Any) -> Any:
    """CONFIG --out DIR [key=value ...]: what every stage command takes."""
    function = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)
    function = click.option(
        "--out", required=True, type=ReadablePath, help="Folder that receives everything."
    )(function)
    return click.argument("config", type=ReadablePath)(function)


@cli.command(short_help="Everything on synthetic faces, in minutes, on a CPU.")
@click.option("--out", default=Path("demo"), type=ReadablePath, show_default=True)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def demo(out: Path, overrides: Sequence[str]) -> None:
    """The whole pipeline on synthetic faces: minutes on a laptop CPU, nothing downloaded."""
    from facetrain import pipeline

    with _job() as mesh:
        _say(pipeline.demo(out, overrides, mesh), mesh)


@cli.command(short_help="Images -> RecordIO shards.")
@click.argument("source", type=ReadablePath)
@click.argument("out", type=ReadablePath)
@click.option("--size", default=112, show_default=True, help="Edge of the stored images, pixels.")
@click.option("--shards", default=1, show_default=True, help="Number of .rec files.")
@click.option(
    "--landmarks", type=ReadablePath, help="CSV: image,x1,y1,...,x5,y5; aligns to ArcFace's points."
)
@click.option("--workers", default=0, help="Processes; 0 means one a core.")
def pack(
    source: Path, out: Path, size: int, shards: int, landmarks: Path | None, workers: int
) -> None:
    """Pack SOURCE (a folder per identity, a .lst or a .tar) into RecordIO shards in OUT."""
    from facetrain.data.pack import pack as run_pack

    artifact = run_pack(
        source, out, size=size, num_shards=shards, landmarks=landmarks, workers=workers or None
    )
    _say(_lines(artifact.metrics))


@cli.command(short_help="What a data set holds, and what cannot be read.")
@click.argument("data", type=ReadablePath)
@click.option("--json", "json_path", type=ReadablePath, help="Write the numbers here.")
def inspect(data: Path, json_path: Path | None) -> None:
    """Count DATA (a .rec file or a folder of shards) and name every record that cannot be read."""
    from facetrain.core.artifact import write_json
    from facetrain.data.inspection import inspect as run_inspect

    numbers = run_inspect(data)
    if json_path:
        write_json(json_path, numbers)
    _say(_lines(numbers))


@cli.command(short_help="Plant known noise, with its truth.")
@click.argument("data", type=ReadablePath)
@click.option("--flip", default=0.0, help="Share of images given to other identities, at random.")
@click.option("--outlier", default=0.0, help="Share of images of identities that are held out.")
@click.option(
    "--structured", default=0.0, help="Share given so that one or two people make a class's noise."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", required=True, type=ReadablePath, help="An .npz, or a folder for it.")
def corrupt(
    data: Path, flip: float, outlier: float, structured: float, seed: int, out: Path
) -> None:
    """Plant noise into the labels of DATA (a .rec file, a folder of shards, or features .npz).

    A data set gets a label overlay and truth.npz (is_clean, true_label) beside it; features get
    features with is_clean and true_label. Each class has a noise rate of its own. DATA itself
    stays as it is.
    """
    from facetrain.core.config import parse_config
    from facetrain.data.corrupt import corrupt as run_corrupt
    from facetrain.data.noise import NoiseConfig

    rates = {"flip": flip, "outlier": outlier, "structured": structured, "seed": seed}
    _say(_lines(run_corrupt(data, out, parse_config(NoiseConfig, rates, "corrupt"))))


@cli.command(short_help="Every stage of a recipe.")
@_recipe_options
def run(config: Path, out: Path, overrides: Sequence[str]) -> None:
    """Every stage of CONFIG into OUT: train, embed, evaluate, report.

    A finished stage is skipped while its config and inputs are unchanged; an interrupted one
    resumes.
    """
    from facetrain import pipeline

    with _job() as mesh:
        _say(pipeline.run(pipeline.load_recipe(config, overrides), out, mesh), mesh)


@cli.command(short_help="Data set -> backbone.")
@_recipe_options
def train(config: Path, out: Path, overrides: Sequence[str]) -> None:
    """Train the backbone of CONFIG; OUT receives backbone.safetensors and manifest.json.

    Killed at any moment, the same command continues, also with another number of processes.
    """
    from facetrain import pipeline

    with _job() as mesh:
        artifact = pipeline.train_stage(pipeline.load_recipe(config, overrides), out, mesh)
        _say(_lines(artifact.metrics), mesh)


@cli.command(short_help="Data set + backbone -> embeddings.")
@_recipe_options
@click.option("--backbone", required=True, type=ReadablePath, help="Train folder or weight file.")
def embed(config: Path, out: Path, overrides: Sequence[str], backbone: Path) -> None:
    """Embed every image of CONFIG's data set, in its order, into OUT/embedding.npy."""
    from facetrain import pipeline

    with _job() as mesh:
        recipe = pipeline.load_recipe(config, overrides)
        _say(_lines(pipeline.embed_stage(recipe, backbone, out, mesh).metrics), mesh)


@cli.command(short_help="Backbone + verification sets -> numbers.")
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
    from facetrain.report.summary import draw_pictures
    from facetrain.report.table import verification_table

    with _job() as mesh:
        settings = pipeline.evaluate_settings(config, overrides, bins)
        if out:
            numbers = pipeline.evaluate_stage(settings, backbone, out, mesh).metrics
            if mesh.is_main:
                draw_pictures(out)
        else:
            numbers = pipeline.verify(settings, backbone, mesh)
        if json_path and mesh.is_main:
            write_json(json_path, numbers)
        _say(verification_table(numbers), mesh)


@cli.command(short_help="A finished run -> one HTML file.")
@click.argument("run_dir", type=ReadablePath)
def report(run_dir: Path) -> None:
    """Write RUN_DIR/report.html, one self-contained file."""
    from facetrain.report.summary import write_report

    _say(str(write_report(run_dir)))


@cli.command(short_help="Backbone -> onnx, pth or safetensors.")
@click.argument("run_dir", type=ReadablePath)
@click.option("--format", "file_format", required=True, help="onnx, pth or safetensors.")
@click.option("--out", required=True, type=ReadablePath)
def export(run_dir: Path, file_format: str, out: Path) -> None:
    """Write the backbone of RUN_DIR (a run, a train folder or a weight file) for other programs."""
    from facetrain.export.export import export as run_export

    nested = run_dir / "train"
    done = run_export(nested if nested.is_dir() else run_dir, file_format, out)
    parity = done.max_relative_difference
    checked = "" if parity is None else f"; onnxruntime agrees to {parity:.1e}"
    _say(f"{done.path}: {done.config.name} at {done.config.image_size} pixels{checked}")


def _lines(numbers: Mapping[str, Any]) -> str:
    """`name: value` lines of the plain values in a mapping."""
    return "\n".join(
        f"{name}: {value}" for name, value in numbers.items() if not isinstance(value, Mapping)
    )


def _say(text: str, mesh: "Mesh | None" = None) -> None:
    """Print a result, once for all ranks."""
    if text and (mesh is None or mesh.is_main):
        click.echo(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the console script's entry point."""
    try:
        cli.main(args=arguments, prog_name="facetrain", standalone_mode=True)
    except UserError as error:
        click.echo(f"facetrain: {error}", err=True)
        sys.exit(2)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch reports one that dies by a signal
            raise
        click.echo(
            f"facetrain: every loader worker must live as long as the run, but one died: {error}; "
            "when it was killed for memory, lower data.workers; run the same command to continue",
            err=True,
        )
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        click.echo(
            f"facetrain: {error.filename or 'output'}: must be writable, but {error.strerror}; "
            "free space or choose another --out, then run the same command again: finished work "
            "is kept",
            err=True,
        )
        sys.exit(2)
