"""Templates, searches and TAR conventions on cases worked by hand, and against slow sums."""

import numpy as np
import pytest

from facetrain.metrics import template_pooling
from facetrain.metrics.identification import identification, mean_identification, search
from facetrain.metrics.tar_conventions import tar_by_convention
from facetrain.metrics.template_pooling import add_images, media_weight, pair_similarity
from facetrain.metrics.verification import roc_counts


def test_media_weights_by_hand():
    # Template 0: media 5 twice, media 7 once. Template 1: media 5 (another one) once.
    weight = media_weight(np.array([0, 0, 0, 1]), np.array([5, 7, 5, 5]))
    assert weight.tolist() == [0.5, 1.0, 0.5, 1.0]


def test_sums_do_not_depend_on_order_or_chunks():
    generator = np.random.default_rng(0)
    template, media = generator.integers(0, 9, 200), generator.integers(-3, 4, 200)
    embedding = generator.normal(size=(200, 5)).astype(np.float32)
    expected = np.zeros((9, 5))
    for t in range(9):
        for m in np.unique(media[template == t]):
            own = embedding[(template == t) & (media == m)].astype(np.float64)
            expected[t] += own.mean(axis=0)
    order = generator.permutation(200)
    weight = media_weight(template[order], media[order])
    total = np.zeros((9, 5))
    for part in np.array_split(np.arange(200), 7):
        add_images(total, embedding[order][part], template[order][part], weight[part])
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", [0, 32])
@pytest.mark.parametrize("block", [7, 1000])
def test_pair_similarity_is_the_dot_product(monkeypatch, ratio, block):
    # Ratio 0 gathers row by row, 32 multiplies matrices here.
    monkeypatch.setattr(template_pooling, "_DENSE_RATIO", ratio)
    monkeypatch.setattr(template_pooling, "_PAIRS_AT_ONCE", block)
    generator = np.random.default_rng(1)
    unit = generator.normal(size=(30, 8))
    first, second = generator.integers(0, 30, (2, 300))
    expected = [unit[a] @ unit[b] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(pair_similarity(unit, first, second), expected, rtol=0, atol=1e-14)
    assert pair_similarity(unit, first[:0], second[:0]).shape == (0,)


def test_search_by_hand():
    axis = np.eye(4)
    gallery, subject = axis[:3], np.array([10, 11, 12])
    probe = np.array(
        [
            [0.9, 0.1, 0.0, 0.0],  # 10: found first
            [0.2, 0.5, 0.5, 0.0],  # 11: at the same similarity as 12, which outranks it
            [0.3, 0.2, 0.1, 0.0],  # 12: third
            [0.8, 0.0, 0.0, 0.0],  # 99: not enrolled, most like 10
            [0.0, 0.0, 0.4, 0.0],  # 98: not enrolled, most like 12
        ]
    )
    found = search(probe, np.array([10, 11, 12, 99, 98]), gallery, subject)
    assert found.rank.tolist() == [1, 2, 3, 0, 0]
    assert found.mate_similarity[:3].tolist() == [0.9, 0.5, 0.1]
    assert found.other_similarity.tolist() == [0.1, 0.5, 0.3, 0.8, 0.4]
    numbers = identification(found)
    assert numbers["rank_1"] == pytest.approx(1 / 3)
    assert numbers["rank_5"] == 1
    assert numbers["tpir_at_fpir"] == {"1e-1": None, "1e-2": None}  # two unmated probes only
    assert (numbers["num_mated_probes"], numbers["num_unmated_probes"]) == (3, 2)


def test_tpir_takes_the_lowest_threshold_allowed():
    # Ten unmated probes whose best similarities are 0.1 ... 1.0: at FPIR 0.1 one may raise an
    # alarm, so the threshold is 0.9 and what is accepted lies above it.
    gallery = np.array([[1.0, 0.0], [0.0, 1.0]])
    unmated = np.array([[value, 0.0] for value in np.arange(1, 11) / 10])
    mated = np.array([[0.0, 0.95], [0.0, 0.9], [0.0, 0.85], [0.99, 0.98]])
    probe = np.concatenate([unmated, mated])
    subject = np.array([9] * 10 + [2] * 4)
    numbers = identification(search(probe, subject, gallery, np.array([1, 2])))
    assert numbers["tpir_at_fpir"]["1e-1"] == 1 / 4  # 0.9 is not above, 0.98 is not first
    assert numbers["rank_1"] == 3 / 4


def test_a_subject_with_several_templates_is_as_near_as_the_best():
    gallery = np.array([[0.2, 0.0], [0.7, 0.0], [0.5, 0.0]])
    found = search(np.array([[1.0, 0.0]]), np.array([1]), gallery, np.array([1, 1, 2]))
    assert (found.rank[0], found.mate_similarity[0], found.other_similarity[0]) == (1, 0.7, 0.5)


def test_the_mean_of_galleries_is_none_where_one_is():
    one = {"rank_1": 0.5, "rank_5": 0.6, "rank_10": 1.0, "tpir_at_fpir": {"1e-1": 0.2}}
    two = {"rank_1": 0.7, "rank_5": 0.6, "rank_10": 1.0, "tpir_at_fpir": {"1e-1": None}}
    mean = mean_identification([one, two])
    assert mean["rank_1"] == pytest.approx(0.6)
    assert mean["tpir_at_fpir"] == {"1e-1": None}


def test_conventions_by_hand():
    # Similarity falls from left to right; g genuine, i impostor. FAR goes up by 1/8 at each i.
    # g g i g i i i g i i i i: after 0..8 impostors the TAR is 2/4, 3/4, 3/4, 3/4, 1, 1, 1, 1, 1.
    kinds = "ggigiiigiiii"
    same = np.array([kind == "g" for kind in kinds])
    distance = np.arange(len(kinds)) / 10
    nearest, interpolated = tar_by_convention(*roc_counts(distance, same))
    # 0.1 is nearer to 1/8 than to 0, and the highest point there is 3/4.
    assert nearest["1e-1"] == 0.75
    assert nearest["1e-2"] == 0.5
    # From (0, 2/4) to (1/8, 3/4): at 0.1 it is 0.5 + 0.25 x 0.8.
    assert interpolated["1e-1"] == pytest.approx(0.7, abs=1e-12)
    assert interpolated["1e-2"] == pytest.approx(0.5 + 0.25 * 0.08, abs=1e-12)


def test_conventions_need_both_kinds():
    for same in (np.ones(3, bool), np.zeros(3, bool)):
        counts = roc_counts(np.arange(3.0), same)
        assert set(tar_by_convention(*counts)[0].values()) == {None}
