"""Which images each variation factor gives larger margins, at a checkpoint, without training.

    python -m tools.benchmarks.mvcom.factors FOLDER/SEED [--steps 40] --json F

FOLDER is the `--out` of mvcom/run.py. For every factor alone and for all together: heads are
fitted to the meta set, one pass is made over the training images, and the residuals (of size 0.1,
before any step with them) are averaged by level. `rho` is Spearman's correlation of a factor's
mean residuals with the rarity of its levels: 1 is the paper's claim.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from facetrain.core.artifact import read_json, write_json
from facetrain.core.config import parse_config
from facetrain.data.batches.augment import AugmentParameters, augment
from facetrain.data.batches.loader import TrainLoader
from facetrain.data.batches.meta_sampler import MetaSampler
from facetrain.data.batches.sampler import TrainSampler
from facetrain.data.dataset import FaceDataset
from facetrain.data.variation.labels import VARIATION_FILE, load_variations
from facetrain.dist.distributed_checkpoint import load_state
from facetrain.dist.sharded_rows import ShardedRows
from facetrain.engine.cpu_memory import keep_freed_memory
from facetrain.engine.method import StepBatch
from facetrain.finetune.meta_set import MetaSet
from facetrain.finetune.mvcom import Mvcom
from facetrain.finetune.settings import FinetuneStageConfig
from facetrain.finetune.variation_heads import VariationHeads, fit_heads
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.models.weights import load_module
from tools.benchmarks.common import make_parser
from tools.benchmarks.mvcom.run import COMMON, MESH, PRETRAIN
from tools.benchmarks.mvcom.sets import level_shares

BATCH = int(PRETRAIN["train"]["batch_size"])


def residuals(folder: Path, factors: tuple[str, ...], steps: int) -> np.ndarray[Any, Any]:
    """The residual of every training image that the steps reach, (N,), NaN for others."""
    trained, sets = folder / "pretrained", folder / "sets"
    backbone, model = load_module(trained)
    backbone.eval().to(memory_format=torch.channels_last)
    train, images = FaceDataset.open(sets / "train"), FaceDataset.open(sets / "meta")
    section = read_json(trained / "manifest.json")["config"]["head"]
    config = parse_config(HeadConfig, section, "head")
    head = MarginHead(config, train.num_classes, model.embedding_size, MESH, 0)
    newest = sorted((trained / "checkpoints").glob("step_*"))[-1]
    load_state({"head/weight": ShardedRows(head.weight, train.num_classes)}, newest, MESH)
    levels = [
        load_variations(sets / name / VARIATION_FILE, data.num_rows).only(factors, name)
        for name, data in (("train", train), ("meta", images))
    ]
    size = model.image_size
    residual = {"pseudo_update": False, "head_learning_rate": 0.0}
    settings = FinetuneStageConfig.model_validate(
        {
            **COMMON, **PRETRAIN, "model": model.model_dump(),
            "data": {"path": str(sets / "train")},
            "finetune": {"residual": residual, "meta": {"path": str(sets / "meta")}},
        }
    )  # fmt: skip
    meta = MetaSet(settings, images, levels[1], MESH)
    embedding, level, _ = meta.fit_sample(backbone, 0)
    heads = VariationHeads([len(names) for names in meta.names.values()], embedding.shape[1])
    fit_heads(heads, embedding, level, epochs=10, learning_rate=0.01, seed=0)
    sampler = TrainSampler(train.num_images, BATCH, 0)
    chosen = MetaSampler(
        meta.source.label, meta.level(), levels[0].table(), sampler, BATCH // 2, 0, "histogram", 2
    )
    method = Mvcom(
        settings,
        head,
        backbone,
        torch.full((train.num_images,), config.base_margin),
        heads=heads,
        sign=torch.ones(len(factors)),
        train_level=torch.from_numpy(levels[0].table()),
        meta_batches=lambda step: meta.batches(chosen, 0, step),
        steps_per_epoch=sampler.steps_per_epoch,
    )
    method.start(0)
    found = np.full(train.num_images, np.nan)
    loader = TrainLoader(train, size, sampler, workers=0)
    for step, batch in zip(range(min(steps, sampler.steps_per_epoch)), loader, strict=False):
        image = augment(batch.image, AugmentParameters())
        image = image.contiguous(memory_format=torch.channels_last)
        margin = torch.full((BATCH,), config.base_margin)
        method.begin_step(step, StepBatch(image, batch.label, batch.index, margin))
        found[batch.index.numpy()] = method.residual.numpy()
    return found


def main() -> None:
    """Print and write every factor's residuals by level."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=10**6, help="batches; the whole set without")
    given = parser.parse_args()
    keep_freed_memory()
    train = FaceDataset.open(given.folder / "sets/train")
    variations = load_variations(given.folder / "sets/train" / VARIATION_FILE, train.num_rows)
    numbers: dict[str, Any] = {}
    for factors in [(one,) for one in variations.factors] + [variations.factors]:
        residual = residuals(given.folder, factors, given.steps)
        name = " and ".join(factors)
        numbers[name] = {}
        for factor in factors:
            level, share = variations.level[factor][train.row], level_shares(variations, factor)
            mine = [residual[(level == one) & np.isfinite(residual)] for one in range(len(share))]
            mean = [float(one.mean()) for one in mine]
            error = [float(one.std(ddof=1) / len(one) ** 0.5) for one in mine]
            rho = float(stats.spearmanr(mean, -share).statistic)
            numbers[name][factor] = {
                "mean": mean, "error": error, "share": share.tolist(), "rho": rho,
            }  # fmt: skip
            shown = "  ".join(
                f"{one} {1e3 * a:+.1f} +- {1e3 * b:.1f}"
                for one, a, b in zip(variations.names[factor], mean, error, strict=True)
            )
            print(f"heads of {name}: {factor} rho {rho:+.2f}; x 1e-3: {shown}", flush=True)
    if given.json:
        write_json(given.json, numbers)


if __name__ == "__main__":
    main()
