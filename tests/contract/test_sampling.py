"""Sampling by identities from the command line: it resumes to the same bits."""

from pathlib import Path

import pytest
import torch
from helpers.cli import Call

from facetrain.models.weights import load_module


@pytest.mark.parametrize("words", [["sampling.by=identity"], ["sampling={by: batch}"]])
def test_a_cut_training_is_an_undisturbed_one(
    recipe: Path, tmp_path: Path, call: Call, words: list[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call("train", recipe, "--out", whole, *words)[0] == 0
    assert call("train", recipe, "--out", cut, *words, "train.max_steps=3")[0] == 0
    assert call("train", recipe, "--out", cut, *words)[0] == 0
    other = tmp_path / "other"
    assert call("train", recipe, "--out", other)[0] == 0
    states = [load_module(path)[0].state_dict() for path in (whole, cut, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["fc.weight"], states[2]["fc.weight"])


def test_other_sampling_does_not_continue_a_run(recipe: Path, tmp_path: Path, call: Call) -> None:
    assert call("train", recipe, "--out", tmp_path / "t", "train.max_steps=3")[0] == 0
    assert "another sampling" in call.refused(
        "train", recipe, "--out", tmp_path / "t", "sampling.by=identity"
    )


def test_targets_that_average_over_epochs_need_every_image(
    recipe: Path, tmp_path: Path, call: Call
) -> None:
    words = ("sampling.by=identity", "robust={name: nal, targets: {count: 3}}")
    assert "robust.targets averages" in call.refused(
        "train", recipe, "--out", tmp_path / "t", *words
    )
