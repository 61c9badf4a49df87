import pytest
import torch
import torch.nn.functional as F

from lascaux.nn import upsample as module
from lascaux.nn.upsample import DoublingConvolution


@pytest.fixture
def layer(monkeypatch):
    monkeypatch.setattr(module, "_FEWEST", 1)
    torch.manual_seed(0)
    return DoublingConvolution(6, 10)


def plain(x, layer):
    doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.conv2d(doubled, layer.weight, layer.bias, padding=1)


@pytest.mark.parametrize("shape", [(1, 6, 4, 4), (3, 6, 5, 7), (2, 6, 1, 1), (1, 6, 1, 9)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_kernels_that_are_added_up_give_the_same(layer, shape, order, monkeypatch):
    x = torch.randn(shape).contiguous(memory_format=order)
    with torch.no_grad():
        expected = plain(x, layer)
        monkeypatch.setattr(F, "interpolate", None)  # it is not asked
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_a_layer_without_bias_gives_the_same(layer):
    layer.bias = None
    x = torch.randn(1, 6, 3, 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x, layer), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_left_to_the_plain_way(layer, dtype):
    layer.to(dtype)
    x = torch.randn(2, 6, 3, 5).to(dtype)
    with torch.no_grad():
        assert torch.equal(layer(x), plain(x, layer))


def test_a_small_map_is_left_to_the_plain_way(layer, monkeypatch):
    monkeypatch.setattr(module, "_FEWEST", 16)
    x = torch.randn(1, 6, 3, 5)
    with torch.no_grad():
        assert torch.equal(layer(x), plain(x, layer))


def test_gradients_flow_as_in_the_plain_way(layer):
    x = torch.randn(2, 6, 3, 5, requires_grad=True)
    wanted = (x, *layer.parameters())
    actual = torch.autograd.grad(layer(x).square().sum(), wanted)
    expected = torch.autograd.grad(plain(x, layer).square().sum(), wanted)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.weight.data[0, 0].mul_(2),
        lambda layer: layer.load_state_dict(DoublingConvolution(6, 10).state_dict()),
        lambda layer: setattr(layer, "weight", torch.nn.Parameter(torch.randn(10, 6, 3, 3))),
    ],
    ids=["in place", "by .data", "loaded", "another"],
)
@torch.inference_mode()
def test_a_weight_that_changes_is_heeded(layer, change):
    x = torch.randn(1, 6, 4, 4)
    layer(x)
    change(layer)
    torch.testing.assert_close(layer(x), plain(x, layer), rtol=1e-5, atol=1e-5)
