"""Cost of a training step under each robust method, over plain training, in one run.

Random images, whole steps (augmentation, backbone, head, method, optimiser), the methods taking
turns; medians, and the median of each method's ratio to the plain step of the same turn.

    python -m tools.benchmarks.methods --model iresnet18 --batch 32 --classes 10000 --json F
"""

import argparse
import functools
import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from facetrain.data.batches.augment import AugmentConfig
from facetrain.dist.mesh import Mesh
from facetrain.engine.method import Method
from facetrain.heads.margin_head import MarginHead
from facetrain.methods.choose import RobustConfig, method_of
from facetrain.methods.l2b import L2bConfig, Trusted
from facetrain.methods.nal import NalConfig, TargetsConfig
from facetrain.methods.superloss import SuperLossConfig
from facetrain.report.tables import format_table
from tools.benchmarks.common import machine, make_parser, medians, ratios, take_turns, write_report
from tools.benchmarks.train import NUM_BATCHES, facetrain_step, random_batches

METHODS: dict[str, RobustConfig | None] = {
    "plain": None,
    "superloss": SuperLossConfig(name="superloss"),
    "nal": NalConfig(name="nal", attention="branch", warmup_epochs=0),
    "nal, targets": NalConfig(
        name="nal", attention="branch", warmup_epochs=0, targets=TargetsConfig()
    ),
    "l2b": L2bConfig(name="l2b", trusted=Path(), warmup_epochs=0),
    "l2b, every 4": L2bConfig(name="l2b", trusted=Path(), warmup_epochs=0, every=4),
}
STEPS_PER_EPOCH = 1000


def make_method(
    name: str, options: argparse.Namespace, folder: Path, head: MarginHead, backbone: nn.Module
) -> Method:
    """One of `METHODS` on this head."""
    num_images, robust = NUM_BATCHES * options.batch, METHODS[name]
    if isinstance(robust, L2bConfig):
        robust = robust.model_copy(update={"batch_size": options.trusted})
    of_trusted = argparse.Namespace(**(vars(options) | {"batch": options.trusted}))

    def trusted(_: L2bConfig) -> Trusted:
        held_out = torch.zeros(num_images, dtype=torch.bool)
        few = random_batches(of_trusted, head.mesh.device)
        return Trusted(lambda start: itertools.cycle(few), AugmentConfig(), 0, held_out)

    label = torch.zeros(num_images, dtype=torch.int64)
    return method_of(robust, head, backbone, label, STEPS_PER_EPOCH, folder, trusted)


def turn_of(name: str, options: argparse.Namespace, folder: Path) -> Callable[[], None]:
    """A function that takes some training steps under the method `name`."""
    folder.mkdir()
    method_of = functools.partial(make_method, name, options, folder)
    step = facetrain_step(options, Mesh.single("auto"), folder, method_of=method_of)
    number = itertools.count()

    def turn() -> None:
        for _ in range(options.steps):
            step(next(number))

    turn()
    return turn


def main() -> None:
    """Parse, measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="iresnet18")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--trusted", type=int, default=32, help="trusted images of a look-ahead")
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--chunk-size", type=int, help="classes at a time in the head")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or auto")
    parser.add_argument("--steps", type=int, default=4, help="in a turn; a multiple of 4")
    parser.add_argument("--turns", type=int, default=5)
    parser.set_defaults(gradient_checkpointing=False, channels_last=True, compile=False)
    options = parser.parse_args()
    device = Mesh.single("auto").device
    with tempfile.TemporaryDirectory() as folder:
        turns = {
            name: turn_of(name, options, Path(folder, str(number)))
            for number, name in enumerate(METHODS)
        }
        seconds, _ = take_turns(turns, 1 + options.turns, device)
    seconds = {
        name: [turn / options.steps for turn in values[1:]] for name, values in seconds.items()
    }
    median, over_plain = medians(seconds), ratios(seconds, "plain")
    rows = [
        [
            name,
            f"{median[name]:.3f}",
            f"{statistics.median(ratio):.3f}",
            f"{min(ratio):.3f} to {max(ratio):.3f}",
        ]
        for name, ratio in over_plain.items()
    ]
    print(format_table(["method", "seconds a step", "over plain", "turns"], rows))
    report = {
        "machine": machine(device),
        "methods": {
            name: {"seconds": median[name], "ratios": over_plain[name]} for name in METHODS
        },
    }
    write_report(report, options.json, show=False)


if __name__ == "__main__":
    main()
