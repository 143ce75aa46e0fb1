"""The demo: faces rendered, noise planted, and the whole pipeline on them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facetrain import pipeline
from facetrain.core.artifact import Artifact
from facetrain.core.config import load_config
from facetrain.core.run_folder import OVERLAY_FILE
from facetrain.data.dataset import FaceDataset
from facetrain.data.noise.corrupt import corrupt
from facetrain.data.noise.plant import NoiseConfig
from facetrain.data.synthetic import SyntheticConfig, write_pairs, write_synthetic
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import job_lock, run_stage
from facetrain.recipe import RECIPES, Recipe, with_overlay

PAIRS_FILE = "pairs.bin"


class DemoRecipe(Recipe):
    """The demo's recipe, with the faces it renders and the noise it plants for itself."""

    synthetic: SyntheticConfig
    noise: NoiseConfig


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
    recipe = load_config(DemoRecipe, RECIPES / "demo.yaml", [*defaults, *overrides])
    with job_lock(out_dir, mesh):
        render_stage(recipe.synthetic, faces, mesh)
        noise_stage(recipe.noise, faces, noise, mesh)
        return pipeline.run(recipe, out_dir, mesh, true_labels=with_overlay(recipe, ()))
