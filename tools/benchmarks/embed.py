"""Embedding on a CPU: ours, as before, in bfloat16, and onnxruntime on the exported network.

    python -m tools.benchmarks.embed --models iresnet50,mobilefacenet --threads 1 --json embed.json

`plain` is the module as it is trained, `ours` what `load_backbone` makes of it, `bfloat16` the same
with `embed.precision=bfloat16`, `onnxruntime` the file that `facetrain export` writes. Weights are
random, statistics too. Images come as uint8, as in the stage; the ways take turns, and a ratio is
the median over rounds of that within a round. Processor time, since machines are shared.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facetrain.core.artifact import write_json
from facetrain.core.rng import torch_generator
from facetrain.engine.inference import embed_images
from facetrain.export.export import export
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.weights import load_backbone, load_module, save_backbone
from tools.benchmarks.common import machine

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
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cosine = {}
    expected = ways["plain"]().double()
    for way, work in ways.items():
        found = work().double()
        cosine[way] = float(torch.cosine_similarity(found, expected).min())
    for _ in range(options.rounds):
        for way, work in ways.items():
            started = time.process_time()
            work()
            seconds[way].append(time.process_time() - started)
    report = {}
    for way, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, seconds["onnxruntime"], strict=True)]
        report[way] = {
            "processor_milliseconds_an_image": 1000 * statistics.median(taken) / options.batch,
            "of_onnxruntime": round(statistics.median(ratios), 3),
            "of_onnxruntime_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "least_cosine_to_plain": cosine[way],
        }
    return report


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default="iresnet50,mobilefacenet")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            report[name] = measure(name, options, Path(folder))
            print(name, json.dumps(report[name], indent=1), flush=True)
    if options.json is not None:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
