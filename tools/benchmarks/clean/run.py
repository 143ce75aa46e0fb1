r"""Baselines and the cleaner, part by part, on the same noisy features: F1 of the noise class.

    python -m tools.benchmarks.clean.lfw_noise FEATURES_FOLDER sets
    python -m tools.benchmarks.clean.run --source sets/source_dlib_0.npz \
        --target sets/target_dlib_uniform20_0.npz --seeds 0 --json F

Source and targets are features `.npz` with `is_clean` (of a target's only the score reads it;
`--truth` gives it apart, as `facetrain corrupt` writes it). Nothing is chosen on a target, save
where a row says "hindsight": its threshold is the best one for that target. Rows:

  centre, component, knn, cleanlab      the baselines; cleanlab by filters and by its Datalab
  sub-centres                           beyond 75 degrees from the dominant of three sub-centres
  target statistics                     the pre-trained GCN at 0.5, inputs standardised by it
  gcn                                   the same, inputs standardised by the source, as here
  + meta                                after meta-supervision; first order: less Eq. 5's last term
  + adapter                             with thresholds of the adapter instead of 0.5
  posterior alone                       the identity model without the GCN
  facetrain clean                       the stage itself: the posterior with the GCN as evidence
  literal, canonical                    other inputs of the GCN, pre-trained, at 0.5
"""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.clean.adapter import class_summary, learn_thresholds
from facetrain.clean.adc import PRETRAINED_FILE, pretrained
from facetrain.clean.clean import CleanConfig, clean
from facetrain.clean.cleaner import Cleaner, clean_probability
from facetrain.clean.embedded_set import EmbeddedSet
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.training import adapt, pretrain
from facetrain.core.artifact import write_json
from facetrain.data.features import Features, load_features, unit_rows
from facetrain.dist.mesh import Mesh
from facetrain.graph.knn import KnnConfig, KnnGraph, knn_graph
from facetrain.metrics.noise import noise_detection
from tools.benchmarks.clean import baselines
from tools.benchmarks.clean.hindsight import best_f1, threshold_error
from tools.benchmarks.common import make_parser, markdown_table, mean_and_spread

MESH = Mesh.single()
Row = tuple[str, float]
_DIGEST = "bench"  # one source and one config: the stage takes up what was learned


def f1(kept: NDArray[np.bool_], is_clean: NDArray[np.bool_]) -> float:
    """F1 of the noise class; without noise 1 - the share wrongly dropped."""
    found = noise_detection(None, kept, is_clean).f1
    return float(kept.mean()) if found is None or is_clean.all() else found


def calibration(clean_probability: NDArray[np.floating], is_clean: NDArray[np.bool_]) -> float:
    """Expected calibration error over fifteen bins of equal width."""
    place = np.minimum((clean_probability * 15).astype(int), 14)
    gap = np.bincount(place, clean_probability - is_clean, 15)
    return float(np.abs(gap).sum() / len(place))


def graph_of(embedding: NDArray[Any]) -> KnnGraph:
    """The exact kNN graph, in memory."""
    with tempfile.TemporaryDirectory() as folder:
        graph, _ = knn_graph(embedding, KnnConfig(), MESH, Path(folder))
        return KnnGraph(np.array(graph.neighbours), np.array(graph.similarity))


def embedded(embedding: NDArray[Any], config: CleanConfig) -> EmbeddedSet:
    """`embedding` with its graph."""
    return EmbeddedSet(embedding, graph_of(embedding), config.graph.num_context, MESH.device)


