"""The variation heads: their loss, their masks, and what they learn."""

import pytest
import torch
import torch.nn.functional as F

from facetrain.core.rng import torch_generator
from facetrain.finetune.variation_heads import VariationHeads, fit_heads, head_gradients


def normal(*shape: int, name: str) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_generator(0, "heads", name))


def test_loss_is_the_sum_of_cross_entropies_over_known_levels() -> None:
    heads = VariationHeads((3, 2), 4)
    with torch.no_grad():
        heads.weight.copy_(normal(5, 4, name="w"))
        heads.bias.copy_(normal(5, name="b"))
    x, level = normal(3, 4, name="x"), torch.tensor([[0, 1], [2, -1], [-1, -1]])
    z = 2 * x / x.norm(dim=1, keepdim=True) @ heads.weight.T + heads.bias
    pose, hat = z[:, :3].log_softmax(1), z[:, 3:].log_softmax(1)
    expected = torch.stack([-pose[0, 0] - hat[0, 1], -pose[1, 2], torch.zeros(())])
    torch.testing.assert_close(heads(x, level), expected)
    torch.testing.assert_close(heads(7 * x, level), expected)  # direction alone counts


def test_fitting_learns_what_is_there_and_not_what_is_not() -> None:
    """Levels from the embedding are learned; on shuffled levels the same fit is near chance."""
    x = normal(600, 8, name="x")
    level = torch.stack([x[:, :3].argmax(1), (x[:, 4] > 0).long()], dim=1)
    shuffled = level[torch.randperm(600, generator=torch_generator(0, "shuffle"))]
    accuracy = []
    for one in (level, shuffled):
        heads = VariationHeads((3, 2), 8)
        fit_heads(heads, x[:400], one[:400], epochs=20, learning_rate=0.05, seed=0)
        accuracy.append(heads.accuracy(x[400:], one[400:]))
    assert min(accuracy[0]) > 0.85
    assert accuracy[1][0] < 0.45
    assert accuracy[1][1] < 0.62


def test_fitting_is_a_function_of_the_seed() -> None:
    x, level = normal(50, 4, name="x"), torch.arange(50)[:, None] % 3
    one, same = VariationHeads((3,), 4), VariationHeads((3,), 4)
    for heads in (one, same):
        fit_heads(heads, x, level, epochs=2, learning_rate=0.05, seed=1)
    assert torch.equal(one.weight, same.weight)


def test_head_gradients_are_those_of_the_summed_loss() -> None:
    heads = VariationHeads((3, 2), 4)
    x = normal(6, 4, name="x").requires_grad_()
    level = torch.tensor([[0, 1]] * 6)
    found = head_gradients(heads, x, level)
    probability = F.softmax(heads.logits(x)[1], dim=1)
    expected = (probability - F.one_hot(level[:, 1], 2)).sum(0)
    torch.testing.assert_close(found["bias"][3:], expected)
    assert x.grad is None
    with pytest.raises(AttributeError):
        _ = heads.weight.grad.shape  # type: ignore[union-attr]
