import math

import numpy as np
import pytest
import torch

from lascaux.errors import BadInput
from lascaux.images.fidelity import psnr, ssim


def pair(seed=0, shape=(3, 14, 17), apart=0.2):
    rng = np.random.Generator(np.random.PCG64([seed]))
    x = rng.random(shape)
    return x, np.clip(x + apart * rng.standard_normal(shape), 0, 1)


def both(*arrays):
    return [torch.from_numpy(array)[None] for array in arrays]


def equations(x, y):
    """SSIM by the sums of the paper, place by place (Eq. 13 to 17)."""
    window = np.array(
        [
            [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)]
            for i in range(11)
        ]
    )
    window /= window.sum()
    c1, c2 = 0.01**2, 0.03**2
    found = []
    for a, b in zip(x, y, strict=True):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                p = a[top : top + 11, left : left + 11]
                q = b[top : top + 11, left : left + 11]
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p = (window * (p - mean_p) ** 2).sum()
                var_q = (window * (q - mean_q) ** 2).sum()
                both = (window * (p - mean_p) * (q - mean_q)).sum()
                found.append(
                    (2 * mean_p * mean_q + c1)
                    * (2 * both + c2)
                    / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
                )
    return np.mean(found)


@pytest.mark.parametrize(("seed", "apart"), [(0, 0.02), (1, 0.2), (2, 2.0)])
def test_ssim_is_that_of_the_papers_equations(seed, apart):
    x, y = pair(seed, apart=apart)
    assert ssim(*both(x, y)).item() == pytest.approx(equations(x, y), abs=1e-12)


@pytest.mark.parametrize("apart", [0.001, 0.1, 1.0])
def test_psnr_is_that_of_its_equation(apart):
    x, y = pair(apart=apart)
    expected = 10 * math.log10(1 / np.mean((x - y) ** 2))
    assert psnr(*both(x, y)).item() == pytest.approx(expected, abs=1e-12)


def test_equal_pictures_have_infinity_and_one():
    x, _ = both(*pair())
    assert psnr(x, x).item() == math.inf
    assert ssim(x, x).item() == pytest.approx(1, abs=1e-12)


def test_an_error_of_one_tenth_everywhere_is_twenty_decibels():
    x = torch.full((1, 3, 12, 12), 0.5)
    assert psnr(x, x + 0.1).item() == pytest.approx(20, abs=1e-4)


def test_both_are_symmetric_and_of_each_picture_by_itself():
    x, y = both(*pair(0))
    u, v = both(*pair(1))
    for measure in (psnr, ssim):
        assert measure(x, y).item() == pytest.approx(measure(y, x).item(), abs=1e-12)
        batch = measure(torch.cat([x, u]), torch.cat([y, v]))
        alone = torch.cat([measure(x, y), measure(u, v)])
        assert torch.allclose(batch, alone, rtol=0, atol=1e-12)


def test_noise_and_blur_make_both_smaller():
    for measure in (psnr, ssim):
        found = [measure(*both(*pair(3, apart=apart))).item() for apart in (0.01, 0.05, 0.2, 0.8)]
        assert found == sorted(found, reverse=True)


def test_pictures_smaller_than_the_window_are_refused():
    x = torch.zeros(1, 3, 10, 20)
    with pytest.raises(BadInput, match="window of 11 x 11"):
        ssim(x, x)
