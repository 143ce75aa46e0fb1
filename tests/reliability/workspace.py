"""A tiny project on the disk, with every command on it finished."""

import importlib
import multiprocessing
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from reliability.command import NUM_IMAGES
from reliability.commands import COMMANDS
from reliability.process import call

RECIPE = """
seed: 1
data: {path: data, overlay: noise/overlay.npz, workers: 0}
model: {name: small, image_size: 32, embedding_size: 8, width: 4}
head: {scale: 8, cosine_margin: 0.1}
optimizer: {learning_rate: 0.05}
train: {batch_size: 12, epochs: 2, log_every: 2, checkpoint_every: 2}
embed: {batch_size: 16, workers: 0}
graph: {num_neighbours: 6, block_size: 16}
clean: {source: source.npz, pretrain: {num_draws: 4}, meta: {num_rounds: 1, num_steps: 1},
  adapter: {num_draws: 1}}
evaluate: {bins: [pairs.bin], batch_size: 32, workers: 0, bootstrap: 0}
"""
_MODULES = (
    "facetrain.cli", "facetrain.demo", "facetrain.without_recipe", "facetrain.review.review",
    "facetrain.export.export", "facetrain.evaluate.ijb", "matplotlib.pyplot", "faiss",
    "onnxruntime", "facetrain.api", "torch.utils.tensorboard",
    "torch.distributed.checkpoint.state_dict_saver",
    "torch.distributed.checkpoint.state_dict_loader", "facetrain.dist.distributed_checkpoint",
)  # fmt: skip
"""What commands import when they need it; imported once, before all of them are forked."""


_FIRST = ("train", "embed", "graph", "clean")
"""What others read, in the order of a pipeline, which is that of `COMMANDS`."""


def build(folder: Path, names: Sequence[str], other: Path) -> None:
    """Make the workspace and run the commands of these names, and those they need, once each.

    Args:
        other: receives the first stages of another run on the same data.
    """
    for module in _MODULES:
        importlib.import_module(module)
    with torch.device("meta"):  # what the first such module loads
        torch.nn.Linear(1, 1)
    folder.mkdir(parents=True)
    # Elsewhere: what decodes and draws starts threads, and a fork would wait for them for ever.
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(folder,))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    _call(folder, "corrupt", "data", "--flip", "0.1", "--out", "noise")
    for name, command in COMMANDS.items():
        if name in (*_FIRST, *names):
            _call(folder, *command.argv)
            assert command.adds_up(folder), name
        if name == "train":
            shutil.copy(folder / "run/train/backbone.safetensors", folder / "net.safetensors")
    for name in _FIRST:
        _call(folder, name, "recipe.yaml", "--out", str(other / name), "seed=2")


def _write(folder: Path) -> None:
    """What a user brings."""
    from helpers.ijb import synthetic_faces

    from facetrain.data.evaluation.template_benchmark import write_template_benchmark
    from facetrain.data.synthetic import SyntheticConfig, write_pairs, write_synthetic
    from facetrain.models.mobilefacenet import MobileFaceNet

    config = SyntheticConfig(num_identities=8, min_images=5, max_images=5, size=32)
    write_synthetic(folder / "data", config, quiet=True)
    few = config.model_copy(update={"first_identity": 40, "num_identities": 3})
    write_synthetic(folder / "more", few, quiet=True)
    others = config.model_copy(update={"first_identity": 8, "num_identities": 20})
    write_pairs(folder / "pairs.bin", others, num_pairs=20, quiet=True)
    write_template_benchmark(folder / "ijb", "ijbc", synthetic_faces(config), num_impostor_pairs=50)
    _write_images(folder)
    _write_source(folder / "source.npz")
    _write_network(folder / "net.onnx")
    network = MobileFaceNet(8, 32, 64, (1, 1, 1, 1))
    torch.save(network.eval().state_dict(), folder / "net.pth")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "tune.yaml").write_text(
        RECIPE.partition("clean:")[0] + "finetune: {method: cosface}\n"
    )


def _call(folder: Path, *argv: str) -> None:
    ended = call(argv, folder)
    assert ended.status == 0, (argv, ended.said)
    assert not ended.traceback, (argv, ended.said)


def _write_images(folder: Path) -> None:
    """The faces as a folder a person, a tar of it, a list of it, and five points of each."""
    from facetrain.data.dataset import FaceDataset

    data = FaceDataset.open(folder / "data")
    assert data.num_images == NUM_IMAGES
    names = [f"person_{data.label[index]}/{index}.jpg" for index in range(NUM_IMAGES)]
    for index, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encoded(index))
    with tarfile.open(folder / "images.tar", "w") as tar:
        tar.add(folder / "images", "images")
    lines = [f"{i}\t{data.label[i]}\timages/{name}\n" for i, name in enumerate(names)]
    (folder / "images.lst").write_text("".join(lines))
    shutil.copytree(folder / "images", folder / "gallery")
    paths = np.array(names)
    embedding = np.random.default_rng(0).normal(size=(NUM_IMAGES, 8)).astype(np.float32)
    np.savez(folder / "paths.npz", embedding=embedding, path=paths)
    np.savez(folder / "rows.npz", embedding=embedding, row=np.arange(NUM_IMAGES))
    pairs = [
        f"{a} {b} {int(a.split('/')[0] == b.split('/')[0])}\n"
        for a in names[::4]
        for b in names[1::7]
    ]
    (folder / "pairs.csv").write_text("".join(pairs))
    points = "11,14,21,14,16,20,12,25,20,25"
    (folder / "points.csv").write_text("".join(f"{i},{points}\n" for i in range(NUM_IMAGES)))
    (folder / "landmarks.csv").write_text("".join(f"{name},{points}\n" for name in names))


def _write_source(path: Path) -> None:
    """Features of twelve people, one image in ten another's, to learn cleaning from."""
    generator = np.random.default_rng(0)
    true = np.repeat(np.arange(12), 8)
    embedding = generator.normal(size=(12, 8))[true] + generator.normal(0, 0.3, (96, 8))
    label = np.where(np.arange(96) % 10 == 0, (true + 1) % 12, true)
    np.savez(path, embedding=embedding.astype(np.float32), label=label, is_clean=label == true)
    np.savez(path.with_name("features.npz"), embedding=embedding.astype(np.float32), label=true)
    known = embedding[::16].astype(np.float32)
    np.savez(path.with_name("known.npz"), embedding=known, label=np.arange(len(known)))
    faces = np.tile(embedding, (2, 1)).astype(np.float32)
    np.save(path.with_name("ijb.npy"), faces[:NUM_IMAGES])


def _write_network(path: Path) -> None:
    """A network of one matrix, as ONNX."""
    matrix = np.random.default_rng(0).normal(size=(3 * 32 * 32, 8)).astype(np.float32)
    image = onnx.helper.make_tensor_value_info("image", 1, ["B", 3, 32, 32])
    found = onnx.helper.make_tensor_value_info("embedding", 1, ["B", 8])
    nodes = [
        onnx.helper.make_node("Flatten", ["image"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    constants = [onnx.numpy_helper.from_array(matrix, "matrix")]
    graph = onnx.helper.make_graph(nodes, "net", [image], [found], constants)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, path)