def baseline_rows(target: Features, with_cleanlab: bool) -> Iterator[Row]:
    """Every baseline, its own threshold and in hindsight."""
    embedding, label, is_clean = target.embedding, target.label, target.is_clean
    assert is_clean is not None
    dense = np.unique(label, return_inverse=True)[1]
    centre = baselines.class_centre(embedding, label)
    yield "centre, Otsu", f1(centre.kept, is_clean)
    yield "centre, hindsight", best_f1(centre.score, is_clean)
    unit = unit_rows(embedding)
    sample = (unit[:: max(1, len(unit) // 500)] @ unit.T).ravel()
    cuts = np.quantile(sample, 1 - np.geomspace(1e-4, 0.5, 60)).tolist()
    kept = baselines.biggest_component(embedding, label, cuts)
    yield "component, hindsight", max(f1(one, is_clean) for one in kept)
    agreement = baselines.knn_agreement(label, graph_of(embedding).neighbours[:, :20])
    yield "knn agreement", f1(agreement.kept, is_clean)
    yield "knn agreement, hindsight", best_f1(agreement.score, is_clean)
    rival = baselines.sub_centre_drop(embedding, dense)
    yield "sub-centres, 75 degrees", f1(rival.kept, is_clean)
    yield "sub-centres, hindsight", best_f1(rival.score, is_clean)
    if with_cleanlab:
        probability = baselines.out_of_sample_probability(embedding, label)
        found = [
            f1(baselines.cleanlab(probability, label, name).kept, is_clean)
            for name in baselines.CLEANLAB_FILTERS
        ]
        yield "cleanlab, best filter", max(found)
        issues = baselines.datalab(embedding, label)
        yield "cleanlab, Datalab", f1(issues.kept, is_clean)
        yield "cleanlab, Datalab, hindsight", best_f1(issues.score, is_clean)


def standardised_by(cleaner: Cleaner, target: LabelledSet) -> Cleaner:
    """The cleaner with the target's statistics in place of the source's."""
    features = target.piece().features(target.ones())
    other = copy.deepcopy(cleaner)
    spread = features.std(0)
    other.mean.copy_(features.mean(0))
    other.spread.copy_(spread.where(spread > 1e-3, 1.0))
    return other


class Cleaners:
    """What one source and one seed give, trained once for all targets."""

    def __init__(
        self,
        source: Features,
        config: CleanConfig,
        *,
        inputs: bool,
        drift: bool,
        brief: bool = False,
    ) -> None:
        assert source.is_clean is not None
        self.drift, self.brief = drift, brief
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        images = embedded(source.embedding, config)
        label = np.where(source.is_clean, source.label, -1)
        self.config, self.source = config, LabelledSet(images, label, config.graph)
        if not config.gcn:
            return
        self.base = pretrained(config, self.source, self.folder / PRETRAINED_FILE, MESH, _DIGEST)
        self.others = {}
        for name, node_input in (("literal", "embedding"), ("canonical", "canonical")):
            if inputs:
                graph = config.graph.model_copy(update={"node_input": node_input})
                known = LabelledSet(images, label, graph)
                cleaner = pretrain(config.pretrain, known, config.seed, show=False)
                self.others[name] = graph, cleaner

    def rows(self, target: Features) -> Iterator[Row]:
        """The cleaner's rows on one target."""
        config, is_clean = self.config, target.is_clean
        assert is_clean is not None
        images = embedded(target.embedding, config)
        if not config.gcn:
            yield from self._stage("posterior alone", config, images, target)
            return
        labelled = LabelledSet(images, target.label, config.graph)

        def chance(cleaner: Cleaner, of: LabelledSet = labelled) -> NDArray[np.float32]:
            answer: NDArray[np.float32] = clean_probability(cleaner, of, MESH).numpy()
            return answer

        def adapted(cleaner: Cleaner, second_order: bool) -> Cleaner:
            return adapt(
                config.meta.model_copy(update={"second_order": second_order}),
                cleaner, self.source, labelled, config.seed,
                batch_classes=config.pretrain.batch_classes, show=False,
            )  # fmt: skip

        def thresholds(
            cleaner: Cleaner, answer: NDArray[np.float32], known: LabelledSet
        ) -> NDArray[np.float32]:
            adapter = learn_thresholds(config.adapter, cleaner, known, config.seed, show=False)
            graphs = labelled.classes
            with torch.no_grad():
                summary = class_summary(torch.from_numpy(answer)[graphs.row], graphs)
                level = torch.sigmoid(adapter(summary)).numpy()
            by_label = np.full(int(target.label.max()) + 1, np.nan, np.float32)
            by_label[graphs.class_id.numpy()] = level
            return by_label

        starts = {"gcn": self.base}
        if self.drift:
            starts = {"target statistics": standardised_by(self.base, labelled), **starts}
        for prefix, cleaner in starts.items():
            answer = chance(cleaner)
            yield prefix, f1(answer > 0.5, is_clean)
            if self.brief:
                continue
            # Only the target shows what its own statistics do to the answers.
            believed = labelled.only(torch.from_numpy(answer > 0.5))
            known = self.source if cleaner is self.base else believed
            level = thresholds(cleaner, answer, known)[target.label]
            yield f"{prefix} + adapter", f1(answer > level, is_clean)
            yield (
                f"{prefix} + meta, first order",
                f1(chance(adapted(cleaner, second_order=False)) > 0.5, is_clean),
            )
            cleaner = adapted(cleaner, second_order=True)
            answer = chance(cleaner)
            yield f"{prefix} + meta", f1(answer > 0.5, is_clean)
            threshold = thresholds(cleaner, answer, known)
            yield f"{prefix} + meta + adapter", f1(answer > threshold[target.label], is_clean)
        for name, gcn in (("posterior alone", False), ("facetrain clean", True)):
            yield from self._stage(name, config.model_copy(update={"gcn": gcn}), images, target)
        if self.brief:
            return
        yield "meta, hindsight", best_f1(answer, is_clean)
        for name, level in (("error of t=0.5", np.full_like(threshold, 0.5)),
                            ("error of the adapter's t", threshold)):  # fmt: skip
            error = threshold_error(level, answer, target.label, is_clean)
            yield name, float(np.nanmean(error))
        for name, (graph, cleaner) in self.others.items():
            yield (
                name,
                f1(chance(cleaner, LabelledSet(images, target.label, graph)) > 0.5, is_clean),
            )

    def _stage(
        self, name: str, config: CleanConfig, images: EmbeddedSet, target: Features
    ) -> Iterator[Row]:
        assert target.is_clean is not None
        labelled = LabelledSet(images, target.label, config.graph)
        stage = clean(config, labelled, self.source, self.folder, MESH, _DIGEST)
        yield name, f1(stage.kept, target.is_clean)
        yield f"{name}, calibration error", calibration(stage.clean_probability, target.is_clean)


def main() -> None:
    """Parse, run, print."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, nargs="+", required=True)
    parser.add_argument("--truth", type=Path, help="npz with is_clean of the one target")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the cleaner; none: no cleaner"
    )
    parser.add_argument("--cleanlab", action="store_true", help="slow: minutes a target")
    parser.add_argument("--drift", action="store_true", help="also with the target's statistics")
    parser.add_argument("--brief", action="store_true", help="gcn at 0.5 and the stage alone")
    parser.add_argument("--no-gcn", action="store_true", help="the posterior alone: seconds")
    parser.add_argument("--inputs", action="store_true", help="also the GCN's other inputs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    source = load_features(arguments.source, need_is_clean=True)
    rows: list[dict[str, Any]] = []

    def add(target: Path, seed: int | None, method: str, value: float) -> None:
        rows.append({"target": target.stem, "seed": seed, "method": method, "value": value})
        if arguments.json:
            write_json(arguments.json, {"source": arguments.source.stem, "rows": rows})

    def load(path: Path) -> Features:
        target = load_features(path, need_is_clean=arguments.truth is None)
        if arguments.truth:
            with np.load(arguments.truth, allow_pickle=False) as truth:
                target = Features(target.embedding, target.label, truth["is_clean"])
        return target

    for path in arguments.target:
        for method, value in (
            ()
            if arguments.brief or arguments.no_gcn
            else baseline_rows(load(path), arguments.cleanlab)
        ):
            add(path, None, method, value)
    for seed in arguments.seeds:
        cleaners = Cleaners(
            source,
            CleanConfig(seed=seed, gcn=not arguments.no_gcn),
            inputs=arguments.inputs,
            drift=arguments.drift,
            brief=arguments.brief,
        )
        for path in arguments.target:
            for method, value in cleaners.rows(load(path)):
                add(path, seed, method, value)
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, a line a method and a column a target."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for method in methods:
        cells = []
        for target in targets:
            values = [r["value"] for r in rows if (r["method"], r["target"]) == (method, target)]
            cells.append(mean_and_spread(values) or "-")
        lines.append([method, *cells])
    return markdown_table(["method", *targets], lines)


if __name__ == "__main__":
    main()
