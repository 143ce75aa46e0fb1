"""The order of the stages; the only file that knows it.

A stage whose folder holds the manifest of the same config and inputs is skipped and an
interrupted one resumes, so a run may be killed and started again at any time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.clean import clean
from facetrain.clean.clean import CleanConfig
from facetrain.core import run_folder
from facetrain.core.artifact import Artifact, fingerprint, read_artifact, write_json
from facetrain.core.errors import ConfigError
from facetrain.core.log import logger
from facetrain.core.npy_file import read_npy
from facetrain.data.cleaned_set import CleanedSet
from facetrain.data.dataset import FaceDataset
from facetrain.data.stage_data import write_stage_data
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import job_lock
from facetrain.embedding import embed
from facetrain.engine.inference import open_backbone
from facetrain.engine.loop import Evaluate
from facetrain.evaluate import evaluate, ijb
from facetrain.evaluate.evaluate import EvaluateConfig, check_sets, evaluate_sets, name_sources
from facetrain.evaluate.ijb import IjbConfig
from facetrain.finetune import finetune
from facetrain.finetune.settings import FinetuneStageConfig
from facetrain.graph import knn
from facetrain.models.weights import BackboneSource, backbone_inputs
from facetrain.pretrain import train
from facetrain.pretrain.archive import archive_other_training
from facetrain.pretrain.initial_weights import weights_input
from facetrain.pretrain.train import TrainConfig
from facetrain.recipe import CleaningRecipe, Recipe, for_retraining, with_overlay
from facetrain.report.cleaning import noise_numbers, noise_rows
from facetrain.report.tables import compare, format_table, verification_table
from facetrain.review import review_overlay


def open_dataset(recipe: CleaningRecipe, mesh: Mesh) -> FaceDataset:
    """The recipe's data set; a review among its overlays is brought up to date first."""
    data = recipe.data
    _refresh_reviews(data.overlay, mesh)
    return FaceDataset.open(data.path, data.overlay, on_corrupt=data.on_corrupt)


def _refresh_reviews(overlays: Sequence[Path], mesh: Mesh) -> None:
    """Once for all ranks, which must read the same."""
    if mesh.is_main:
        for overlay in overlays:
            review_overlay.refresh(overlay)
    mesh.barrier()


def train_stage(
    recipe: Recipe, out_dir: Path, mesh: Mesh, dataset: FaceDataset | None = None
) -> Artifact:
    """Stage `train` into `out_dir`, verified on the recipe's sets during and after training.

    Args:
        dataset: the recipe's, if it is open.
    """
    settings = TrainConfig(**{name: getattr(recipe, name) for name in TrainConfig.model_fields})
    dataset = dataset or open_dataset(recipe, mesh)
    return train.run(settings, dataset, out_dir, mesh, _verifying(recipe, mesh))


def _verifying(recipe: Recipe, mesh: Mesh) -> Evaluate | None:
    """What a training verifies itself by: the recipe's sets, if it names any."""
    size = recipe.model.image_size
    check_sets(recipe.evaluate)  # what is missing must not wait for the first evaluation
    if not name_sources(recipe.evaluate):
        if recipe.train.evaluate_every:
            logger.warning("train.evaluate_every: no set is named in evaluate to verify on")
        return None
    # By subgroup only when it is done: the log keeps the numbers of a whole set.
    config = recipe.evaluate.model_copy(update={"attributes": None})
    return lambda backbone: evaluate_sets(config, backbone, mesh, image_size=size)


