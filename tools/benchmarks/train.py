"""Images/s and peak memory of a training step, against arcface_torch's own code in the same run.

    python -m tools.benchmarks.train --device cuda --compile --json train.json \
        --peer insightface/recognition/arcface_torch

facetrain is `Trainer.train_step` as `facetrain train` runs it: augmentation on the device (flip,
uint8 to float), bfloat16 autocast, channels_last, clipping at 5, cudnn.benchmark; with --compile
through torch.compile and, on a GPU, CUDA graphs. The peer is the body of
train_v2.py's loop over its own backbone, CombinedMarginLoss and PartialFC_V2: DDP with
fp16_compress_hook, fp16 autocast and GradScaler, SGD, clipping at 5, cudnn.benchmark, `loss.item()`
at every step. Left out of the peer, and so in its favour: its learning-rate scheduler and its
logging. Both train CosFace (s 64, m 0.35) with all negatives; batches already lie on the device.

The two take turns; a ratio is the median of those within a round. On a CPU the peer runs in float32
(its own code has no other way there) and so do we unless --precision=bfloat16, and seconds are the
process's own, for machines are shared: with one thread they are those of a free core.
"""

import argparse
import gc
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from facetrain.core.rng import torch_generator
from facetrain.data.batches.loader import Batch
from facetrain.dist.mesh import Mesh
from facetrain.engine.loop import Trainer
from facetrain.engine.method import Method
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.models.backbone import ModelConfig, build_backbone
from tools.benchmarks.common import (
    commit_of,
    machine,
    make_parser,
    seconds_of,
    training_config,
    write_report,
)

SCALE, MARGIN, EMBEDDING_SIZE, CLIP_NORM = 64.0, 0.35, 512, 5.0
NUM_BATCHES = 4  # different ones, so that no step sees what the last one saw
PEER_NETWORKS = {f"iresnet{depth}": f"r{depth}" for depth in (18, 34, 50, 100, 200)}
# Small enough that random labels do not diverge within a benchmark.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4
MIB = 2.0**20

Step = Callable[[int], Tensor]
"""Does training step number i and returns its loss, on the device."""


def random_batches(options: argparse.Namespace, device: torch.device) -> list[Batch]:
    """Noise, on the device."""
    generator = torch_generator(0, "bench")
    batches = []
    for number in range(NUM_BATCHES):
        shape = (options.batch, 3, options.image_size, options.image_size)
        image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        label = torch.randint(options.classes, (options.batch,), generator=generator)
        index = torch.arange(options.batch) + number * options.batch
        batches.append(Batch(image.to(device), label.to(device), index.to(device)))
    return batches


def facetrain_step(
    options: argparse.Namespace,
    mesh: Mesh,
    out_dir: Path,
    backbone: nn.Module | None = None,
    method_of: Callable[[MarginHead, nn.Module], Method] = lambda head, _: Method(head),
) -> Step:
    """Our step: the trainer's own; on `backbone`, if it is given, instead of a new one."""
    torch.manual_seed(0)
    model = ModelConfig(
        name=options.model,
        image_size=options.image_size,
        embedding_size=EMBEDDING_SIZE,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    backbone = backbone or build_backbone(model).to(mesh.device)
    config = HeadConfig(scale=SCALE, cosine_margin=MARGIN, chunk_size=options.chunk_size)
    head = MarginHead(config, options.classes, EMBEDDING_SIZE, mesh, seed=0)
    method = method_of(head, backbone)
    settings = training_config(
        optimizer={
            "learning_rate": LEARNING_RATE, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY,
        },
        train={
            "batch_size": options.batch, "epochs": 1, "clip_norm": CLIP_NORM,
            "channels_last": options.channels_last, "compile": options.compile,
            "precision": options.precision,
        },
    )  # fmt: skip
    trainer = Trainer(
        settings,
        backbone,
        method,
        out_dir,
        num_images=NUM_BATCHES * options.batch,
        steps_per_epoch=1_000_000,
        identity={},
    )
    backbone.train()
    method.start(0)
    batches = random_batches(options, mesh.device)

    def step(number: int) -> Tensor:
        trainer.step = number
        return trainer.train_step(batches[number % NUM_BATCHES])

    return step


def peer_step(options: argparse.Namespace, device: torch.device) -> Step:
    """arcface_torch's step: the body of the loop of its train_v2.py, on its own modules."""
    cuda = device.type == "cuda"
    sys.path.insert(0, str(options.peer))
    if not cuda:  # its head calls .cuda() on what it makes
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    torch.manual_seed(0)
    backbone = importlib.import_module("backbones").get_model(
        PEER_NETWORKS[options.model], dropout=0.0, fp16=cuda, num_features=EMBEDDING_SIZE
    )
    if options.image_size != 112:
        raise SystemExit("arcface_torch knows 112 pixels only; take --image-size 112")
    model = DistributedDataParallel(
        backbone.to(device),
        broadcast_buffers=False,
        device_ids=[device] if cuda else None,
        bucket_cap_mb=16,
        find_unused_parameters=True,
    )
    model.register_comm_hook(None, fp16_compress_hook)
    backbone.train()
    model._set_static_graph()  # type: ignore[no-untyped-call]
    margin_loss = importlib.import_module("losses").CombinedMarginLoss(SCALE, 1.0, 0.0, MARGIN, 0)
    head = importlib.import_module("partial_fc_v2").PartialFC_V2(
        margin_loss, EMBEDDING_SIZE, options.classes, 1.0, False
    )
    head.train().to(device)
    optimizer = torch.optim.SGD(
        [{"params": model.parameters()}, {"params": head.parameters()}],
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
    )
    scaler = GradScaler("cuda", growth_interval=100, enabled=cuda)
    # Its loaders hand over normalised float images.
    batches = [
        (batch.image.float().div_(127.5).sub_(1.0), batch.label)
        for batch in random_batches(options, device)
    ]
    seen = []

    def step(number: int) -> Tensor:
        image, label = batches[number % NUM_BATCHES]
        loss: Tensor = head(model(image), label.clone())  # it changes the labels in place
        if cuda:
            torch.autograd.backward(scaler.scale(loss))
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            scaler.step(optimizer)
            scaler.update()
        else:
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())  # as its loop does
        return loss.detach()

    return step


