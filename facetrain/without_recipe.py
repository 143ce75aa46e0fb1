"""Stages on images and a backbone that somebody has: no recipe, no training.

What `clean_images` leaves is the folder of a run: `data/` (where images were packed), `embed/`,
`graph/` and `clean/`; so `review`, `report`, `write` and `run` take it.
"""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from facetrain import pipeline
from facetrain.clean import clean
from facetrain.clean.clean import CleanConfig
from facetrain.core import run_folder
from facetrain.core.artifact import Artifact, atomic_path
from facetrain.core.config import load_config
from facetrain.core.errors import ConfigError, DataError
from facetrain.core.npy_file import write_npy
from facetrain.data.features import load_embedding
from facetrain.data.images.codec import decode_image
from facetrain.data.packing.pack import pack
from facetrain.data.packing.pack_image import PackOptions
from facetrain.data.sources.list_images import list_images
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import job_lock
from facetrain.embedding import given_embeddings
from facetrain.models.weights import BackboneSource, load_backbone
from facetrain.recipe import RECIPES, CleaningRecipe, with_clean_files, with_files

TEMPLATE_SIZE = 112
"""Side in pixels of ArcFace's template, on which faces are packed."""
_SECTIONS = ("data", "embed", "graph", "clean")


def is_recipe(path: Path) -> bool:
    """Whether a command's first word names a recipe rather than images: by its ending."""
    return path.suffix.lower() in (".yaml", ".yml")


def recipe_of(section: str, data: Path | None, overrides: Sequence[str]) -> CleaningRecipe:
    """The defaults with `key=value` of data, embed, graph and clean, on the images `data`.

    Args:
        section: the command's own, which a key without a section is of.
        data: what the command line names; None where `data.path=...` does.

    Raises:
        ConfigError: no images or two, or a key that is none of these.
    """
    named = any(one.startswith(("data.path=", "data={")) for one in overrides)
    if (data is None) != named:
        came = "neither" if data is None else f"{data} and data.path=..."
        raise ConfigError(f"the images must be named once, as DATA or as data.path=..., got {came}")
    recipe = _defaults(section, overrides)
    return recipe if data is None else _on(recipe, data)


def _defaults(section: str, overrides: Sequence[str]) -> CleaningRecipe:
    of_sections = [
        one if one.partition("=")[0].split(".")[0] in _SECTIONS else f"{section}.{one}"
        for one in overrides
    ]
    return load_config(CleaningRecipe, RECIPES / "clean_images.yaml", of_sections)


def _on(recipe: CleaningRecipe, data: Path) -> CleaningRecipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": (data,)})})


def packed(
    recipe: CleaningRecipe,
    alignment: PackOptions,
    image_size: int | None,
    out_dir: Path,
    mesh: Mesh,
) -> CleaningRecipe:
    """The recipe on shards: those that its data are, or what its images were packed to.

    Args:
        alignment: of images that are no shards yet.
        image_size: what the backbone takes, in pixels; None where there is none, so that images
            need not be aligned: they are only looked at.
        out_dir: receives the shards; an interrupted packing continues there.

    Raises:
        ConfigError: images that are neither aligned nor to be, or shards that are to be.
        DataError: there are no images, or none that can be packed.
    """
    data, *others = recipe.data.path
    if others or data.suffix == ".rec" or (data.is_dir() and any(data.glob("*.rec"))):
        if alignment.aligns:
            raise ConfigError(
                f"--detector and --landmarks align images while they are packed, but {data} is "
                "packed already; give the images themselves, or leave the option out"
            )
        return recipe
    if mesh.is_main:
        if alignment.aligns or image_size is None:
            size = max(TEMPLATE_SIZE, image_size or 0)
        else:
            size = _aligned_size(data, (TEMPLATE_SIZE, image_size), out_dir / ".source.tar")
        pack(data, out_dir, dataclasses.replace(alignment, size=size))
    mesh.barrier()
    return _on(recipe, out_dir)


