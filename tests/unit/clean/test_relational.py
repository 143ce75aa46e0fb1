"""Relational features against a slow per-image oracle, and what they must not depend on."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.people import embedded, people, random_unit, rotation
from numpy.typing import NDArray

from facetrain.clean.labelled_set import GraphConfig, LabelledSet, Piece
from facetrain.clean.relational import (
    NUM_FEATURES,
    Context,
    Scale,
    measure_scale,
    most_votes,
    relational_features,
)
from facetrain.core.rng import numpy_generator, torch_generator
from facetrain.graph.class_graphs import Neighbourhoods, group_by_class

INSIDE, RELATIVE, SUMMARY = slice(0, 13), slice(13, 26), slice(26, 36)
OUTSIDE, BELIEF, LOG_SIZE = slice(36, 47), 47, 34
NUM_NEIGHBOURS = 5
SCALE = Scale(0.0, 0.35, 0.8)


def labelled(embedding: NDArray[Any], label: NDArray[Any], num_context: int = 12) -> LabelledSet:
    config = GraphConfig(num_neighbours=NUM_NEIGHBOURS)
    made = LabelledSet(embedded(embedding, num_context), label, config)
    made.scale = SCALE  # its own is drawn from random pairs, which a permutation changes
    return made


def mixed(seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], torch.Tensor]:
    """Embeddings, labels 0, 3, 6, ... of which some are wrong or absent, and weights.

    Classes of one, two and three images among larger ones; the image in row 1 also is row 0.
    """
    embedding, label = people(seed, 9, (8, 24))
    generator = numpy_generator(seed, "mixed")
    wrong = generator.random(len(label)) < 0.3
    label = np.where(wrong, generator.integers(9, size=len(label)), label)
    label[(generator.random(len(label)) < 0.05) & (label > 3)] = -1
    embedding[1], label[0], label[1] = embedding[0], 4, 5
    for few in (1, 2, 3):
        label[np.flatnonzero(label == few)[few:]] = 8
    label = np.where(label >= 0, 3 * label, -1)
    weight = generator.uniform(0.05, 0.95, len(label)).astype(np.float32)
    return embedding, label, torch.from_numpy(weight)


def by_row(piece: Piece, features: torch.Tensor) -> NDArray[Any]:
    """Features in the data set's order, NaN for absent images."""
    found = np.full((piece.owner.embedded.num_images, features.shape[1]), np.nan)
    found[piece.graphs.row.numpy()] = features.numpy()
    return found


def sigmoid(value: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(value)))


def scaled(cosine: Any) -> Any:
    """0 -> 0, 0.35 -> 0.3, 0.8 -> 1, straight lines between and beyond."""
    return np.where(
        np.asarray(cosine) < 0.35, cosine / 0.35 * 0.3, 0.3 + (cosine - 0.35) / 0.45 * 0.7
    )