class Contender:
    """One of the two: its step, how far it is, and what was measured."""

    def __init__(self, name: str, step: Step, device: torch.device) -> None:
        self.name, self._step, self._device = name, step, device
        self._number = 0
        self.seconds: list[float] = []  # of a step, one entry a round
        self.peak_mib = 0.0
        self.losses: list[float] = []  # of each round's last step, the first step's before them

    def run(self, steps: int) -> None:
        """One round."""
        wall, processor = seconds_of(lambda: self._steps(steps), self._device)
        self.seconds.append((wall if self._device.type == "cuda" else processor) / steps)
        self.losses.append(float(self._loss))

    def _steps(self, steps: int) -> None:
        for _ in range(steps):
            self._loss = self._step(self._number)
            self._number += 1

    def measure_peak(self, base: int) -> None:
        """What the allocator holds during two steps, over `base` bytes that belong to the other.

        Not what is allocated: between replays a CUDA graph's memory is held, but not allocated.
        """
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # what cuDNN tried and does not use
            torch.cuda.reset_peak_memory_stats(self._device)
            self.run(2)
            self.peak_mib = (torch.cuda.max_memory_reserved(self._device) - base) / MIB

    def report(self, batch: int) -> dict[str, Any]:
        """What goes into the file."""
        median = statistics.median(self.seconds)
        return {
            "images_per_second": round(batch / median, 1),
            "step_milliseconds": round(1000 * median, 3),
            "step_milliseconds_by_round": [round(1000 * s, 3) for s in self.seconds],
            "peak_memory_mib": round(self.peak_mib, 1),
            "first_loss": round(self.losses[0], 4),
            "last_loss": round(self.losses[-1], 4),
        }


def held_bytes(device: torch.device) -> int:
    """What the allocator holds for something alive."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def prepare(options: argparse.Namespace, mesh: Mesh, out_dir: Path) -> list[Contender]:
    """Build and warm up the contenders one after the other, each one's memory taken alone."""
    device = mesh.device
    contenders: list[Contender] = []
    makers: list[tuple[str, Callable[[], Step]]] = [
        ("facetrain", lambda: facetrain_step(options, mesh, out_dir))
    ]
    if options.peer is not None:
        makers.append(("arcface_torch", lambda: peer_step(options, device)))
    for name, make in makers:
        base = held_bytes(device)
        contender = Contender(name, make(), device)
        started = time.perf_counter()
        contender.run(1)
        if options.warmup:
            contender.run(options.warmup)
        contender.measure_peak(base)
        print(f"{name}: warm after {time.perf_counter() - started:.0f} s", flush=True)
        contender.seconds.clear()
        contenders.append(contender)
    return contenders


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds; returns what `--json` writes."""
    mesh = Mesh.single(options.device)
    torch.backends.cudnn.benchmark = True  # as both do
    with tempfile.TemporaryDirectory() as folder:
        if options.peer is not None:
            dist.init_process_group(
                "nccl" if mesh.device.type == "cuda" else "gloo",
                init_method=f"file://{folder}/store",
                rank=0,
                world_size=1,
            )
        contenders = prepare(options, mesh, Path(folder))
        for number in range(options.rounds):
            for contender in contenders:
                contender.run(options.steps)
                milliseconds = 1000 * contender.seconds[-1]
                print(f"round {number}: {contender.name} {milliseconds:.2f} ms", flush=True)
        if dist.is_initialized():
            dist.destroy_process_group()
    cuda = mesh.device.type == "cuda"
    report: dict[str, Any] = {
        **machine(mesh.device),
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "model": options.model,
        "image_size": options.image_size,
        "batch": options.batch,
        "classes": options.classes,
        "compile": options.compile,
        "precision": options.precision,
        "steps_a_round": options.steps,
        "rounds": options.rounds,
    }
    for contender in contenders:
        report[contender.name] = contender.report(options.batch)
    if options.peer is not None:
        report["peer_commit"] = options.peer_commit or commit_of(options.peer)
        ours, peer = report["facetrain"], report["arcface_torch"]
        key = "step_milliseconds_by_round"
        ratios = [theirs / own for own, theirs in zip(ours[key], peer[key], strict=True)]
        report["speed_over_arcface_torch"] = round(statistics.median(ratios), 3)
        report["speed_by_round"] = [round(ratio, 3) for ratio in ratios]
        if cuda:
            memory = "peak_memory_mib"
            report["memory_over_arcface_torch"] = round(ours[memory] / peer[memory], 3)
    return report


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="recognition/arcface_torch of a checkout")
    parser.add_argument("--peer-commit", help="the peer's commit, where its folder is no checkout")
    parser.add_argument("--model", choices=sorted(PEER_NETWORKS), default="iresnet100")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=84_000)
    parser.add_argument("--chunk-size", type=int, help="classes at a time; default all at once")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of ours"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile our backbone")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument(
        "--warmup", type=int, default=10, help="untimed steps of each after its first"
    )
    parser.add_argument("--steps", type=int, default=20, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    write_report(run(options), options.json)


if __name__ == "__main__":
    main()
