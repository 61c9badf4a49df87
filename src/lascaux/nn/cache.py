"""Keys and values that a decoder keeps, so that every position is computed once.

Allocated once, with a size that is known beforehand; a decoder writes behind what is filled and
attends to all that is. Rows may be filled to different lengths (windows of a large picture are).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lascaux.errors import BadInput


def cache_bytes(
    *, layers: int, batch: int, heads: int, length: int, head_width: int, dtype: torch.dtype
) -> int:
    """What a `Cache` of these sizes takes, in bytes."""
    return 2 * layers * batch * heads * length * head_width * dtype.itemsize


class Cache:
    """Keys and values of every layer, and how many positions of each row are filled.

    A step of a decoder is `places = cache.places(m)`, then `places.append(layer, k, v)` in each
    layer, then `places.done()`. A step that fails on its way leaves the cache as it was.

    Attributes:
        lengths: filled positions of each row.
        capacity: positions of a row.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        heads: int,
        length: int,
        head_width: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if min(layers, batch, heads, length, head_width) < 1:
            raise BadInput(
                f"a cache of {layers} layers, {batch} rows, {heads} heads, {length} positions and "
                f"width {head_width}; each must be at least one"
            )
        shape = layers, batch, heads, length, head_width
        # Zeros, since what a mask hides must be finite all the same.
        self.keys: Float[Tensor, "l b h n k"] = torch.zeros(shape, dtype=dtype, device=device)
        self.values: Float[Tensor, "l b h n k"] = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * batch

    @property
    def batch(self) -> int:
        """How many rows there are."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Positions a row has room for."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """What keys and values take, filled or not."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def length(self) -> int:
        """Filled positions, the same in every row.

        Raises:
            BadInput: they differ.
        """
        if len(set(self.lengths)) > 1:
            raise BadInput(f"rows of a cache filled to {self.lengths}: they have no one length")
        return self.lengths[0]

    def places(
        self,
        count: int,
        *,
        rows: slice | Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
    ) -> "Places":
        """Where the next positions go.

        Args:
            count: new positions of every row.
            rows: which rows take part, in this order, each at most once; all.
            counts: how many of the new positions of each row are real, at least one; the rest are
                padding at the end, which is computed and kept nowhere.

        Raises:
            BadInput: there is no room for them, or such rows or counts cannot be.
        """
        which = range(self.batch)[rows] if isinstance(rows, slice) else rows
        which = list(range(self.batch)) if which is None else list(which)
        if not which or len(set(which)) < len(which) or not set(which) <= set(range(self.batch)):
            raise BadInput(f"rows {which} of a cache with {self.batch}: name each at most once")
        counts = [count] * len(which) if counts is None else list(counts)
        if len(counts) != len(which) or not 1 <= min(counts) <= max(counts) <= count:
            raise BadInput(
                f"counts {counts} for {len(which)} rows of {count} new positions; give one to "
                f"{count} of each"
            )
        starts = [self.lengths[row] for row in which]
        longest = max(start + new for start, new in zip(starts, counts, strict=True))
        if longest > self.capacity:
            raise BadInput(
                f"{longest} positions in a cache for {self.capacity}: ask for a longer one"
            )
        return Places(self, which, starts, counts, count)

    def clear(self, rows: Sequence[int]) -> None:
        """Forget what is in these rows."""
        for row in rows:
            self.lengths[row] = 0

    def select(self, rows: Sequence[int] | Int[Tensor, " b"]) -> "Cache":
        """A cache of these rows, in this order; one may be named several times."""
        return self._copy(torch.as_tensor(rows, device=self.keys.device).tolist(), self.capacity)

    def repeat(self, times: int, *, length: int | None = None) -> "Cache":
        """A cache in which every row stands several times, one beside the other.

        For many candidates of one beginning, which was computed once.

        Args:
            times: how often.
            length: positions the new one has room for; as this one. A beginning needs no more
                room than it takes.
        """
        return self._copy(
            [row for row in range(self.batch) for _ in range(times)], length or self.capacity
        )

    def _sizes(self, batch: int, length: int) -> dict[str, Any]:
        layers, _, heads, _, width = self.keys.shape
        return {
            "layers": layers,
            "batch": batch,
            "heads": heads,
            "length": length,
            "head_width": width,
            "dtype": self.keys.dtype,
            "device": self.keys.device,
        }

    def _like(self, batch: int, length: int) -> "Cache":
        return Cache(**self._sizes(batch, length))

    def _copy(self, rows: list[int], length: int) -> "Cache":
        filled = max((self.lengths[row] for row in rows), default=0)
        if filled > length:
            raise BadInput(f"{filled} positions are filled; a copy has room for {length}")
        new = self._like(len(rows), length)
        which = torch.tensor(rows, device=self.keys.device)
        for layer in range(len(self.keys)):  # one layer's copy at a time beside the two caches
            new.keys[layer, :, :, :filled] = self.keys[layer, :, :, :filled][which]
            new.values[layer, :, :, :filled] = self.values[layer, :, :, :filled][which]
        new.lengths = [self.lengths[row] for row in rows]
        return new


