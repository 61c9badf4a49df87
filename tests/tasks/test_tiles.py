from dataclasses import replace

import pytest
import torch

from lascaux.errors import BadInput
from lascaux.models.vqgan import VqGan, VqGanConfig
from lascaux.tasks.tiles import Seams, TileOptions, decode_tiled, encode_tiled, seams

TINY = VqGanConfig(
    codes=64,
    code_width=4,
    image_size=16,
    width=8,
    multiples=(1, 2),
    blocks=1,
    attention_sizes=(8,),
    latent_width=4,
    groups=4,
)
SMALL = TileOptions(size=16, overlap=4)


@pytest.fixture(autouse=True)
def the_same_numbers_each_time():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model() -> VqGan:
    torch.manual_seed(0)
    model = VqGan(TINY).eval()
    torch.nn.init.normal_(model.codebook.weight, std=0.5)
    return model


class Local:
    """A tokeniser in which no place knows of another: tiles must make no difference at all."""

    factor = 2

    def features(self, x: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.avg_pool2d(x, 2)
        return means.flatten(2).transpose(1, 2)

    def quantise(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids = (features[..., 0] * 1000).round().long()
        return ids, self.lookup(ids)

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        return ids[..., None] / 1000

    def decode(self, features: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        small = features.transpose(1, 2).unflatten(2, grid)
        return torch.nn.functional.interpolate(small, scale_factor=2.0)


def test_one_tile_is_the_model_itself(model: VqGan):
    x = torch.rand(2, 3, 16, 12) * 2 - 1
    ids, grid = encode_tiled(model, x, SMALL)
    assert grid == (8, 6)
    assert torch.equal(ids, model.encode(x))
    torch.testing.assert_close(decode_tiled(model, ids, grid, SMALL), model.decode_ids(ids, grid))


@pytest.mark.parametrize(("height", "width"), [(16, 64), (18, 30), (50, 34), (16, 18)])
def test_tiles_of_a_model_without_neighbourhood_give_the_whole(height: int, width: int):
    model, x = Local(), torch.rand(2, 1, height, width)
    ids, grid = encode_tiled(model, x, SMALL)
    whole, _ = model.quantise(model.features(x))
    assert grid == (height // 2, width // 2)
    assert torch.equal(ids, whole)
    expected = model.decode(model.lookup(whole), grid)
    torch.testing.assert_close(decode_tiled(model, ids, grid, SMALL), expected)


def test_no_tile_is_larger_than_asked_for(model: VqGan):
    seen = []

    class Watched(VqGan):
        def features(self, x):
            seen.append(tuple(x.shape[-2:]))
            return super().features(x)

        def decode(self, features, grid):
            seen.append((grid[0] * 2, grid[1] * 2))
            return super().decode(features, grid)

    watched = Watched(TINY).eval()
    ids, grid = encode_tiled(watched, torch.rand(1, 3, 40, 28), SMALL)
    decode_tiled(watched, ids, grid, SMALL)
    assert set(seen) == {(16, 16)}
    assert len(seen) == 2 * 3 * 2


def test_blended_tiles_show_less_than_tiles_side_by_side(model: VqGan):
    # One code everywhere: what steps there are come from the borders of tiles.
    ids, options = torch.full((1, 32 * 32), 5), TileOptions(size=32, overlap=16)
    blended = decode_tiled(model, ids, (32, 32), options)
    one = model.decode_ids(ids[:, :256], (16, 16))
    hard = (one[..., :, -1] - one[..., :, 0]).abs().mean()
    assert seams(blended, 2, options).across < hard / 2


def test_seams_tell_steps_at_borders_from_those_inside():
    picture = torch.zeros(1, 1, 16, 28)
    picture[..., 14:] = 1.0  # tiles from 0 to 16 and from 12 to 28
    found = seams(picture, 2, SMALL)
    assert (found.across, found.inside) == (1, 0)
    assert Seams(2.0, 1.0).ratio == 2
    assert Seams(0.0, 0.0).ratio == 1
    assert seams(torch.rand(1, 1, 16, 16), 2, SMALL).across == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: encode_tiled(m, torch.rand(1, 3, 17, 16), SMALL), r"16 x 17 .* multiples of 2"),
        (
            lambda m: encode_tiled(m, torch.rand(1, 3, 16, 16), TileOptions(size=15, overlap=4)),
            "factor 2",
        ),
        (lambda m: decode_tiled(m, torch.zeros(1, 5, dtype=torch.int64), (2, 3), SMALL), "5 codes"),
        (lambda m: replace(SMALL, overlap=9), "1 to 8"),
        (lambda m: replace(SMALL, overlap=0), "1 to 8"),
    ],
)
def test_what_does_not_fit_is_refused(call, match, model: VqGan):
    with pytest.raises(BadInput, match=match):
        call(model)
