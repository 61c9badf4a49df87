import pytest
import torch
from torch import Tensor

from lascaux.train.codebook import Tending, from_white


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_averaged_codes_follow_the_published_equation():
    codes = torch.randn(5, 3, generator=chance())
    tending = Tending(codes, average=True, decay=0.9, dead_after=0)
    n, m = torch.ones(5), codes.clone()
    for step in range(4):
        x = torch.randn(20, 3, generator=chance(step))
        ids = torch.randint(4, (20,), generator=chance(step))  # the last code is never chosen
        for row in range(5):
            chosen = x[ids == row]
            n[row] = 0.9 * n[row] + 0.1 * len(chosen)
            m[row] = 0.9 * m[row] + 0.1 * chosen.sum(0)
        tending.note(ids[:7].view(1, 7), x[:7].view(1, 7, 3))  # two micro-batches of a step
        tending.note(ids[7:].view(1, 13), x[7:].view(1, 13, 3))
        before = codes[4].clone()
        tending.settle(codes, x)
        torch.testing.assert_close(codes, m / n[:, None])
        torch.testing.assert_close(codes[4], before)


def test_a_code_that_nothing_chooses_for_very_long_stays_where_it_is():
    codes = torch.randn(2, 3, generator=chance())
    tending, before = Tending(codes, average=True, decay=0.5, dead_after=0), codes[1].clone()
    for _ in range(400):
        tending.note(torch.zeros(4, dtype=torch.int64), torch.ones(4, 3))
        tending.settle(codes, torch.ones(4, 3))
    torch.testing.assert_close(codes[0], torch.ones(3))
    torch.testing.assert_close(codes[1], before)


@pytest.mark.parametrize("average", [False, True])
def test_a_dead_code_begins_anew_at_a_feature(average: bool):
    codes = torch.full((3, 2), 9.0)
    tending = Tending(codes, average=average, dead_after=4, fresh=False)
    x = torch.arange(8.0).view(4, 2)
    for _ in range(4):
        torch.testing.assert_close(codes[2], torch.full((2,), 9.0))
        tending.note(torch.tensor([0, 1, 0, 1]), x)
        tending.settle(codes, x)
    assert (codes[2] == x).all(1).any()
    assert not (codes[0] == x).all(1).any()
    if average:  # and stays there, as an average of one
        assert torch.equal(tending.sums[2], codes[2])
        assert tending.counts[2] == 1
    # It has its time before it is called dead again.
    revived = codes[2].clone()
    tending.note(torch.tensor([0, 1]), x[:2])
    tending.settle(codes, x + 100)
    torch.testing.assert_close(codes[2], revived)


def test_no_code_is_revived_while_all_are_used():
    codes = torch.randn(4, 2, generator=chance())
    before, drawn = codes.clone(), torch.get_rng_state()
    tending = Tending(codes, average=False, dead_after=1)
    for _ in range(5):
        tending.note(torch.arange(4), torch.zeros(4, 2))
        tending.settle(codes, torch.zeros(4, 2))
    assert torch.equal(codes, before)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_fresh_codes_begin_at_features_and_learnt_ones_stay():
    x = torch.randn(6, 2, generator=chance())
    for fresh in (True, False):
        codes = torch.full((4, 2), 9.0)
        tending = Tending(codes, average=False, dead_after=100, fresh=fresh)
        tending.note(torch.zeros(6, dtype=torch.int64), x)
        tending.settle(codes, x)
        assert bool((codes[1:] == 9).all()) is not fresh


def told(ids: Tensor, codes: int, steps: int = 12, **settings) -> dict[str, float]:
    table = torch.zeros(codes, 2)
    tending = Tending(table, average=False, fresh=True, **settings)
    for step in range(steps):
        some = ids.chunk(steps)[step] if steps > 1 else ids
        tending.note(some, torch.zeros(len(some), 2))
        tending.settle(table, torch.zeros(1, 2))
    return {name: float(value) for name, value in tending.figures().items()}


def test_figures_say_how_codes_are_used():
    even = told(torch.arange(8), 8, steps=1)
    assert even == pytest.approx({"codes_used": 1, "dead_codes": 0, "code_perplexity": 8})
    one = told(torch.zeros(12, dtype=torch.int64), 8, dead_after=0)
    assert one == pytest.approx({"codes_used": 1 / 8, "dead_codes": 7 / 8, "code_perplexity": 1})


def test_many_codes_in_small_batches_are_no_collapse():
    # 24 of 48 codes a step at most, 12 steps: each is chosen now and then.
    ids = torch.arange(48).repeat(2)
    assert told(ids, 48)["codes_used"] == 1


def test_a_settled_step_is_settled_once():
    codes = torch.randn(4, 2, generator=chance())
    tending = Tending(codes, average=True, dead_after=0)
    tending.note(torch.arange(4), torch.zeros(4, 2))
    tending.settle(codes, torch.zeros(4, 2))
    once = codes.clone()
    tending.settle(codes, torch.zeros(4, 2))
    assert torch.equal(codes, once)
    assert tending.idle.tolist() == [0, 0, 0, 0]


def test_white_features_cost_nothing_and_colours_alone_do():
    white = torch.linalg.qr(torch.randn(64, 4, dtype=torch.float64) - 0.0).Q
    white = (white - white.mean(0)).double()
    white = torch.linalg.qr(white).Q * 63**0.5
    assert from_white(white.reshape(4, 16, 4) + 5.0).item() == pytest.approx(0.0, abs=1e-9)
    alone = white.clone()
    alone[:, 1:] = 0
    assert from_white(alone).item() == pytest.approx(3 / 4)
    assert from_white(torch.cat([white, white], 1)).item() == pytest.approx(1.0)
