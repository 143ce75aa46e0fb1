"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from facetrain.core.config import Config
from facetrain.core.option_of import Of


class ScheduleConfig(Config):
    """How the learning rate moves over training; lengths are in epochs, fractions allowed.

    `multistep` multiplies by `gamma` at each milestone; `polynomial` falls as
    (1 - progress)^power; `cosine` falls along half a cosine, once or in every `cycle_epochs` anew.
    All three rise linearly from 0 during `warmup_epochs` first.
    """

    name: Literal["multistep", "polynomial", "cosine"] = "cosine"
    """How the learning rate falls."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Over which it rises linearly from 0 first."""
    milestones: Annotated[tuple[float, ...], Of("name", ("multistep",))] = ()
    """Of `multistep`, epochs."""
    gamma: Annotated[float, Of("name", ("multistep",))] = Field(0.1, gt=0, le=1)
    """Of `multistep`, the factor at each milestone."""
    power: Annotated[float, Of("name", ("polynomial",))] = Field(2.0, gt=0)
    """Of `polynomial`."""
    final_factor: Annotated[float, Of("name", ("polynomial", "cosine"))] = Field(0.0, ge=0, lt=1)
    """Of `polynomial` and `cosine`: what is left at the end."""

    cycle_epochs: Annotated[float | None, Of("name", ("cosine",))] = Field(None, gt=0)
    """Of `cosine`: begin again at the full rate after so many epochs; None falls once."""

    @model_validator(mode="after")
    def _milestones_rise(self) -> "ScheduleConfig":
        if self.name == "multistep" and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")
        return self


def learning_rate_factor(
    config: ScheduleConfig, step: int, steps_per_epoch: int, num_epochs: float
) -> float:
    """The factor on the base learning rate at `step` (0-based), in [0, 1]."""
    epoch = step / steps_per_epoch
    if epoch < config.warmup_epochs:
        return (step + 1) / (config.warmup_epochs * steps_per_epoch + 1)
    if config.name == "multistep":
        passed = sum(epoch >= milestone for milestone in config.milestones)
        return float(config.gamma**passed)
    length = num_epochs - config.warmup_epochs
    progress = min(1.0, (epoch - config.warmup_epochs) / length) if length > 0 else 1.0
    if config.cycle_epochs is not None:
        progress = (epoch - config.warmup_epochs) % config.cycle_epochs / config.cycle_epochs
    if config.name == "polynomial":
        falling = float((1.0 - progress) ** config.power)
    else:
        falling = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.final_factor + (1.0 - config.final_factor) * falling
