import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from lascaux.nn.group_norm import GroupNorm
from lascaux.nn.inference import added, channels_last, only_numbers


def test_numbers_alone_are_asked_for_only_without_gradients():
    x = torch.ones(2, 3, 4, 4)
    assert not only_numbers(x)
    with torch.no_grad():
        assert only_numbers(x, x)
        assert not only_numbers(x, x.double())
        assert not only_numbers(x.to("meta"))
        assert not only_numbers(x.to_sparse())
        with torch.autocast("cpu", torch.bfloat16):
            assert not only_numbers(x)
        with forward_ad.dual_level():
            assert not only_numbers(x)
        seen = []
        torch.func.vmap(lambda each: seen.append(only_numbers(each)) or each)(x)
        assert seen == [False]


def test_a_sum_is_made_in_place_where_nobody_can_tell():
    x, other = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    before = x.detach().clone()
    assert added(x, other).requires_grad
    assert torch.equal(x, before)
    with torch.no_grad():
        assert torch.equal(added(x.bfloat16(), other), before.bfloat16() + other)
        actual = added(x, other)
    assert torch.equal(actual, before + other)
    assert actual.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("grad", [True, False])
def test_only_the_order_in_memory_changes(grad):
    x = torch.randn(2, 3, 4, 5)
    with torch.set_grad_enabled(grad):
        y = channels_last(x)
    assert torch.equal(x, y)
    assert y.is_contiguous(memory_format=torch.channels_last) is not grad


@pytest.mark.parametrize("grad", [True, False])
def test_the_norm_and_silu_leave_the_map_as_it_was(grad):
    norm, x = GroupNorm(2, 4), torch.randn(2, 4, 3, 3)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        assert torch.equal(norm.silu(x), F.silu(norm(before)))
    assert torch.equal(x, before)