def _aligned_size(data: Path, sizes: Sequence[int], scratch: Path) -> int:
    """The one of `sizes` in pixels that every image has; those that do not decode are passed over.

    Photographs would be packed as well, by their centre, and every number after that be wrong.
    """
    found: int | None = None
    for source in list_images(data, scratch).images:
        try:
            height, width, _ = decode_image(source.read(), source.name).shape
        except DataError:
            continue  # `pack` names and counts it
        if width != height or width not in ((found,) if found else sizes):
            raise ConfigError(
                f"{data}: every image must be an aligned face of {found or sizes[0]} x "
                f"{found or sizes[0]} pixels where no --detector is given, but {source.name} has "
                f"{width} x {height}; add --detector F.onnx or --landmarks F.csv. Faces aligned "
                f"at another size: `facetrain pack {shlex.quote(str(data))} SHARDS` first, then "
                "give SHARDS"
            )
        found = width
    return found or sizes[0]


def embed_images(
    recipe: CleaningRecipe,
    backbone: BackboneSource,
    alignment: PackOptions,
    out_dir: Path,
    mesh: Mesh,
) -> Artifact:
    """Stage `embed` into `out_dir`, which keeps in `data/` what had to be packed."""
    size = load_backbone(backbone, mesh.device).image_size
    on_shards = packed(recipe, alignment, size, out_dir / run_folder.DATA, mesh)
    return pipeline.embed_stage(on_shards, backbone, out_dir, mesh)


def graph_of(embeddings: Path, overrides: Sequence[str], out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `graph` of a folder of the stage `embed`, or of the `embedding` in an `.npz`."""
    recipe = _defaults("graph", overrides)
    if embeddings.is_dir():
        return pipeline.graph_stage(recipe, embeddings, out_dir, mesh)
    with job_lock(out_dir, mesh):
        if mesh.is_main:
            write_npy(out_dir / run_folder.EMBEDDING_FILE, load_embedding(embeddings))
        mesh.barrier()
        return pipeline.graph_stage(recipe, out_dir, out_dir, mesh)


@dataclasses.dataclass(frozen=True)
class Given:
    """Embeddings that somebody has: an `.npz` that says which image each row is of."""

    path: Path


def clean_images(
    recipe: CleaningRecipe,
    embedder: BackboneSource | Given,
    alignment: PackOptions,
    source: Path | None,
    exclude: Sequence[Path],
    out_dir: Path,
    mesh: Mesh,
) -> Artifact:
    """Pack where needed, embed, find neighbours and clean, each into a folder of `out_dir`.

    Embeddings that are given are put into the images' order instead. An interrupted run continues.
    `out_dir/clean.npz` and `overlay.npz` are links to those of the stage `clean`, which stands in a
    folder of its own as in every run.

    Raises:
        ConfigError, DataError: as `packed` and the stages.
    """
    recipe = with_clean_files(recipe, source, exclude)
    if isinstance(embedder, Given):
        load_embedding(embedder.path)  # a bad file is told before hours
        size, backbone = None, None
    else:
        size, backbone = load_backbone(embedder, mesh.device).image_size, embedder
    with job_lock(out_dir, mesh):
        recipe = packed(recipe, alignment, size, out_dir / run_folder.DATA, mesh)
        embedded, graph = out_dir / run_folder.EMBED, out_dir / run_folder.GRAPH
        dataset = pipeline.open_dataset(recipe, mesh)
        if isinstance(embedder, Given):
            given_embeddings.run(embedder.path, dataset, embedded, mesh)
        else:
            pipeline.embed_stage(recipe, embedder, embedded, mesh, dataset)
        pipeline.graph_stage(recipe, embedded, graph, mesh)
        cleaned = out_dir / run_folder.CLEAN
        artifact = pipeline.clean_stage(recipe, embedded, graph, cleaned, mesh, backbone, dataset)
        if mesh.is_main:
            for name in (run_folder.CLEAN_FILE, run_folder.OVERLAY_FILE):
                with atomic_path(out_dir / name) as temporary:
                    temporary.symlink_to(os.path.relpath(cleaned / name, out_dir))
    return artifact


def clean_features(
    source: Path | None,
    target: Path,
    exclude: Sequence[Path],
    overrides: Sequence[str],
    out_dir: Path,
    mesh: Mesh,
) -> Artifact:
    """Stage `clean` from embeddings alone: features `.npz` `target` into `out_dir`."""
    bare = [override.removeprefix("clean.") for override in overrides]
    config = load_config(CleanConfig, RECIPES / "clean_features.yaml", bare)
    config = with_files(config, source, exclude)
    return clean.run_features(config, target, out_dir, mesh)
