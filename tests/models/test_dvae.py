from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.images.preprocess import normalise, to_square
from lascaux.models.dvae import VARIANTS, Dvae, DvaeConfig, map_pixels, unmap_pixels

TINY = DvaeConfig(
    codes=40,
    encoder_width=8,
    encoder_blocks=1,
    decoder_width=12,
    decoder_blocks=2,
    first_width=6,
)


def dvae(config: DvaeConfig = TINY) -> Dvae:
    torch.manual_seed(0)
    return Dvae(config).eval()


def pictures(count: int = 3, height: int = 16, width: int = 24, channels: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return map_pixels(torch.rand(count, channels, height, width, generator=draw))


def test_a_batch_equals_one_by_one():
    model, x = dvae(), pictures()
    grid = model.grid(x)
    ids, whole = model.encode(x), model(x)
    for row, picture in enumerate(x):
        assert torch.equal(model.encode(picture[None])[0], ids[row])
        torch.testing.assert_close(model.decode_ids(ids[row : row + 1], grid)[0], whole[row])


def test_ids_are_what_features_quantise_to_and_look_up_to_the_same_vectors():
    model, x = dvae(), pictures()
    ids, vectors = model.quantise(model.features(x))
    assert ids.dtype == torch.int64
    assert ids.shape == (3, 2 * 3)
    assert torch.equal(ids, model.encode(x))
    assert torch.equal(vectors, model.lookup(ids))
    assert torch.equal(model.decode(vectors, (2, 3)), model.decode_ids(ids, (2, 3)))


def test_looking_up_a_code_is_the_published_convolution_of_its_one_hot_map():
    model = dvae()
    ids = torch.tensor([[3, 39, 0, 3, 7, 21]])
    one_hot = rearrange(F.one_hot(ids, 40).float(), "b (y x) s -> b s y x", y=2)
    kernel = model.codebook.weight.t()[:, :, None, None]
    convolved = F.conv2d(one_hot, kernel, model.codebook.bias)
    assert torch.equal(rearrange(convolved, "b d y x -> b (y x) d"), model.lookup(ids))
    torch.testing.assert_close(model.blend(F.one_hot(ids, 40).float()), model.lookup(ids))


def test_codes_stand_in_reading_order():
    model = dvae()
    x = pictures(1, 32, 32)
    changed = x.clone()
    changed[:, :, :8, 24:] = 0.9  # the last place of the first row
    moved = (model.features(x) - model.features(changed)).abs().sum(dim=-1)[0]
    assert moved.argmax() == 3


def test_a_decoded_place_lies_where_its_code_stood():
    model = dvae()
    ids = torch.zeros(1, 16, dtype=torch.int64)
    changed = ids.clone()
    changed[0, 7] = 5  # second row, last column
    moved = (model.decode_ids(ids, (4, 4)) - model.decode_ids(changed, (4, 4))).abs().sum(dim=1)[0]
    row, column = divmod(int(moved.argmax()), 32)
    assert 8 <= row < 16
    assert column >= 24


def test_gradients_reach_every_parameter_through_blended_codes():
    model, x = dvae().train(), pictures(2)
    shares = model.features(x).softmax(dim=-1)
    model.statistics(model.blend(shares), model.grid(x)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_pictures_are_decoded_with_gradients_to_their_vectors():
    model = dvae()
    vectors = model.lookup(torch.tensor([[1, 2, 3, 4]])).detach().requires_grad_()
    model.decode(vectors, (2, 2)).sum().backward()
    assert vectors.grad is not None
    assert bool((vectors.grad.abs().sum(dim=-1) > 0).all())


def test_mapping_pixels_leaves_a_tenth_free_and_is_undone():
    x = torch.linspace(0, 1, 11).reshape(1, 1, 11)
    assert map_pixels(x).min() == pytest.approx(0.1)
    assert map_pixels(x).max() == pytest.approx(0.9)
    torch.testing.assert_close(unmap_pixels(map_pixels(x)), x)
    assert unmap_pixels(torch.zeros(1, 1, 1)).item() == 0
    assert unmap_pixels(torch.ones(1, 1, 1)).item() == 1


def test_a_picture_is_prepared_by_lanczos_and_its_middle_mapped():
    how = VARIANTS["openai-dvae"].preprocessing
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (400, 512, 3), dtype=np.uint8))
    whole = picture.resize((327, 256), Image.Resampling.LANCZOS)
    expected = np.asarray(whole.crop((36, 0, 36 + 256, 256)))
    assert np.array_equal(np.asarray(to_square(picture, how)), expected)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(normalise(x, how.mean, how.std), map_pixels(x))


