import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.engine import NUM_IMAGES, SIZE, batches, fit, make_trainer, weights

from facetrain.core.errors import TERMINATED, CheckpointError, ConfigError, DivergenceError
from facetrain.data.batches.augment import augment, draw
from facetrain.dist.mesh import Mesh
from facetrain.engine.schedule import learning_rate_factor
from facetrain.engine.termination import Termination, termination


def assert_same(
    one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0
) -> None:
    assert one.keys() == other.keys()
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_loop_is_the_textbook_loop(tmp_path: Path) -> None:
    """Plain PyTorch, written out: CosFace by cross-entropy, SGD, clipping, margin warm-up."""
    options = {"clip_norm": 0.5, "margin_warmup_epochs": 1.0}
    trainer = make_trainer(tmp_path, **options)
    backbone = trainer.backbone
    before = weights(trainer)
    fit(trainer)
    trained = weights(trainer)

    with torch.no_grad():
        backbone.load_state_dict({n: v for n, v in before.items() if n != "head"})
    centres = before["head"].requires_grad_()
    parameters = [*backbone.parameters(), centres]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
    source = batches(0, 6, trainer.mesh)
    norms = []
    for step in range(10):
        batch = next(source)
        x = augment(batch.image, draw(trainer.config.augment, 6, 3, step))
        cosine = F.normalize(backbone(x)) @ F.normalize(centres).T
        margin = 0.2 * min(1.0, step / 5)
        logit = 8.0 * (cosine - margin * F.one_hot(batch.label, 7))
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * learning_rate_factor(trainer.config.schedule, step, 5, 2)
        optimizer.zero_grad()
        F.cross_entropy(logit, batch.label).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 0.5)))
        optimizer.step()
    assert min(norms) < 0.5 < max(norms) or min(norms) > 0.5  # clipping took part
    expected = {**{n: v.detach() for n, v in backbone.state_dict().items()}}
    # Ten float32 steps by another order of sums.
    assert_same({**expected, "head": centres.detach()}, trained, tolerance=5e-6)


