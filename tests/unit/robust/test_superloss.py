"""SuperLoss against worked values, its own definition as a minimum, both lemmas, autograd."""

import math

import pytest
import torch
from torch import Tensor

from facetrain.core.errors import ConfigError
from facetrain.robust.superloss import Tau, confidence, loss_sum_and_count, scaled_lambda, superloss

# beta: sigma*, SL* at tau = 0 and lambda = 1. Each sigma solves log sigma = -beta sigma / 2.
TABLE = {
    -2 / math.e: (2.71828, -1.0),
    -0.5: (1.42961, -0.58707),
    -0.25: (1.15537, None),
    0.0: (1.0, 0.0),
    0.5: (0.81555, 0.44935),
    1.0: (0.70347, 0.82718),
    2.0: (0.56714, 1.45594),
    5.0: (0.38343, 2.83606),
    10.0: (0.26534, 4.41365),
    20.0: (0.17455, None),
    40.0: (0.11025, None),
}


def losses(*shape: int) -> Tensor:
    """Losses in [-1, 9], the same in each run."""
    count = math.prod(shape)
    return (torch.arange(count, dtype=torch.float64) * 0.7548776662466927 % 1 * 10 - 1).view(shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_table(dtype: torch.dtype) -> None:
    loss = torch.tensor(list(TABLE), dtype=dtype)
    sigma, value = confidence(loss, 0.0, 1.0), superloss(loss, 0.0, 1.0)
    assert sigma.dtype == value.dtype == dtype
    # Five decimals are given. At the branch point float32's -2/e is off by 6e-9, sigma by 2e-4.
    tolerance = 6e-6 if dtype == torch.float64 else 6e-4
    for i, (expected_sigma, expected_value) in enumerate(TABLE.values()):
        assert sigma[i].item() == pytest.approx(expected_sigma, abs=tolerance)
        if expected_value is not None:
            assert value[i].item() == pytest.approx(expected_value, abs=6e-6)


def test_confidence_against_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    loss, tau, lam = losses(500), 2.3, 0.7
    beta = (loss - tau) / lam
    held = beta <= -2 / math.e
    expected = torch.from_numpy(special.lambertw((beta / 2).numpy()).real).neg().exp()
    expected = torch.where(held, math.e, expected)  # scipy has a complex W or NaN there
    assert 50 < held.sum() < 450
    # scipy: 25 units in the last place, far more next to the branch point; none lies that near.
    torch.testing.assert_close(confidence(loss, tau, lam), expected, rtol=1e-13, atol=0)


def explicit_minimum(delta: float, lam: float) -> tuple[float, float]:
    """(sigma, SL) of the first minimum that is met from sigma = 1, by bisection on d SL/dx.

    x = log sigma, SL = delta e^x + lam x^2. For delta >= 0 the minimum lies at x <= 0; for
    delta < 0 at x in (0, 1), or there is none and sigma is held at e.
    """

    def slope(x: float) -> float:
        return delta * math.exp(x) + 2 * lam * x

    low, high = (-60.0, 0.0) if delta >= 0 else (0.0, 1.0)
    if slope(high) < 0:
        low = high = 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.exp(high), delta * math.exp(high) + lam * high**2


@pytest.mark.parametrize("lam", [0.05, 1.0, 20.0])
def test_is_the_minimum_and_its_gradient_is_sigma(lam: float) -> None:
    """The envelope argument: autograd with sigma detached == the slope of the explicit minimum."""
    tau, step = 1.7, 1e-4
    loss = losses(40).requires_grad_()
    value = superloss(loss, tau, lam)
    (gradient,) = torch.autograd.grad(value.sum(), loss)
    assert torch.equal(gradient, confidence(loss, tau, lam))
    for i, one in enumerate(loss.tolist()):
        sigma, minimum = explicit_minimum(one - tau, lam)
        # d SL/d sigma = 0 there, so the value is flat: bisection finds sigma to 1e-8 at worst.
        assert gradient[i].item() == pytest.approx(sigma, rel=1e-7)
        assert value[i].item() == pytest.approx(minimum, rel=1e-12, abs=1e-12)
        ends = [explicit_minimum(one + sign * step - tau, lam)[1] for sign in (1, -1)]
        # SL*'' = -sigma^2 / (2 lam (1 + W)): error O(step) where the cap begins, else O(step^2).
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(sigma, rel=1e-3)


def test_the_gradient_passes_only_through_the_loss() -> None:
    loss = losses(6).requires_grad_()
    tau = loss.mean()
    (through,) = torch.autograd.grad(superloss(loss, tau, 1.0).sum(), loss)
    assert torch.equal(through, confidence(loss, tau, 1.0))
    assert not confidence(loss, tau, 1.0).requires_grad


def test_lemma_1_large_lambda_gives_the_loss_back() -> None:
    """SL* = delta - delta^2 / (4 lam) + O(1 / lam^2); with Eq. 12's plus it would not be."""
    loss, tau = losses(50), 2.0
    delta = loss - tau
    for lam in (1e3, 1e4):
        off = superloss(loss, tau, lam) - delta
        # The next term: delta^3 / (8 lam^2), at most 43 / lam^2; computed from values around 10.
        torch.testing.assert_close(off, -delta.square() / (4 * lam), rtol=0, atol=50 / lam**2)
        assert not torch.allclose(off, delta.square() / (4 * lam), rtol=0, atol=50 / lam**2)
        assert (confidence(loss, tau, lam) - 1).abs().max() < 1 / lam * 7 / 2 * 1.01


@pytest.mark.parametrize("kind", ["average", "exponential"])
@pytest.mark.parametrize("scale", [0.01, 3.0, 1000.0])
def test_lemma_2_homogeneity(kind: str, scale: float) -> None:
    """SL* of gamma loss under gamma lambda is gamma SL*: tau follows the loss."""
    batches = losses(3, 8).exp()
    one, other = (Tau(kind) for _ in range(2))
    for batch in batches:
        tau = one.update(*loss_sum_and_count(batch))
        scaled_tau = other.update(*loss_sum_and_count(scale * batch))
        for lam, scaled_lam in (
            (0.4, scale * 0.4),
            (scaled_lambda(0.4, tau), scaled_lambda(0.4, scaled_tau)),
        ):
            came = superloss(scale * batch, scaled_tau, scaled_lam)
            expected = scale * superloss(batch, tau, lam)
            # Rounding alone; losses here reach e^9, and SL* is a difference of such.
            torch.testing.assert_close(came, expected, rtol=1e-12, atol=1e-10 * scale)
    # The control: with lambda as it was, the weights change.
    assert not torch.allclose(
        confidence(scale * batch, scaled_tau, 0.4), confidence(batch, tau, 0.4), rtol=1e-2
    )


def test_scaled_lambda_by_hand() -> None:
    """A loss ten times ln 10 has ten times the lambda; a mean of 0 still divides."""
    mean = torch.tensor(10 * math.log(10), requires_grad=True)
    lam = scaled_lambda(0.25, mean)
    assert lam.item() == pytest.approx(2.5)
    assert not lam.requires_grad
    perfect = torch.zeros(3)
    assert confidence(perfect, 0.0, scaled_lambda(1.0, torch.tensor(0.0))).tolist() == [1, 1, 1]


def test_regression_losses() -> None:
    """MSE of a robust fit by hand: the outlier counts for less, the rest for more."""
    prediction = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    loss = (prediction - torch.tensor([1.0, 2.1, 3.0, 9.0])).square()  # 0, 0.01, 0, 25
    tau = Tau("average").update(*loss_sum_and_count(loss))
    assert tau.item() == pytest.approx(25.01 / 4)
    sigma = confidence(loss, tau, 10.0)
    # beta = (25 - 6.2525) / 10; W(0.937375) = 0.54405, as 0.54405 * 1.72297 = 0.93738.
    assert sigma[3].item() == pytest.approx(0.58039, abs=1e-5)  # e^-0.54405
    assert (sigma[:3] > 1).all()
    superloss(loss, tau, 10.0).sum().backward()
    expected = sigma * 2 * (prediction.detach() - torch.tensor([1.0, 2.1, 3.0, 9.0]))
    assert prediction.grad is not None
    torch.testing.assert_close(prediction.grad, expected)


def run(state: Tau, batches: list[list[float]]) -> list[float]:
    return [state.update(*loss_sum_and_count(torch.tensor(batch))).item() for batch in batches]


BATCHES = [[1.0, 3.0], [4.0, 6.0, 8.0, 10.0], [0.0, 2.0]]


def test_tau_by_hand() -> None:
    """Means 2, 7, 1 of 2, 4, 2 losses: a batch sees what came before it."""
    average, exponential = Tau("average"), Tau("exponential", smoothing=0.9)
    # Then (4 + 28) / 6 = 5.3333; at the end (32 + 2) / 8 = 4.25.
    assert run(average, BATCHES) == pytest.approx([2, 2, 32 / 6], rel=1e-12)
    assert average.mean.item() == pytest.approx(4.25, rel=1e-12)
    # 0.9 * 2 + 0.1 * 7 = 2.5; at the end 0.9 * 2.5 + 0.1 * 1 = 2.35.
    assert run(exponential, BATCHES) == pytest.approx([2, 2, 2.5], rel=1e-12)
    assert exponential.mean.item() == pytest.approx(2.35, rel=1e-12)
    assert run(Tau("log_classes", num_classes=100), BATCHES) == [math.log(100)] * 3


@pytest.mark.parametrize("kind", ["average", "exponential"])
def test_tau_leaves_out_what_is_no_loss(kind: str) -> None:
    clean, dirty = Tau(kind), Tau(kind)
    run(clean, BATCHES)
    run(dirty, [[math.nan, *batch, math.inf] for batch in BATCHES])
    run(dirty, [[math.nan], []])
    assert dirty.mean.item() == clean.mean.item()
    first = Tau(kind)
    assert run(first, [[math.nan], [3.0], [5.0]]) == [0, 3, 3]
    kept = loss_sum_and_count(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True]))
    assert [value.item() for value in kept] == [5, 2]


