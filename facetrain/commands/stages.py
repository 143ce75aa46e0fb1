"""Commands that run stages: the whole pipeline, or one of it."""

from collections.abc import Sequence
from pathlib import Path

import click

from facetrain.commands.options import ReadablePath, job, recipe_options, say, value_lines
from facetrain.core.errors import UserError


@click.command(short_help="Everything on synthetic faces, in minutes, on a CPU.")
@click.option("--out", default=Path("demo"), type=ReadablePath, show_default=True)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def demo(out: Path, overrides: Sequence[str]) -> None:
    """The whole pipeline on synthetic faces with planted noise, on a CPU, nothing downloaded.

    Trains on the noisy labels, cleans them, and trains again on what was kept and on the true
    labels; the verification numbers of the three stand side by side.
    """
    from facetrain.demo import demo as run_demo

    with job() as mesh:
        say(run_demo(out, overrides, mesh), mesh)


@click.command(short_help="Every stage of a recipe.")
@recipe_options
def run(config: Path, out: Path, overrides: Sequence[str]) -> None:
    """Every stage of CONFIG into OUT: train, evaluate, embed, report.

    With a section `clean` in CONFIG (`clean={}` for its defaults) the labels are cleaned: graph,
    clean, then train and evaluate once more, on what was kept.

    A finished stage is skipped while its config and inputs are unchanged; an interrupted one
    resumes.
    """
    from facetrain import pipeline

    with job() as mesh:
        say(pipeline.run(pipeline.load_recipe(config, overrides), out, mesh), mesh)


@click.command(short_help="Data set -> backbone.")
@recipe_options
def train(config: Path, out: Path, overrides: Sequence[str]) -> None:
    """Train the backbone of CONFIG; OUT receives backbone.safetensors and manifest.json.

    Killed at any moment, the same command continues, also with another number of processes.
    """
    from facetrain import pipeline

    with job() as mesh:
        artifact = pipeline.train_stage(pipeline.load_recipe(config, overrides), out, mesh)
        say(value_lines(artifact.metrics), mesh)


@click.command(short_help="Trained backbone -> margins learned across variations.")
@recipe_options
@click.option(
    "--from",
    "trained",
    type=ReadablePath,
    help="Folder of the training to start from.",
    show_default="train beside OUT",
)
def finetune(config: Path, out: Path, overrides: Sequence[str], trained: Path | None) -> None:
    """Fine-tune a trained backbone with MvCoM: margins learned across pose, occlusion, blur, group.

    The section `finetune` of CONFIG names the meta set; `facetrain variations` makes the labels.
    The classifier is kept, so data and overlays are those of the training. OUT receives what
    `train` leaves, and every image's margins in OUT/samples.
    """
    from facetrain import pipeline

    with job() as mesh:
        recipe = pipeline.load_recipe(config, overrides)
        folder = trained or pipeline.beside(out, None, "train", "--from")
        say(value_lines(pipeline.finetune_stage(recipe, folder, out, mesh).metrics), mesh)


@click.command(short_help="Data set + backbone -> embeddings.")
@recipe_options
@click.option(
    "--backbone",
    type=ReadablePath,
    help="Train folder or weight file.",
    show_default="train beside OUT",
)
def embed(config: Path, out: Path, overrides: Sequence[str], backbone: Path | None) -> None:
    """Embed every image of CONFIG's data set, in its order, into OUT/embedding.npy."""
    from facetrain import pipeline

    with job() as mesh:
        recipe = pipeline.load_recipe(config, overrides)
        used = backbone or pipeline.beside(out, None, "train", "--backbone")
        say(value_lines(pipeline.embed_stage(recipe, used, out, mesh).metrics), mesh)


@click.command(short_help="Embeddings -> kNN graph.")
@recipe_options
@click.option(
    "--embeddings",
    type=ReadablePath,
    help="Folder of the embed stage.",
    show_default="embed beside OUT",
)
def graph(config: Path, out: Path, overrides: Sequence[str], embeddings: Path | None) -> None:
    """Find the nearest images of every image: OUT/neighbours.npy and OUT/similarity.npy."""
    from facetrain import pipeline

    with job() as mesh:
        recipe = pipeline.load_recipe(config, overrides)
        used = pipeline.beside(out, embeddings, "embed", "--embeddings")
        say(value_lines(pipeline.graph_stage(recipe, used, out, mesh).metrics), mesh)


@click.command(short_help="Noisy labels -> which of them are right.")
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
    with job() as mesh:
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
        say(value_lines(artifact.metrics), mesh)


def _config_and_overrides(words: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """CONFIG, if the first word is no KEY=VALUE, and the others."""
    if words and "=" not in words[0]:
        return Path(words[0]), words[1:]
    return None, words
