"""The comparison with arcface_torch, on a stand-in that has its interface."""

import sys
from pathlib import Path

import pytest

from tools.checks import arcface_torch as compare_arcface_torch

STAND_IN = """
import torch

class CosFace(torch.nn.Module):
    def __init__(self, s=64.0, m=0.4):
        super().__init__()
        self.s, self.m = s, m
    def forward(self, cosine, label):
        target = torch.nn.functional.one_hot(label.view(-1), cosine.shape[1]).to(cosine)
        return self.s * (cosine - self.m * target)

class CombinedMarginLoss(CosFace):
    def __init__(self, s, m1, m2, m3, interclass_filtering_threshold=0):
        super().__init__(s, m3)
        self.m2, self.limit = m2, interclass_filtering_threshold
    def forward(self, cosine, label):
        target = torch.nn.functional.one_hot(label.view(-1), cosine.shape[1]).bool()
        if self.limit:
            cosine = torch.where(~target & (cosine > self.limit), 0.0, cosine)
        moved = torch.cos(cosine.detach().acos() + self.m2) - cosine.detach() if self.m2 else 0.0
        return super().forward(cosine + torch.where(target, moved, 0.0), label)
"""


def test_equal_formulas_agree_and_a_wrong_one_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path)])
    for text, status in ((STAND_IN, 0), (STAND_IN.replace("self.m * target", "0.3 * target"), 1)):
        (tmp_path / "losses.py").write_text(text)
        with pytest.raises(SystemExit) as ended:
            compare_arcface_torch.main()
        assert ended.value.code == status
        shown = capsys.readouterr().out.splitlines()[2:]
        assert len(shown) == 4  # CosFace and three combined; no ArcFace in the stand-in
        if status == 0:
            assert all(float(line.split()[-1]) < 1e-12 for line in shown), shown
