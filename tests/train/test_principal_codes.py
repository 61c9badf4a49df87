from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.styled_vq import PrincipalEncoder, StyledVq, StyledVqConfig
from lascaux.train.principal_codes import principal, shared_out

TINY = StyledVqConfig(
    image_size=16,
    patch_size=4,
    attributes=4,
    latent_width=5,
    shrunk_size=8,
    codes=64,
    distance="euclidean",
    decoder_width=16,
    decoder_heads=2,
    decoder_mlp_width=16,
    decoder_layers=1,
    pixel_width=8,
    pixel_kernel=3,
    pixel_groups=2,
)


def drawn(count: int = 400) -> Tensor:
    """Mixtures of twelve pictures of large blocks, each weighing half as much as the one before."""
    chance = torch.Generator().manual_seed(1)
    blocks = torch.randn(12, 3, 4, 4, generator=chance).repeat_interleave(4, 2)
    shares = torch.randn(count, 12, generator=chance) * 0.7 ** torch.arange(12)
    mixed = torch.einsum("nk,kcyx->ncyx", shares, blocks.repeat_interleave(4, 3))
    return (128 + 25 * mixed).clamp(0, 255).byte()


def x_of(model: StyledVq, pictures: Tensor) -> Tensor:
    return model.normalise(pictures.float() / 255)


def test_a_new_model_gives_what_its_coordinates_say_linearly():
    pictures = drawn()
    model = principal(TINY, pictures, seed=3).eval()
    encoder = model.encoder
    assert isinstance(encoder, PrincipalEncoder)
    rows = encoder.shrunk(x_of(model, pictures))
    count = sum(model.config.coordinates)
    # The directions of torch's own principal components, but for their signs.
    *_, theirs = torch.pca_lowrank(rows.double(), 40, niter=20)
    alike = (encoder.directions.double() @ theirs[:, :count]).diagonal().abs()
    torch.testing.assert_close(alike, torch.ones_like(alike), atol=1e-3, rtol=0)
    latents = model.features(x_of(model, pictures))
    for attribute, width in enumerate(model.config.coordinates):
        own = latents[:, attribute]
        assert own[:, :width].square().mean().item() == pytest.approx(1.0, abs=0.05)
        assert not own[:, width:].any()
    sketch = encoder.sketch(latents)
    torch.testing.assert_close(model.decode(latents), sketch)
    kept = encoder.shrunk(sketch) - encoder.centre
    expected = (rows - encoder.centre) @ encoder.directions.T @ encoder.directions
    # Enlarged smoothly and shrunk again it is nearly itself.
    assert (kept - expected).square().mean() < 0.05 * expected.square().mean()


def test_the_more_attributes_the_nearer_and_codes_of_other_places_mean_something_else():
    pictures = drawn()
    model = principal(TINY, pictures, seed=3).eval()
    x = x_of(model, pictures)
    ids = model.encode(x)
    found = model.lookup(ids)
    off = [
        (model.decode(model.complete(found[:, :count])) - x).square().mean().item()
        for count in range(5)
    ]
    assert off == sorted(off, reverse=True)
    assert off[4] < 0.35 * off[0]
    torch.testing.assert_close(model.quantise(model.features(x))[1], found)
    assert torch.equal(model.encode(x), model.quantise(found)[0]), "codes stand for themselves"
    first = model.lookup(torch.full((1, 4), 7))[0]
    assert not torch.equal(first[0], first[1])
    for attribute in range(4):
        far = torch.cdist(model.features(x)[:, attribute], model.codebook[attribute])
        assert torch.equal(far.argmin(dim=1), ids[:, attribute])


def test_the_same_seed_learns_the_same_and_nothing_else_is_drawn():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = (principal(TINY, drawn(), seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["codebook"], other["codebook"])
    with pytest.raises(BadInput, match="64 pictures for 64 codes of an attribute"):
        principal(TINY, drawn(64), seed=3)


def test_coordinates_are_shared_out_by_what_they_are_worth():
    # Each worth two bits above the level at which they fill four attributes of eight bits.
    assert shared_out(torch.cat((torch.full((16,), 16.0), torch.zeros(20))), 4, 256, 9) == (4,) * 4
    falling = shared_out(0.8 ** torch.arange(200.0), 6, 1024, 12)
    assert list(falling) == sorted(falling)
    assert max(falling) <= 12
    # One that is worth more than an attribute is alone.
    assert shared_out(torch.tensor([1e9, 1.0, 1.0, 1.0]), 2, 4, 3)[0] == 1
    with pytest.raises(BadInput, match="3 coordinates for 4 attributes"):
        shared_out(torch.ones(3), 4, 16, 2)


def test_impossible_coordinates_and_codes_are_refused():
    whole = replace(TINY, coordinates=(1, 2, 3, 5))
    for change, words in (
        ({"coordinates": (1, 2, 3)}, "expected 4 numbers from 1 to 5"),
        ({"coordinates": (1, 2, 3, 6)}, "expected 4 numbers from 1 to 5"),
        ({"shrunk_size": 5}, "no multiple of 5"),
        ({"distance": "cosine"}, "euclidean"),
        ({"levels": (8, 8)}, "neither levels"),
    ):
        with pytest.raises(BadInput, match=words):
            replace(whole, **change)
    assert StyledVqConfig.from_json(whole.to_json()) == whole
    model = StyledVq(whole)
    with pytest.raises(BadInput, match="codes of their own each"):
        model.adopt(torch.zeros(64, 5))
    with pytest.raises(BadInput, match="5 ids; this model has 4 attributes"):
        model.lookup(torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(BadInput, match=r"takes b x 3 x 16 x 16"):
        model.features(torch.zeros(1, 3, 8, 8))
