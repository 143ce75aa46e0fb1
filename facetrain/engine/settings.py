"""The settings of a training: the sections of a recipe that its weights depend on."""

from typing import Literal

from pydantic import Field

from facetrain.core.config import Config
from facetrain.data.batches.augment import AugmentConfig
from facetrain.data.batches.sampler import SamplingConfig
from facetrain.data.dataset import DataConfig
from facetrain.engine.optim import OptimizerConfig
from facetrain.engine.schedule import ScheduleConfig
from facetrain.engine.trackers import TrackerName
from facetrain.heads.head_config import HeadConfig
from facetrain.models.backbone import TrainedModelConfig


class LoopConfig(Config):
    """How long and in what arithmetic to train; `batch_size` is over all ranks."""

    batch_size: int = Field(128, ge=2, le=1 << 20)
    """Images a step, over all ranks."""
    epochs: int = Field(ge=1, le=1 << 20)
    """Passes over the images."""
    max_steps: int | None = Field(None, ge=1)
    """Stop here, whatever `epochs` says; the schedule stays that of `epochs`."""
    accumulate: int = Field(1, ge=1, le=1 << 20)
    """Backward passes a step; the gradient is that of the whole batch's mean."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of activations; `auto` is bfloat16 on a GPU that has it, else float32."""
    clip_norm: float | None = Field(None, gt=0)
    """Bound on the gradient's norm over backbone and class centres together."""
    margin_warmup_epochs: float = Field(0.0, ge=0)
    """Epochs over which the margin rises linearly from 0."""
    channels_last: bool = False
    """Lay images out as (B, H, W, 3) in memory; faster on a GPU."""
    compile: bool = False
    """Compile augmentation and backbone (a minute or two at the start); on one GPU, replay the
    backbone as CUDA graphs."""
    log_every: int = Field(50, ge=1)
    """Steps between lines of the log."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; the default is once an epoch."""
    keep_checkpoints: int = Field(2, ge=1)
    """The newest so many stay."""
    evaluate_every: float | None = Field(None, gt=0)
    """Epochs between evaluations during training; the default is only at the end."""
    divergence_factor: float = Field(3.0, gt=1)
    """Stop when a window's mean loss exceeds this many times the first window's."""
    tracker: TrackerName | None = None
    """Send the numbers of the log also to Weights & Biases or MLflow."""


class TrainingConfig(Config):
    """What the weights depend on, whatever is trained."""

    seed: int = Field(0, ge=0)
    """Of everything random."""
    data: DataConfig
    """The data set."""
    sampling: SamplingConfig = SamplingConfig()
    """Which images an epoch draws."""
    model: TrainedModelConfig
    """The backbone, and how its training begins."""
    head: HeadConfig = HeadConfig()
    """The margin softmax."""
    augment: AugmentConfig = AugmentConfig()
    """How images are changed in training."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """What moves the weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate moves."""
    train: LoopConfig
    """How long to train."""
