import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.discrete_vae import DiscreteVae, DiscreteVaeConfig, reinmax
from lascaux.nn.quantise import straight_through

TINY = DiscreteVaeConfig(
    image_size=16, codes=12, code_width=10, layers=2, blocks=1, width=8, kl_weight=0.01
)
PLAIN = replace(TINY, blocks=0)

both = pytest.mark.parametrize("config", [TINY, PLAIN], ids=["blocks", "no blocks"])


def vae(config: DiscreteVaeConfig = TINY) -> DiscreteVae:
    torch.manual_seed(0)
    return DiscreteVae(config).eval()


def pictures(count: int = 3, height: int = 8, width: int = 12, channels: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return 2 * torch.rand(count, channels, height, width, generator=draw) - 1


@both
def test_a_batch_equals_one_by_one(config: DiscreteVaeConfig):
    model, x = vae(config), pictures()
    grid, ids = model.grid(x), model.encode(x)
    whole = model.decode_ids(ids, grid)
    assert ids.dtype == torch.int64
    assert whole.shape == x.shape
    for row, picture in enumerate(x):
        assert torch.equal(model.encode(picture[None])[0], ids[row])
        torch.testing.assert_close(model.decode_ids(ids[row : row + 1], grid)[0], whole[row])


@both
def test_ids_look_up_to_what_features_quantise_to(config: DiscreteVaeConfig):
    model, x = vae(config), pictures()
    ids, vectors = model.quantise(model.features(x))
    assert torch.equal(ids, model.encode(x))
    assert torch.equal(vectors, model.lookup(ids))
    torch.testing.assert_close(model.blend(F.one_hot(ids, model.codes).float()), vectors)


@both
@pytest.mark.parametrize(
    "change",
    [{}, {"straight_through": True}, {"straight_through": True, "reinmax": True}],
    ids=["relaxed", "straight through", "reinmax"],
)
def test_gradients_reach_every_parameter(config: DiscreteVaeConfig, change: dict):
    model = vae(replace(config, **change)).train()
    draw = torch.Generator().manual_seed(3)
    model(pictures(), generator=draw).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_loss_is_the_error_and_the_weighted_divergence():
    model, x = vae(), pictures()
    back = model(x, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(back.error, (back.pictures - x).square().mean())
    torch.testing.assert_close(back.loss, back.error + 0.01 * back.divergence)
    chances = model.features(x).softmax(dim=-1)
    expected = (chances * (chances * 12).log()).sum()
    torch.testing.assert_close(back.divergence, expected)


def test_equal_chances_diverge_by_nothing_and_certainty_by_the_log_of_the_codes():
    model, x = vae(), pictures(1)
    with torch.no_grad():
        model.encoder.out.weight.zero_()
        model.encoder.out.bias.zero_()
    assert model(x).divergence.item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        model.encoder.out.bias[3] = 100
    assert model(x).divergence.item() == pytest.approx(6 * math.log(12), rel=1e-5)


def test_the_smooth_error_is_half_the_square_where_it_is_small_and_linear_beyond():
    model = vae(replace(TINY, error="smooth_l1"))
    x = 3 * pictures()
    back = model(x, generator=torch.Generator().manual_seed(3))
    far = (back.pictures - x).abs()
    expected = torch.where(far < 1, far.square() / 2, far - 0.5).mean()
    torch.testing.assert_close(back.error, expected)


def test_a_relaxed_choice_is_the_softmax_of_logits_and_noise():
    model = vae()
    f, noise = torch.randn(2, 6, 12), torch.randn(2, 6, 12)
    expected = ((f + noise) / 0.9).softmax(dim=-1)
    torch.testing.assert_close(model.relax(f, noise=noise), expected)
    cold = model.relax(f, noise=noise, temperature=0.01)
    assert torch.equal(cold.argmax(dim=-1), (f + noise).argmax(dim=-1))


def test_seeds_repeat_a_draw():
    model, x = vae(), pictures()
    one, same, other = (
        model(x, generator=torch.Generator().manual_seed(seed)).pictures for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_codes_are_drawn_by_their_chances():
    model = vae(replace(TINY, straight_through=True))
    f = torch.tensor([0.0, 1.0, 2.0] + [-9.0] * 9).expand(1, 20_000, 12)
    drawn = model.relax(f, generator=torch.Generator().manual_seed(0)).mean(dim=1)[0]
    torch.testing.assert_close(drawn, f[0, 0].softmax(dim=-1), atol=0.01, rtol=0)


def test_straight_through_decodes_whole_codes_with_the_gradients_of_the_relaxation():
    soft, hard = vae(), vae(replace(TINY, straight_through=True))
    noise = torch.randn(1, 6, 12)
    f = torch.randn(1, 6, 12, requires_grad=True)
    weights = torch.randn(1, 6, 12)
    shares = hard.relax(f, noise=noise)
    assert torch.equal(shares.sort(dim=-1).values[..., -1], torch.ones(1, 6))
    assert torch.equal(shares.sum(dim=-1), torch.ones(1, 6))
    (through,) = torch.autograd.grad((shares * weights).sum(), f)
    (relaxed,) = torch.autograd.grad((soft.relax(f, noise=noise) * weights).sum(), f)
    torch.testing.assert_close(through, relaxed)


def test_reinmax_gradients_are_exact_in_the_mean_for_a_quadratic_function():
    # Liu et al. 2023, section 3: second order, where plain straight-through ones are first.
    draw = torch.Generator().manual_seed(0)
    f = torch.randn(1, 1, 5, dtype=torch.float64, generator=draw).requires_grad_()
    matrix = torch.randn(5, 5, dtype=torch.float64, generator=draw)

    def measured(shares: Tensor) -> Tensor:
        return ((shares @ matrix) * shares).sum(dim=-1)

    chances, codes = f.softmax(dim=-1), torch.eye(5, dtype=torch.float64)
    (exact,) = torch.autograd.grad((chances[0, 0] * measured(codes)).sum(), f)
    second, first = torch.zeros_like(f), torch.zeros_like(f)
    for code, chance in zip(codes, chances[0, 0].detach(), strict=True):
        shares = reinmax(f, code[None, None], 1.0)
        assert torch.equal(shares[0, 0].detach(), code)
        second += chance * torch.autograd.grad(measured(shares).sum(), f)[0]
        plain = straight_through(code[None, None], f.softmax(dim=-1))
        first += chance * torch.autograd.grad(measured(plain).sum(), f)[0]
    torch.testing.assert_close(second, exact)
    assert not torch.allclose(first, exact, rtol=0.1)


def test_pictures_are_normalised_by_channel_and_back():
    config = replace(TINY, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    model, x = vae(config), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model.normalise(x)[:, 2], (x[:, 2] - 0.3) / 2)
    torch.testing.assert_close(model.denormalise(model.normalise(x)), x)
    bare = vae(replace(TINY, mean=None, std=None))
    assert torch.equal(bare.normalise(x), x)
    assert torch.equal(bare.denormalise(x), x)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_three_are_read(channels: int):
    config = replace(TINY, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    model, x = vae(config), pictures(channels=channels)
    assert model(x).pictures.shape == x.shape
    with pytest.raises(BadInput, match="pictures of 3 channels"):
        model.encode(pictures())


def test_sides_that_codes_do_not_fill_are_refused():
    with pytest.raises(BadInput, match=r"10 x 12 pixels.*multiples of 4"):
        vae()(torch.zeros(1, 3, 10, 12))


def test_ids_of_another_codebook_and_wrong_counts_are_refused():
    model = vae()
    with pytest.raises(BadInput, match="ids from 0 to 12; this model has codes 0 to 11"):
        model.decode_ids(torch.tensor([[0, 12]]), (1, 2))
    with pytest.raises(BadInput, match="2 tokens for a grid of 2 x 2"):
        model.decode_ids(torch.tensor([[0, 1]]), (2, 2))
    with pytest.raises(BadInput, match="temperature 0"):
        model(pictures(), temperature=0.0)


def test_impossible_configs_are_refused():
    for change in (
        {"layers": 0},
        {"blocks": -1},
        {"temperature": 0.0},
        {"mean": (0.5,)},
        {"mean": None},
        {"std": (0.5, 0.0, 0.5)},
    ):
        with pytest.raises(BadInput):
            replace(TINY, **change)


@both
def test_a_config_survives_json(config: DiscreteVaeConfig):
    for each in (config, replace(config, mean=None, std=None, error="smooth_l1")):
        assert DiscreteVaeConfig.from_json(each.to_json()) == each
    with pytest.raises(BadInput, match="colour"):
        DiscreteVaeConfig.from_json({**config.to_json(), "colour": 1})


def test_parameters_are_as_many_as_the_published_constructor_makes():
    # Counted by hand from the published layers, at their defaults and with two residual blocks.
    with torch.device("meta"):
        plain = DiscreteVae(DiscreteVaeConfig())
        deep = DiscreteVae(DiscreteVaeConfig(blocks=2))
    square, up = 64 * 64 * 16 + 64, 512 * 64 * 16 + 64
    ends = (3 * 64 * 16 + 64) + (64 * 512 + 512) + (64 * 3 + 3) + 512 * 512
    block = 2 * (64 * 64 * 9 + 64) + (64 * 64 + 64)
    assert sum(p.numel() for p in plain.parameters()) == ends + 2 * square + up + 2 * square
    counted = ends + 5 * square + 4 * block + (512 * 64 + 64)
    assert sum(p.numel() for p in deep.parameters()) == counted


def test_training_finds_a_picture_again():
    torch.manual_seed(0)
    model = DiscreteVae(replace(TINY, kl_weight=0.0, temperature=0.5)).train()
    x = pictures(4)
    x = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4.0)  # one colour a code
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    first = model(x, generator=draw).error.item()
    for _ in range(80):
        optimiser.zero_grad()
        model(x, generator=draw).loss.backward()
        optimiser.step()
    model.eval()
    back = model.decode_ids(model.encode(x), model.grid(x))
    assert F.mse_loss(back, x).item() < first / 2


def test_pictures_are_prepared_as_in_train_vae():
    how = DiscreteVaeConfig(image_size=32).preprocessing
    assert how is not None
    assert (how.size, how.resize, how.filter, how.mean) == (32, "crop", "bilinear", (0.5, 0.5, 0.5))
    plain = DiscreteVaeConfig(image_size=32, mean=None, std=None).preprocessing
    assert plain is not None
    assert (plain.mean, plain.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    grey = DiscreteVaeConfig(channels=1, mean=(0.5,), std=(0.5,))
    assert grey.preprocessing is None
