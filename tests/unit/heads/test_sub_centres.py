"""The sub-centre cleaning by hand, AdaFace's margin by hand, and what a checkpoint keeps."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engine import fit, make_trainer, weights

from facetrain.heads import margins
from facetrain.heads.sub_centres import drop_beyond


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_images_beyond_75_degrees_of_the_dominant_sub_centre_go() -> None:
    # Class 0 has sub-centres at 0 and 90 degrees. Images at 10, 30, 74 and 76 degrees: two are
    # nearest to the first, two to the second; of equals the first is dominant. Class 1 has them
    # at 180 and 270; images at 260, 265, 184 make the second dominant, 86 degrees from the last.
    centre = torch.tensor([[at(0), at(90)], [at(180), at(270)]]) * 3.0
    degrees = [10, 30, 74, 76, 260, 265, 184]
    embedding = torch.tensor([at(d) for d in degrees]) * torch.arange(1.0, 8)[:, None]
    answer = drop_beyond(embedding, torch.tensor([0, 0, 0, 0, 1, 1, 1]), centre)
    assert answer.dominant.tolist() == [0, 1]
    away = [10, 30, 74, 76, 10, 5, 86]
    expected = [math.cos(math.radians(d)) for d in away]
    assert answer.cosine.tolist() == pytest.approx(expected, abs=1e-6)
    assert answer.kept.tolist() == [d <= 75 for d in away]
    wider = drop_beyond(embedding, torch.tensor([0, 0, 0, 0, 1, 1, 1]), centre, degrees=80)
    assert wider.kept.tolist() == [True] * 6 + [False]


def test_adaface_table() -> None:
    # q = 0: cosface; q = 1: cos(60 - 0.4 rad) - 0.8; q = -1: cos(60 + 0.4 rad).
    cosine = torch.full((3,), 0.5, dtype=torch.float64)
    quality = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    third = math.pi / 3
    expected = [0.5 - 0.4, math.cos(third - 0.4) - 0.8, math.cos(third + 0.4)]
    found = margins.adaface(cosine, 0.4, quality)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("head", [{"num_centres": 3}, {"margin": "adaface", "norm_memory": 0.8}])
def test_a_resumed_head_goes_on_with_its_votes_and_norms(
    tmp_path: Path, head: dict[str, Any]
) -> None:
    whole = make_trainer(tmp_path / "whole", head=head)
    fit(whole)
    fit(make_trainer(tmp_path / "cut", head=head, max_steps=4))
    resumed = make_trainer(tmp_path / "cut", head=head)
    fit(resumed)
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name
    for (name, one), (_, other) in zip(
        whole.head.named_buffers(), resumed.head.named_buffers(), strict=True
    ):
        assert torch.equal(one, other), name
        assert one.abs().sum() > 0
