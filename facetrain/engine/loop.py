"""The training loop: embed -> method (the head's loss) -> backward -> step, resumable at any step.

Everything random is a function of (seed, step), so a checkpoint holds no generator and a resumed
run takes the same path, at the same world size to the same bits on CPU.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facetrain.core.errors import CheckpointError, DivergenceError
from facetrain.core.log import logger
from facetrain.core.rng import derive_seed
from facetrain.core.run_folder import CHECKPOINTS
from facetrain.data.batches.augment import augment, draw
from facetrain.data.batches.loader import Batch
from facetrain.dist.collectives import all_reduce_sum, first_of_ranks
from facetrain.dist.mesh import named_errors
from facetrain.dist.parallel import average_buffers, no_gradient_sync, wrap_ddp
from facetrain.dist.sharded_rows import ShardedRows, first_not_finite
from facetrain.engine.checkpoint import Checkpoints, Progress
from facetrain.engine.compiled import begin_compiled_step, compiled_backbone
from facetrain.engine.cpu_memory import keep_freed_memory
from facetrain.engine.meter import RunLog
from facetrain.engine.method import Method, StepBatch
from facetrain.engine.optim import Optimizers
from facetrain.engine.precision import LossScaler, autocast_dtype
from facetrain.engine.sample_record import SampleRecord
from facetrain.engine.schedule import learning_rate_factor
from facetrain.engine.settings import TrainingConfig
from facetrain.engine.termination import Termination
from facetrain.engine.trackers import make_tracker

Evaluate = Callable[[nn.Module], Mapping[str, Mapping[str, Any]]]
MakeBatches = Callable[[int], Iterable[Batch]]


class Trainer:
    """One training run: its parts, its position, and the steps that move it.

    Args:
        backbone: float images (B, 3, H, W) in [-1, 1] -> embeddings (B, D), on the head's device.
        method: what is minimised; holds the head, and with it the mesh.
        num_images: of the data set.
        identity: what a checkpoint must agree with to be resumed, e.g. the data's fingerprint.
        evaluate: backbone -> {set: verification numbers}; called on every rank.
    """

    def __init__(
        self,
        config: TrainingConfig,
        backbone: nn.Module,
        method: Method,
        out_dir: Path,
        *,
        num_images: int,
        steps_per_epoch: int,
        identity: Mapping[str, str],
        evaluate: Evaluate | None = None,
    ) -> None:
        self.config, self.loop, self.out_dir = config, config.train, out_dir
        self.backbone, self.method, self.head = backbone, method, method.head
        self.mesh = mesh = method.head.mesh
        self.optimizers = Optimizers(config.optimizer, backbone, method.head, method.trained)
        self.identity, self.evaluate = identity, evaluate
        self.steps_per_epoch = steps_per_epoch
        planned = self.loop.epochs * steps_per_epoch
        self.num_steps = min(planned, self.loop.max_steps or planned)
        self.step = 0
        self._metrics: dict[str, Any] = {}
        self._first_loss = math.nan  # mean of the first window: what divergence is measured by
        self._dtype = autocast_dtype(self.loop.precision, mesh.device)
        self._scaler = LossScaler(enabled=self._dtype is torch.float16)
        self._record = SampleRecord(out_dir, num_images, mesh)
        self._checkpoints = Checkpoints(out_dir / CHECKPOINTS, mesh, self.loop.keep_checkpoints)
        if self.loop.channels_last:
            backbone.to(memory_format=torch.channels_last)
        self._model = wrap_ddp(backbone, mesh)
        self._embed: Callable[[Tensor], Tensor] = self._model
        self._augment = augment
        if self.loop.compile:
            self._embed = compiled_backbone(self._model, mesh)
            self._augment = torch.compile(augment, dynamic=False)

    def fit(self, make_batches: MakeBatches, termination: Termination) -> dict[str, Any]:
        """Train to `num_steps`, from the newest checkpoint in `out_dir` if there is one.

        Args:
            make_batches: start step -> this rank's batches from that step on, without end.
            termination: the job's; it ends after a step, saves it, and raises `SystemExit`.

        Returns:
            `loss` (mean of the last window), `images_per_second` (of the same window) and
            `evaluation` (the last one, {} without an `evaluate`).

        Raises:
            DivergenceError: a loss that is not finite or far above where it began, or weights
                that are not finite or give no finite embeddings. Such weights are never kept.
            CheckpointError: the checkpoints belong to another run.
        """
        if self.mesh.device.type == "cpu":
            keep_freed_memory()
        torch.backends.cudnn.benchmark = True  # every step has the same shapes
        self._resume()
        log = self._begin_log() if self.mesh.is_main else None
        checkpoint_every = self.loop.checkpoint_every or self.steps_per_epoch
        evaluate_every = self.num_steps
        if self.loop.evaluate_every:
            evaluate_every = max(1, round(self.loop.evaluate_every * self.steps_per_epoch))
        self.method.start(self.step)
        losses: list[Tensor] = []  # of the steps since the last look, on the device
        self._model.train()
        started = time.perf_counter()
        for batch in make_batches(self.step) if self.step < self.num_steps else ():
            losses.append(self.train_step(batch))
            self.step += 1
            if self.step % self.steps_per_epoch == 0:
                self._record.end_epoch(self.step // self.steps_per_epoch)
            last = self.step == self.num_steps
            save = last or self.step % checkpoint_every == 0
            at_log = save or self.step % self.loop.log_every == 0
            ends = termination.due(self.mesh, at_log=at_log)
            save |= ends
            if save or at_log:
                self._look(losses, time.perf_counter() - started, log)
                losses.clear()
                started = time.perf_counter()
            evaluates = self.step % evaluate_every == 0 or last
            if save or evaluates:
                average_buffers(self.backbone, self.mesh)
                self._check_weights(batch)
            if evaluates:
                self._verify(log)
            if save:
                self._checkpoints.save(self._tensors(), self._progress())
                started = time.perf_counter()
            if last:
                break
            if ends:
                termination.end(self.step, self.num_steps)
        if log:
            log.close()
        return self._metrics

    def train_step(self, batch: Batch) -> Tensor:
        """One optimiser step; returns this rank's share of the mean loss, still on the device."""
        loop, device = self.loop, self.mesh.device
        if loop.compile:
            begin_compiled_step(self.mesh)
        seed = derive_seed(self.config.seed, "step", self.step, self.mesh.rank)
        torch.manual_seed(seed)  # dropout
        self.optimizers.set_learning_rate(self._learning_rate_factor())
        self.head.begin_step(self.step)
        label = batch.label.to(device, non_blocking=True)  # (B,)
        index = batch.index.to(device, non_blocking=True)
        image = self._augmented(batch.image)  # (B, 3, H, W)
        self.method.begin_step(self.step, StepBatch(image, label, index, self._margin(len(label))))
        total = torch.zeros((), device=device)
        pieces = torch.arange(len(label)).chunk(loop.accumulate)
        for number, piece in enumerate(pieces):
            part = slice(int(piece[0]), int(piece[-1]) + 1)
            waits = number < len(pieces) - 1
            with no_gradient_sync(self._model) if waits else contextlib.nullcontext():
                with self._autocast():
                    embedding = self._embed(image[part])  # (B, D)
                with self._autocast() if device.type == "cuda" else contextlib.nullcontext():
                    loss = self.method.loss(embedding, part).sum() / loop.batch_size
                with named_errors(self.mesh, "the backward pass"):
                    torch.autograd.backward(loss * self._scaler.scale)
            total += self.method.margin_loss.sum() / loop.batch_size
        self.method.end_step()
        self._record.add(index, self.method.per_sample())
        self._apply_gradients()
        return total

    def _augmented(self, image: Tensor) -> Tensor:
        """Augment this rank's uint8 images; the numbers are drawn for the whole global batch.

        Images that are floats already are taken as they are.
        """
        rows, rank, device = len(image), self.mesh.rank, self.mesh.device
        if image.is_floating_point():
            return image.to(device, non_blocking=True)
        drawn = draw(self.config.augment, self.loop.batch_size, self.config.seed, self.step)
        own = drawn.slice(rank * rows, (rank + 1) * rows).to(device)
        floats = self._augment(image.to(device, non_blocking=True), own)
        if self.loop.channels_last:
            floats = floats.contiguous(memory_format=torch.channels_last)
        return floats

    def _autocast(self) -> torch.autocast:
        enabled = self._dtype is not None
        return torch.autocast(self.mesh.device.type, self._dtype, enabled=enabled)

    def _learning_rate_factor(self) -> float:
        return learning_rate_factor(
            self.config.schedule, self.step, self.steps_per_epoch, self.loop.epochs
        )

    def _margin(self, rows: int) -> Tensor:
        """The margin of each sample (B,): the head's own, after it has risen from 0."""
        rising = self.loop.margin_warmup_epochs * self.steps_per_epoch
        factor = min(1.0, self.step / rising) if rising else 1.0
        margin = factor * self.head.config.base_margin
        return torch.full((rows,), margin, device=self.mesh.device)

    def _apply_gradients(self) -> None:
        """Unscale, clip and step; a step whose float16 gradients overflowed is left out."""
        if self.method.trained is not None:
            for parameter in self.method.trained.parameters():
                if parameter.grad is None:  # in a warm-up; SGD wants all gradients or none
                    parameter.grad = torch.zeros_like(parameter)
                all_reduce_sum(parameter.grad, self.mesh)
        clip = self.loop.clip_norm
        if clip is not None or self._scaler.enabled:
            scale = self._scaler.scale
            norm = self.optimizers.gradient_norm(self.mesh) / scale
            if self._scaler.enabled and not self._scaler.update(finite=bool(norm.isfinite())):
                self.optimizers.zero_grad()
                return
            factor = torch.ones_like(norm) if clip is None else (clip / norm).clamp(max=1.0)
            self.optimizers.scale_gradients(factor / scale)
        self.optimizers.step()

    def _begin_log(self) -> RunLog:
        trackers = []
        if self.loop.tracker:
            settings = self.config.model_dump(mode="json")
            trackers.append(make_tracker(self.loop.tracker, self.out_dir, settings))
        return RunLog(self.out_dir, self.step, trackers)

    def _look(self, losses: list[Tensor], seconds: float, log: RunLog | None) -> None:
        """Bring the losses since the last look to the host: check them, then log them."""
        values = all_reduce_sum(torch.stack(losses), self.mesh).tolist()
        mean = sum(values) / len(values)
        self._check(values, mean)
        rate = len(values) * self.loop.batch_size / seconds
        self._metrics |= {"loss": mean, "images_per_second": rate}
        if log:
            learning_rate = self.config.optimizer.learning_rate * self._learning_rate_factor()
            log.training(
                self.step,
                self.num_steps,
                self.step / self.steps_per_epoch,
                {"loss": mean, "learning_rate": learning_rate},
                images_per_second=rate,
                seconds_left=(self.num_steps - self.step) * seconds / len(values),
            )

    def _check(self, losses: list[float], mean: float) -> None:
        if math.isnan(self._first_loss):
            self._first_loss = mean
        limit = self.loop.divergence_factor * self._first_loss
        if math.isfinite(mean) and mean <= limit:
            return
        first = self.step - len(losses)
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None:
            what = f"the loss of step {first + bad} is {losses[bad]}"
        else:
            what = f"the mean loss rose to {mean:.4g}, over {limit:.4g}, by step {self.step - 1}"
        window = ", ".join(f"{loss:.4g}" for loss in losses[: (bad or 0) + 1][-8:])
        raise self._divergence(
            f"{what}; losses of steps {first}-{self.step - 1} up to there: {window}"
        )

    def _divergence(self, what: str) -> DivergenceError:
        return DivergenceError(
            f"training must not diverge, but {what}; lower optimizer.learning_rate, lengthen "
            "schedule.warmup_epochs or set train.clip_norm; last good checkpoint: "
            f"{self._checkpoints.latest() or 'none'}"
        )

    @torch.no_grad()
    def _check_weights(self, batch: Batch) -> None:
        """Refuse weights that nobody could use; a finite loss does not speak for them.

        In training mode batch statistics hide a running variance of infinity, and weights so
        large that an embedding overflows without them. A collective call.
        """
        bad = first_not_finite(self._tensors())
        problem = f"{bad!r} holds NaN or infinity" if bad else None
        if problem is None:
            image = batch.image.to(self.mesh.device)
            if not image.is_floating_point():
                image = (image.float() - 127.5) / 127.5
            self.backbone.eval()
            norm = self.backbone.forward(image).float().norm(dim=1)  # not what compile made of it
            self._model.train()
            if not bool((norm.isfinite() & (norm > 0)).all()):
                problem = "images have embeddings that are zero or not finite"
        found = first_of_ranks(problem, self.mesh)
        if found:
            raise self._divergence(f"after step {self.step - 1} {found}")

    def _verify(self, log: RunLog | None) -> None:
        if self.evaluate is None:
            return
        self.backbone.eval()
        numbers = self.evaluate(self.backbone)
        self._model.train()
        self._metrics["evaluation"] = dict(numbers)
        if log:
            log.evaluation(self.step, numbers)

    def _tensors(self) -> dict[str, Tensor | ShardedRows]:
        backbone = {f"backbone/{n}": value for n, value in self.backbone.state_dict().items()}
        head = {f"head/{n}": value for n, value in self.head.tensors().items()}
        trained = self.method.trained.state_dict() if self.method.trained else {}
        trained = {f"trained/{n}": value for n, value in trained.items()}
        method = {f"method/{n}": value for n, value in self.method.tensors().items()}
        optimizers = self.optimizers.tensors()
        return {**backbone, **head, **trained, **method, **optimizers}

    def _progress(self) -> Progress:
        return Progress(
            step=self.step,
            identity=dict(self.identity),
            world_size=self.mesh.world_size,
            optimizer_state=self.optimizers.state_names(),
            loss_scale=self._scaler.state(),
            first_loss=self._first_loss,
            metrics=self._metrics,
        )

    def _resume(self) -> None:
        found = self._checkpoints.newest_whole()
        if found is None:
            return
        checkpoint, progress = found
        for name, value in self.identity.items():
            if progress.identity.get(name) != value:
                raise CheckpointError(
                    f"{self.out_dir}: holds a run with another {name}; continue it with what it "
                    "was started with, or choose another --out"
                )
        if progress.step > self.num_steps:
            raise CheckpointError(
                f"{self.out_dir}: holds a run that has done {progress.step} steps, but "
                f"train.max_steps={self.num_steps}; raise it, or choose another --out"
            )
        self.optimizers.materialise(progress.optimizer_state)
        tensors = self._tensors()
        from facetrain.dist.distributed_checkpoint import load_state  # a second to import

        load_state(tensors, checkpoint, self.mesh)
        of_method = {n: v for n, v in tensors.items() if n.startswith("method/")}
        self.method.restored({n.removeprefix("method/"): v for n, v in of_method.items()})
        self._scaler.load(progress.loss_scale)
        self.step = progress.step
        self._first_loss = progress.first_loss
        self._metrics = dict(progress.metrics)
        logger.info("resuming %s at step %d of %d", self.out_dir, self.step, self.num_steps)