def test_accumulation_is_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b", accumulate=3)
    fit(whole)
    fit(parts)
    assert_same(weights(whole), weights(parts), tolerance=5e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3},
        {"optimizer": {"name": "adamw", "learning_rate": 0.01}},
        {"head": {"scale": 8.0, "sample_rate": 0.7}},
    ],
    ids=["sgd with dropout", "adamw", "sampled negatives"],
)
def test_stopped_and_resumed_is_undisturbed(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = make_trainer(tmp_path / "whole", **options)
    fit(whole)
    first = make_trainer(tmp_path / "parts", max_steps=4, **options)
    fit(first)
    second = make_trainer(tmp_path / "parts", **options)
    with torch.no_grad():  # the checkpoint must restore everything
        for parameter in (*second.backbone.parameters(), second.head.weight):
            parameter.add_(1)
    metrics = fit(second)
    assert_same(weights(whole), weights(second))
    assert metrics["loss"] == fit(make_trainer(tmp_path / "whole", **options))["loss"]


def test_told_to_end_it_saves_the_step_at_hand_and_goes_on_from_there(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    fit(whole)
    for ended_after in (1, 2):
        told = Termination()
        told.take()
        with pytest.raises(SystemExit) as ended:
            fit(make_trainer(tmp_path / "parts"), told)
        assert ended.value.code == TERMINATED
        newest = max((tmp_path / "parts" / "checkpoints").iterdir())
        assert newest.name == f"step_{ended_after:010d}"
    last = make_trainer(tmp_path / "parts")
    fit(last)
    assert_same(weights(whole), weights(last))


def test_sigterm_is_taken_note_of() -> None:
    with termination() as told:
        assert not told.due(Mesh.single(), at_log=False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.due(Mesh.single(), at_log=False)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    fit(whole)
    fit(make_trainer(tmp_path / "cut", max_steps=4))
    (tmp_path / "cut" / "checkpoints" / ".step_0000000007").mkdir()
    resumed = make_trainer(tmp_path / "cut")
    fit(resumed)
    assert_same(weights(whole), weights(resumed))


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    fit(make_trainer(tmp_path, checkpoint_every=2, keep_checkpoints=3))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step_0000000006", "step_0000000008", "step_0000000010"]


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    fit(make_trainer(tmp_path, max_steps=2))
    other = make_trainer(tmp_path)
    other.identity = {"seed": "4"}
    with pytest.raises(CheckpointError, match=r"holds a run with another seed; .*another --out"):
        fit(other)


def test_a_loss_that_is_not_finite_stops_with_its_step_and_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    trainer = make_trainer(tmp_path, checkpoint_every=2, log_every=1000)
    healthy = trainer.train_step

    def poisoned(batch: Any) -> torch.Tensor:
        if trainer.step == 7:
            with torch.no_grad():
                trainer.head.weight[0, 0] = math.nan
        return healthy(batch)

    trainer.train_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(DivergenceError) as caught:
        fit(trainer)
    text = str(caught.value)
    assert "the loss of step 7 is nan" in text
    assert "losses of steps 6-7" in text
    assert text.endswith("step_0000000006")  # not one that holds the NaN


def test_a_rising_loss_stops(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, log_every=1, divergence_factor=1.5)
    healthy = trainer.train_step
    trainer.train_step = lambda batch: healthy(batch) * (1 + trainer.step)  # type: ignore[method-assign]
    with pytest.raises(DivergenceError, match=r"the mean loss rose to .*, over .*, by step 1;"):
        fit(trainer)


def test_sampled_negatives_need_sgd(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"head\.sample_rate=0\.5 needs optimizer\.name=sgd"):
        make_trainer(tmp_path, head={"sample_rate": 0.5}, optimizer={"name": "adamw"})


def test_the_log_tells_each_step_once_after_a_resume(tmp_path: Path) -> None:
    accuracy = {"set": {"accuracy": 0.5, "accuracy_std": 0.1}}
    options: dict[str, Any] = {"log_every": 2, "evaluate": lambda backbone: accuracy}
    fit(make_trainer(tmp_path, max_steps=4, **options))
    with open(tmp_path / "log.jsonl", "a") as file:  # steps after the checkpoint, then a kill
        file.write('{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    metrics = fit(make_trainer(tmp_path, **options))
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "loss" in e] == [2, 4, 5, 6, 8, 10]
    assert [e["step"] for e in entries if "evaluation" in e] == [4, 10]
    assert metrics["evaluation"] == accuracy
    rates = [e["learning_rate"] for e in entries if "loss" in e]
    assert all(0 <= rate <= 0.1 for rate in rates)


def test_evaluation_runs_in_eval_mode_at_its_epochs(tmp_path: Path) -> None:
    seen: list[bool] = []

    def evaluate(backbone: torch.nn.Module) -> dict[str, dict[str, float]]:
        seen.append(backbone.training)
        return {}

    trainer = make_trainer(tmp_path, evaluate=evaluate, evaluate_every=0.5)
    fit(trainer)
    assert seen == [False] * (10 // round(0.5 * NUM_IMAGES / 6))
    assert trainer.backbone.training


def test_a_compiled_run_is_the_plain_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two graphs are compiled, augmentation and backbone; an evaluation of another size, none."""
    graphs = []
    compile_ = torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    def without_inductor(function: Any, **options: Any) -> Any:
        options.pop("options", None)
        return compile_(function, backend=backend, **options)

    def evaluate(module: torch.nn.Module) -> dict[str, Any]:
        with torch.no_grad():
            module(torch.zeros(11, 3, SIZE, SIZE))
        return {}

    monkeypatch.setattr(torch, "compile", without_inductor)
    plain = make_trainer(tmp_path / "plain")
    compiled = make_trainer(tmp_path / "compiled", compile=True, evaluate=evaluate)
    fit(plain)
    fit(compiled)
    assert len(graphs) == 2
    assert_same(weights(plain), weights(compiled), tolerance=1e-6)
