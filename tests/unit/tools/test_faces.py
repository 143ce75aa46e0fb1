"""The benchmark of training on noisy labels, on a few small and easy faces."""

import json
import sys
from pathlib import Path

import pytest

from tools.benchmarks.faces import run as bench_faces


def test_every_row_is_trained_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "numbers.json", tmp_path / "table.md"
    words = ["--quick", "--seeds", "3", "--noise", "flip=0.2", "--rounds", "1"]
    words += ["--chains", "clean, combined", "plain", "sub-centres", "l2b", "continued"]
    words += ["true labels"]
    words += ["--json", str(file), "--markdown", str(page), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["bench_faces.py", *words])
    monkeypatch.setattr(bench_faces, "COMBINED", {"clean + nal": ["robust.name=nal"]})
    with pytest.raises(SystemExit) as ended:
        bench_faces.main()
    assert ended.value.code == 0
    run = json.loads(file.read_text())["flip=0.2"]["3"]
    rows = ["plain", "l2b", "sub-centres", "sub-centres, drop", "clean, 1 round", "clean + nal"]
    rows += ["posterior alone, 1 round", "clean + sub-centres, drop", "control"]
    rows += ["clean without wrong ones", "true labels of as many", "true labels"]
    continued = ("plain", "sub-centres, drop", "clean", "true labels")
    rows += [*(f"2 trainings: {name}" for name in continued), "1.5 trainings: clean"]
    assert set(run) == set(rows)
    assert run["plain"]["recovered_auc"] == 0
    assert (
        run["true labels"]["recovered_auc"] == run["2 trainings: true labels"]["recovered_auc"] == 1
    )
    twice = [run[f"2 trainings: {name}"]["auc"] for name in ("plain", "clean", "true labels")]
    share = (twice[1] - twice[0]) / (twice[2] - twice[0])
    assert run["2 trainings: clean"]["recovered_auc"] == pytest.approx(share)
    assert "recovered_auc" not in run["1.5 trainings: clean"]
    assert 96 < run["clean, 1 round"]["right"] + run["clean, 1 round"]["wrong"] <= 192
    dropped = run["sub-centres, drop"]
    assert dropped["right"] + dropped["wrong"] <= 192
    assert dropped["seconds"] > run["sub-centres"]["seconds"] > 0
    cleaned, again = run["clean, 1 round"], run["clean + sub-centres, drop"]
    assert again["right"] <= cleaned["right"]
    assert again["wrong"] <= cleaned["wrong"]
    assert again["right"] + again["wrong"] < cleaned["right"] + cleaned["wrong"]
    shown = capsys.readouterr().out
    assert all(row in shown for row in rows)
    assert all(f"| {row} |" in page.read_text() for row in rows)
