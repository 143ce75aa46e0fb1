"""The sparse memory of targets against worked rows and against the dense N x C memory."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from facetrain.core.rng import torch_generator
from facetrain.dist.shard import shard_range
from facetrain.robust.nal import noise_attention_loss
from facetrain.robust.sparse_targets import NO_TARGET, SparseTargets, merge_targets

N, C, K, MEMORY = 11, 20, 4, 0.9


def draw(*shape: int, name: str) -> Tensor:
    generator = torch_generator(0, "sparse_targets", name)
    return torch.rand(*shape, dtype=torch.float64, generator=generator)


LABEL = (draw(N, name="label") * C).long()


def supports() -> Tensor:
    """(N, K) classes that a sample's probability ever falls on, the label among them."""
    order = draw(N, C, name="support")
    order[torch.arange(N), LABEL] = 2.0
    return order.topk(K, dim=1).indices


def probabilities(step: int) -> Tensor:
    """(N, C), 0 outside the supports."""
    p = torch.zeros(N, C, dtype=torch.float64)
    values = draw(N, K, name=f"p{step}")
    return p.scatter_(1, supports(), values / values.sum(1, keepdim=True))


def dense(label: Tensor, target: Tensor) -> Tensor:
    out = torch.zeros(len(label), C + 1, dtype=torch.float64)
    return out.scatter_add_(1, label % (C + 1), target.double())[:, :C]  # -1 goes to column C


def test_merge_by_hand() -> None:
    """K = 3, memory 0.5: class 7 is in both, 9 comes in, 4 falls out, the label 2 stays."""
    label, target = torch.tensor([[2, 7, 4]]), torch.tensor([[0.1, 0.7, 0.2]])
    new, p = torch.tensor([[9, 7, 5]]), torch.tensor([[0.5, 0.3, 0.1]])
    # 2: 0.05, 7: 0.35 + 0.15 = 0.5, 4: 0.1, 9: 0.25, 5: 0.05; kept 2, 7, 9: sum 0.8.
    came_label, came = merge_targets(label, target, new, p, memory=0.5)
    assert came_label.tolist() == [[2, 7, 9]]
    torch.testing.assert_close(came, torch.tensor([[0.05, 0.5, 0.25]]) / 0.8)


def test_merge_counts_a_class_once_and_skips_the_empty() -> None:
    label, target = torch.tensor([[2, NO_TARGET, NO_TARGET]]), torch.tensor([[1.0, 0.0, 0.0]])
    new = torch.tensor([[5, 2, NO_TARGET, 5, 2]])
    p = torch.tensor([[0.25, 0.5, 0.9, 0.25, 0.5]])
    # 2: 0.5 + 0.25 = 0.75, 5: 0.125; sum 0.875.
    came_label, came = merge_targets(label, target, new, p, memory=0.5)
    assert came_label.tolist() == [[2, 5, NO_TARGET]]
    torch.testing.assert_close(came, torch.tensor([[0.75, 0.125, 0.0]]) / 0.875)


def test_a_memory_of_one_forgets_nothing_and_of_zero_everything() -> None:
    label, target = torch.tensor([[2, 7, 4]]), torch.tensor([[0.0, 0.6, 0.4]])
    new, p = torch.tensor([[9, 8, 2]]), torch.tensor([[0.6, 0.3, 0.1]])
    kept = merge_targets(label, target, new, p, memory=1.0)
    assert kept[0].tolist() == label.tolist()
    torch.testing.assert_close(kept[1], target)
    replaced = merge_targets(label, target, new, p, memory=0.0)
    assert replaced[0].tolist() == [[2, 9, 8]]
    torch.testing.assert_close(replaced[1], torch.tensor([[0.1, 0.6, 0.3]]))


