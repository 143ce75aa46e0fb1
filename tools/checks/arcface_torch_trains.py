"""Prove that arcface_torch trains on a set that facetrain wrote: its data set, network and head.

    python -m tools.checks.arcface_torch_trains FOLDER --peer insightface/recognition/arcface_torch

FOLDER is what `facetrain write --format rec` or `pack` left (train.rec, train.idx, property). One
batch of its MXFaceDataset goes twice through its ResNet-18 and its PartialFC with one step of SGD
between; the second loss must be lower. Runs on a CPU in an environment with PyTorch and MXNet;
exit status 1 where the peer cannot.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

WIDTH, BATCH = 512, 16


def main() -> int:
    """Take one step, print what was seen."""
    parser = argparse.ArgumentParser(description="One step of arcface_torch on a set of ours.")
    parser.add_argument("folder", type=Path, help="train.rec, train.idx and property")
    parser.add_argument("--peer", type=Path, required=True, help="recognition/arcface_torch")
    parser.add_argument("--batch", type=int, default=BATCH)
    options = parser.parse_args()
    sys.path.insert(0, str(options.peer))
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]  # its head calls it
    torch.manual_seed(0)
    torch.distributed.init_process_group(
        "gloo", init_method="tcp://127.0.0.1:12431", rank=0, world_size=1
    )
    data = importlib.import_module("dataset").MXFaceDataset(str(options.folder), local_rank=0)
    num_classes = int((options.folder / "property").read_text().split(",")[0])
    loader = torch.utils.data.DataLoader(data, batch_size=options.batch, shuffle=True)
    image, label = next(iter(loader))
    network: Any = importlib.import_module("backbones").get_model("r18", num_features=WIDTH)
    margin = importlib.import_module("losses").CombinedMarginLoss(64, 1.0, 0.0, 0.4, 0)
    head = importlib.import_module("partial_fc_v2").PartialFC_V2(
        margin, WIDTH, num_classes, 1.0, False
    )
    network.train()
    head.train()
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(2):
        loss = head(network(image), label.clone())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    numbers = {
        "images": len(data),
        "classes": num_classes,
        "labels_seen": [int(label.min()), int(label.max())],
        "loss": losses,
    }
    print(json.dumps(numbers))
    torch.distributed.destroy_process_group()
    fits = int(label.min()) >= 0 and int(label.max()) < num_classes
    return 0 if fits and losses[1] < losses[0] else 1


if __name__ == "__main__":
    sys.exit(main())
