"""The benchmark of training on noisy labels, on a few small and easy faces."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
import bench_faces

SMALL = [
    "synthetic.num_identities=24", "synthetic.min_images=8", "synthetic.max_images=8",
    "synthetic.size=32", "synthetic.difficulty=0.2", "synthetic.pose_shares=[0,0,0,1,0,0,0]",
    "synthetic.occlusion_shares=[1,0,0,0,0]", "model.image_size=32", "model.width=8",
    "model.embedding_size=32", "head.scale=16", "head.cosine_margin=0.1", "train.batch_size=32",
    "train.epochs=8", "train.margin_warmup_epochs=0", "optimizer.learning_rate=0.1",
    "schedule.warmup_epochs=0", "model.dropout=0", "augment.erase_probability=0",
    "augment.scale=[1,1]", "augment.translate=0", "augment.brightness=0", "train.precision=float32",
    "clean.pretrain.num_draws=16", "clean.meta.num_rounds=1",
    "clean.meta.num_steps=4", "clean.adapter.num_draws=0",
]  # fmt: skip


def test_every_row_is_trained_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"superloss": [], "l2b": ["robust.batch_size=8", "train.clip_norm=1"]}
    monkeypatch.setattr(bench_faces, "SETTINGS", settings)
    monkeypatch.setattr(bench_faces, "NUM_TEST_IDENTITIES", 20)
    file = tmp_path / "numbers.json"
    words = ["--seeds", "3", "--noise", "flip=0.2", "--rounds", "1", "--pairs", "40"]
    words += ["--json", str(file), "--out", str(tmp_path / "out"), "--set", *SMALL]
    monkeypatch.setattr(sys, "argv", ["bench_faces.py", *words])
    bench_faces.main()
    (run,) = json.loads(file.read_text())["runs"]
    rows = ["noisy", "superloss", "l2b", "round 1", "control", "true"]
    assert set(run) == set(rows)
    assert run["noisy"]["recovered_auc"] == 0
    assert run["true"]["recovered_auc"] == 1
    assert 96 < run["round 1"]["right"] + run["round 1"]["wrong"] <= 192
    shown = capsys.readouterr().out
    assert all(row in shown for row in rows)
