import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.nn import attention as module
from lascaux.nn.attention import attention


def rows(dtype: torch.dtype) -> list[Tensor]:
    drawn = torch.randn(3, 2, 4, 9, 16, generator=torch.Generator().manual_seed(0))
    return [each.to(dtype).requires_grad_() for each in drawn]


def gradients(y: Tensor, of: list[Tensor]) -> tuple[Tensor, ...]:
    chance = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(y, of, chance.to(y.dtype))


def test_in_float32_it_is_torchs_own():
    of = rows(torch.float32)
    assert torch.equal(attention(*of), F.scaled_dot_product_attention(*of))


def test_in_bfloat16_answers_and_gradients_are_those_of_float64_but_for_rounding():
    of = rows(torch.bfloat16)
    wide = [each.detach().double().requires_grad_() for each in of]
    wanted = F.scaled_dot_product_attention(*wide)
    y = attention(*of)
    torch.testing.assert_close(y.double(), wanted, rtol=0.02, atol=0.02)
    for mine, theirs in zip(gradients(y, of), gradients(wanted, wide), strict=True):
        assert (mine.double() - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("autocast", [True, False])
def test_torchs_kernel_is_left_only_where_it_is_slow(monkeypatch, autocast):
    calls = []
    real = F.scaled_dot_product_attention

    def watched(*given: Tensor, **more: object) -> Tensor:
        calls.append(1)
        return real(*given, **more)

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", watched)
    of = rows(torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        attention(*of)
        assert not calls
        attention(*[each.detach() for each in of])  # nothing is learnt
    long = [each.repeat(1, 1, 200, 1) for each in rows(torch.bfloat16)]
    attention(*long)
    assert len(calls) == 2