def test_merge_does_not_depend_on_the_order_of_the_new() -> None:
    label = torch.cat([LABEL[:, None], supports()[:, 1:]], dim=1)
    target = draw(N, K, name="target")
    new, p = draw(N, C, name="new").topk(7, dim=1).indices, draw(N, 7, name="p")
    expected = merge_targets(label, target, new, p, memory=MEMORY)
    came = merge_targets(label, target, new.flip(1), p.flip(1), memory=MEMORY)
    assert torch.equal(came[0], expected[0])
    torch.testing.assert_close(came[1], expected[1], rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equals_the_dense_memory_where_targets_are_k_sparse(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    memory = SparseTargets(tmp_path, LABEL, num_targets=K, probability_type=dtype)
    control = LABEL[:, None].expand(-1, K - 1), torch.zeros(N, K - 1, dtype=torch.float64)
    control = torch.where(torch.arange(K - 1) == 0, control[0], NO_TARGET), control[1]
    control[1][:, 0] = 1
    expected = torch.nn.functional.one_hot(LABEL, C).double()
    for step in range(20):
        p = probabilities(step)
        expected = MEMORY * expected + (1 - MEMORY) * p
        value, label = p.topk(K + 2, dim=1)  # two classes of probability 0 with it
        sample = torch.randperm(N, generator=torch_generator(0, "order", step))
        memory.update(sample, label[sample], value[sample], memory=MEMORY)
        control = merge_targets(*control, label, value, memory=MEMORY)
    label, target = memory.read(torch.arange(N))
    assert torch.equal(label[:, 0], LABEL)
    # A rounding of 2^-24 (2^-11) at each update, of which 0.9 is carried on: at most ten of them.
    tolerance = 10 * 2.0 ** (-24 if dtype == torch.float32 else -11) * 1.1
    torch.testing.assert_close(dense(label, target), expected, rtol=0, atol=tolerance)
    # The control: one slot fewer than the targets need.
    assert (dense(*control) - expected).abs().max() > 0.05


def test_loss_on_the_support_is_the_dense_loss() -> None:
    """Even though p has weight everywhere."""
    label, target = supports(), probabilities(0).gather(1, supports())
    logits = (draw(N, C, name="logits") * 4).requires_grad_()
    attention = draw(N, name="attention")
    gradients, values = [], []
    for q, classes in ((target, label), (probabilities(0), torch.arange(C).expand(N, C))):
        p = logits.softmax(1).gather(1, classes)
        values.append(noise_attention_loss(p, q, attention, 10.0))
        gradients.append(torch.autograd.grad(values[-1].sum(), logits)[0])
    torch.testing.assert_close(values[0], values[1], rtol=1e-13, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_the_sum_over_ranks_is_the_whole(tmp_path: Path, world_size: int) -> None:
    """Shards of 11 samples, the last ones short or empty, each given the whole batch."""
    whole = SparseTargets(tmp_path, LABEL, num_targets=K)
    shards = []
    for rank in range(world_size):
        start, stop = shard_range(N, rank, world_size)
        folder = tmp_path / str(rank)
        folder.mkdir()
        shards.append(SparseTargets(folder, LABEL[start:stop], start=start, num_targets=K))
    sample = torch.tensor([7, 0, 10, 3, 4])
    value, label = probabilities(0).topk(K, dim=1)
    for memory in (whole, *shards):
        memory.update(sample, label[sample], value[sample], memory=0.6)
    everyone = torch.arange(N)
    parts = [shard.read(everyone) for shard in shards]
    for i, expected in enumerate(whole.read(everyone)):
        assert torch.equal(torch.stack([part[i] for part in parts]).sum(0), expected)
    untouched = torch.tensor([1, 2, 5])
    assert torch.equal(whole.read(untouched)[1], torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4))


def test_lives_in_files_and_resumes_from_its_tensors(tmp_path: Path) -> None:
    def step(memory: SparseTargets, number: int) -> None:
        value, label = probabilities(number).topk(K, dim=1)
        memory.update(torch.arange(N), label, value, memory=MEMORY)

    first = SparseTargets(tmp_path, LABEL, num_targets=K)
    step(first, 0)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"targets-0-label.bin": N * K * 4, "targets-0-probability.bin": N * K * 2}
    written = torch.frombuffer(
        bytearray((tmp_path / "targets-0-label.bin").read_bytes()), dtype=torch.int32
    )
    assert torch.equal(written.view(N, K), first.label)
    saved = first.label.clone(), first.probability.clone()
    step(first, 1)
    resumed = SparseTargets(tmp_path, LABEL, num_targets=K)  # begins anew over the old files
    assert torch.equal(resumed.read(torch.arange(N))[0][:, 1:], torch.full((N, K - 1), NO_TARGET))
    resumed.label.copy_(saved[0])
    resumed.probability.copy_(saved[1])
    step(resumed, 1)
    assert torch.equal(resumed.label, first.label)
    assert torch.equal(resumed.probability, first.probability)


def test_a_sample_without_label_has_no_target(tmp_path: Path) -> None:
    memory = SparseTargets(tmp_path, torch.tensor([3, NO_TARGET]), num_targets=2)
    label, target = memory.read(torch.tensor([1, 0]))
    assert label.tolist() == [[-1, -1], [3, -1]]
    assert target.tolist() == [[0, 0], [1, 0]]