@dataclass
class _Scatter:
    """Where the real ones of padded positions come from and go to."""

    rows: Int[Tensor, " b"]
    source: tuple[Tensor, Tensor]
    target: tuple[Tensor, Tensor]


class Places:
    """One step's new positions in a cache.

    Attributes:
        starts: positions of each row that were filled before.
        counts: new positions of each row that are no padding.
        positions: which position in its row each new one is; padding counts on, up to the last.
        mask: what each new position may see, or None where it may see all that is there; a single
            table where all rows are filled alike.
        causal: the cache was empty, and every position sees itself and those before it: what
            torch calls `is_causal`. The mask is None then.
    """

    def __init__(
        self, cache: Cache, rows: list[int], starts: list[int], counts: list[int], count: int
    ) -> None:
        self.cache, self.rows, self.starts, self.counts = cache, rows, starts, counts
        self.start, self.count = max(starts), count
        device = cache.keys.device
        even = len(set(starts)) == 1 and min(counts) == count
        self._slice = slice(rows[0], rows[-1] + 1)
        adjoining = rows == list(range(rows[0], rows[-1] + 1))
        self._scatter = None
        self.mask: Bool[Tensor, "*b m n"] | None = None
        self.causal = False
        if even:
            new = torch.arange(self.start, self.start + count, device=device)
            self.positions: Int[Tensor, "b m"] = new.expand(len(rows), count)
            self.causal = self.start == 0 and count > 1
            if self.start and count > 1:
                self.mask = torch.arange(self.end, device=device) <= new[:, None]
        else:
            first = torch.tensor(starts, device=device)[:, None]
            new = first + torch.arange(count, device=device)
            self.positions = new.clamp(max=cache.capacity - 1)
            seen = torch.arange(self.end, device=device) <= new[:, :, None]
            self.mask = seen[:, None]
        if not (even and adjoining):
            self._scatter = self._where()

    @property
    def end(self) -> int:
        """Positions that keys and values of this step have."""
        return min(self.start + self.count, self.cache.capacity)

    def _where(self) -> _Scatter:
        real = [(b, t) for b, count in enumerate(self.counts) for t in range(count)]
        b, t = torch.tensor(real, device=self.cache.keys.device).T
        rows = torch.tensor(self.rows, device=b.device)
        return _Scatter(rows, (b, t), (rows[b], torch.tensor(self.starts, device=b.device)[b] + t))

    def append(
        self, layer: int, k: Float[Tensor, "b h m k"], v: Float[Tensor, "b h m k"]
    ) -> tuple[Float[Tensor, "b h n k"], Float[Tensor, "b h n k"]]:
        """The keys and values of a layer with the new ones behind the old ones."""
        both = (self.cache.keys[layer], k), (self.cache.values[layer], v)
        if self._scatter is None:
            for kept, new in both:
                kept[self._slice, :, self.start : self.end] = new
            (keys, _), (values, _) = both
            return keys[self._slice, :, : self.end], values[self._slice, :, : self.end]
        where = self._scatter
        for kept, new in both:
            kept.transpose(1, 2)[where.target] = new.transpose(1, 2)[where.source]
        (keys, _), (values, _) = both
        return keys[where.rows, :, : self.end], values[where.rows, :, : self.end]

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "b h m k"],
        k: Float[Tensor, "b h m k"],
        v: Float[Tensor, "b h m k"],
    ) -> Float[Tensor, "b h m k"]:
        """What the new positions take from those they may see; the new ones are kept.

        Vaswani et al. 2017, arXiv:1706.03762, Eq. 1, causal.
        """
        keys, values = self.append(layer, k, v)
        return F.scaled_dot_product_attention(
            q, keys, values, attn_mask=self.mask, is_causal=self.causal
        )

    def see(self, mask: Bool[Tensor, "*b m n"]) -> None:
        """Let the new positions see what a mask says, instead of what came before them."""
        self.mask, self.causal = mask, False

    def done(self) -> None:
        """Count the new positions as filled."""
        for row, count in zip(self.rows, self.counts, strict=True):
            self.cache.lengths[row] += count
