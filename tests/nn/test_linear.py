import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from lascaux.errors import BadInput
from lascaux.nn import linear as module
from lascaux.nn.linear import Linear, chosen_way, forget_layouts, linear, onednn_gain

DTYPES = (torch.float32, torch.bfloat16)
onednn = pytest.mark.skipif(not module._onednn_is_there(), reason="this torch has no oneDNN")


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setenv("LASCAUX_LINEAR", "onednn")
    with torch.no_grad():
        yield


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Linear(48, 80).eval().requires_grad_(False)


def plain(x, layer):
    return F.linear(x, layer.weight, layer.bias)


def is_laid_out(layer):
    laid = module._LAID.get(layer.weight)
    return laid is not None and laid.weight is not None


@onednn
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 48), (2, 50, 48), (300, 48), (1, 48), (0, 48)])
def test_both_ways_give_the_same(fast, layer, dtype, shape):
    layer.to(dtype)
    x = torch.randn(shape).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for _ in range(6):  # with the weight as it is, then laid out
        torch.testing.assert_close(layer(x), plain(x, layer), rtol=tolerance, atol=tolerance)


@onednn
def test_a_weight_used_again_and_again_is_laid_out_and_the_bits_stay(fast, layer):
    x = torch.randn(20, 48)
    first = layer(x)
    assert not is_laid_out(layer)
    answers = [layer(x) for _ in range(4)]
    assert is_laid_out(layer)
    assert all(torch.equal(answer, first) for answer in answers)


@onednn
def test_few_rows_take_the_other_way_where_the_weight_is_large(fast, layer, monkeypatch):
    for rows, large, expected in ((2, False, False), (2, True, True), (1, True, False)):
        forget_layouts()
        monkeypatch.setattr(module, "_LARGE", 1 if large else 48 * 80 + 1)
        x = torch.randn(rows, 48)
        for _ in range(6):
            torch.testing.assert_close(layer(x), plain(x, layer), rtol=1e-5, atol=1e-5)
        assert is_laid_out(layer) == expected


@onednn
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.weight[0].mul_(2),
        lambda layer: layer.weight.data.mul_(2),
        lambda layer: layer.weight.data[:, 1:].mul_(2),
        lambda layer: layer.weight.data[1:12].zero_(),
        lambda layer: (layer.weight.data[3, 5:7].mul_(2), forget_layouts()),
        lambda layer: setattr(layer.weight, "data", layer.weight.data * 2),
        lambda layer: setattr(layer, "weight", torch.nn.Parameter(layer.weight * 2)),
        lambda layer: layer.load_state_dict({"weight": layer.weight * 2, "bias": layer.bias}),
    ],
    ids=[
        "in place",
        "one row in place",
        "by .data",
        "columns by .data",
        "rows by .data",
        "two numbers by .data, and told",
        "other .data",
        "other parameter",
        "loaded",
    ],
)
def test_a_changed_weight_is_noticed(fast, layer, change):
    x = torch.randn(20, 48)
    for _ in range(6):
        layer(x)
    assert is_laid_out(layer)
    change(layer)
    torch.testing.assert_close(layer(x), plain(x, layer), rtol=1e-5, atol=1e-5)


@onednn
def test_what_was_laid_out_goes_with_its_weight(fast):
    passing = Linear(48, 80).requires_grad_(False)
    for _ in range(6):
        passing(torch.randn(20, 48))
    other_layout = weakref.ref(module._LAID[passing.weight].weight)
    assert other_layout() is not None
    del passing
    gc.collect()
    assert other_layout() is None


@onednn
def test_a_layer_in_use_can_be_copied_moved_and_saved(fast, layer, tmp_path):
    x = torch.randn(20, 48)
    for _ in range(6):
        layer(x)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), layer(x))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    assert set(layer.state_dict()) == {"weight", "bias"}
    halved = copy.deepcopy(layer).bfloat16()
    assert halved(x.bfloat16()).dtype == torch.bfloat16


@onednn
def test_gradients_go_torch_s_way(fast):
    layer = Linear(48, 80)
    x = torch.randn(20, 48, requires_grad=True)
    with torch.enable_grad():
        layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None


