"""Commands that run stages: the whole pipeline, or one of it."""

from collections.abc import Sequence
from pathlib import Path

import click

from facetrain.commands.options import ReadablePath, job, print_result, recipe_options, value_lines


@click.command(short_help="Everything on synthetic faces, in minutes, on a CPU.")
@click.option("--out", default=Path("demo"), type=ReadablePath, show_default=True)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def demo(out: Path, overrides: Sequence[str]) -> None:
    """The whole pipeline on synthetic faces with planted noise, on a CPU, nothing downloaded.

    Trains on the noisy labels, cleans them, and trains again on what was kept and on the true
    labels; the verification numbers of the three stand side by side. KEY is any of a recipe's, as
    in train.epochs=2.
    """
    from facetrain.demo import demo as run_demo

    with job() as mesh:
        print_result(run_demo(out, overrides, mesh), mesh)


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
    from facetrain.recipe import load_recipe

    with job() as mesh:
        print_result(pipeline.run(load_recipe(config, overrides), out, mesh), mesh)


@click.command(short_help="Data set -> backbone.")
@recipe_options
def train(config: Path, out: Path, overrides: Sequence[str]) -> None:
    """Train the backbone of CONFIG; OUT receives backbone.safetensors and manifest.json.

    Killed at any moment, the same command continues, also with another number of processes.
    """
    from facetrain import pipeline
    from facetrain.recipe import load_recipe

    with job() as mesh:
        artifact = pipeline.train_stage(load_recipe(config, overrides), out, mesh)
        print_result(value_lines(artifact.metrics), mesh)


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
    from facetrain.recipe import load_recipe

    with job() as mesh:
        recipe = load_recipe(config, overrides)
        folder = trained or pipeline.finished_stage(out, None, "train", "--from")
        print_result(value_lines(pipeline.finetune_stage(recipe, folder, out, mesh).metrics), mesh)
