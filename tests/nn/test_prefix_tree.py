import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from lascaux.nn.prefix_tree import PrefixTree

HEADS, WIDTH = 2, 8


def sequences(*rows):
    """Rows padded with zeros, and the column of each one's last token."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row) + 2)] for row in rows])
    return ids, torch.tensor([len(row) - 1 for row in rows])


def random_sequences(count, seed):
    """Few different tokens, so that much is shared; some rows occur twice."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    rows = [torch.randint(0, 3, (n,), generator=generator).tolist() for n in lengths]
    return sequences(*rows, rows[0])


def test_equal_beginnings_are_there_once():
    ids, lasts = sequences([5, 1, 2], [5, 1, 3, 4], [5, 1, 2], [6])
    tree = PrefixTree.of(ids, lasts)
    assert sorted(zip(tree.ids.tolist(), tree.depths.tolist(), strict=True)) == [
        (1, 1), (2, 2), (3, 2), (4, 3), (5, 0), (6, 0),
    ]  # fmt: skip


def test_tokens_after_different_beginnings_are_different_nodes():
    ids, lasts = sequences([1, 9], [2, 9])
    assert len(PrefixTree.of(ids, lasts).ids) == 4


def test_a_row_that_is_the_beginning_of_another_ends_within_it():
    ids, lasts = sequences([1, 2, 3], [1, 2])
    tree = PrefixTree.of(ids, lasts)
    assert tree.ids[tree.ends][tree.places].tolist() == [3, 2]
    assert len(tree.ids) == 3


@pytest.mark.parametrize("seed", range(5))
def test_every_way_spells_its_row(seed):
    ids, lasts = random_sequences(40, seed)
    tree = PrefixTree.of(ids, lasts)
    for row, last, place in zip(ids.tolist(), lasts.tolist(), tree.places.tolist(), strict=True):
        way = tree.ways[place, : last + 1]
        assert tree.ids[way].tolist() == row[: last + 1]
        assert tree.depths[way].tolist() == list(range(last + 1))
    beginnings = {
        tuple(r[: n + 1]) for r, m in zip(ids.tolist(), lasts, strict=True) for n in range(m + 1)
    }
    assert len(tree.ids) == len(beginnings)


@pytest.mark.parametrize("count", [1, 31, 33, 100])
def test_attention_along_the_tree_is_causal_attention_of_each_row(count):
    ids, lasts = random_sequences(count, count)
    tree = PrefixTree.of(ids, lasts)
    # What a node projects to may depend on its token and place alone here, so rows can be made.
    table = torch.randn(3, ids.shape[1], 3 * WIDTH, generator=torch.Generator().manual_seed(1))
    nodes = tree.attend(table[tree.ids, tree.depths], HEADS)
    ends = tree.attend_from_ends(
        table[tree.ids, tree.depths][tree.ends, :WIDTH],
        table[tree.ids, tree.depths][:, WIDTH:],
        HEADS,
    )
    for at, (row, last) in enumerate(zip(ids, lasts.tolist(), strict=True)):
        own = table[row[: last + 1], torch.arange(last + 1)]
        q, k, v = rearrange(own, "n (three h k) -> three h n k", three=3, h=HEADS)
        expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        expected = rearrange(expected, "h n k -> n (h k)")
        way = tree.ways[tree.places[at], : last + 1]
        torch.testing.assert_close(nodes[way], expected)
        torch.testing.assert_close(ends[tree.places[at]], expected[-1])
