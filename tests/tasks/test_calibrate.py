import pytest
import torch

from lascaux.errors import BadInput
from lascaux.tasks.calibrate import Calibration, fit_calibration, fit_threshold


def test_a_planted_curve_is_found_again():
    g = torch.Generator().manual_seed(0)
    truth = Calibration(14.0, -3.5)
    cosines = torch.rand(40_000, generator=g) - 0.25
    present = torch.rand(40_000, generator=g) < truth(cosines)
    found = fit_calibration(cosines, present)
    # Present and absent ones weigh the same, which moves the curve by the log of their ratio.
    shift = float(torch.log((~present).sum() / present.sum()))
    assert found.scale == pytest.approx(truth.scale, rel=0.05)
    assert found.bias == pytest.approx(truth.bias + shift, abs=0.25)


def test_it_does_not_depend_on_how_many_absent_classes_there_are():
    high = torch.tensor([0.30, 0.32, 0.35, 0.22])
    low = torch.tensor([0.10, 0.15, 0.20, 0.26, 0.12])
    few = fit_calibration(torch.cat([high, low]), torch.tensor([True] * 4 + [False] * 5))
    many = fit_calibration(
        torch.cat([high, low.repeat(200)]), torch.tensor([True] * 4 + [False] * 1000)
    )
    at = torch.tensor([0.1, 0.2, 0.25, 0.3])
    torch.testing.assert_close(few(at), many(at), rtol=0, atol=0.12)


def test_kinds_that_do_not_overlap_give_a_finite_curve():
    found = fit_calibration(torch.tensor([0.9, 0.1]), torch.tensor([True, False]))
    assert 0 < found.scale < 1e3
    below, above = found(torch.tensor([0.1, 0.9])).tolist()
    assert below < 0.5 < above


def test_one_sort_alone_or_upside_down_labels_are_refused():
    with pytest.raises(BadInput, match="2 present and 0 absent"):
        fit_calibration(torch.tensor([0.1, 0.2]), torch.tensor([True, True]))
    with pytest.raises(BadInput, match="check the labels"):
        fit_calibration(torch.tensor([0.1, 0.9, 0.2]), torch.tensor([True, False, True]))


def test_a_threshold_lies_in_the_middle_of_the_gap():
    best = torch.tensor([0.9, 0.8, 0.3, 0.2])
    assert fit_threshold(best, torch.tensor([True, True, False, False])) == pytest.approx(0.55)


def test_a_threshold_weighs_both_sorts_the_same():
    known = torch.tensor([True] * 10 + [False] * 2)
    best = torch.tensor([0.5, *[0.6 + 0.01 * i for i in range(9)], 0.55, 0.1])
    # Losing one of ten known pictures costs less than one of two unknown ones.
    assert 0.55 < fit_threshold(best, known) < 0.6


def test_a_threshold_needs_both_sorts_and_a_difference():
    with pytest.raises(BadInput, match="0 of none"):
        fit_threshold(torch.tensor([0.5]), torch.tensor([True]))
    with pytest.raises(BadInput, match="look alike"):
        fit_threshold(torch.tensor([0.5, 0.5]), torch.tensor([True, False]))
    with pytest.raises(BadInput, match="look alike"):
        fit_threshold(torch.tensor([0.1, 0.9]), torch.tensor([True, False]))
