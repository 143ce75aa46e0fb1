"""A recipe: what every stage of a run needs, in one YAML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from facetrain.clean.clean import CleanConfig
from facetrain.core.config import Config, load_config
from facetrain.core.errors import ConfigError
from facetrain.data.dataset import DataConfig
from facetrain.embedding.embed import EmbedConfig
from facetrain.evaluate.evaluate import EvaluateConfig
from facetrain.finetune.settings import FinetuneConfig
from facetrain.graph.knn import KnnConfig
from facetrain.methods.l2b import L2bConfig
from facetrain.pretrain.train import TrainConfig

RECIPES = Path(__file__).parent / "recipes"


class CleaningRecipe(Config):
    """What the stages need that embed a data set and clean its labels."""

    data: DataConfig
    embed: EmbedConfig = EmbedConfig()
    graph: KnnConfig = KnnConfig()
    clean: CleanConfig | None = None
    """How to clean the labels before a second training; without it there is no cleaning."""


RecipeT = TypeVar("RecipeT", bound=CleaningRecipe)


class RetrainConfig(Config):
    """How a training on cleaned labels differs from the first one."""

    start: Literal["scratch", "previous"] = "scratch"
    """`previous`: with the weights of the training that the labels were cleaned by, and a new
    classifier (see `model.centres`). For the same steps it ends far better, and so does what it
    cleans; a comparison with the first training then owes a part to the longer training."""
    length: float = Field(default=1.0, gt=0, le=100)
    """Its steps, as a share of the first training's, to the nearest epoch and at least one."""


class Recipe(TrainConfig, CleaningRecipe):
    """One YAML file: what every stage of a run needs."""

    rounds: int = Field(1, ge=1)
    """Times that labels are cleaned, each by what was trained on what the one before kept."""
    retrain: RetrainConfig = RetrainConfig()
    """Every training on cleaned labels."""
    finetune: FinetuneConfig | None = None
    """What `facetrain finetune` does to a trained folder; `run` leaves it alone."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What every training is judged on."""

    @model_validator(mode="after")
    def _rounds_of_cleaning(self) -> "Recipe":
        if self.clean is None and (self.rounds > 1 or self.retrain != RetrainConfig()):
            raise ValueError(
                f"rounds={self.rounds} and retrain are of cleaning, but there is no section clean; "
                "add it (clean={} for its defaults), or remove them"
            )
        return self


def load_recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    """Read a recipe; every file it names must exist before anything starts.

    Raises:
        ConfigError: a bad recipe, or a missing data set, overlay or verification set.
    """
    recipe = load_config(Recipe, path, overrides)
    named = {
        "data.path": recipe.data.path,
        "data.overlay": recipe.data.overlay,
        "model.weights": (recipe.model.weights,) if recipe.model.weights else (),
        "evaluate.bins": recipe.evaluate.bins,
        "evaluate.folders": [folder.images for folder in recipe.evaluate.folders],
        "evaluate.ijb.path": [path for path in (recipe.evaluate.ijb.path,) if path],
    }
    if recipe.clean is not None:
        source = recipe.clean.source
        named |= {
            "clean.source": (source,) if source else (),
            "clean.exclude": recipe.clean.exclude,
        }
    if isinstance(recipe.robust, L2bConfig):
        named["robust.trusted"] = (recipe.robust.trusted,)
    for key, files in named.items():
        _must_exist(files, f"{path}: {key}", f"add {key}=... after it")
    return recipe


def _must_exist(files: Sequence[Path], what: str, advice: str) -> None:
    for file in files:
        if not file.exists():
            raise ConfigError(f"{what} must exist, but there is no {file}; {advice}")


def with_clean_files(recipe: RecipeT, source: Path | None, exclude: Sequence[Path]) -> RecipeT:
    """`recipe` with a section `clean`, and in it the files that the command line names."""
    config = with_files(recipe.clean or CleanConfig(), source, exclude)
    return recipe.model_copy(update={"clean": config})


def with_files(config: CleanConfig, source: Path | None, exclude: Sequence[Path]) -> CleanConfig:
    """`config` with the files that the command line names.

    Raises:
        ConfigError: one of them is not there.
    """
    _must_exist((source,) if source else (), "--source", "give another file")
    _must_exist(exclude, "--exclude", "give another file")
    update = {"source": source or config.source, "exclude": (*config.exclude, *exclude)}
    return config.model_copy(update=update)


def for_retraining(recipe: Recipe, fewer: float, trained: Path) -> Recipe:
    """The recipe of a training on what cleaning kept.

    Epochs, and what is told in epochs, are times `fewer`: fewer images make shorter epochs, and
    a shorter training would lose by that what it gains by cleaner labels.

    Args:
        fewer: images before the cleaning to images after it, at least 1 is taken.
        trained: folder of the training that the labels were cleaned by.
    """
    train, schedule, retrain = recipe.train, recipe.schedule, recipe.retrain
    factor = max(fewer, 1.0) * retrain.length
    longer = train.model_copy(
        update={
            "epochs": max(1, round(train.epochs * factor)),
            "margin_warmup_epochs": train.margin_warmup_epochs * factor,
        }
    )
    later: dict[str, Any] = {"warmup_epochs": schedule.warmup_epochs * factor}
    if schedule.milestones:
        later["milestones"] = tuple(one * factor for one in schedule.milestones)
    update = {"train": longer, "schedule": schedule.model_copy(update=later)}
    if retrain.start == "previous":
        update["model"] = recipe.model.model_copy(update={"weights": trained})
    return recipe.model_copy(update=update)


def with_overlay(recipe: Recipe, overlay: Sequence[Path]) -> Recipe:
    """The same recipe on the data set under other overlays."""
    data = recipe.data.model_copy(update={"overlay": tuple(overlay)})
    return recipe.model_copy(update={"data": data})
