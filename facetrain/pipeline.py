"""The order of the stages; the only file that knows it.

A stage whose folder holds the manifest of the same config and inputs is skipped and an
interrupted one resumes, so a run may be killed and started again at any time.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from facetrain.clean import clean
from facetrain.clean.clean import OVERLAY_FILE, CleanConfig
from facetrain.core.artifact import Artifact, fingerprint, read_artifact, write_json
from facetrain.core.config import load_config
from facetrain.core.errors import CheckpointError, ConfigError
from facetrain.data.corrupt import corrupt
from facetrain.data.dataset import FaceDataset
from facetrain.data.noise import NoiseConfig
from facetrain.data.synthetic import SyntheticConfig, write_pairs, write_synthetic
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.embed import embed
from facetrain.embed.embed import EmbedConfig
from facetrain.evaluate import evaluate
from facetrain.evaluate.evaluate import EvaluateConfig, evaluate_bins, name_sets
from facetrain.graph import knn_stage
from facetrain.graph.knn import KnnConfig
from facetrain.models.weights import BACKBONE_FILE, load_backbone
from facetrain.pretrain import train
from facetrain.pretrain.train import TrainConfig
from facetrain.report.cleaning import CleanedSet, noise_rows
from facetrain.report.comparison import EVALUATE, EVALUATE_RETRAIN, EVALUATE_TRUE, compare
from facetrain.report.gallery import finished_stages
from facetrain.report.summary import write_report
from facetrain.report.table import format_table, verification_table

PAIRS_FILE = "pairs.bin"
SUMMARY_FILE = "summary.json"
_RECIPES = Path(__file__).parent / "recipes"

Numbers = Mapping[str, Mapping[str, Any]]
"""Verification set -> its numbers."""


class Recipe(TrainConfig):
    """One YAML file: what every stage of a run needs."""

    embed: EmbedConfig = EmbedConfig()
    graph: KnnConfig = KnnConfig()
    clean: CleanConfig | None = None
    """How to clean the labels before a second training; without it there is no cleaning."""
    evaluate: EvaluateConfig = EvaluateConfig()


class DemoRecipe(Recipe):
    """The demo's recipe, with the faces it renders and the noise it plants for itself."""

    synthetic: SyntheticConfig
    noise: NoiseConfig


def load_recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    """Read a recipe; every file it names must exist before anything starts.

    Raises:
        ConfigError: a bad recipe, or a missing data set, overlay or verification set.
    """
    recipe = load_config(Recipe, path, overrides)
    named = {
        "data.path": (recipe.data.path,),
        "data.overlay": recipe.data.overlay,
        "evaluate.bins": recipe.evaluate.bins,
    }
    if recipe.clean is not None:
        source = recipe.clean.source
        named |= {
            "clean.source": (source,) if source else (),
            "clean.exclude": recipe.clean.exclude,
        }
    for key, files in named.items():
        _must_exist(files, f"{path}: {key}", f"add {key}=... after it")
    return recipe


def _must_exist(files: Sequence[Path], what: str, advice: str) -> None:
    for file in files:
        if not file.exists():
            raise ConfigError(f"{what} must exist, but there is no {file}; {advice}")


def _open_dataset(recipe: Recipe) -> FaceDataset:
    data = recipe.data
    return FaceDataset.open(data.path, data.overlay, on_corrupt=data.on_corrupt)


