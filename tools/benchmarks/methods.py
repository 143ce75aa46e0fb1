"""Cost of a training step under each robust method, over plain training, in one run.

Random images, whole steps (augmentation, backbone, head, method, optimiser), the methods taking
turns; medians, and the median of each method's ratio to the plain step of the same turn.

    python -m tools.benchmarks.methods --model iresnet18 --batch 32 --classes 10000 --json F
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from facetrain.core.artifact import write_json
from facetrain.core.rng import torch_generator
from facetrain.data.augment import AugmentConfig
from facetrain.data.loader import Batch
from facetrain.dist.mesh import Mesh
from facetrain.engine.loop import LoopConfig, Trainer
from facetrain.engine.method import Method
from facetrain.engine.optim import OptimizerConfig, Optimizers
from facetrain.engine.schedule import ScheduleConfig
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.methods.l2b import L2bConfig, L2bMethod
from facetrain.methods.nal import NalConfig, NalMethod, TargetsConfig
from facetrain.methods.superloss import SuperLossConfig, SuperLossMethod
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.report.tables import format_table

NUM_BATCHES = 4
WARM_UP = 2


def random_batch(options: argparse.Namespace, device: torch.device, number: int) -> Batch:
    """Noise, on the device."""
    generator = torch_generator(0, "bench methods", number)
    shape = (options.batch, 3, options.image_size, options.image_size)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    label = torch.randint(options.classes, (options.batch,), generator=generator)
    index = torch.arange(options.batch) + number * options.batch
    return Batch(image.to(device), label.to(device), index.to(device))


def make_method(
    name: str, options: argparse.Namespace, head: MarginHead, backbone: Any, folder: Path
) -> Method:
    """One of `METHODS` on this head."""
    mesh, num_images = head.mesh, NUM_BATCHES * options.batch
    if name == "plain":
        return Method(head)
    if name == "superloss":
        return SuperLossMethod(SuperLossConfig(name="superloss"), head, mesh, 1000)
    if name.startswith("nal"):
        targets = TargetsConfig() if name == "nal, targets" else None
        config = NalConfig(name="nal", attention="branch", warmup_epochs=0, targets=targets)
        label = torch.zeros(num_images, dtype=torch.int64)
        return NalMethod(config, head, mesh, label=label, steps_per_epoch=1000, folder=folder)
    every = 4 if name == "l2b, every 4" else 1
    settings = L2bConfig(
        name="l2b", trusted=Path(), batch_size=options.trusted, warmup_epochs=0, every=every
    )

    def batches(start: int) -> Iterator[Batch]:
        while True:
            one = random_batch(options, mesh.device, start % NUM_BATCHES)
            few = slice(0, options.trusted)
            yield Batch(one.image[few], one.label[few], one.index[few])
            start += 1

    return L2bMethod(
        settings, head, backbone, mesh,
        batches=batches, augment_config=AugmentConfig(), steps_per_epoch=1000, seed=0,
        held_out=torch.zeros(num_images, dtype=torch.bool),
    )  # fmt: skip


METHODS = ("plain", "superloss", "nal", "nal, targets", "l2b", "l2b, every 4")


def make_step(name: str, options: argparse.Namespace, folder: Path) -> Callable[[int], None]:
    """A function that takes training step `number` under the method `name`."""
    mesh = Mesh.single("auto")
    torch.manual_seed(0)
    model = ModelConfig(name=options.model, image_size=options.image_size, embedding_size=512)
    backbone = build_backbone(model).to(mesh.device)
    head = MarginHead(HeadConfig(chunk_size=options.chunk_size), options.classes, 512, mesh, seed=0)
    folder.mkdir(parents=True)
    method = make_method(name, options, head, backbone, folder)
    trainer = Trainer(
        LoopConfig(
            batch_size=options.batch, epochs=1, channels_last=True, precision=options.precision
        ),
        ScheduleConfig(),
        AugmentConfig(),
        seed=0,
        backbone=backbone,
        method=method,
        optimizers=Optimizers(OptimizerConfig(), backbone, head, method.trained),
        mesh=mesh,
        out_dir=folder,
        num_images=NUM_BATCHES * options.batch,
        steps_per_epoch=1000,
        identity={},
    )
    backbone.train()
    data = [random_batch(options, mesh.device, number) for number in range(NUM_BATCHES)]
    method.start(0)

    def step(number: int) -> None:
        trainer.step = number
        trainer.train_step(data[number % NUM_BATCHES])
        if mesh.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step, and ratios to plain, by method."""
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as temporary:
        steps = {
            name: make_step(name, options, Path(temporary) / str(number))
            for number, name in enumerate(METHODS)
        }
        for turn in range(WARM_UP + options.turns):
            for name, step in steps.items():
                started = time.perf_counter()
                for inner in range(options.steps):
                    step(turn * options.steps + inner)
                if turn >= WARM_UP:
                    seconds[name].append((time.perf_counter() - started) / options.steps)
    ratios = {
        name: [one / plain for one, plain in zip(values, seconds["plain"], strict=True)]
        for name, values in seconds.items()
    }
    return {
        "device": str(Mesh.single("auto").device),
        "model": options.model,
        "batch": options.batch,
        "classes": options.classes,
        "methods": {
            name: {
                "seconds": statistics.median(seconds[name]),
                "ratio": statistics.median(ratios[name]),
                "ratio_low": min(ratios[name]),
                "ratio_high": max(ratios[name]),
            }
            for name in METHODS
        },
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="iresnet18")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--trusted", type=int, default=32, help="trusted images of a look-ahead")
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--chunk-size", type=int, help="classes at a time in the head")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or auto")
    parser.add_argument("--steps", type=int, default=4, help="in a turn; a multiple of 4")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    numbers = measure(options)
    rows = [
        [
            name,
            f"{one['seconds']:.3f}",
            f"{one['ratio']:.3f}",
            f"{one['ratio_low']:.3f} to {one['ratio_high']:.3f}",
        ]
        for name, one in numbers["methods"].items()
    ]
    print(format_table(["method", "seconds a step", "over plain", "turns"], rows))
    if options.json:
        write_json(options.json, numbers)


if __name__ == "__main__":
    main()
