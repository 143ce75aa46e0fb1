"""What a learned cleaner must beat: scores and decisions from embeddings and labels alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facetrain.core.errors import ConfigError
from facetrain.core.rng import torch_generator
from facetrain.data.features import unit_rows
from facetrain.dist.mesh import Mesh
from facetrain.heads.head_config import HeadConfig
from facetrain.heads.margin_head import MarginHead
from facetrain.heads.sub_centres import drop_beyond

CLEANLAB_FILTERS = (
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_self_confidence",
    "low_normalized_margin",
)

# scikit-learn's 1 underfits rows of norm 1: with it, cleanlab's F1 on 125 LFW identities with 20 %
# flips is 0.78 (MobileFaceNet) and 0.45 (dlib), with 30 it is 0.92 and 0.91.
_INVERSE_REGULARISATION = 30.0
_EPOCHS, _BATCH, _RATE = 30, 256, 0.01  # of the sub-centres


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A cleaner's opinion of N images."""

    score: NDArray[np.float64]  # (N,) higher is cleaner
    kept: NDArray[np.bool_]  # (N,)


def class_centre(embedding: NDArray[Any], label: NDArray[np.integer]) -> Baseline:
    """Cosine to the mean of the class's unit embeddings, cut by one Otsu threshold over all images.

    Args:
        embedding: (N, D), rows not zero.
        label: (N,).
    """
    unit_embedding = unit_rows(embedding)  # (N, D)
    classes, dense = np.unique(label, return_inverse=True)
    order = np.argsort(dense, kind="stable")
    first = np.searchsorted(dense[order], np.arange(len(classes)))
    centre = np.add.reduceat(unit_embedding[order], first, axis=0)  # (C, D)
    norm = np.linalg.norm(centre, axis=1, keepdims=True)
    centre /= np.where(norm > 0, norm, 1)  # images that cancel out are all at cosine 0
    score = np.einsum("nd,nd->n", unit_embedding, centre[dense]).astype(np.float64)
    return Baseline(score, score > otsu_threshold(score))


def otsu_threshold(value: NDArray[Any]) -> float:
    """The cut (kept: above it) that leaves the least variance inside the two parts.

    Otsu, "A threshold selection method from gray-level histograms", IEEE SMC 1979, over all values
    rather than a histogram. Equal values, which nothing divides, all lie above it. N log N.
    """
    value = np.sort(np.asarray(value, np.float64))
    if value[0] == value[-1]:
        return float(value[0]) - 1
    below = np.arange(1, len(value))
    mean_below = np.cumsum(value)[:-1] / below
    mean_above = (value.sum() - np.cumsum(value)[:-1]) / (len(value) - below)
    between = below * (len(value) - below) * (mean_above - mean_below) ** 2.0
    between[value[1:] == value[:-1]] = -1.0  # no threshold parts equal values
    return float(value[int(between.argmax())])


def biggest_component(
    embedding: NDArray[Any], label: NDArray[np.integer], thresholds: Sequence[float]
) -> NDArray[np.bool_]:
    """Images in the largest connected part of their class, at each cosine threshold.

    Two images of a class are joined when their cosine is at least the threshold; of equally large
    parts the one of the first image stays. All thresholds share one maximum spanning tree a class,
    found in n^2 time (Prim) for n images, so that a sweep costs little more than one threshold.

    Args:
        embedding: (N, D), rows not zero.
        label: (N,).
        thresholds: T cosines.

    Returns:
        kept (T, N).
    """
    unit_embedding = unit_rows(embedding)
    kept = np.zeros((len(thresholds), len(label)), np.bool_)
    order = np.argsort(label, kind="stable")
    _, first = np.unique(np.asarray(label)[order], return_index=True)
    cosine = np.asarray(thresholds, np.float64)  # (T,)
    for rows in np.split(order, first[1:]):
        part = np.tile(np.arange(len(rows)), (len(cosine), 1))  # (T, n) by the part's first node
        for node, parent, similarity in _maximum_spanning_tree(unit_embedding[rows]):
            part[:, node] = np.where(similarity >= cosine, part[:, parent], node)
        for place, parts in enumerate(part):
            size = np.bincount(parts)[parts]  # (n,) of the part each image is in
            kept[place, rows] = parts == parts[size.argmax()]
    return kept


