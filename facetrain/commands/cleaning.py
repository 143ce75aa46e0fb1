"""Commands from images to clean labels, by a recipe or without one: embed, graph, clean."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facetrain.commands.options import (
    ReadablePath,
    alignment_options,
    backbone_options,
    backbone_source,
    job,
    print_result,
    value_lines,
)
from facetrain.core.errors import UserError

if TYPE_CHECKING:  # importing torch takes seconds; `--help` must not
    from facetrain.models.weights import BackboneSource
    from facetrain.recipe import CleaningRecipe
    from facetrain.without_recipe import Given

_OUT = click.option(
    "--out", required=True, type=ReadablePath, help="Folder that receives everything."
)


@click.command(short_help="Data set + backbone -> embeddings.")
@click.argument("words", nargs=-1, metavar="CONFIG|DATA [KEY=VALUE]...")
@_OUT
@backbone_options("with CONFIG: train beside OUT")
@alignment_options
def embed(
    words: Sequence[str],
    out: Path,
    backbone: Path | None,
    input_range: str | None,
    channel_order: str,
    **alignment: Any,
) -> None:
    """Embed every image of a data set, in its order, into OUT/embedding.npy.

    The data set is a recipe's (CONFIG, a .yaml), or DATA: a .rec, a folder of shards, or images (a
    folder a person, a .lst, a tar), which are packed into OUT/data first. Without CONFIG a KEY is
    of the section embed, as in batch_size=64, or names its own: data.overlay=F.npz.
    """
    from facetrain import pipeline, without_recipe
    from facetrain.data.packing.pack_image import PackOptions
    from facetrain.recipe import load_recipe

    first, overrides = first_and_overrides(words)
    given = backbone_source(backbone, input_range, channel_order)
    with job() as mesh:
        if first is not None and without_recipe.is_recipe(first):
            recipe = load_recipe(first, overrides)
            used = given or pipeline.finished_stage(out, None, "train", "--backbone")
            artifact = pipeline.embed_stage(recipe, used, out, mesh)
        else:
            settings = without_recipe.recipe_of("embed", first, overrides)
            used = _needed(given, "embed")
            how = PackOptions(**alignment)
            artifact = without_recipe.embed_images(settings, used, how, out, mesh)
        print_result(value_lines(artifact.metrics), mesh)


@click.command(short_help="Embeddings -> kNN graph.")
@click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@_OUT
@click.option(
    "--embeddings", type=ReadablePath, help="Folder of the embed stage, or a features .npz.",
    show_default="with CONFIG: embed beside OUT",
)  # fmt: skip
def graph(words: Sequence[str], out: Path, embeddings: Path | None) -> None:
    """Find the nearest images of every image: OUT/neighbours.npy and OUT/similarity.npy.

    Without CONFIG, a recipe, a KEY is of the section graph, as in num_neighbours=40.
    """
    from facetrain import pipeline, without_recipe
    from facetrain.recipe import load_recipe

    config, overrides = first_and_overrides(words)
    with job() as mesh:
        if config is not None:
            recipe = load_recipe(config, overrides)
            used = pipeline.finished_stage(out, embeddings, "embed", "--embeddings")
            artifact = pipeline.graph_stage(recipe, used, out, mesh)
        elif embeddings is None:
            raise UserError("graph needs CONFIG, or --embeddings DIR or F.npz; got neither")
        else:
            artifact = without_recipe.graph_of(embeddings, overrides, out, mesh)
        print_result(value_lines(artifact.metrics), mesh)


@click.command(short_help="Noisy labels -> which of them are right.")
@click.argument("words", nargs=-1, metavar="[CONFIG|DATA] [KEY=VALUE]...")
@_OUT
@backbone_options("with CONFIG: train beside OUT, for --exclude F.bin")
@alignment_options
@click.option(
    "--embeddings", type=ReadablePath,
    help="Of DATA, in place of --backbone: .npz with embedding, and path, key or row. "
    "Of CONFIG: folder of the embed stage.",
    show_default="with CONFIG: embed beside OUT",
)  # fmt: skip
@click.option(
    "--graph", type=ReadablePath, help="Of CONFIG: folder of the graph stage.",
    show_default="graph beside OUT",
)  # fmt: skip
@click.option("--target", type=ReadablePath, help="Features .npz to clean: embedding, label.")
@click.option("--source", type=ReadablePath, help="Features .npz to learn from, with is_clean.")
@click.option(
    "--exclude", multiple=True, type=ReadablePath,
    help="Evaluation set (.bin or features .npz): identities in both are flagged.",
)  # fmt: skip
def clean(
    words: Sequence[str],
    out: Path,
    backbone: Path | None,
    input_range: str | None,
    channel_order: str,
    embeddings: Path | None,
    graph: Path | None,
    target: Path | None,
    source: Path | None,
    exclude: Sequence[Path],
    **alignment: Any,
) -> None:
    """Find the images that do not belong to their identity; nothing is changed or deleted.

    \b
    One of four:
      clean DATA --backbone B --out DIR       images and any backbone
      clean DATA --embeddings F --out DIR     images, and what any model made of them
      clean CONFIG --out DIR                  the data set of a recipe, embedded before
      clean --target T.npz --out DIR          embeddings alone

    DATA is a folder a person, a .lst or a tar of images (photographs need --landmarks, aligned
    faces nothing), a .rec or a folder of shards. DIR becomes the folder of a run, for
    `facetrain review DIR` and `facetrain report DIR`.

    F holds embedding (N, D) and whose it is: path (as in the .lst that `pack` writes), key (of the
    record) or row (its place among all). Photographs then need no detector: they are only shown.

    All leave DIR/clean.npz: clean_probability, threshold, kept, suggested_label and more; with
    images also DIR/overlay.npz, to train with data.overlay=DIR/overlay.npz.

    KEY is of the section clean, as in seed=1, or names its own: embed.batch_size=64.
    With CONFIG it is any key of a recipe.

    Without --source the cleaner learns from noise that it plants into the most consistent classes
    of the set itself.
    """  # noqa: D301 (an r would print it)
    from facetrain import pipeline, without_recipe
    from facetrain.data.packing.pack_image import PackOptions
    from facetrain.recipe import load_recipe, with_clean_files

    first, overrides = first_and_overrides(words)
    if target and (first or embeddings or graph or backbone):
        raise UserError(
            "--target T.npz is cleaned by itself; leave out CONFIG or DATA, --backbone, "
            "--embeddings and --graph, or leave out --target"
        )
    given = backbone_source(backbone, input_range, channel_order)
    with job() as mesh:
        before = after = ""
        if target:
            files = (source, target, exclude)
            artifact = without_recipe.clean_features(*files, overrides, out, mesh)
        elif first is not None and without_recipe.is_recipe(first):
            recipe = load_recipe(first, overrides)
            artifact = pipeline.clean_stage(
                with_clean_files(recipe, source, exclude),
                pipeline.finished_stage(out, embeddings, "embed", "--embeddings"),
                pipeline.finished_stage(out, graph, "graph", "--graph"),
                out,
                mesh,
                given or pipeline.first_training(out),
            )
        else:
            settings = without_recipe.recipe_of("clean", first, overrides)
            embedder = _embedder(given, embeddings, graph, overrides)
            how = PackOptions(**alignment)
            artifact = without_recipe.clean_images(
                settings, embedder, how, source, exclude, out, mesh
            )
            before, after = _packed(settings, out), _next_steps(out)
        print_result(before + value_lines(artifact.metrics) + after, mesh)


def _packed(settings: "CleaningRecipe", out: Path) -> str:
    """What became of the files of images that were packed, in a line."""
    from facetrain.core import run_folder
    from facetrain.core.artifact import read_artifact

    artifact = read_artifact(out / run_folder.DATA)
    if artifact is None or settings.data.path == (artifact.path,):
        return ""
    numbers = artifact.metrics
    return (
        f"{settings.data.path[0]}: {numbers['num_files']} files, {numbers['num_images']} images of "
        f"{numbers['num_identities']} identities packed into {artifact.path}, "
        f"{numbers['num_skipped']} skipped and {numbers['num_ignored']} ignored "
        "(skipped.txt and ignored.txt there name them)\n"
    )


def _next_steps(out: Path) -> str:
    word = shlex.quote(str(out))  # to be copied into a shell
    return (
        f"\nlook through the result: facetrain review {word}"
        f"\nas one page of pictures and numbers: facetrain report {word}"
        f"\nthe set as decided: facetrain write {word} --format folder --out CLEAN"
    )


def first_and_overrides(words: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """CONFIG or DATA, if the first word is no KEY=VALUE or there is such a file, and the others."""
    if words and ("=" not in words[0] or Path(words[0]).exists()):
        return Path(words[0]), words[1:]
    return None, words


def _embedder(
    backbone: "BackboneSource | None",
    embeddings: Path | None,
    graph: Path | None,
    overrides: Sequence[str],
) -> "BackboneSource | Given":
    """What says how alike the images of DATA are: a backbone, or embeddings that somebody has."""
    from facetrain.without_recipe import Given

    if graph is not None:
        raise UserError("--graph belongs to CONFIG; of DATA the graph is made anew, leave it out")
    if embeddings is None:
        return _needed(backbone, "clean")
    if backbone is not None:
        raise UserError("--backbone and --embeddings both say how alike images are; give one")
    if embeddings.is_dir():
        raise UserError(
            f"--embeddings {embeddings}: must be an .npz where DATA is given, but is a folder; "
            "give --backbone, or CONFIG with the folder of its embed stage"
        )
    if surplus := [one for one in overrides if one.startswith(("embed.", "embed="))]:
        raise UserError(f"{surplus[0]}: nothing is embedded with --embeddings; leave it out")
    return Given(embeddings)


def _needed(backbone: "BackboneSource | None", command: str) -> "BackboneSource":
    if backbone is None:
        or_given = "; or --embeddings F.npz of any model" if command == "clean" else ""
        raise UserError(
            f"{command} of images needs --backbone B: an .onnx, .pth or .safetensors, or the "
            f"folder of a training{or_given}. (A recipe's name must end in .yaml)"
        )
    return backbone
