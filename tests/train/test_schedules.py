import math

import pytest
import torch

from lascaux.train.schedules import Course, Plateau, rate_factor


def factors(**fields) -> list[float]:
    course = Course(steps=100, **fields)
    return [rate_factor(course, step) for step in range(100)]


def test_cooldown_rises_holds_and_falls():
    found = factors(schedule="cooldown", warmup_steps=5, cooldown_steps=10)
    assert found[0] == pytest.approx(0.2)
    assert found[4] == found[89] == found[90] == 1
    assert found[95] == pytest.approx(0.5)
    assert found[99] == pytest.approx(0.1)


def test_cosine_passes_its_middle_at_a_half():
    found = factors(schedule="cosine", warmup_steps=20, least_rate=0.1)
    assert found[19] == found[20] == 1
    assert found[60] == pytest.approx(0.55)
    assert found[99] == pytest.approx(0.1, abs=1e-3)


def test_constant_stays_and_exponential_falls_in_steps():
    assert factors(schedule="constant", warmup_steps=1) == [1.0] * 100
    found = factors(schedule="exponential", decay=0.9, decay_steps=40)
    assert found[39] == 1
    assert found[40] == pytest.approx(0.9)
    assert found[80] == pytest.approx(0.81)


def test_one_cycle_is_that_of_torch():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=1.0, total_steps=100, pct_start=0.1, cycle_momentum=False
    )
    expected = []
    for _ in range(100):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()
    # torch turns at pct_start x steps - 1.
    assert factors(schedule="one-cycle", warmup_steps=9) == pytest.approx(expected, abs=1e-6)


def test_a_plateau_lowers_the_rate_after_its_patience():
    course = Course(schedule="plateau", steps=100, decay=0.5, patience=1, least_rate=0.2)
    plateau, found = Plateau(), []
    for value in (3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5):
        plateau.note(course, value, more_is_better=False)
        found.append(plateau.factor)
    assert found == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2]
    assert math.isclose(rate_factor(course, 50), 1)
