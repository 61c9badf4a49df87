"""The sliding window against the published rule, written down as it stands."""

import pytest
import torch
from torch import Tensor, nn

from lascaux.errors import BadInput, GenerationFailed
from lascaux.generate.sampling import Sampling, draw, uniforms_of
from lascaux.generate.windows import Order, WindowProgress, place_of, steps_of, write_windows
from lascaux.models.taming_transformer import TamingTransformer, TamingTransformerConfig

SIZE = 4
CODES = 12


class Counted(TamingTransformer):
    """Counts what it is asked."""

    calls = 0
    read = 0

    def step(self, new_ids, cache, *, rows=None, counts=None) -> Tensor:
        self.calls += 1
        self.read += new_ids.shape[0] * new_ids.shape[1]
        return super().step(new_ids, cache, rows=rows, counts=counts)


@pytest.fixture
def model() -> Counted:
    torch.manual_seed(0)
    config = TamingTransformerConfig(codes=CODES, length=2 * SIZE**2, layers=2, heads=2, width=16)
    model = Counted(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def condition(rows: int, columns: int, pictures: int = 1) -> Tensor:
    chance = torch.Generator().manual_seed(5)
    return torch.randint(CODES, (pictures, rows, columns), generator=chance)


def naive(
    model: TamingTransformer, cond: Tensor, seeds: list[int], given: Tensor, known: Tensor
) -> Tensor:
    """Everything in the window is read for every code, and all but one logit is thrown away."""
    height, width = cond.shape[1:]
    ids = given.clone()
    u = uniforms_of(seeds, height * width)
    for i in range(height):
        top = i if i <= SIZE / 2 else SIZE - (height - i) if height - i < SIZE / 2 else SIZE // 2
        for j in range(width):
            if known[i, j]:
                continue
            left = j if j <= SIZE / 2 else SIZE - (width - j) if width - j < SIZE / 2 else SIZE // 2
            down, across = slice(i - top, i - top + SIZE), slice(j - left, j - left + SIZE)
            window = torch.cat(
                (cond[:, down, across].flatten(1), ids[:, down, across].flatten(1)), 1
            )
            with torch.no_grad():
                logits = model.transformer(window[:, :-1])[:, -SIZE * SIZE :]
            logits = logits.unflatten(1, (SIZE, SIZE))[:, top, left]
            ids[:, i, j] = draw(logits, Sampling(top_k=6), u[:, i * width + j]).ids
    return ids


def painted(model: TamingTransformer, cond: Tensor, **options) -> WindowProgress:
    *_, last = write_windows(model, cond, size=SIZE, sampling=Sampling(top_k=6), **options)
    return last


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (9, 11), (5, 13), (12, 6)])
def test_raster_wavefront_and_the_published_rule_give_the_same_pictures(model, rows, columns):
    cond, seeds = condition(rows, columns, 2), [13, 14]
    known = torch.zeros(rows, columns, dtype=torch.bool)
    chance = torch.Generator().manual_seed(1)
    start = torch.randint(CODES, cond.shape, generator=chance)  # seen by nobody
    expected = naive(model, cond, seeds, start, known)
    raster = painted(model, cond, seeds=seeds)
    waves = painted(model, cond, seeds=seeds, order="wavefront")
    assert torch.equal(raster.ids, expected)
    assert torch.equal(waves.ids, expected)
    assert raster.near_ties == waves.near_ties == ()
    assert raster.steps == raster.total == rows * columns
    assert waves.steps == columns + SIZE * (rows - 1)


def test_one_call_is_one_step_and_every_distinct_window_is_read_once(model):
    rows, columns = 9, 11
    last = painted(model, condition(rows, columns), seeds=[0])
    assert model.calls == last.steps == 99
    assert model.read == last.read
    # A window at a corner reads on until its last code; the published rule reads 31 each time.
    corners: dict = {}
    for (place,) in steps_of((rows, columns), SIZE, "raster"):
        inside = (place.row - place.top) * SIZE + place.column - place.left
        corners[place.corner] = SIZE * SIZE + inside
    assert last.read == sum(corners.values()) < 99 * 31 / 2
    model.calls = 0
    painted(model, condition(rows, columns), seeds=[0], order="wavefront")
    assert model.calls == 11 + 4 * 8


def test_pictures_do_not_depend_on_their_batch(model):
    cond = condition(6, 7, 3)
    together = painted(model, cond, seeds=[7, 8, 9])
    for row, seed in enumerate((7, 8, 9)):
        alone = painted(model, cond[row : row + 1], seeds=[seed])
        assert torch.equal(alone.ids[0], together.ids[row])


