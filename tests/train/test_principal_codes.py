from dataclasses import replace

import pytest
import torch
from torch import Tensor

import lascaux
from lascaux.errors import BadInput, Unsupported, WrongHash
from lascaux.models.clip import Clip
from lascaux.models.styled_vq import StyledVq, StyledVqConfig
from lascaux.nn.principal_encoder import PrincipalEncoder
from lascaux.train.principal_codes import principal, shared_out
from tiny import tiny_reader

TINY = StyledVqConfig(
    image_size=16,
    patch_size=4,
    attributes=4,
    latent_width=5,
    shrunk_size=8,
    codes=64,
    distance="euclidean",
    retouching_widths=(8, 32),
    condition_width=16,
)


def reader() -> Clip:
    torch.manual_seed(2)
    return Clip(replace(tiny_reader(600), image_size=16, patch_size=8)).eval()


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
        ({"meanings": 2}, "both 0, or fewer than all and a width"),
        ({"meanings": 4, "meaning_width": 8}, "both 0, or fewer"),
        ({"coordinates": (), "meanings": 1, "meaning_width": 8}, "a transformer has none"),
        ({"retouching_widths": (8, 20)}, "multiples of 8"),
        ({"retouching_widths": (8, 40)}, "the last is no multiple of 32"),
        ({"retouching_widths": (8, 8, 8, 8, 32)}, "image_size 16 must be divisible by 32"),
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


def test_the_first_attributes_spell_what_a_clip_sees_and_the_sketch_leaves_them_aside():
    pictures, clip = drawn(), reader()
    model = principal(TINY, pictures, seed=3, reader=clip, meanings=2).eval()
    assert (model.config.meanings, model.config.meaning_width) == (2, clip.config.embed_width)
    encoder = model.encoder
    assert isinstance(encoder, PrincipalEncoder)
    x = x_of(model, pictures)
    seen = x / torch.tensor(clip.config.std)[:, None, None] / 2
    offset = (0.5 - torch.tensor(clip.config.mean)) / torch.tensor(clip.config.std)
    expected = torch.nn.functional.normalize(
        clip.encode_image(seen + offset[:, None, None]), dim=-1
    )
    torch.testing.assert_close(model.meaning(x), expected, atol=1e-5, rtol=1e-4)
    latents = model.features(x)
    first, second = model.config.coordinates[:2]
    spelt = torch.cat((latents[:, 0, :first], latents[:, 1, :second]), dim=1)
    *_, theirs = torch.pca_lowrank(expected.detach().double(), 16, niter=20)
    alike = (encoder.meaning_directions.double() @ theirs[:, : first + second]).diagonal().abs()
    torch.testing.assert_close(alike, torch.ones_like(alike), atol=1e-3, rtol=0)
    assert spelt.square().mean().item() == pytest.approx(1.0, abs=0.05)
    other = latents.clone()
    other[:, :2] = latents[:, :2].roll(1, 0)
    assert torch.equal(encoder.sketch(latents), encoder.sketch(other))
    # Those behind are the same as of a model without.
    alone = principal(replace(TINY, attributes=2), pictures, seed=3)
    assert model.config.coordinates[2:] == alone.config.coordinates
    torch.testing.assert_close(latents[:, 2:], alone.features(x))
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    assert not torch.allclose(model.decode(latents), model.decode(other)), "but the rest does not"
    with pytest.raises(BadInput, match="they need a reader"):
        principal(TINY, pictures, seed=3, meanings=2)


def test_a_reader_is_left_as_it_is_and_found_again_by_its_name(tmp_path, monkeypatch):
    pictures, clip = drawn(200), reader()
    model = principal(TINY, pictures, seed=3, reader=clip, meanings=2)
    assert not model.train().reader.training
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    model.initialise()
    assert all(torch.equal(value, before[key]) for key, value in clip.state_dict().items())
    named = lascaux.save(clip, tmp_path / "clip")
    folder = lascaux.save(model, tmp_path / "model", elsewhere={"reader": str(named)})
    back = lascaux.load(folder)
    x = x_of(model, pictures)
    assert torch.equal(back.encode(x), model.eval().encode(x))
    assert not any("reader" in key for key in read_keys(folder))
    bare = StyledVq(model.config).eval()
    bare.load_state_dict(
        {key: value for key, value in model.state_dict().items() if not key.startswith("reader")}
    )
    ids = model.encode(x)
    assert torch.equal(bare.decode_ids(ids), model.decode_ids(ids)), "decoding needs no reader"
    with pytest.raises(Unsupported, match="came without it"):
        bare.features(x)
    with pytest.raises(BadInput, match="this model needs one of 16 and"):
        StyledVq(model.config, reader=Clip(replace(tiny_reader(600), image_size=32)))
    lascaux.save(Clip(clip.config), named)
    with pytest.raises(WrongHash, match="was trained with"):
        lascaux.load(folder)


def read_keys(folder) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return list(file.keys())
