import pytest
import torch
from torch import Tensor, nn

from lascaux.nn.group_norm import GroupNorm


def pair(channels: int, groups: int) -> tuple[GroupNorm, nn.GroupNorm]:
    torch.manual_seed(0)
    ours, theirs = GroupNorm(groups, channels, eps=1e-6), nn.GroupNorm(groups, channels, eps=1e-6)
    with torch.no_grad():
        ours.weight.normal_()
        ours.bias.normal_()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(norm: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm(x)
    chance = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    return (y.detach(), *torch.autograd.grad(y, (x, norm.weight, norm.bias), chance))


@pytest.mark.parametrize(
    ("channels", "groups", "size"), [(16, 8, 64), (12, 3, 7), (8, 8, 5), (64, 1, 5)]
)
def test_answers_and_gradients_are_those_of_float64_but_for_rounding(channels, groups, size):
    ours, theirs = pair(channels, groups)
    x = torch.randn(2, channels, size, size) + 0.5
    x = x.bfloat16().to(memory_format=torch.channels_last)
    found = gradients(ours, x)
    wanted = gradients(theirs.double(), x.double())
    for mine, truth in zip(found, wanted, strict=True):
        assert (mine.double() - truth).norm() < 0.01 * truth.norm()
    assert found[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels_last", [True, False])
def test_in_float32_it_is_torchs_own(channels_last):
    ours, theirs = pair(16, 4)
    x = torch.randn(2, 16, 6, 6)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    assert all(map(torch.equal, gradients(ours, x), gradients(theirs, x)))
