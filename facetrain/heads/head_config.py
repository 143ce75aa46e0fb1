"""Which margin softmax a head is, checked for what its kind has."""

from typing import Annotated, Literal

from pydantic import Field

from facetrain.core.config import Config
from facetrain.core.option_of import Of

MarginKind = Literal["cosface", "arcface", "combined", "arcface_straight_through", "adaface"]

_DEFAULT_MARGINS: dict[str, dict[str, float]] = {
    "cosface": {"cosine_margin": 0.35},
    "arcface": {"angular_margin": 0.5},
    "arcface_straight_through": {"angular_margin": 0.5},
    "combined": {"angular_factor": 1.0, "angular_margin": 0.0, "cosine_margin": 0.0},
    "adaface": {"cosine_margin": 0.4, "norm_concentration": 0.333, "norm_memory": 0.99},
}


def _of_kinds_with(margin: str) -> Of:
    """Beside the kinds of margin that have this number."""
    return Of("margin", tuple(kind for kind, known in _DEFAULT_MARGINS.items() if margin in known))


class HeadConfig(Config):
    """The margin softmax.

    The three margins are m1, m2, m3 of cos(m1 * theta + m2) - m3. CosFace has `cosine_margin`
    alone (0.35 by default), ArcFace `angular_margin` alone (0.5), `combined` all three. AdaFace's
    one margin is `cosine_margin` (0.4), given out by the norm of the embedding.
    """

    margin: MarginKind = "cosface"
    """Which margin softmax."""
    scale: float = Field(default=64.0, gt=0)
    """s, what cosines are multiplied by to be logits."""
    angular_factor: Annotated[float | None, _of_kinds_with("angular_factor")] = Field(None, ge=1)
    """m1, of the angle."""
    angular_margin: Annotated[float | None, _of_kinds_with("angular_margin")] = Field(
        None, ge=0, lt=3.14
    )
    """m2 in radians."""
    cosine_margin: Annotated[float | None, _of_kinds_with("cosine_margin")] = Field(
        None, ge=0, lt=1
    )
    """m3, of the cosine."""
    norm_concentration: Annotated[float | None, _of_kinds_with("norm_concentration")] = Field(
        None, gt=0
    )
    """Of AdaFace, h: how far a norm's distance from the mean moves the margin; 0.333."""
    norm_memory: Annotated[float | None, _of_kinds_with("norm_memory")] = Field(None, ge=0, lt=1)
    """Of AdaFace: how much of the norms' running mean and deviation stays at a step; 0.99."""
    num_centres: int = Field(default=1, ge=1, le=16)
    """Sub-centres of a class, of which the nearest counts; 3 for noisy labels."""
    filter_above: float | None = Field(default=None, gt=0, lt=1)
    """A negative whose cosine is above this counts as cosine 0: it is likely the true class."""
    chunk_size: int | None = Field(default=None, ge=1)
    """Classes at a time on each rank; None holds the logits of all classes at once."""
    sample_rate: float = Field(default=1.0, gt=0, le=1)
    """Part of each rank's class centres that takes part in a step; 1 is the exact softmax."""

    @property
    def base_margin(self) -> float:
        """The margin that a per-call `margin` replaces: radians for ArcFace, else of cosine."""
        angular = self.margin in ("arcface", "arcface_straight_through")
        return self.value_of("angular_margin" if angular else "cosine_margin")

    def value_of(self, name: str) -> float:
        """A margin as set, or the kind's default."""
        value: float | None = getattr(self, name)
        return _DEFAULT_MARGINS[self.margin][name] if value is None else value
