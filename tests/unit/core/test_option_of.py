"""An option that nothing would come of is refused, in every section of a recipe."""

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from facetrain.core.config import Config, parse_config, sections
from facetrain.core.errors import ConfigError
from facetrain.core.option_of import Of
from facetrain.recipe import Recipe


class Blur(Config):
    share: float = 0.0
    sigma: Annotated[float, Of("share")] = 1.5
    fill: str = "mean"
    seed: Annotated[int | None, Of("fill", ("random", "noise"))] = None
    order: Annotated[tuple[int, ...], Of("fill", ("random",))] = ()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"share": 0.5, "sigma": 2.0},
        {"share": 0, "sigma": 2.0},  # switched off by name: what belongs to it may stay
        {"fill": "noise", "seed": 3},
        {"seed": None, "order": []},  # nothing is asked
    ],
)
def test_what_counts_is_taken(given: dict[str, Any]) -> None:
    assert parse_config(Blur, given, "r").sigma == given.get("sigma", 1.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sigma": 1.5}, "^r: sigma=1.5 does nothing without share; set share, or remove sigma"),
        ({"seed": 3}, "seed belongs to fill=random or fill=noise, not to fill=mean; remove seed"),
        ({"fill": "noise", "order": [1]}, "order belongs to fill=random, not to fill=noise"),
    ],
)
def test_what_nothing_would_come_of_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(Blur, given, "r")


def marked(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """Every field below `model` that is `Of` another: its key, its class, its name."""
    for name, field in model.model_fields.items():
        if any(isinstance(one, Of) for one in field.metadata):
            yield prefix + name, model, name
        for inner in sections(field.annotation):
            yield from marked(inner, f"{prefix}{name}.")


MARKED = {key: (model, name) for key, model, name in marked(Recipe)}
ASKED: dict[str, dict[str, Any]] = {
    "model.freeze": {"name": "small", "freeze": ["conv1"]},
    "model.centres": {"name": "small", "centres": "class_means"},
    "sampling.images_per_identity": {"images_per_identity": 4},
    "head.angular_factor": {"angular_factor": 2.0},
    "head.angular_margin": {"angular_margin": 0.5},
    "head.cosine_margin": {"margin": "arcface", "cosine_margin": 0.3},
    "head.norm_concentration": {"norm_concentration": 0.3},
    "head.norm_memory": {"norm_memory": 0.9},
    "augment.blur_sigma": {"blur_sigma": [1, 2]},
    "augment.low_resolution_min_scale": {"low_resolution_min_scale": 0.5},
    "augment.erase_area": {"erase_area": [0.1, 0.2]},
    "augment.erase_fill": {"erase_fill": "mean"},
    "optimizer.momentum": {"name": "adamw", "momentum": 0.9},
    "schedule.milestones": {"milestones": [2]},
    "schedule.gamma": {"gamma": 0.1},
    "schedule.power": {"power": 2.0},
    "schedule.final_factor": {"name": "multistep", "final_factor": 0.1},
    "schedule.cycle_epochs": {"name": "polynomial", "cycle_epochs": 3},
    "robust.smoothing": {"name": "superloss", "tau": "average", "smoothing": 0.9},
    "robust.temperature": {"name": "l2b", "trusted": "x", "temperature": 1.0},
    "finetune.prior_spread": {"method": "cosface", "prior_spread": 0.1},
    "finetune.residual.level_rate": {"level_rate": 0.1},
    "finetune.residual.persist": {"of": "level", "persist": True},
    "finetune.meta.duplicate_similarity": {"path": "x", "duplicate_similarity": 0.4},
    "finetune.most_per_identity": {
        "method": "cosface", "sampling": "none", "most_per_identity": 2,
    },
    "evaluate.ijb.features": {"features": "x.npy"},
    "evaluate.ijb.attributes": {"attributes": "x.csv"},
}  # fmt: skip


@pytest.mark.parametrize("key", [*MARKED])
def test_a_recipe_asks_for_nothing_in_vain(key: str) -> None:
    model, name = MARKED[key]
    with pytest.raises(ConfigError, match=rf"\b{name}(=.+ does nothing| belongs to)"):
        parse_config(model, ASKED[key], "r")


def test_rounds_are_of_cleaning() -> None:
    plain = {"data": {"path": "x"}, "model": {"name": "small"}, "train": {"epochs": 1}}
    assert parse_config(Recipe, {**plain, "rounds": 2, "clean": {}}, "r").rounds == 2
    with pytest.raises(ConfigError, match="rounds=2 and retrain are of cleaning, but there is n"):
        parse_config(Recipe, {**plain, "rounds": 2}, "r")
    with pytest.raises(ConfigError, match="retrain are of cleaning"):
        parse_config(Recipe, {**plain, "retrain": {"start": "previous"}}, "r")
