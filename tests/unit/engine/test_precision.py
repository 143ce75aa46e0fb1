import pytest
import torch

from facetrain.core.errors import UserError
from facetrain.engine.precision import LossScaler, autocast_dtype


def test_auto_follows_the_device() -> None:
    assert autocast_dtype("auto", torch.device("cpu")) is None
    assert autocast_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert autocast_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(UserError, match="needs a GPU"):
        autocast_dtype("float16", torch.device("cpu"))


def test_the_scale_halves_on_overflow_and_doubles_after_2000_good_steps() -> None:
    scaler = LossScaler(enabled=True)
    assert not scaler.update(finite=False)
    assert scaler.scale == 2.0**15
    assert all(scaler.update(finite=True) for _ in range(1999))
    other = LossScaler(enabled=True)
    other.load(scaler.state())  # a resume keeps the count
    assert other.scale == 2.0**15
    assert other.update(finite=True)
    assert other.scale == 2.0**16


def test_without_float16_every_step_is_taken_and_nothing_is_scaled() -> None:
    scaler = LossScaler(enabled=False)
    assert scaler.scale == 1.0
    assert scaler.update(finite=False)
