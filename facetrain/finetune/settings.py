"""What a fine-tuning is made of: the recipe's section `finetune`, and the stage's whole config."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from facetrain.core.config import Config
from facetrain.core.option_of import Of
from facetrain.data.batches.meta_sampler import Sampling
from facetrain.data.batches.planted_variation import PlantConfig
from facetrain.data.dataset import DataConfig
from facetrain.engine.settings import TrainingConfig
from facetrain.finetune.margin_prior import Prior
from facetrain.finetune.residual import Normalisation

NUISANCES = ("pose", "occlusion", "blur")
"""Factors of an image rather than of a person: what recognition has to be blind to."""


class ResidualConfig(Config):
    """How the residual of a sample's margin is learned."""

    normalisation: Normalisation = "max"
    """`max`: r = size * benefit / max |benefit| of the batch; `deviation`: by its root mean
    square; `none`: Eq. 13 as it stands, with tau = size."""
    size: float = Field(0.1, gt=0)
    """In units of cosine; of `none` the paper's tau."""
    of: Literal["image", "level"] = "image"
    """Whose residual is learned: each image's anew in every step, as in the paper, or one number
    for each level of each factor, which all its images share and which stays."""
    level_rate: Annotated[float, Of("of", ("level",))] = Field(0.1, gt=0, le=1)
    """Of `level`: how much of the mean over a batch's images of a level enters its number."""
    persist: Annotated[bool, Of("of", ("image",))] = False
    """Keep each image's residual from epoch to epoch, instead of starting from 0."""
    pseudo_update: bool = True
    """Take the variation losses after the virtual update; without, before it: less exact by the
    length of one step, and a backward pass cheaper."""
    forget: tuple[str, ...] | None = None
    """Factors whose variation loss counts negatively: margins then grow for images by which the
    backbone unlearns them. By default those of NUISANCES that the meta set has; the paper's sign
    is [], which cost recognition where we measured it (docs/benchmarks/mvcom.md)."""
    distance: float | None = Field(None, gt=0)
    """Length of the central difference's step, in parameter space: by default 0.01 in float32 and
    0.1 in lower precision, where a shorter one drowns in rounding."""
    head_learning_rate: float = Field(0.01, ge=0)
    """Of the variation heads while they are trained along: plain gradient descent."""


class MetaSetConfig(DataConfig):
    """The meta set: other people, with variation labels."""

    variation: Path | None = None
    """Its variation file; by default `variation.npz` beside the shards."""
    same_numbering: bool = True
    """Equal labels mean equal people in both sets; they must then be disjoint. Without, people who
    look like a trained class are left out."""
    duplicate_similarity: Annotated[float, Of("same_numbering", (False,))] = Field(0.5, gt=0, lt=1)
    """Without `same_numbering`: the cosine to a class centre from which on it is that person."""


class FinetuneConfig(Config):
    """MvCoM, or a part of it to compare with."""

    method: Literal["mvcom", "class_margin", "cosface"] = "mvcom"
    """`class_margin` is the prior alone, `cosface` goes on as the training did."""
    prior: Prior = "none"
    """The part of the margin that is not learned: by the class's size (`ldam`, `effective_number`),
    which cost recognition where we measured it, or by the rarity of the image's levels
    (`variation`)."""
    prior_spread: Annotated[float, Of("prior", ("variation",))] = Field(0.2, gt=0, lt=1)
    """Of `variation`: how far a margin may be from the head's, which is their mean."""
    max_margin: float = Field(0.6, gt=0, lt=1)
    """Bound on a sample's whole margin, whose other bound is 0."""
    residual: ResidualConfig = ResidualConfig()
    """The sample's part of the margin."""
    meta: MetaSetConfig | None = None
    """The meta set; needed by `mvcom`."""
    variation: Path | None = None
    """The training set's variation file; by default `variation.npz` beside the shards."""
    factors: tuple[str, ...] = ()
    """Which factors count; by default all of the meta set's file."""
    plant: PlantConfig | None = None
    """Plant blur and occlusion into the meta images, for sets that have no such labels."""
    meta_batch_size: int | None = Field(None, ge=2)
    """|V| over all ranks; half of train.batch_size by default."""
    sampling: Sampling = "histogram"
    """How meta batches are drawn."""
    most_per_identity: Annotated[int, Of("sampling", ("histogram",))] = Field(2, ge=1)
    """Of `histogram`: meta images of one person in a batch."""
    head_epochs: int = Field(10, ge=1)
    """Over the embeddings of the meta set, to fit the variation heads before the first step."""
    head_fit_rate: float = Field(0.01, gt=0)
    """Learning rate of that fit."""

    @model_validator(mode="after")
    def _meta_for_mvcom(self) -> "FinetuneConfig":
        if self.method == "mvcom" and self.meta is None:
            raise ValueError("mvcom learns its margins on a meta set; set finetune.meta.path")
        return self


class FinetuneStageConfig(TrainingConfig):
    """Everything the weights depend on."""

    finetune: FinetuneConfig