def _maximum_spanning_tree(unit_embedding: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """Edges (node, parent, cosine) of n images, every parent before its children; node 0 has none.

    Prim's algorithm: the next node is the one most similar to any node so far.
    """
    similarity = unit_embedding @ unit_embedding[0]  # (n,) to the tree
    parent = np.zeros(len(unit_embedding), np.int64)
    similarity[0] = -np.inf  # in the tree
    edges: list[tuple[int, int, float]] = []
    outside = np.ones(len(unit_embedding), np.bool_)
    outside[0] = False
    for _ in range(1, len(unit_embedding)):
        node = int(similarity.argmax())
        edges.append((node, int(parent[node]), float(similarity[node])))
        outside[node] = False
        similarity[node] = -np.inf
        cosine = unit_embedding @ unit_embedding[node]
        closer = outside & (cosine > similarity)
        similarity[closer], parent[closer] = cosine[closer], node
    return edges


def knn_agreement(label: NDArray[np.integer], neighbours: NDArray[np.integer]) -> Baseline:
    """Share of an image's nearest neighbours in the whole set that have its label; kept from half.

    The share is of the neighbours that could agree: in a class of n images at most n - 1 do. An
    image alone in its class has a score of 0.5, which says nothing, and is kept.

    Args:
        label: (N,).
        neighbours: (N, K) rows of the neighbours, the image itself left out; -1 where none is.
    """
    label = np.asarray(label)
    agrees = (neighbours >= 0) & (label[neighbours] == label[:, None])  # (N, K)
    _, dense, size = np.unique(label, return_inverse=True, return_counts=True)
    possible = np.minimum((neighbours >= 0).sum(axis=1), size[dense] - 1)
    score = np.where(possible > 0, agrees.sum(axis=1) / np.maximum(possible, 1), 0.5)
    return Baseline(score, score >= 0.5)


def sub_centre_drop(embedding: NDArray[Any], label: NDArray[np.integer], seed: int = 0) -> Baseline:
    """Sub-center ArcFace's cleaning: beyond 75 degrees from the dominant of three sub-centres.

    The features are what they are, so only the sub-centres are trained, under CosFace. The mean is
    taken off first: some networks give strangers a cosine of 0.85.

    Args:
        embedding: (N, D).
        label: (N,) from 0 up, without gaps.
    """
    unit = unit_rows(embedding).astype(np.float32)
    x = torch.from_numpy(unit_rows(unit - unit.mean(0)).astype(np.float32))
    y = torch.from_numpy(np.asarray(label, np.int64))
    config = HeadConfig(num_centres=3, scale=32, cosine_margin=0.2)
    head = MarginHead(config, int(y.max()) + 1, x.shape[1], Mesh.single(), seed)
    optimizer = torch.optim.Adam(head.parameters(), _RATE)
    for epoch in range(_EPOCHS):
        order = torch.randperm(len(x), generator=torch_generator(seed, "sub-centres", epoch))
        for rows in torch.split(order, _BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(head(x[rows], y[rows]).loss.mean())
            optimizer.step()
    answer = drop_beyond(x, y, head.weight.detach())
    return Baseline(answer.cosine.double().numpy(), answer.kept.numpy())


def out_of_sample_probability(
    embedding: NDArray[Any], label: NDArray[np.integer], folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """(N, C) class probabilities of each image from a logistic regression that did not see it.

    What cleanlab asks for. Columns follow the sorted labels; memory is N times C, so this is for
    thousands of images, not millions.

    Raises:
        ConfigError: scikit-learn is not installed, or no class has an image for every fold.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        raise _needs_bench(error) from None
    classes, dense, size = np.unique(label, return_inverse=True, return_counts=True)
    if len(classes) < 2 or size.max() < folds:
        raise ConfigError(
            f"cleanlab needs two classes and one of at least {folds} images, got {len(classes)} "
            f"classes of at most {size.max()} images"
        )
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=1000)
    probability: NDArray[np.float64] = cross_val_predict(
        model, unit_rows(embedding), dense, cv=splits, method="predict_proba"
    )
    return probability


def cleanlab(
    probability: NDArray[np.float64], label: NDArray[np.integer], filter_by: str
) -> Baseline:
    """Confident learning (Northcutt et al., JAIR 2021) as the package cleanlab has it.

    Args:
        probability: (N, C) out-of-sample, from `out_of_sample_probability`.
        label: (N,).
        filter_by: one of CLEANLAB_FILTERS; which is best depends on the data.

    Raises:
        ConfigError: cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise _needs_bench(error) from None
    _, dense = np.unique(label, return_inverse=True)
    issue = find_label_issues(dense, probability, filter_by=filter_by, n_jobs=1)
    return Baseline(probability[np.arange(len(dense)), dense], ~issue)


def datalab(embedding: NDArray[Any], label: NDArray[np.integer]) -> Baseline:
    """Cleanlab's Datalab on features: its label issues by each image's ten nearest.

    Other numbers of them, 2, 3 or 5, find no more of LFW's planted noise.

    Args:
        embedding: (N, D).
        label: (N,).

    Raises:
        ConfigError: cleanlab is not installed with its Datalab.
    """
    try:
        import datasets as _  # without it cleanlab's own error is an AttributeError
        from cleanlab import Datalab
    except ImportError as error:
        raise _needs_bench(error) from None
    _, dense = np.unique(label, return_inverse=True)
    lab = Datalab({"label": dense}, label_name="label", task="classification", verbosity=0)
    lab.find_issues(features=unit_rows(embedding), issue_types={"label": {}})
    issues = lab.get_issues("label")
    return Baseline(issues["label_score"].to_numpy(), ~issues["is_label_issue"].to_numpy())


def _needs_bench(error: ImportError) -> ConfigError:
    return ConfigError(
        f"the cleanlab baseline must have its packages, but {error}; "
        "pip install '.[bench]' in this folder"
    )
