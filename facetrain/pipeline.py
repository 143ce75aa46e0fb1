"""The order of the stages; the only file that knows it.

A stage whose folder holds the manifest of the same config and inputs is skipped and an
interrupted one resumes, so a run may be killed and started again at any time.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from facetrain.core.artifact import Artifact, fingerprint
from facetrain.core.config import load_config
from facetrain.core.errors import ConfigError
from facetrain.data.dataset import FaceDataset
from facetrain.data.synthetic import SyntheticConfig, write_pairs, write_synthetic
from facetrain.dist.mesh import Mesh
from facetrain.embed import embed
from facetrain.embed.embed import EmbedConfig
from facetrain.dist.stage import run_stage
from facetrain.evaluate import evaluate
from facetrain.evaluate.evaluate import EvaluateConfig, evaluate_bins, name_sets
from facetrain.models.weights import BACKBONE_FILE, load_backbone
from facetrain.pretrain import train
from facetrain.pretrain.train import TrainConfig
from facetrain.report.summary import write_report
from facetrain.report.table import verification_table

PAIRS_FILE = "pairs.bin"

Numbers = Mapping[str, Mapping[str, Any]]
"""Verification set -> its numbers."""


class Recipe(TrainConfig):
    """One YAML file: what every stage of a run needs."""

    embed: EmbedConfig = EmbedConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


class DemoRecipe(Recipe):
    """The demo's recipe, with the faces it renders for itself."""

    synthetic: SyntheticConfig


def load_recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    """Read a recipe; every file it names must exist before anything starts.

    Raises:
        ConfigError: a bad recipe, or a missing data set, overlay or verification set.
    """
    recipe = load_config(Recipe, path, overrides)
    named = {"data.path": (recipe.data.path,), "data.overlay": recipe.data.overlay}
    for key, files in {**named, "evaluate.bins": recipe.evaluate.bins}.items():
        for file in files:
            if not file.exists():
                raise ConfigError(
                    f"{path}: {key} must exist, but there is no {file}; add {key}=... after it"
                )
    return recipe


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


def run(recipe: Recipe, out_dir: Path, mesh: Mesh) -> str:
    """Every stage into a folder of its own under `out_dir`, then the report.

    Returns:
        A short table for the terminal.
    """
    trained = out_dir / "train"
    train_stage(recipe, trained, mesh)
    embed_stage(recipe, trained, out_dir / "embed", mesh)
    table = ""
    if recipe.evaluate.bins:
        artifact = evaluate_stage(recipe.evaluate, trained, out_dir / "evaluate", mesh)
        table = verification_table(artifact.metrics)
    if mesh.is_main:
        table += f"\nreport: {write_report(out_dir)}"
    mesh.barrier()
    return table.strip()


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


def demo(out_dir: Path, overrides: Sequence[str], mesh: Mesh) -> str:
    """Render synthetic faces and run the whole pipeline on them; see `recipes/demo.yaml`."""
    packaged = Path(__file__).parent / "recipes" / "demo.yaml"
    faces = out_dir / "faces"
    defaults = [f"data.path={faces}", f"evaluate.bins=[{faces / PAIRS_FILE}]"]
    recipe = load_config(DemoRecipe, packaged, [*defaults, *overrides])
    render_stage(recipe.synthetic, faces, mesh)
    return run(recipe, out_dir, mesh)