def train_stage(recipe: Recipe, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `train` into `out_dir`, verified on the recipe's sets during and after training."""
    settings = TrainConfig(**{name: getattr(recipe, name) for name in TrainConfig.model_fields})
    name_sets(recipe.evaluate.bins)  # a bad name must not wait for the first evaluation

    def verify(backbone: nn.Module) -> Numbers:
        return evaluate_bins(
            backbone,
            recipe.evaluate.bins,
            mesh,
            image_size=recipe.model.image_size,
            config=recipe.evaluate,
        )

    verifies = verify if recipe.evaluate.bins else None
    return train.run(settings, _open_dataset(recipe), out_dir, mesh, verifies)


def _backbone_inputs(backbone: Path) -> dict[str, str]:
    file = backbone / BACKBONE_FILE if backbone.is_dir() else backbone
    return {"backbone": fingerprint(file)}


def embed_stage(recipe: Recipe, backbone: Path, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `embed`: the recipe's data set through `backbone` into `out_dir`."""
    model = load_backbone(backbone, mesh.device)
    return embed.run(
        recipe.embed,
        model,
        _open_dataset(recipe),
        out_dir,
        mesh,
        inputs=_backbone_inputs(backbone),
        on_corrupt=recipe.data.on_corrupt,
    )


def evaluate_stage(config: EvaluateConfig, backbone: Path, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `evaluate`: `backbone` on the sets of `config` into `out_dir`."""
    model = load_backbone(backbone, mesh.device)
    return evaluate.run(config, model, out_dir, mesh, inputs=_backbone_inputs(backbone))


def graph_stage(recipe: Recipe, embeddings: Path, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `graph`: the kNN graph of the embeddings in a folder, into `out_dir`."""
    return knn_stage.run(recipe.graph, embeddings / "embedding.npy", out_dir, mesh, inputs={})


def clean_stage(
    recipe: Recipe,
    embeddings: Path,
    graph: Path,
    out_dir: Path,
    mesh: Mesh,
    backbone: Path | None,
) -> Artifact:
    """Stage `clean`: the labels of the recipe's data set, judged into `out_dir`.

    Args:
        embeddings: folder of the stage `embed`, on the same images.
        graph: folder of the stage `graph`, on these embeddings.
        backbone: what embedded them; needed where an evaluation set is to be excluded.

    Raises:
        ConfigError: the folders do not belong together.
    """
    dataset = _open_dataset(recipe)
    embedded = np.load(embeddings / "row.npy")
    if not np.array_equal(embedded, dataset.row):
        raise ConfigError(
            f"--embeddings {embeddings}: must be of the {dataset.num_images} images of the data "
            f"set with its overlays, but is of {len(embedded)} or of others; embed them again"
        )
    inputs = {
        "embedding": fingerprint(embeddings / "embedding.npy"),
        "graph": fingerprint(graph / "neighbours.npy"),
    }
    of_graph = read_artifact(graph)
    if of_graph is None or of_graph.manifest["inputs"].get("embedding") != inputs["embedding"]:
        raise ConfigError(
            f"--graph {graph}: must be the graph of {embeddings}, but was made of other "
            "embeddings; run the graph stage again"
        )
    return clean.run(
        recipe.clean or CleanConfig(),
        dataset,
        embeddings,
        graph,
        out_dir,
        mesh,
        backbone=backbone,
        inputs=inputs,
    )


def clean_features(
    source: Path | None,
    target: Path,
    exclude: Sequence[Path],
    overrides: Sequence[str],
    out_dir: Path,
    mesh: Mesh,
) -> Artifact:
    """Stage `clean` from embeddings alone: features `.npz` `target` into `out_dir`."""
    config = load_config(CleanConfig, _RECIPES / "clean_features.yaml", overrides)
    return clean.run_features(_naming(config, source, exclude), target, out_dir, mesh)


def naming(recipe: Recipe, source: Path | None, exclude: Sequence[Path]) -> Recipe:
    """`recipe` with a section `clean`, and in it the files that the command line names."""
    config = _naming(recipe.clean or CleanConfig(), source, exclude)
    return recipe.model_copy(update={"clean": config})


def _naming(config: CleanConfig, source: Path | None, exclude: Sequence[Path]) -> CleanConfig:
    _must_exist((source,) if source else (), "--source", "give another file")
    _must_exist(exclude, "--exclude", "give another file")
    update = {"source": source or config.source, "exclude": (*config.exclude, *exclude)}
    return config.model_copy(update=update)


def beside(out_dir: Path, given: Path | None, stage: str, option: str) -> Path:
    """The folder of an earlier stage: what `option` gave, or where `run` puts it beside `out_dir`.

    Raises:
        ConfigError: no such finished stage is there.
    """
    folder = given or out_dir.absolute().parent / stage
    artifact = read_artifact(folder)
    if artifact is None or artifact.manifest["stage"] != stage:
        raise ConfigError(
            f"{option}: must be the folder of a finished stage {stage}, but {folder} is none; "
            f"give {option} DIR, or run `facetrain {stage}` into that folder first"
        )
    return folder


def trained_beside(out_dir: Path) -> Path | None:
    """The folder of the first training, where `run` puts it beside `out_dir`, if it is there."""
    folder = out_dir.absolute().parent / "train"
    return folder if read_artifact(folder) else None


def evaluate_settings(
    path: Path | None, overrides: Sequence[str], bins: Sequence[Path]
) -> EvaluateConfig:
    """What to evaluate: the recipe's sets, or `bins` instead of them.

    Raises:
        ConfigError: neither names a set, or one is missing.
    """
    config = load_recipe(path, overrides).evaluate if path else EvaluateConfig()
    if bins:
        config = config.model_copy(update={"bins": tuple(bins)})
    if not config.bins:
        raise ConfigError("evaluate needs at least one verification set; add --bin F.bin")
    return config


def verify(config: EvaluateConfig, backbone: Path, mesh: Mesh) -> Numbers:
    """Verification numbers of `backbone` on the sets of `config`, without leaving a stage."""
    model = load_backbone(backbone, mesh.device)
    return evaluate_bins(model, config.bins, mesh, image_size=model.image_size, config=config)


def run(recipe: Recipe, out_dir: Path, mesh: Mesh, true_labels: Recipe | None = None) -> str:
    """Every stage into a folder of its own under `out_dir`, then the report.

    With a section `clean` the labels are cleaned by what the first training learned, and a second
    one starts from scratch on what was kept.

    Args:
        true_labels: the same recipe on labels known to be right, to compare the cleaning with.

    Returns:
        A short text for the terminal; its numbers are in `summary.json`.
    """
    trained, embedded = out_dir / "train", out_dir / "embed"
    _train_and_verify(recipe, trained, out_dir / EVALUATE, mesh)
    embed_stage(recipe, trained, embedded, mesh)
    if recipe.clean is not None:
        graph, cleaned = out_dir / "graph", out_dir / "clean"
        graph_stage(recipe, embedded, graph, mesh)
        clean_stage(recipe, embedded, graph, cleaned, mesh, trained)
        again = _with_overlay(recipe, (*recipe.data.overlay, cleaned / OVERLAY_FILE))
        retrained = out_dir / "retrain"
        try:
            _train_and_verify(again, retrained, out_dir / EVALUATE_RETRAIN, mesh)
        except CheckpointError as error:  # begun on what an earlier cleaning kept
            raise CheckpointError(
                f"{error}; or remove {retrained} to train on the newly cleaned labels"
            ) from None
        if true_labels is not None:
            folders = out_dir / "train_true", out_dir / EVALUATE_TRUE
            _train_and_verify(true_labels, *folders, mesh)
    text = _summary(recipe, out_dir) if mesh.is_main else ""
    mesh.barrier()
    return text


def _with_overlay(recipe: Recipe, overlay: Sequence[Path]) -> Recipe:
    data = recipe.data.model_copy(update={"overlay": tuple(overlay)})
    return recipe.model_copy(update={"data": data})


def _train_and_verify(recipe: Recipe, trained: Path, evaluated: Path, mesh: Mesh) -> None:
    train_stage(recipe, trained, mesh)
    if recipe.evaluate.bins:
        evaluate_stage(recipe.evaluate, trained, evaluated, mesh)


def _summary(recipe: Recipe, out_dir: Path) -> str:
    """What a finished run found, as text; also writes `summary.json` and the report."""
    verification = compare(finished_stages(out_dir))
    numbers: dict[str, Any] = {"verification": verification}
    parts = []
    stage = read_artifact(out_dir / "clean") if recipe.clean else None
    if stage is not None:
        metrics = stage.metrics
        parts.append(f"dropped {metrics['num_dropped']:,} of {metrics['num_images']:,} images")
        noise = CleanedSet.open(stage, recipe.data).noise_numbers()
        if noise is not None:
            numbers["noise"] = noise
            parts.append(format_table(*noise_rows(noise)) + "\n")
    if verification:
        parts.append(verification_table(verification))
    write_json(out_dir / SUMMARY_FILE, numbers)
    parts.append(f"report: {write_report(out_dir)}")
    return "\n".join(parts)


def render_stage(config: SyntheticConfig, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `synthetic`: rendered faces as a data set, and pairs of other identities to verify."""
    others = config.model_copy(
        update={"first_identity": config.first_identity + config.num_identities}
    )

    def work() -> Mapping[str, Any]:
        if mesh.is_main:
            workers = os.cpu_count() or 1
            write_synthetic(out_dir, config, workers=workers)
            write_pairs(out_dir / PAIRS_FILE, others, workers=workers)
        return {"num_identities": config.num_identities}

    return run_stage("synthetic", config, {}, out_dir, mesh, work)


def noise_stage(config: NoiseConfig, data: Path, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `noise`: known noise planted into a data set, as an overlay with its truth."""

    def work() -> Mapping[str, Any]:
        return corrupt(data, out_dir, config) if mesh.is_main else {}

    inputs = {"data": FaceDataset.open(data).base_fingerprint}
    return run_stage("noise", config, inputs, out_dir, mesh, work)


def demo(out_dir: Path, overrides: Sequence[str], mesh: Mesh) -> str:
    """Render synthetic faces, plant noise and run the whole pipeline; see `recipes/demo.yaml`."""
    faces, noise = out_dir / "faces", out_dir / "noise"
    defaults = [
        f"data.path={faces}",
        f"data.overlay=[{noise / OVERLAY_FILE}]",
        f"evaluate.bins=[{faces / PAIRS_FILE}]",
    ]
    recipe = load_config(DemoRecipe, _RECIPES / "demo.yaml", [*defaults, *overrides])
    render_stage(recipe.synthetic, faces, mesh)
    noise_stage(recipe.noise, faces, noise, mesh)
    return run(recipe, out_dir, mesh, true_labels=_with_overlay(recipe, ()))