def slow_inside(unit: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """The 13 columns of one class (n, D)."""
    count = len(unit)
    found = np.zeros((count, 13))
    cosine = unit @ unit.T
    for i in range(count):
        others = [j for j in range(count) if j != i]
        others.sort(key=lambda j: -cosine[i, j])
        if not others:
            continue
        centre = sum(weight[j] * unit[j] for j in others)
        columns = [scaled(unit[i] @ centre / np.linalg.norm(centre))]
        level = [float(scaled(cosine[i, j])) for j in others]
        mass = [float(weight[j]) for j in others]
        for count_wanted in (1, 3, 5, 20):
            left, total = float(count_wanted), 0.0
            for value, part in zip(level, mass, strict=True):
                total += min(part, left) * value
                left -= min(part, left)
            columns.append(total / (count_wanted - left))
        for quantile in (0.9, 0.75, 0.5, 0.25, 0.1):
            reached = 0.0
            for value, part in zip(level, mass, strict=True):  # noqa: B007
                reached += part
                if reached >= (1 - quantile) * sum(mass):
                    break
            columns.append(value)
        for threshold in (0.3, 0.6, 0.9):
            above = sigmoid((np.array(level) - threshold) / 0.08)
            columns.append(above @ mass / sum(mass))
        found[i] = columns
    return found


def slow_outside(own: int, similarity: Any, label: Any, weight: Any) -> list[float]:
    """The 11 columns of one image from its context (K,), label -1 counting for nothing."""
    present = [
        (float(scaled(s)), int(y), float(w))
        for s, y, w in zip(similarity, label, weight, strict=True)
        if y >= 0
    ]
    votes: dict[int, float] = {}
    for level, y, w in present:
        votes[y] = votes.get(y, 0.0) + w * float(sigmoid((level - 0.55) / 0.08))
    mine = votes.pop(own, 0.0)
    best = max(votes.values(), default=0.0)
    lowest = min((level for level, _, _ in present), default=0.0)
    nearest_own = max((level for level, y, _ in present if y == own), default=lowest)
    nearest_other = max((level for level, y, _ in present if y != own), default=lowest)
    share = [sum(y == own for _, y, _ in present[:k]) / k for k in (1, 3, 5, 10)]
    return [
        np.log1p(mine), np.log1p(best), mine / (mine + best + 0.3), best / (mine + best + 0.3),
        nearest_other, nearest_own - nearest_other, *share,
        max((level for level, _, _ in present), default=0.0),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("certain", [True, False], ids=["first pass", "second pass"])
def test_features_against_the_oracle(seed: int, certain: bool) -> None:
    embedding, label, weight = mixed(seed)
    owner = labelled(embedding, label)
    weight = torch.full_like(weight, 0.999) if certain else weight
    piece = owner.piece()
    found = piece.features(weight).numpy()
    assert found.shape == (int((label >= 0).sum()), NUM_FEATURES)
    belief, nodes = weight.numpy().astype(np.float64), piece.graphs.row.numpy()
    unit = piece.unit_embedding.numpy().astype(np.float64)
    assert sorted(np.unique(piece.graphs.size.numpy()))[:3] == [1, 2, 3]
    for own in np.unique(label[label >= 0]):
        here = np.flatnonzero(label[nodes] == own)
        mass = belief[nodes[here]]
        inside = slow_inside(unit[here], mass)
        compared = np.ones(13, np.bool_)
        compared[5:10] = not certain  # with equal weights rounding decides where a quantile falls
        # float32, sums of up to 24 terms, a sigmoid as steep as 1 / (4 * 0.08)
        np.testing.assert_allclose(
            found[here][:, INSIDE][:, compared], inside[:, compared], atol=3e-5
        )
        inside = found[here][:, INSIDE].astype(np.float64) if certain else inside
        mean = mass @ inside / mass.sum()
        np.testing.assert_allclose(found[here][:, RELATIVE], inside - mean, atol=3e-5)
        spread = np.sqrt(mass @ (inside - mean) ** 2 / mass.sum() + 1e-6)
        chosen = [0, 2, 7, 11]
        sizes = [np.log(len(here)), np.log(mass.sum() + 0.1)]
        summary = np.concatenate([mean[chosen], spread[chosen], sizes])
        np.testing.assert_allclose(
            found[here][:, SUMMARY], np.tile(summary, (len(here), 1)), atol=2e-4
        )
    logit = np.clip(np.log(belief / (1 - belief)), -np.log(399), np.log(399))
    np.testing.assert_allclose(found[:, BELIEF], logit[nodes] / 3, atol=1e-4)
    for i, row in enumerate(nodes):
        other = piece.context_row[i].numpy()
        similarity = piece.context_similarity[i].numpy()
        around = np.where(other >= 0, label[other], -1)
        around[(similarity >= 0.9995) & (around != label[row])] = -1
        expected = slow_outside(label[row], similarity, around, belief[other])
        np.testing.assert_allclose(found[i, OUTSIDE], expected, atol=3e-5)


def test_by_hand_in_the_plane() -> None:
    """Images at 0, 60 and 120 degrees of one class, all believed; a scale that changes nothing.

    From 0: cosines 0.5 and -0.5; the others' centre at 90, cosine 0. Of 60: both 0.5, centre
    (0.5, 0) + (0.5, 0): 60 as well, cosine 1.
    """
    angle = torch.deg2rad(torch.tensor([0.0, 60.0, 120.0]))
    unit = torch.stack([angle.cos(), angle.sin()], 1)
    graphs = group_by_class(np.array([4, 4, 4]))
    nobody = Context(torch.full((3, 1), -1.0), torch.full((3, 1), -1), torch.zeros(3, 1))
    plain = Scale(0.0, 0.3, 1.0)  # 0 -> 0, 0.3 -> 0.3, 1 -> 1
    found = relational_features(
        unit, graphs, Neighbourhoods(unit, graphs), torch.ones(3), nobody, plain
    )
    np.testing.assert_allclose(found[:, 0], [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(found[:, 1], [0.5, 0.5, 0.5], atol=1e-5)  # nearest
    np.testing.assert_allclose(found[:, 2], [0, 0.5, 0], atol=1e-5)  # nearest three: there are two
    np.testing.assert_allclose(found[:, LOG_SIZE], np.full(3, np.log(3)), atol=1e-5)
    assert (found[:, OUTSIDE] == 0).all()
    assert (found[:, BELIEF] == 0).all()


def test_scale_by_hand() -> None:
    scale = Scale(0.1, 0.3, 0.8)
    cosine = torch.tensor([-0.1, 0.1, 0.2, 0.3, 0.55, 0.8, 1.0])
    np.testing.assert_allclose(scale(cosine), [-0.3, 0, 0.15, 0.3, 0.65, 1, 1.28], atol=1e-6)


def test_scale_against_all_pairs() -> None:
    embedding, label = people(0, 30, (10, 20))
    images = embedded(embedding)
    graphs = group_by_class(label)
    found = measure_scale(images.rows, graphs, torch_generator(0, "test"))
    unit = images.rows(torch.arange(len(label))).numpy()
    cosine = unit @ unit.T
    strangers = cosine[label[:, None] != label]
    # 8192 pairs: the standard error of the 95th percentile is 0.0024 / density, here about 0.005.
    assert found.median_stranger == pytest.approx(np.median(strangers), abs=0.02)
    assert found.high_stranger == pytest.approx(np.quantile(strangers, 0.95), abs=0.02)
    np.fill_diagonal(cosine, np.nan)
    alike = np.where(label[:, None] == label, cosine, np.nan)
    upper = np.nanquantile(alike, 0.75, axis=1)
    assert found.same == pytest.approx(np.quantile(upper, 0.75), abs=0.03)


@pytest.mark.parametrize(
    "label", [[0], [0, 0], [0, 1], [0, 1, 1, 2, 2], [3, 3, 3, 3]], ids=lambda label: str(label)
)
def test_scale_of_hardly_any_images(label: list[int]) -> None:
    """Nobody or no stranger to measure, and still three ascending levels."""
    unit = torch.from_numpy(random_unit(numpy_generator(0, "few"), len(label), 6))
    scale = measure_scale(
        lambda row: unit[row], group_by_class(np.array(label)), torch_generator(0)
    )
    assert scale.median_stranger < scale.high_stranger < scale.same
    assert np.isfinite([scale.median_stranger, scale.same]).all()


@pytest.mark.parametrize("seed", range(2))
def test_permuted_images_permute_rows(seed: int) -> None:
    embedding, label, weight = mixed(seed)
    embedding[1] = people(5, 1)[0][0]  # without the copy: of two equal similarities, one is first
    order = numpy_generator(seed, "order").permutation(len(label))
    found = []
    for rows in (np.arange(len(label)), order):
        piece = labelled(embedding[rows], label[rows]).piece()
        found.append(by_row(piece, piece.features(weight[torch.from_numpy(rows)])))
    np.testing.assert_allclose(found[1], found[0][order], atol=1e-4)


def test_names_of_classes_change_nothing() -> None:
    embedding, label, weight = mixed()
    name = 7 * numpy_generator(0, "names").permutation(label.max() + 1)
    found = []
    for labels in (label, np.where(label >= 0, name[label], -1)):
        piece = labelled(embedding, labels).piece()
        found.append(by_row(piece, piece.features(weight)))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


def test_turning_the_space_changes_nothing() -> None:
    embedding, label, weight = mixed()
    turned = embedding @ rotation(0, embedding.shape[1])
    assert np.abs(turned - embedding).max() > 0.1
    found = []
    for images in (embedding, turned):
        piece = labelled(images, label).piece()
        found.append(by_row(piece, piece.features(weight)))
    # float32 cosines, times up to 12 in a sigmoid
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


@pytest.mark.parametrize("size", [2, 3, 12])
def test_disbelieved_images_do_not_matter_to_the_others(size: int) -> None:
    """All columns but the log size."""
    generator = numpy_generator(size, "disbelieved")
    unit = torch.from_numpy(random_unit(generator, size, 6))
    other = unit.clone()
    other[0] = torch.from_numpy(random_unit(generator, 1, 6))[0]
    weight = torch.from_numpy(generator.uniform(0.3, 0.9, size).astype(np.float32))
    weight[0] = 0
    graphs = group_by_class(np.zeros(size, np.int64))
    nobody = Context(torch.full((size, 1), -1.0), torch.full((size, 1), -1), torch.zeros(size, 1))
    first, second = (
        relational_features(one, graphs, Neighbourhoods(one, graphs), weight, nobody, SCALE)
        for one in (unit, other)
    )
    columns = [i for i in range(NUM_FEATURES) if i != LOG_SIZE]
    if size == 2:  # the only other image is disbelieved: no weighted mean says anything
        columns = [i for i in columns if i in range(5)]
    np.testing.assert_allclose(first[1:, columns], second[1:, columns], atol=1e-5)
    assert not torch.allclose(first[0, INSIDE], second[0, INSIDE], atol=1e-2)


@pytest.mark.parametrize(
    ("embedding", "label"),
    [
        (np.ones((1, 4)), np.zeros(1, np.int64)),
        (np.ones((6, 4)), np.zeros(6, np.int64)),
        (np.ones((6, 4)), np.arange(6) // 2),
        (np.eye(6), np.arange(6)),
        (np.eye(6), np.array([0, 0, 1, 1, 1, 4])),
        (np.concatenate([np.eye(3), -np.eye(3)]), np.array([0, 0, 0, 0, 0, 0])),
    ],
    ids=["one", "identical", "identical, three classes", "classes of one", "of 1-3", "opposite"],
)
@pytest.mark.parametrize("probability", [1.0, 0.5, 0.0025])
def test_finite_whatever_comes(embedding: Any, label: Any, probability: float) -> None:
    images = embedded(embedding.astype(np.float32))
    owner = LabelledSet(images, label, GraphConfig(num_neighbours=3))
    features = owner.piece().features(torch.full((len(label),), probability))
    assert torch.isfinite(features).all()
    assert features.abs().max() < 50  # a GCN reads them


def test_the_same_image_under_another_label_says_nothing() -> None:
    embedding, label, weight = mixed()  # row 1 is row 0's image
    absent = np.where(np.arange(len(label)) == 1, -1, label)
    alike = np.where(np.arange(len(label)) == 1, label[0], label)
    found = {}
    for name, labels in (("other", label), ("absent", absent), ("alike", alike)):
        piece = labelled(embedding, labels).piece()
        found[name] = by_row(piece, piece.features(weight))[:, OUTSIDE]
    np.testing.assert_allclose(found["other"][0], found["absent"][0], atol=1e-6)
    assert np.abs(found["alike"][0] - found["absent"][0]).max() > 0.05
    near = np.flatnonzero(label == label[0])[1:]  # to the others it is a neighbour like any
    assert np.abs(found["other"][near] - found["absent"][near]).max() > 0.01


def test_most_votes_by_hand() -> None:
    label = torch.tensor([[4, 7, 4, 7, 9], [-1, 5, 5, -1, 4], [3, 3, 3, 3, 3]])
    vote = torch.tensor([[1.0, 2.0, 0.5, 1.25, 3.0], [0, 0.5, 0.5, 0, 0.75], [0.0] * 5])
    assert most_votes(label, vote).tolist() == [3.25, 1.0, 0.0]


def test_support_counts_weight() -> None:
    """Context of label 5: own at level 1 half believed; two of label 6 at 0.55, vote 0.5 each.

    own 0.5 * sigmoid(0.45 / 0.08) = 0.49820; best other 2 * 0.5 * 1.
    """
    unit = torch.tensor([[1.0, 0.0]])
    graphs = group_by_class(np.array([5]))
    around = Context(
        torch.tensor([[1.0, 0.55, 0.55]]), torch.tensor([[5, 6, 6]]), torch.tensor([[0.5, 1, 1]])
    )
    plain = Scale(0.0, 0.3, 1.0)
    whole = Neighbourhoods(unit, graphs)
    found = relational_features(unit, graphs, whole, torch.ones(1), around, plain)
    own, best = 0.5 / (1 + np.exp(-0.45 / 0.08)), 1.0
    expected = [
        np.log1p(own), np.log1p(best), own / (own + best + 0.3), best / (own + best + 0.3),
        0.55, 0.45, 1, 1 / 3, 1 / 5, 1 / 10, 1.0,
    ]  # fmt: skip
    np.testing.assert_allclose(found[0, OUTSIDE], expected, atol=1e-5)
