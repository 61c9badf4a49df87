"""Sequences that begin alike, as one tree: what they have in common is there once.

In a causal model a token's state depends on what stands before it and on nothing else, so equal
beginnings have equal states. The 80 prompts of a class share most of their words with those of the
next one: computing the tree's nodes gives every sequence's states at a fraction of the cost.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

# Sequences laid out side by side for attention: on a CPU as few as stay in its cache.
_ROWS = {"cpu": 32}
_MOST_ROWS = 4096


@dataclass(frozen=True)
class PrefixTree:
    """A tree of `n` tokens that holds `b` sequences of up to `m` tokens, each a way from a root.

    Attributes:
        ids: token of each node.
        depths: place of each node in its sequences, from 0.
        ways: nodes of the `w` different sequences, sorted; behind a sequence's end, any node.
        lasts: for every way the column of its last token.
        ends: for every way the node of its last token.
        homes: for every node one place in `ways` flattened, ascending.
        places: for every sequence that was given its way.
    """

    ids: Int[Tensor, " n"]
    depths: Int[Tensor, " n"]
    ways: Int[Tensor, "w m"]
    lasts: Int[Tensor, " w"]
    ends: Int[Tensor, " w"]
    homes: Int[Tensor, " n"]
    places: Int[Tensor, " b"]

    @classmethod
    def of(cls, ids: Int[Tensor, "b n"], lasts: Int[Tensor, " b"]) -> "PrefixTree":
        """The tree of the rows of `ids`, at least one, each up to and with its column `lasts`."""
        columns = torch.arange(int(lasts.max()) + 1, device=ids.device)
        rows = torch.where(columns <= lasts[:, None], ids[:, : len(columns)], -1)
        # Sorted, so that a row shares with the one above it all that it shares with any before.
        rows, places = torch.unique(rows, dim=0, return_inverse=True)
        present = rows >= 0
        fresh = present.clone()
        fresh[1:] &= (rows[1:] == rows[:-1]).cumprod(dim=1) == 0
        numbers = fresh.flatten().cumsum(0).view_as(rows) - 1
        # What is not fresh is the nearest fresh one above; numbers grow downwards.
        ways = torch.where(fresh, numbers, 0).cummax(dim=0).values
        lasts = present.sum(dim=1) - 1
        homes = fresh.flatten().nonzero()[:, 0]
        return cls(
            ids=rows.flatten()[homes],
            depths=homes % len(columns),
            ways=ways,
            lasts=lasts,
            ends=ways.gather(1, lasts[:, None])[:, 0],
            homes=homes,
            places=places,
        )

    def attend(self, qkv: Float[Tensor, "n d3"], heads: int) -> Float[Tensor, "n d"]:
        """Attention of every node to itself and to all before it, from joint projections."""
        rows, columns = self._rows, self.ways.shape[1]
        mixed = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        starts = torch.arange(0, len(self.ways) + rows, rows, device=qkv.device)
        bounds = torch.searchsorted(self.homes, starts * columns).tolist()
        for part, ways in enumerate(self.ways.split(rows)):
            q, k, v = rearrange(qkv[ways], "w m (three h k) -> three w h m k", three=3, h=heads)
            found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            first, last = bounds[part], bounds[part + 1]
            wanted = self.homes[first:last] - part * rows * columns
            mixed[first:last] = rearrange(found, "w h m k -> (w m) (h k)")[wanted]
        return mixed

    def attend_from_ends(
        self, q: Float[Tensor, "w d"], kv: Float[Tensor, "n d2"], heads: int
    ) -> Float[Tensor, "w d"]:
        """Attention of every way's last token to all of the way."""
        columns = torch.arange(self.ways.shape[1], device=q.device)
        mixed: list[Tensor] = []
        for asked, ways, lasts in zip(
            *(rows.split(self._rows) for rows in (q, self.ways, self.lasts)), strict=True
        ):
            k, v = rearrange(kv[ways], "w m (two h k) -> two w h m k", two=2, h=heads)
            known = rearrange(columns <= lasts[:, None], "w m -> w 1 1 m")
            asked = rearrange(asked, "w (h k) -> w h 1 k", h=heads)
            found = F.scaled_dot_product_attention(asked, k, v, attn_mask=known)
            mixed.append(rearrange(found, "w h 1 k -> w (h k)"))
        return torch.cat(mixed)

    @property
    def _rows(self) -> int:
        return _ROWS.get(self.ids.device.type, _MOST_ROWS)
