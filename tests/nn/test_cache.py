import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.nn.cache import Cache, cache_bytes

SIZES = {"layers": 2, "heads": 3, "head_width": 4}


def made(batch: int = 2, length: int = 7) -> Cache:
    return Cache(batch=batch, length=length, **SIZES)


def drawn(batch: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, batch, 3, count, 4, generator=chance)
    return q, k, v


def attended(cache: Cache, new: tuple[Tensor, Tensor, Tensor], **options) -> Tensor:
    """One step in which both layers get the same."""
    places = cache.places(new[0].shape[2], **options)
    places.attend(0, *new)
    mixed = places.attend(1, *new)
    places.done()
    return mixed


def test_the_size_is_known_before_it_is_taken():
    sizes = {**SIZES, "batch": 2, "length": 7, "dtype": torch.bfloat16}
    assert Cache(**sizes).nbytes == cache_bytes(**sizes) == 2 * 2 * 2 * 3 * 7 * 4 * 2


@pytest.mark.parametrize("parts", [[7], [1] * 7, [3, 1, 3], [2, 4, 1]])
def test_positions_in_whatever_portions_see_what_a_causal_whole_sees(parts: list[int]):
    whole = drawn(2, 7)
    cache, found, start = made(), [], 0
    for count in parts:
        found.append(attended(cache, tuple(x[:, :, start : start + count] for x in whole)))
        start += count
    assert cache.length == 7
    expected = F.scaled_dot_product_attention(*whole, is_causal=True)
    torch.testing.assert_close(torch.cat(found, 2), expected)


def test_rows_filled_to_different_lengths_step_together():
    first, second = drawn(1, 7, 1), drawn(1, 7, 2)
    cache = made(3)
    attended(cache, tuple(x[:, :, :2] for x in first), rows=[2])
    attended(cache, tuple(x[:, :, :4] for x in second), rows=slice(0, 1))
    # Row 2 goes on with five, row 0 with three; padding that is not a number is seen by nobody.
    new = tuple(
        torch.cat([a[:, :, 2:], F.pad(b[:, :, 4:], (0, 0, 0, 2))])
        for a, b in zip(first, second, strict=True)
    )
    together = attended(cache, new, rows=[2, 0], counts=[5, 3])
    assert cache.lengths == [7, 0, 7]
    expected = [F.scaled_dot_product_attention(*each, is_causal=True) for each in (first, second)]
    torch.testing.assert_close(together[:1], expected[0][:, :, 2:])
    torch.testing.assert_close(together[1:, :, :3], expected[1][:, :, 4:])
    torch.testing.assert_close(cache.keys[1, 0], second[1][0])
    assert not cache.keys[:, 1].any()


def test_padding_leaves_no_trace():
    cache = made(2, 4)
    new = drawn(2, 3)
    attended(cache, new, counts=[3, 1])
    assert cache.lengths == [3, 1]
    assert not cache.keys[:, 1, :, 1:].any()
    positions = cache.places(2, counts=[1, 2]).positions
    assert positions.tolist() == [[3, 3], [1, 2]]  # the padding of a full row stays within it


def test_a_beginning_is_repeated_for_its_candidates():
    cache = made(2, 2)
    beginning = drawn(2, 2)
    attended(cache, beginning)
    many = cache.repeat(3, length=5)
    assert (many.batch, many.capacity, many.length) == (6, 5, 2)
    new = drawn(6, 1, 1)
    whole = tuple(
        torch.cat([a.repeat_interleave(3, 0), b], 2) for a, b in zip(beginning, new, strict=True)
    )
    expected = F.scaled_dot_product_attention(*whole, is_causal=True)[:, :, -1:]
    torch.testing.assert_close(attended(many, new), expected)
    assert cache.length == 2  # a copy: the first is as it was


def test_selected_rows_are_copies_in_the_order_asked_for():
    cache = made(3)
    attended(cache, drawn(3, 2))
    some = cache.select(torch.tensor([2, 0, 2]))
    assert torch.equal(some.keys, cache.keys[:, [2, 0, 2]])
    some.keys.zero_()
    assert cache.keys.any()
    cache.clear([1])
    assert cache.lengths == [2, 0, 2]


def test_a_step_that_fails_leaves_the_cache_as_it_was():
    cache = made(1, 3)
    attended(cache, drawn(1, 1))
    cache.places(1).append(0, *drawn(1, 1, 1)[1:])  # never done
    assert cache.length == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 8}, "8 positions in a cache for 7"),
        ({"count": 1, "rows": [0, 0]}, "at most once"),
        ({"count": 1, "rows": [2]}, "rows"),
        ({"count": 2, "counts": [2, 3]}, "counts"),
        ({"count": 2, "counts": [2, 0]}, "counts"),
        ({"count": 0}, "counts"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str):
    with pytest.raises(BadInput, match=message):
        made().places(**options)


def test_a_cache_without_room_is_refused():
    with pytest.raises(BadInput, match="at least one"):
        made(0)
    cache = made(2)
    attended(cache, drawn(2, 3))
    with pytest.raises(BadInput, match="3 positions are filled"):
        cache.repeat(2, length=2)
    cache.clear([0])
    with pytest.raises(BadInput, match="no one length"):
        _ = cache.length