@onednn
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own first use
def test_derivatives_forward_are_torch_s(fast, layer):
    x, along = torch.randn(20, 48), torch.randn(20, 48)
    _, tangent = torch.func.jvp(layer, (x,), (along,))
    torch.testing.assert_close(tangent, along @ layer.weight.T)
    with forward_ad.dual_level():
        answer = layer(forward_ad.make_dual(x, along))
        torch.testing.assert_close(forward_ad.unpack_dual(answer).tangent, tangent)
    torch.testing.assert_close(torch.vmap(layer)(x.expand(3, 20, 48))[1], plain(x, layer))


@onednn
def test_what_was_laid_out_does_not_stay_when_its_weight_moves_on(fast, layer):
    for _ in range(6):
        layer(torch.randn(20, 48))
    assert is_laid_out(layer)
    layer.double()(torch.randn(20, 48, dtype=torch.float64))
    assert not is_laid_out(layer)


@onednn
@pytest.mark.parametrize("shape", [(9, 0), (48,), (20, 3, 2, 48)])
def test_unusual_shapes_are_answered_as_torch_does(fast, shape):
    layer = Linear(shape[-1], 80) if shape[-1] else torch.nn.Linear(1, 80)
    weight = layer.weight.detach() if shape[-1] else torch.zeros(80, 0)
    x = torch.randn(shape)
    found = linear(x, weight, layer.bias.detach())
    torch.testing.assert_close(found, F.linear(x, weight, layer.bias.detach()))


@onednn
def test_a_wish_that_is_none_is_refused(monkeypatch, layer):
    monkeypatch.setenv("LASCAUX_LINEAR", "fast")
    with torch.no_grad(), pytest.raises(BadInput, match="torch or onednn"):
        layer(torch.randn(20, 48))


@onednn
def test_autocast_decides_the_dtype(fast, layer):
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(20, 48)).dtype == torch.bfloat16


@onednn
def test_float64_and_float16_go_torch_s_way(fast, layer):
    for dtype in (torch.float64, torch.float16):
        assert chosen_way(dtype) == "torch"
        assert layer.to(dtype)(torch.randn(20, 48, dtype=dtype)).dtype == dtype


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("LASCAUX_LINEAR", "torch")
    assert chosen_way(torch.float32) == "torch"
    if module._onednn_is_there():
        monkeypatch.setenv("LASCAUX_LINEAR", "onednn")
        assert chosen_way(torch.float32) == "onednn"


def test_without_a_wish_the_measurement_decides(monkeypatch):
    monkeypatch.delenv("LASCAUX_LINEAR", raising=False)
    monkeypatch.setattr(module, "_onednn_is_there", lambda: True)
    for gain, way in ((0.9, "torch"), (2.0, "onednn")):
        monkeypatch.setattr(module, "onednn_gain", lambda dtype, gain=gain: gain)
        assert chosen_way(torch.float32) == way


def test_without_the_operators_there_is_one_way(monkeypatch, fast, layer):
    monkeypatch.setattr(module, "_onednn_is_there", lambda: False)
    assert chosen_way(torch.float32) == "torch"
    x = torch.randn(20, 48)
    assert torch.equal(layer(x), plain(x, layer))


@onednn
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gain_is_measured(dtype, monkeypatch):
    onednn_gain.cache_clear()
    before = onednn_gain(dtype)

    def slow(x, weight, bias):
        for _ in range(9):
            torch.nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(module, "F", type("Slow", (), {"linear": staticmethod(slow)}))
    onednn_gain.cache_clear()
    assert onednn_gain(dtype) > 3 * before
    onednn_gain.cache_clear()


@onednn
def test_wrong_shapes_are_refused_either_way(monkeypatch, layer):
    for way in ("torch", "onednn"):
        monkeypatch.setenv("LASCAUX_LINEAR", way)
        with torch.no_grad(), pytest.raises(RuntimeError):
            linear(torch.randn(20, 47), layer.weight, layer.bias)


@onednn
def test_a_settled_way_is_taken_unless_the_environment_says_another(monkeypatch):
    monkeypatch.delenv("LASCAUX_LINEAR", raising=False)
    measured = chosen_way(torch.float32)
    for way, other in (("torch", "onednn"), ("onednn", "torch")):
        with module.settled(way):
            assert chosen_way(torch.float32) == way
            with monkeypatch.context() as patch:
                patch.setenv("LASCAUX_LINEAR", other)
                assert chosen_way(torch.float32) == other
            assert chosen_way(torch.float16) == "torch"
    assert chosen_way(torch.float32) == measured