@pytest.mark.parametrize("kind", ["average", "exponential"])
def test_tau_of_ranks_is_that_of_the_whole_batch(kind: str) -> None:
    """Sums and counts added over ranks, uneven shares included."""
    batches = [losses(7), losses(7) * 2, losses(7) - 3]
    whole, shared = Tau(kind), Tau(kind)
    for batch in batches:
        parts = [loss_sum_and_count(part) for part in batch.split([4, 3, 0])]
        total, count = (torch.stack(values).sum() for values in zip(*parts, strict=True))
        expected = whole.update(*loss_sum_and_count(batch))
        torch.testing.assert_close(shared.update(total, count), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", ["average", "exponential"])
def test_tau_resumes_bitwise(kind: str) -> None:
    straight, first, second = Tau(kind), Tau(kind), Tau(kind)
    expected = run(straight, BATCHES)
    run(first, BATCHES[:2])
    second.load_state_dict(first.state_dict())
    assert run(second, BATCHES[2:]) == expected[2:]
    assert torch.equal(second.mean, straight.mean)


def test_tau_refuses() -> None:
    with pytest.raises(ConfigError, match="log_classes needs num_classes"):
        Tau("log_classes")
    with pytest.raises(ConfigError, match="average and exponential take none"):
        Tau("average", num_classes=10)
    with pytest.raises(ConfigError, match="smoothing must lie in"):
        Tau("exponential", smoothing=1.0)


def test_nothing_looks_at_the_data() -> None:
    """On the meta device, which has no data, any wait for a value would raise."""
    loss = torch.empty(4, device="meta")
    for kind in ("average", "exponential"):
        tau = Tau(kind).to("meta").update(*loss_sum_and_count(loss, loss > 0))
        assert superloss(loss, tau, scaled_lambda(0.25, tau)).shape == (4,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.sum().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu() -> None:
    loss = losses(2000).float()
    for tau, lam in ((2.0, 0.3), (0.0, 20.0)):
        came = superloss(loss.cuda(), tau, lam).cpu()
        # exp and log of the two differ in the last places; next to -1/e W's slope is infinite.
        torch.testing.assert_close(came, superloss(loss, tau, lam), rtol=1e-5, atol=1e-5)
