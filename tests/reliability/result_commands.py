"""What is measured, written and shown of a run; and Python."""

from reliability.command import DATA, OUT, SHARD, TRAINED, Command, written

_IJB = "ijb/IJBC/meta/*"
_CLEANS = """
import numpy, facetrain
embedding = numpy.random.default_rng(0).normal(size=(40, 8))
short = {"pretrain": {"num_draws": 2}, "meta": {"num_rounds": 1, "num_steps": 1}}
result = facetrain.clean_labels(embedding, numpy.arange(40) // 5, "source.npz", **short)
numpy.savez("labels.npz", kept=result.kept, clean_probability=result.clean_probability)
"""
_EMBEDS = """
import numpy, facetrain
data = facetrain.FaceDataset.open("data")
backbones = map(facetrain.load_backbone, ("net.safetensors", "net.onnx"))
of = [facetrain.embed(backbone, data) for backbone in backbones]
with open("vectors.npy", "wb") as file:  # of a full disk numpy.save may hear nothing
    file.write(numpy.concatenate(of, 1).tobytes())
"""

RESULT_COMMANDS = {
    "evaluate": Command(
        ("evaluate", "recipe.yaml", "--backbone", "run/train", *OUT, "run/evaluate"),
        reads=("pairs.bin", "recipe.yaml"),
        state=("run/evaluate/*", "run/evaluate/distances/*", *TRAINED),
        leaves=("run/evaluate/verification.json",),
        unfinished=("run/evaluate/manifest.json",),
    ),
    "evaluate, a network of another's": Command(
        ("evaluate", "--backbone", "net.safetensors", "--bin", "pairs.bin", "--json",
         "numbers.json"),
        reads=("pairs.bin", "net.safetensors"),
        leaves=("numbers.json",),
    ),
    "evaluate, a network of arcface_torch": Command(
        ("evaluate", "--backbone", "net.pth", "--bin", "pairs.bin", "--json", "of_pth.json"),
        reads=("net.pth",),
    ),
    "evaluate, an ONNX network": Command(
        ("evaluate", "--backbone", "net.onnx", "--bin", "pairs.bin", "--json", "of_onnx.json"),
        reads=("net.onnx",),
        often=0.7,
    ),
    "evaluate, IJB": Command(
        ("evaluate", "--backbone", "run/train", "--ijb", "ijb", *OUT, "templates"),
        reads=(_IJB, "ijb/IJBC/loose_crop/*"),
        state=("templates/ijbc/*", "templates/ijbc/embeddings/*/*", *TRAINED),
        leaves=("templates/ijbc/verification.json", "templates/ijbc/roc.npz"),
        unfinished=("templates/ijbc/manifest.json",),
        often=0.7,
    ),
    "evaluate, pairs of images": Command(
        ("evaluate", "--backbone", "run/train", "--images", "images", "--pairs", "pairs.csv",
         *OUT, "verified"),
        reads=("images/*/*", "pairs.csv", "pairs.csv"),
        state=("verified/*", "verified/distances/*", *TRAINED),
        leaves=("verified/verification.json",),
        unfinished=("verified/manifest.json",),
        often=0.7,
    ),
    "evaluate, templates of features": Command(
        ("evaluate", "--ijb", "ijb", "--features", "ijb.npy", *OUT, "scored"),
        reads=("ijb.npy", "ijb.npy", _IJB),
        state=("scored/ijbc/*",),
        leaves=("scored/ijbc/verification.json",),
        unfinished=("scored/ijbc/manifest.json",),
        often=0.7,
    ),
    "evaluate, people": Command(
        ("evaluate", "--backbone", "run/train", "--gallery", "gallery", "--probe", "images",
         "--json", "people.json"),
        reads=("gallery/*/*", "images/*/*"),
        often=0.7,
    ),
    "evaluate, embeddings": Command(
        ("evaluate", "--embeddings", "paths.npz", "--pairs", "pairs.csv", "--json", "scores.json"),
        reads=("paths.npz", "pairs.csv"),
        leaves=("scores.json",),
        often=1.5,
    ),
    "export": Command(
        ("export", "run", "--format", "safetensors", *OUT, "out.safetensors"),
        state=TRAINED,
        leaves=("out.safetensors",),
        often=2,
    ),
    "export, ONNX": Command(
        ("export", "run", "--format", "onnx", *OUT, "out.onnx"),
        state=TRAINED,
        leaves=("out.onnx",),
        unfinished=("out.onnx",),
        often=0.5,
    ),
    "write": Command(
        ("write", "run", "--format", "rec", *OUT, "decided"),
        reads=DATA,
        state=("run/clean/*", "run/train/manifest.json", "decided/*", "decided/.[!.]*"),
        leaves=("decided/*.rec", "decided/images.csv"),
        unfinished=("decided/*", "decided/.[!.]*"),
        adds_up=written("decided"),
        often=3,
    ),
    "write, a folder": Command(
        ("write", "run", "--format", "folder", *OUT, "people"),
        reads=DATA,
        state=("run/clean/*", "people/*/*", "people/images.csv", "people/.[!.]*"),
        leaves=("people/*/*", "people/images.csv"),
        unfinished=("people",),
        adds_up=written("people"),
    ),
    "write, a list": Command(
        ("write", "run", "--format", "lst", "--suggestions", "--merges", *OUT, "listing"),
        reads=DATA,
        state=("run/clean/*", "run/train/manifest.json", "listing/*", "listing/.[!.]*"),
        leaves=("listing/*/*", "listing/*.csv", "listing/*.lst"),  # not its mark: JSON has no order
        unfinished=("listing",),
        adds_up=written("listing"),
    ),
    "write, a table": Command(
        ("write", "run", "--format", "csv", "--drop-overlap", *OUT, "table"),
        reads=DATA,
        state=("run/clean/*", "run/train/manifest.json", "table/*", "table/.[!.]*"),
        leaves=("table/images.csv",),
        unfinished=("table",),
        adds_up=written("table"),
        often=2,
    ),
    "write, originals": Command(
        ("write", "whole", "--format", "folder", "--originals", "images", *OUT, "linked"),
        reads=("images/*/*", "linked/*/*"),  # links: the user's own files
        state=("whole/clean/*", "linked/images.csv"),
        leaves=("linked/*/*", "linked/images.csv"),
        unfinished=("linked",),
        adds_up=written("linked"),
    ),
    "report": Command(
        ("report", "run"),
        reads=("run/train/log.jsonl",),
        state=("run/*/manifest.json", "run/clean/*", "run/evaluate/distances/*"),
        often=0.15,
    ),
    "review": Command(
        ("review", "run", "--no-open"),
        state=("run/*/manifest.json", "run/clean/*", "run/review/*"),
    ),
    "config": Command(("config", "--format", "schema"), often=0.05),
    "Python, clean_labels": Command(
        ("python", _CLEANS),
        reads=("source.npz",),
        leaves=("labels.npz",),
        unfinished=("labels.npz",),
        often=0.5,
    ),
    "Python, load_backbone": Command(
        ("python", _EMBEDS),
        reads=("net.safetensors", "net.onnx", *SHARD),
        leaves=("vectors.npy",),
        unfinished=("vectors.npy",),
    ),
}  # fmt: skip
