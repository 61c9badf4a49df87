from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lascaux.models.lpips import VARIANTS, Lpips, LpipsConfig

TINY = LpipsConfig(widths=(4, 6, 8), depths=(1, 2, 1))


@pytest.fixture(autouse=True)
def the_same_numbers_each_time():
    torch.manual_seed(0)


def made(config: LpipsConfig = TINY) -> Lpips:
    torch.manual_seed(0)
    return Lpips(config).eval()


def test_a_picture_is_no_way_from_itself_and_some_from_another():
    model, x = made(), torch.rand(3, 3, 16, 16) * 2 - 1
    assert model(x, x).tolist() == [0, 0, 0]
    apart = model(x, -x)
    assert apart.shape == (3,)
    assert (apart > 0).all()
    torch.testing.assert_close(apart, model(-x, x))
    torch.testing.assert_close(apart, torch.cat([model(a[None], -a[None]) for a in x]))


def test_the_distance_is_that_of_the_equation():
    model = made()
    x, other = torch.rand(2, 1, 3, 8, 8) * 2 - 1
    total = torch.zeros(1)
    for mine, theirs, weight in zip(
        model.features(x), model.features(other), model.weights, strict=True
    ):
        a, b = (m / (m.square().sum(1, keepdim=True).sqrt() + 1e-10) for m in (mine, theirs))
        total = total + ((a - b).square() * weight.view(-1, 1, 1)).sum(1).mean((1, 2))
    torch.testing.assert_close(model(x, other), total)


def test_gradients_stay_finite_where_features_are_all_zero():
    model = made()
    with torch.no_grad():
        for convolution in model.stages[0]:
            convolution.bias.fill_(-9.0)
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    model(x, torch.zeros(1, 3, 8, 8)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_floor_keeps_short_features_as_they_are():
    x = torch.full((1, 2, 1, 1), 1e-13)
    floor = made(replace(TINY, unit="floor", epsilon=1e-12))
    torch.testing.assert_close(floor._unit(x), F.normalize(x, dim=1))


def test_dropout_acts_in_training_alone():
    model, x = made(), torch.rand(1, 3, 16, 16)
    assert torch.equal(model(x, -x), model(x, -x))
    model.train()
    assert not torch.equal(model(x, -x), model(x, -x))


def test_the_published_one_has_vgg_s_convolutions_and_five_weightings():
    for config in VARIANTS.values():
        with torch.device("meta"):
            model = Lpips(config)
        assert sum(p.numel() for p in model.parameters()) == 14_714_688 + 1_472
        assert LpipsConfig.from_json(config.to_json()) == config
