"""Embedding on a CPU: ours, as before, in bfloat16, and onnxruntime on the exported network.

    python -m tools.benchmarks.embed --models iresnet50,mobilefacenet --threads 1 --json embed.json

`plain` is the module as it is trained, `ours` what `load_backbone` makes of it, `bfloat16` the same
with `embed.precision=bfloat16`, `onnxruntime` the file that `facetrain export` writes. Weights are
random, statistics too. Images come as uint8, as in the stage; the ways take turns, and a ratio is
the median over rounds of that within a round. Processor time, since machines are shared.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facetrain.core.rng import torch_generator
from facetrain.engine.inference import embed_images
from facetrain.export.export import export
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.weights import load_backbone, load_module, save_backbone
from tools.benchmarks.common import machine, make_parser, medians, ratios, take_turns, write_report

CPU = torch.device("cpu")


def write_network(name: str, folder: Path) -> Path:
    """A fresh network whose normalisations are not the identity."""
    config = ModelConfig(name=name)
    torch.manual_seed(0)
    network = build_backbone(config)
    generator = torch_generator(0, "statistics")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    path = folder / f"{name}.safetensors"
    save_backbone(network, config, path)
    return path


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One network in all ways."""
    path = write_network(name, folder)
    exported = folder / f"{name}.onnx"
    export(path, "onnx", exported)
    plain, config = load_module(path)
    plain.eval()
    ours, graph = load_backbone(path), load_backbone(exported)
    shape = (options.batch, 3, config.image_size, config.image_size)
    image = torch.randint(0, 256, shape, generator=torch_generator(0, "image")).to(torch.uint8)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: embed_images(plain, image, CPU, flip=False),
        "ours": lambda: embed_images(ours, image, CPU, flip=False),
        "bfloat16": lambda: embed_images(ours, image, CPU, flip=False, precision="bfloat16"),
        "onnxruntime": lambda: embed_images(graph, image, CPU, flip=False),
    }
    cosine = {}
    expected = ways["plain"]().double()
    for way, work in ways.items():
        found = work().double()
        cosine[way] = float(torch.cosine_similarity(found, expected).min())
    processor = take_turns(ways, options.rounds)[1]
    median = medians(processor)
    return {
        way: {
            "processor_milliseconds_an_image": 1000 * median[way] / options.batch,
            "of_onnxruntime": round(statistics.median(ratio), 3),
            "of_onnxruntime_range": [round(min(ratio), 3), round(max(ratio), 3)],
            "least_cosine_to_plain": cosine[way],
        }
        for way, ratio in ratios(processor, "onnxruntime").items()
    }


def main() -> None:
    """Parse, run, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--models", default="iresnet50,mobilefacenet")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            report[name] = measure(name, options, Path(folder))
    write_report(report, options.json)


if __name__ == "__main__":
    main()
