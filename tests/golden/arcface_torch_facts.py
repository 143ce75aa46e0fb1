"""Records facts of arcface_torch's backbones: names, shapes and outputs, kept beside this file.

    python tests/golden/arcface_torch_facts.py PATH/TO/insightface/recognition/arcface_torch

needs a checkout of https://github.com/deepinsight/insightface (the files here: commit 7fadd42).
It writes arcface_torch_r100.txt and arcface_torch_mbf.txt in full, one `name shape` a line, and
arcface_torch_digests.txt: for each network the SHA-256 of such a list and its parameter count.
arcface_torch_outputs.txt holds, for r18 and mbf with the weights of `fill` on the images of
`images`, the first eight values of each embedding in evaluation mode.
"""

import hashlib
import importlib
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


def listing(state: dict[str, torch.Tensor]) -> str:
    """One `name 64x3x3x3` a line, in the order of the state dict; a scalar is `name scalar`."""
    lines = []
    for name, value in state.items():
        lines.append(f"{name} {'x'.join(map(str, value.shape)) or 'scalar'}\n")
    return "".join(lines)


def _noise(shape: torch.Size, phase: int) -> torch.Tensor:
    """Uncorrelated numbers in [-1, 1) that depend on nothing but the arguments."""
    index = torch.arange(shape.numel(), dtype=torch.float64)
    return (torch.sin(index * 12.9898 + phase) * 43758.5453).frac().reshape(shape).float()


def fill(module: torch.nn.Module) -> None:
    """Give every weight and statistic a value that follows from its position and shape."""
    with torch.no_grad():
        for phase, (name, value) in enumerate(module.state_dict().items()):
            noise = _noise(value.shape, phase)
            if value.ndim > 1:  # variance 2 / fan-in
                value.copy_(noise * (6 / value[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                value.copy_(0.1 * noise)
            elif value.is_floating_point():  # starts at 1, 0.25 (PReLU) or 0 (running mean)
                value.add_(0.1 * noise)


def images(size: int) -> torch.Tensor:
    """Two images (2, 3, size, size) in [-1, 1]."""
    return _noise(torch.Size((2, 3, size, size)), 1)


def main() -> None:
    """Write the files."""
    sys.path.insert(0, sys.argv[1])
    iresnet = importlib.import_module("backbones.iresnet")
    mobilefacenet = importlib.import_module("backbones.mobilefacenet")
    builders = {f"r{d}": getattr(iresnet, f"iresnet{d}") for d in (18, 34, 50, 100, 200)}
    builders["mbf"] = lambda: mobilefacenet.get_mbf(False, 512)
    builders["mbf_large"] = lambda: mobilefacenet.get_mbf_large(False, 512)
    digests = []
    for name, build in builders.items():
        with torch.device("meta"):
            module = build()
        text = listing(module.state_dict())
        count = sum(p.numel() for p in module.parameters())
        digests.append(f"{name} {hashlib.sha256(text.encode()).hexdigest()} {count}\n")
        if name in ("r100", "mbf"):
            (HERE / f"arcface_torch_{name}.txt").write_text(text)
    (HERE / "arcface_torch_digests.txt").write_text("".join(digests))
    outputs = []
    for name in ("r18", "mbf"):
        module = builders[name]().eval()
        fill(module)
        with torch.no_grad():
            for row in module(images(112)):
                outputs.append(" ".join([name, *(f"{v:.6g}" for v in row[:8].tolist())]) + "\n")
    (HERE / "arcface_torch_outputs.txt").write_text("".join(outputs))


if __name__ == "__main__":
    main()
