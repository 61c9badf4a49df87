from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lascaux.errors import BadInput, Unsupported
from lascaux.models.inception import (
    VARIANTS,
    Convolution,
    Inception,
    InceptionConfig,
    StoredNorm,
)

TINY = InceptionConfig(classes=5, size=80, shrink=16)


def made(config: InceptionConfig = TINY) -> Inception:
    torch.manual_seed(0)
    model = Inception(config).eval()
    for module in model.modules():
        if isinstance(module, StoredNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def pictures(count: int = 2, size: int = 80) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


# torchvision's 27,161,264 without the auxiliary classifier's 3,326,696; of TensorFlow's eight
# classes more.
@pytest.mark.parametrize(
    ("name", "count"), [("inception-imagenet", 23_834_568), ("inception-fid", 23_850_960)]
)
def test_published_ones_have_as_many_weights_as_published(name: str, count: int):
    with torch.device("meta"):
        model = Inception(VARIANTS[name])
        x = torch.empty(2, 3, 299, 299)
    assert sum(p.numel() for p in model.parameters()) == count
    shapes = [tuple(found.shape) for found in model.maps(x)]
    assert shapes == [(2, 64, 73, 73), (2, 192, 35, 35), (2, 768, 17, 17), (2, 2048, 8, 8)]
    assert model(x).shape == (2, VARIANTS[name].classes)


def test_every_block_gives_the_mean_of_its_map():
    model, x = made(), pictures()
    assert model.config.widths == (4, 12, 48, 128)
    for block, found in enumerate(model.maps(x)):
        torch.testing.assert_close(model.encode_image(x, block), found.mean((2, 3)))
    torch.testing.assert_close(model(x), model.classify(model.encode_image(x)))


def test_maps_are_computed_as_they_are_asked_for():
    model = made()
    model.mixed = torch.nn.ModuleList()  # what lies behind the first two blocks
    maps = model.maps(pictures())
    assert [next(maps).shape[1], next(maps).shape[1]] == [4, 12]


def test_pictures_are_answered_one_by_one_as_together():
    model, x = made(), pictures(3)
    torch.testing.assert_close(model(x), torch.cat([model(each[None]) for each in x]))


def test_training_leaves_the_stored_statistics_as_they_are():
    model, x = made(), pictures()
    before = model(x)
    assert torch.equal(model.train()(x), before)
    assert torch.equal(model.eval()(x), before)


def test_gradients_reach_every_parameter():
    model = made(replace(TINY, shrink=8))  # of fewer channels, some die
    model(pictures(4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_convolution_is_normalised_by_what_is_stored():
    layer = made().stem[0]
    assert isinstance(layer, Convolution)
    x, norm = pictures(), layer.norm
    mean, variance = (v.view(-1, 1, 1) for v in (norm.running_mean, norm.running_var))
    expected = ((layer.conv(x) - mean) / (variance + 1e-3).sqrt()).clamp(min=0)
    torch.testing.assert_close(layer(x), expected)


def test_tensorflow_s_pools_leave_padding_out_and_its_last_one_is_a_maximum():
    ones = torch.ones(1, 1, 3, 3)
    fid = made()
    assert torch.equal(fid.mixed[0]._pooled(ones), ones)
    assert torch.equal(fid.mixed[9]._pooled(ones), ones)
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(fid.mixed[10]._pooled(x), F.max_pool2d(x, 3, 1, 1))
    imagenet = made(replace(TINY, counts_padding=True, last_pool="average"))
    for block in (0, 4, 9, 10):
        corner = imagenet.mixed[block]._pooled(ones)[0, 0, 0, 0]
        torch.testing.assert_close(corner, torch.tensor(4 / 9))
    assert not torch.allclose(fid(pictures()), imagenet(pictures()))


def test_pictures_of_any_size_are_resized_without_antialiasing_and_brought_to_minus_one_and_one():
    model, x = made(), pictures(size=120)
    expected = 2 * F.interpolate(x, (80, 80), mode="bilinear", align_corners=False) - 1
    assert torch.equal(model.normalise(x), expected)
    assert torch.equal(model.resize(pictures()), pictures())
    assert made(replace(TINY, size=None)).normalise(x).shape == x.shape


def test_what_cannot_be_answered_is_refused():
    model = made()
    with pytest.raises(BadInput, match="normalise"):
        model(torch.zeros(1, 3, 74, 80))
    with pytest.raises(BadInput, match="block 4"):
        model.encode_image(pictures(), 4)
    with pytest.raises(Unsupported, match="encode_image"):
        made(replace(TINY, classes=None))(pictures())


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 0},
        {"size": 74},
        {"shrink": 3},
        {"std": (0.5, 0.0, 0.5)},
    ],
)
def test_an_impossible_config_is_refused(changes):
    with pytest.raises(BadInput):
        replace(TINY, **changes)


def test_a_config_comes_back_from_json():
    for config in (*VARIANTS.values(), replace(TINY, size=None, mean=(0.1, 0.2, 0.3))):
        assert InceptionConfig.from_json(config.to_json()) == config


@pytest.mark.slow
def test_the_published_size_answers_a_photograph_s_pixels():
    model = made(VARIANTS["inception-fid"])
    x = model.normalise(pictures(1, 400))
    with torch.no_grad():
        features, logits = model.encode_image(x), model(x)
    assert features.shape == (1, 2048)
    assert logits.shape == (1, 1008)
    assert features.isfinite().all()
    assert (features >= 0).all()
