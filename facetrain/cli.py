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
    and numbers (evaluate); embeddings give a kNN graph (graph), and that a label overlay without
    the noise (clean). `run` does all but the first, resumable at any point. Under torchrun every
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
    """The whole pipeline on synthetic faces with planted noise, on a CPU, nothing downloaded.

    Trains on the noisy labels, cleans them, and trains again on what was kept and on the true
    labels; the verification numbers of the three stand side by side.
    """
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
    """Every stage of CONFIG into OUT: train, evaluate, embed, report.

    With a section `clean` in CONFIG (`clean={}` for its defaults) the labels are cleaned: graph,
    clean, then train and evaluate once more, on what was kept.

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
@click.option(
    "--backbone",
    type=ReadablePath,
    help="Train folder or weight file.",
    show_default="train beside OUT",
)
def embed(config: Path, out: Path, overrides: Sequence[str], backbone: Path | None) -> None:
    """Embed every image of CONFIG's data set, in its order, into OUT/embedding.npy."""
    from facetrain import pipeline

    with _job() as mesh:
        recipe = pipeline.load_recipe(config, overrides)
        used = backbone or pipeline.beside(out, None, "train", "--backbone")
        _say(_lines(pipeline.embed_stage(recipe, used, out, mesh).metrics), mesh)


@cli.command(short_help="Embeddings -> kNN graph.")
@_recipe_options
@click.option(
    "--embeddings",
    type=ReadablePath,
    help="Folder of the embed stage.",
    show_default="embed beside OUT",
)
def graph(config: Path, out: Path, overrides: Sequence[str], embeddings: Path | None) -> None:
    """Find the nearest images of every image: OUT/neighbours.npy and OUT/similarity.npy."""
    from facetrain import pipeline

    with _job() as mesh:
        recipe = pipeline.load_recipe(config, overrides)
        used = pipeline.beside(out, embeddings, "embed", "--embeddings")
        _say(_lines(pipeline.graph_stage(recipe, used, out, mesh).metrics), mesh)


@cli.command(short_help="Noisy labels -> which of them are right.")
@click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@click.option("--out", required=True, type=ReadablePath, help="Folder that receives everything.")
@click.option(
    "--embeddings",
    type=ReadablePath,
    help="Folder of the embed stage.",
    show_default="embed beside OUT",
)
@click.option(
    "--graph", type=ReadablePath, help="Folder of the graph stage.", show_default="graph beside OUT"
)
@click.option(
    "--backbone", type=ReadablePath, help="For --exclude F.bin.", show_default="train beside OUT"
)
@click.option("--target", type=ReadablePath, help="Features .npz to clean: embedding, label.")
@click.option("--source", type=ReadablePath, help="Features .npz to learn from, with is_clean.")
@click.option(
    "--exclude", multiple=True, type=ReadablePath,
    help="Evaluation set (.bin or features .npz): identities in both are flagged.",
)  # fmt: skip
def clean(
    words: Sequence[str],
    out: Path,
    embeddings: Path | None,
    graph: Path | None,
    backbone: Path | None,
    target: Path | None,
    source: Path | None,
    exclude: Sequence[Path],
) -> None:
    """Find the images that do not belong to their identity; nothing is changed or deleted.

    Either CONFIG: the data set of a recipe, from its embeddings and their graph. Leaves
    OUT/overlay.npz, to train with data.overlay=OUT/overlay.npz.

    Or --target T.npz: embeddings of any model, alone. KEY=VALUE is then of the section `clean`, as
    in seed=1.

    Both leave OUT/clean.npz: clean_probability, threshold, kept, suggested_label and more.
    Without --source the cleaner learns from noise that it plants into the most consistent classes
    of the set itself.
    """
    from facetrain import pipeline

    config, overrides = _config_and_overrides(words)
    if (config is None) == (target is None):
        came = "neither" if config is None else f"{config} and --target {target}"
        raise UserError(f"clean takes CONFIG or --target T.npz, one of them; got {came}")
    if target and (embeddings or graph):
        raise UserError("--embeddings and --graph belong to CONFIG; leave them out with --target")
    with _job() as mesh:
        if target:
            files = (source, target, exclude)
            artifact = pipeline.clean_features(*files, overrides, out, mesh)
        else:
            assert config is not None
            recipe = pipeline.load_recipe(config, overrides)
            artifact = pipeline.clean_stage(
                pipeline.naming(recipe, source, exclude),
                pipeline.beside(out, embeddings, "embed", "--embeddings"),
                pipeline.beside(out, graph, "graph", "--graph"),
                out,
                mesh,
                backbone or pipeline.trained_beside(out),
            )
        _say(_lines(artifact.metrics), mesh)


def _config_and_overrides(words: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """CONFIG, if the first word is no KEY=VALUE, and the others."""
    if words and "=" not in words[0]:
        return Path(words[0]), words[1:]
    return None, words


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
    from facetrain.report.gallery import draw_pictures
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
    """Write the backbone of RUN_DIR (a run, a train folder or a weight file) for other programs.

    Of a run that cleaned its labels, the backbone that was trained on the cleaned ones.
    """
    from facetrain.export.export import export as run_export

    folders = (run_dir / "retrain", run_dir / "train")
    nested = next((folder for folder in folders if folder.is_dir()), run_dir)
    done = run_export(nested, file_format, out)
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
