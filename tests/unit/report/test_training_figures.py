"""Figures of a training: what they show is read back from their data."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from facetrain.report.training_figures import (
    alpha_beta_figure,
    confidence_figure,
    confusion_figure,
    training_curves_figure,
    weight_figure,
)


def test_training_curves_need_two_losses() -> None:
    entries = [{"step": s, "loss": 9.0 - s, "learning_rate": 0.1} for s in (1, 2, 3)]
    assert training_curves_figure(entries[:1]) is None
    plain = training_curves_figure(entries)
    assert plain is not None
    loss, rate = plain.axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 8], [2, 7], [3, 6]]
    assert np.asarray(rate.lines[0].get_ydata()).tolist() == [0.1, 0.1, 0.1]
    evaluated = [*entries, {"step": 3, "evaluation": {"val": {"accuracy": 0.9}}}]
    figure = training_curves_figure(evaluated)
    assert figure is not None
    assert [line.get_xydata().tolist() for line in figure.axes[2].lines] == [[[3, 0.9]]]


def means(figure: Figure) -> dict[str, float]:
    """Where the weights of each group of the first panel lie on average."""
    found = {}
    for steps in figure.axes[0].patches:
        height, edges, _ = steps.get_data()
        share = height**2  # drawn as square roots
        assert share.sum() == pytest.approx(1)
        found[str(steps.get_label())] = float((share * (edges[1:] + edges[:-1]) / 2).sum())
    return found


def test_noise_and_clean_samples_lie_where_their_weights_are() -> None:
    is_clean = np.arange(100) < 60
    weight = np.where(is_clean, 0.9, 0.1) + np.linspace(-0.05, 0.05, 100)
    found = means(weight_figure(weight[None], is_clean, "gate"))
    bin_width = 0.9 / 40
    assert found["clean (60)"] == pytest.approx(weight[is_clean].mean(), abs=bin_width)
    assert found["noise (40)"] == pytest.approx(weight[~is_clean].mean(), abs=bin_width)


def test_weights_of_many_epochs_get_six_panels_and_missing_ones_are_left_out() -> None:
    weight = np.full((50, 40), np.nan)
    weight[:, :20] = 0.5
    weight[7] = np.nan
    figure = weight_figure(weight, None, "sigma", np.arange(50) + 1)
    # Of the 49 epochs that have weights the 1st, 11th, 20th, 30th, 39th and 49th, counted from 1.
    assert [axes.get_ylabel() for axes in figure.axes] == ["1", "12", "21", "31", "40", "50"]
    assert {steps.get_label() for axes in figure.axes for steps in axes.patches} == {"samples (20)"}
    with pytest.raises(AssertionError, match="no epoch"):
        weight_figure(np.full((3, 4), np.nan), None, "sigma")


def test_a_perfect_estimate_is_a_diagonal_beside_the_noisy_labels() -> None:
    true = np.repeat(np.arange(20), 10)
    given = (true + 10) % 20
    noisy, estimated = (
        axes.images[0].get_array() for axes in confusion_figure(given, true, true).axes
    )
    np.testing.assert_array_equal(noisy, np.roll(np.eye(20), 10, axis=1))
    np.testing.assert_array_equal(estimated, np.eye(20))
    assert len(confusion_figure(given, true).axes) == 1  # without the truth


def test_the_confidence_falls_and_is_sharpest_for_the_smallest_lambda() -> None:
    curves = confidence_figure(0.5).axes[0].lines[:3]
    assert [line.get_label() for line in curves] == ["λ = 0.125", "λ = 0.5", "λ = 2"]
    right = [float(np.asarray(line.get_ydata())[-1]) for line in curves]
    assert right == sorted(right)
    assert all((np.diff(np.asarray(line.get_ydata())) <= 1e-12).all() for line in curves)


def test_alpha_and_beta_begin_when_there_are_weights() -> None:
    is_clean = np.arange(10) < 5
    alpha = np.tile(np.where(is_clean, 1.0, 0.1), (4, 1))
    beta = np.tile(np.where(is_clean, 0.9, 0.7), (4, 1))
    alpha[0] = beta[0] = np.nan  # warm-up
    lines = alpha_beta_figure(alpha, beta, is_clean).axes[0].lines
    found = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in lines}
    expected = {"alpha, noise (5)": 0.1, "alpha, clean (5)": 1.0,
                "beta, noise (5)": 0.7, "beta, clean (5)": 0.9}  # fmt: skip
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [[epoch, value] for epoch in (1, 2, 3)])