@pytest.mark.parametrize("order", ["raster", "wavefront"])
def test_with_little_memory_the_same_picture_takes_more_reading(model, order: Order):
    cond = condition(9, 11, 2)
    plenty = painted(model, cond, seeds=[1, 2], order=order)
    little = painted(model, cond, seeds=[1, 2], order=order, memory=0)
    some = painted(model, cond, seeds=[1, 2], order=order, memory=plenty.cache_bytes // 2)
    assert torch.equal(plenty.ids, little.ids)
    assert torch.equal(plenty.ids, some.ids)
    assert little.cache_bytes < some.cache_bytes <= plenty.cache_bytes // 2
    assert little.read > some.read > plenty.read


def test_memory_does_not_grow_with_the_height_of_the_picture(model):
    sizes = [painted(model, condition(rows, 7), seeds=[1]).cache_bytes for rows in (8, 12, 16)]
    assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.parametrize("order", ["raster", "wavefront"])
def test_a_half_picture_is_completed(model, order: Order):
    cond, seeds = condition(8, 9, 2), [5, 6]
    chance = torch.Generator().manual_seed(2)
    given = torch.randint(CODES, cond.shape, generator=chance)
    known = torch.zeros(8, 9, dtype=torch.bool)
    known[:4] = True
    known[5, 3:6] = True
    last = painted(model, cond, seeds=seeds, given=given, known=known, order=order)
    assert torch.equal(last.ids[:, known], given[:, known])
    assert torch.equal(last.ids, naive(model, cond, seeds, given, known))
    assert last.total == 33


def test_nothing_to_draw_is_finished_at_once(model):
    given = condition(5, 5)
    known = torch.ones(5, 5, dtype=torch.bool)
    last = painted(model, given, seeds=[1], given=given, known=known)
    assert last.finished
    assert torch.equal(last.ids, given)


def test_tokens_may_stand_before_every_window_in_the_place_of_a_map(model):
    first = torch.tensor([[3, 1]])
    last = painted(model, first, grid=(6, 7), seeds=[4])
    as_map = painted(model, first, grid=(6, 7), seeds=[4], order="wavefront")
    assert torch.equal(last.ids, as_map.ids)
    assert last.ids.shape == (1, 6, 7)


def test_places_within_their_windows_are_the_published_ones():
    assert place_of(0, 0, (24, 20), 16).corner == (0, 0)
    assert place_of(8, 8, (24, 20), 16).corner == (0, 0)
    assert place_of(9, 9, (24, 20), 16).corner == (1, 1)
    assert place_of(16, 12, (24, 20), 16).corner == (8, 4)
    assert place_of(17, 13, (24, 20), 16).corner == (8, 4)
    assert place_of(23, 19, (24, 20), 16).corner == (8, 4)


@pytest.mark.parametrize(
    ("grid", "steps", "widest"), [((32, 32), 528, 2), ((64, 64), 1072, 4), ((24, 52), 420, 4)]
)
def test_the_wavefront_has_as_few_steps_as_windows_allow(grid, steps, widest):
    waves = steps_of(grid, 16, "wavefront")
    assert len(waves) == steps
    assert max(map(len, waves)) == widest
    assert sum(map(len, waves)) == grid[0] * grid[1]


def test_it_stops_when_asked_and_reports_as_often_as_asked(model):
    asked = iter([False] * 7 + [True])
    told = list(
        write_windows(
            model, condition(5, 5), size=SIZE, seeds=[1], every=3, stop=lambda: next(asked)
        )
    )
    assert [each.done for each in told] == [3, 6, 7]
    assert not told[-1].finished


def test_logits_that_are_no_numbers_stop_the_run_with_the_step_named(model):
    nn.init.constant_(model.transformer.positions[20:21], float("nan"))
    # The fifth code of the first window is the first to be drawn after its twentieth token.
    with pytest.raises(GenerationFailed, match="step"):
        painted(model, condition(5, 5), seeds=[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 6}, "5 x 5 codes with a window of 6"),
        ({"sampling": Sampling(guidance=2.0)}, "without"),
        ({"grid": (6, 5)}, "grids of codes"),
        ({"seeds": [1, 2]}, "2 seeds for 1 pictures"),
        ({"given": torch.zeros(1, 5, 5, dtype=torch.int64)}, "says where"),
        ({"every": 0}, "every 0"),
        ({"sampling": Sampling(top_k=13)}, "top_k 13 of 12"),
    ],
)
def test_what_does_not_fit_is_refused(model, options: dict, message: str):
    with pytest.raises(BadInput, match=message):
        list(write_windows(model, condition(5, 5), **{"size": SIZE, "seeds": [1], **options}))


def test_a_window_too_large_for_the_model_is_refused(model):
    with pytest.raises(BadInput, match="positions for 32"):
        list(write_windows(model, condition(6, 6), size=5, seeds=[1]))