def finetune_stage(recipe: Recipe, trained: Path, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `finetune`: what is in the folder `trained`, on the recipe's data set.

    Raises:
        ConfigError: a recipe without the section, or one that does not fit the folder.
    """
    if recipe.finetune is None:
        raise ConfigError("finetune needs a section finetune in the recipe; add finetune.meta.path")
    if recipe.robust is not None:
        raise ConfigError("finetune weighs no samples; remove the section robust from the recipe")
    names = FinetuneStageConfig.model_fields
    settings = FinetuneStageConfig(**{name: getattr(recipe, name) for name in names})
    return finetune.run(
        settings, open_dataset(recipe, mesh), trained, out_dir, mesh, _verifying(recipe, mesh)
    )


def embed_stage(
    recipe: CleaningRecipe,
    backbone: BackboneSource,
    out_dir: Path,
    mesh: Mesh,
    dataset: FaceDataset | None = None,
) -> Artifact:
    """Stage `embed`: the recipe's data set, open or not, through `backbone` into `out_dir`."""
    model = open_backbone(backbone, mesh.device)
    return embed.run(
        recipe.embed,
        model,
        dataset or open_dataset(recipe, mesh),
        out_dir,
        mesh,
        inputs=backbone_inputs(backbone),
        on_corrupt=recipe.data.on_corrupt,
    )


def evaluate_stage(
    config: EvaluateConfig, backbone: BackboneSource, out_dir: Path, mesh: Mesh
) -> Artifact:
    """Stage `evaluate`: `backbone` on the sets of `config` into `out_dir`."""
    model = open_backbone(backbone, mesh.device)
    return evaluate.run(config, model, out_dir, mesh, inputs=backbone_inputs(backbone))


def ijb_stage(
    config: IjbConfig, backbone: BackboneSource | None, out_dir: Path, mesh: Mesh
) -> Artifact:
    """Stage `ijb`: `backbone`, or features given in its place, on one IJB protocol."""
    model = open_backbone(backbone, mesh.device) if backbone else None
    inputs = backbone_inputs(backbone) if backbone else {}
    return ijb.run(config, model, out_dir, mesh, inputs=inputs)


def graph_stage(recipe: CleaningRecipe, embeddings: Path, out_dir: Path, mesh: Mesh) -> Artifact:
    """Stage `graph`: the kNN graph of the embeddings in a folder, into `out_dir`."""
    return knn.run(recipe.graph, embeddings / run_folder.EMBEDDING_FILE, out_dir, mesh, inputs={})


def clean_stage(
    recipe: CleaningRecipe,
    embeddings: Path,
    graph: Path,
    out_dir: Path,
    mesh: Mesh,
    backbone: BackboneSource | None,
    dataset: FaceDataset | None = None,
) -> Artifact:
    """Stage `clean`: the labels of the recipe's data set, judged into `out_dir`.

    Args:
        embeddings: folder of the stage `embed`, on the same images.
        graph: folder of the stage `graph`, on these embeddings.
        backbone: what embedded them; needed where an evaluation set is to be excluded.
        dataset: the recipe's, if it is open.

    Raises:
        ConfigError: the folders do not belong together.
    """
    dataset = dataset or open_dataset(recipe, mesh)
    again = "embed again"
    embedded = read_npy(
        embeddings / run_folder.ROW_FILE, "row numbers", (None,), np.int64, advice=again
    )
    if not np.array_equal(embedded, dataset.row):
        raise ConfigError(
            f"--embeddings {embeddings}: must be of the {dataset.num_images} images of the data "
            f"set with its overlays, but is of {len(embedded)} or of others; embed them again"
        )
    inputs = {
        "embedding": fingerprint(embeddings / run_folder.EMBEDDING_FILE),
        "graph": fingerprint(graph / run_folder.NEIGHBOURS_FILE),
    }
    config = recipe.clean or CleanConfig()
    _check_graph(graph, embeddings, inputs["embedding"], config, dataset.num_images)
    artifact = clean.run(
        config,
        dataset,
        embeddings,
        graph,
        out_dir,
        mesh,
        backbone=backbone,
        inputs=inputs,
        verified=review_overlay.decided_rows(recipe.data.overlay, dataset.num_rows)[dataset.row],
    )
    if mesh.is_main:
        write_stage_data(out_dir, recipe.data)
    return artifact


def _check_graph(
    graph: Path, embeddings: Path, digest: str, config: CleanConfig, num_images: int
) -> None:
    """It must be of these embeddings; fewer neighbours than the cleaner looks at are told."""
    made = read_artifact(graph)
    if made is None or made.manifest["inputs"].get("embedding") != digest:
        raise ConfigError(
            f"--graph {graph}: must be the graph of {embeddings}, but was made of other "
            "embeddings; run the graph stage again"
        )
    found, wanted = made.metrics["num_neighbours"], config.graph.num_context
    if found < min(wanted, num_images - 1):
        logger.warning(
            "%s has %d neighbours of each image, but clean.graph.num_context=%d are looked at; "
            "set graph.num_neighbours to at least that",
            graph, found, wanted,
        )  # fmt: skip


def finished_stage(out_dir: Path, given: Path | None, stage: str, option: str) -> Path:
    """The folder of an earlier stage: what `option` gave, or where `run` puts it beside `out_dir`.

    Raises:
        ConfigError: no such finished stage is there.
        DataError: one of its files is damaged.
    """
    folder = given or out_dir.absolute().parent / stage
    artifact = read_artifact(folder)
    if artifact is None or artifact.manifest["stage"] != stage:
        raise ConfigError(
            f"{option}: must be the folder of a finished stage {stage}, but {folder} is none; "
            f"give {option} DIR, or run `facetrain {stage}` into that folder first"
        )
    artifact.verify()
    return folder


def first_training(out_dir: Path) -> Path | None:
    """The folder of the first training, where `run` puts it beside `out_dir`, if it is there."""
    folder = out_dir.absolute().parent / run_folder.TRAIN
    return folder if read_artifact(folder) else None


def run(recipe: Recipe, out_dir: Path, mesh: Mesh, true_labels: Recipe | None = None) -> str:
    """Every stage into a folder of its own under `out_dir`, then the report.

    With a section `clean` the labels are cleaned by what the first training learned, and a second
    one is of what was kept, and of what a person decided in `review` after that. It starts from
    scratch and takes as many steps as the first (its epochs are shorter, so there are more of
    them), unless `retrain` says otherwise.
    With `rounds` above 1 that second training cleans the labels anew, and so on; earlier rounds
    stay in `round_1`, `round_2`, ...

    Args:
        true_labels: the same recipe on labels known to be right, to compare the cleaning with.

    Returns:
        A short text for the terminal; its numbers are in `summary.json`.
    """
    with job_lock(out_dir, mesh):
        return _run(recipe, out_dir, mesh, true_labels)


def _run(recipe: Recipe, out_dir: Path, mesh: Mesh, true_labels: Recipe | None) -> str:
    dataset, trained = open_dataset(recipe, mesh), out_dir / run_folder.TRAIN
    _train_and_verify(recipe, dataset, trained, out_dir / run_folder.EVALUATE, mesh)
    if recipe.clean is None:
        embed_stage(recipe, trained, out_dir / run_folder.EMBED, mesh, dataset)
    else:
        for number in range(1, recipe.rounds):
            folder = run_folder.round_folder(out_dir, number)
            trained = _clean_and_retrain(recipe, dataset, trained, folder, out_dir, mesh)
        _clean_and_retrain(recipe, dataset, trained, out_dir, out_dir, mesh)
        if true_labels is not None:
            folders = out_dir / run_folder.TRAIN_TRUE, out_dir / run_folder.EVALUATE_TRUE
            known = dataset.with_overlay(true_labels.data.overlay)
            _train_and_verify(true_labels, known, *folders, mesh)
    text = _summary(recipe, dataset, out_dir) if mesh.is_main else ""
    mesh.barrier()
    return text


def _clean_and_retrain(
    recipe: Recipe, given: FaceDataset, trained: Path, folder: Path, run_dir: Path, mesh: Mesh
) -> Path:
    """Judge the recipe's labels by what `trained` learned, and train on what it keeps, in `folder`.

    Every round starts from the labels as they were given, so that none inherits another's errors.
    """
    embedded, graph = folder / run_folder.EMBED, folder / run_folder.GRAPH
    cleaned = folder / run_folder.CLEAN
    embed_stage(recipe, trained, embedded, mesh, given)
    graph_stage(recipe, embedded, graph, mesh)
    clean_stage(recipe, embedded, graph, cleaned, mesh, trained, given)
    reviewed = run_dir / run_folder.REVIEW / run_folder.OVERLAY_FILE
    _refresh_reviews([reviewed], mesh)
    decided = [
        cleaned / run_folder.OVERLAY_FILE,
        *([reviewed] if review_overlay.decides(reviewed) else ()),
    ]
    again = with_overlay(recipe, (*recipe.data.overlay, *decided))
    retrained, kept = folder / run_folder.RETRAIN, given.with_overlay(again.data.overlay)
    again = for_retraining(again, given.num_images / kept.num_images, trained)
    if mesh.is_main:
        weights = weights_input(again).get("weights", "")
        archive_other_training(retrained, kept.fingerprint, weights)
    mesh.barrier()
    _train_and_verify(again, kept, retrained, folder / run_folder.EVALUATE_RETRAIN, mesh)
    return retrained


def _train_and_verify(
    recipe: Recipe, dataset: FaceDataset, trained: Path, evaluated: Path, mesh: Mesh
) -> None:
    train_stage(recipe, trained, mesh, dataset)
    if recipe.evaluate.bins or recipe.evaluate.folders:
        evaluate_stage(recipe.evaluate, trained, evaluated, mesh)
    protocol = recipe.evaluate.ijb
    if protocol.path is not None:
        folder = evaluated.with_name(f"{evaluated.name}_{protocol.protocol}")
        ijb_stage(protocol, trained, folder, mesh)


def _summary(recipe: Recipe, dataset: FaceDataset, out_dir: Path) -> str:
    """What a finished run found, as text; also writes `summary.json` and the report."""
    from facetrain.report.page import write_report  # matplotlib: half a second of every command
    from facetrain.report.run import Run

    verification = compare(Run(out_dir).finished)
    numbers: dict[str, Any] = {"verification": verification}
    parts = []
    stage = read_artifact(out_dir / run_folder.CLEAN) if recipe.clean else None
    if stage is not None:
        metrics = stage.metrics
        parts.append(f"dropped {metrics['num_dropped']:,} of {metrics['num_images']:,} images")
        noise = noise_numbers(CleanedSet.open(stage.path, recipe.data, dataset))
        if noise is not None:
            numbers["noise"] = noise
            parts.append(format_table(*noise_rows(noise)) + "\n")
    if verification:
        parts.append(verification_table(verification))
    write_json(out_dir / run_folder.SUMMARY_FILE, numbers)
    parts.append(f"report: {write_report(out_dir)}")
    return "\n".join(parts)