def test_what_comes_out_is_denormalised_without_a_clamp():
    model, x = dvae(), pictures(1)
    torch.testing.assert_close(model.normalise(model.denormalise(x)), x)
    assert model.denormalise(torch.zeros_like(x)).max() < 0


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_each_group_but_one_halves_the_sides(groups: int):
    model = dvae(replace(TINY, groups=groups))
    side = 2 * 2 ** (groups - 1)
    assert model.factor == 2 ** (groups - 1)
    x = pictures(1, side, side)
    assert model.encode(x).shape == (1, 4)
    assert model(x).shape == x.shape


def test_other_channels_than_three_go_in_and_out():
    model = dvae(replace(TINY, in_channels=1, out_channels=2))
    x = pictures(1, channels=1)
    assert model.encode(x).shape == (1, 6)
    assert model(x).shape == (1, 2, 16, 24)
    with pytest.raises(BadInput, match="pictures of 3 channels; this model takes 1"):
        model.encode(pictures(1))


def test_sides_that_codes_do_not_fill_are_refused():
    model = dvae()
    for height, width in ((15, 24), (16, 20), (0, 8)):
        with pytest.raises(BadInput, match=rf"{height} x {width} pixels.*multiples of 8"):
            model.encode(torch.zeros(1, 3, height, width))


def test_ids_of_another_codebook_and_wrong_counts_are_refused():
    model = dvae()
    with pytest.raises(BadInput, match="ids from 0 to 40; this model has codes 0 to 39"):
        model.decode_ids(torch.tensor([[0, 40]]), (1, 2))
    with pytest.raises(BadInput, match="ids from -1 to 3"):
        model.lookup(torch.tensor([[-1, 3]]))
    for grid in ((2, 2), (0, 3), (-1, -3)):
        with pytest.raises(BadInput, match=rf"3 tokens for a grid of {grid[0]} x {grid[1]}"):
            model.decode_ids(torch.tensor([[1, 2, 3]]), grid)
    with pytest.raises(BadInput, match="6 tokens for a grid of 2 x 2"):
        model.decode(torch.zeros(1, 6, 6), (2, 2))


def test_int32_ids_are_taken():
    model, ids = dvae(), torch.tensor([[4, 9]])
    assert torch.equal(model.decode_ids(ids.int(), (1, 2)), model.decode_ids(ids, (1, 2)))


def test_bfloat16_agrees_within_its_precision():
    model, x = dvae(), pictures(1)
    expected, ids = model(x), model.encode(x)
    half = dvae().to(torch.bfloat16)
    assert half(x).dtype == torch.bfloat16
    torch.testing.assert_close(half.decode_ids(ids, (2, 3)).float(), expected, atol=0.02, rtol=0.02)


def test_impossible_configs_are_refused():
    for change in ({"codes": 0}, {"groups": 0}, {"encoder_width": 3}, {"margin": 0.5}):
        with pytest.raises(BadInput):
            replace(TINY, **change)


def test_a_config_survives_json():
    config = replace(TINY, groups=3, out_channels=1)
    assert DvaeConfig.from_json(config.to_json()) == config
    with pytest.raises(BadInput, match="colour"):
        DvaeConfig.from_json({**config.to_json(), "colour": 1})
    with pytest.raises(BadInput, match="codes"):
        DvaeConfig.from_json({k: v for k, v in config.to_json().items() if k != "codes"})


def test_the_published_one_has_97_6_million_parameters():
    with torch.device("meta"):
        model = Dvae(VARIANTS["openai-dvae"])
    # The tensors of encoder.pkl, then those of decoder.pkl, of which the codebook is one.
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert encoder == 53_786_240
    assert sum(parameter.numel() for parameter in model.parameters()) - encoder == 43_829_766
    assert model.factor == 8
    assert model.codes == 8192


def test_equal_seeds_draw_equal_weights_and_none_is_left_undrawn():
    first, second = dvae().state_dict(), dvae().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(bool(tensor.isfinite().all()) for tensor in first.values())
