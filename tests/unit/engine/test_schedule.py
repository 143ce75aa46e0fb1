import math

import pytest

from facetrain.core.errors import ConfigError
from facetrain.engine.schedule import ScheduleConfig, learning_rate_factor


def factors(config: ScheduleConfig, steps: list[int], epochs: float = 10) -> list[float]:
    return [learning_rate_factor(config, step, 10, epochs) for step in steps]


def test_multistep_falls_at_the_first_step_of_each_milestone() -> None:
    config = ScheduleConfig(name="multistep", milestones=(2, 5), gamma=0.1)
    found = factors(config, [0, 19, 20, 49, 50, 99])
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_polynomial_by_hand() -> None:
    # After 1 warm-up epoch of 10 steps, 9 epochs remain: at step 55 half of them are over.
    config = ScheduleConfig(name="polynomial", warmup_epochs=1, power=2)
    assert factors(config, [10, 55, 100]) == pytest.approx([1, 0.25, 0])


def test_cosine_by_hand() -> None:
    config = ScheduleConfig(name="cosine", final_factor=0.1)
    expected = [1, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)), 0.55, 0.1]
    assert factors(config, [0, 25, 50, 100]) == pytest.approx(expected)


def test_a_cosine_in_cycles_begins_anew() -> None:
    # One epoch of warm-up, then cycles of 3 epochs of 10 steps: half of the second is at step 55.
    config = ScheduleConfig(warmup_epochs=1, cycle_epochs=3, final_factor=0.1)
    assert factors(config, [10, 25, 40, 55, 70]) == pytest.approx([1, 0.55, 1, 0.55, 1])
    assert factors(config, [39]) == pytest.approx([0.1025], abs=1e-3)  # the last of a cycle


def test_warmup_rises_evenly_to_one() -> None:
    # 20 steps: the factor k/21 for k = 1..20, then 1.
    for name in ("multistep", "polynomial", "cosine"):
        config = ScheduleConfig(name=name, warmup_epochs=2)
        found = factors(config, [0, 9, 19, 20])
        assert found == pytest.approx([1 / 21, 10 / 21, 20 / 21, 1])


@pytest.mark.parametrize(
    "options",
    [
        {"name": "cosine", "milestones": (1,)},
        {"name": "multistep", "power": 1.0},
        {"name": "polynomial", "gamma": 0.5},
        {"name": "polynomial", "cycle_epochs": 2.0},
        {"name": "multistep", "milestones": (5, 2)},
        {"name": "steps"},
    ],
)
def test_an_option_of_another_schedule_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ScheduleConfig(**options)  # type: ignore[arg-type]
