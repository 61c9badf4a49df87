"""In which order records come: a shuffle that is computed, not stored.

The place of a record in an epoch is found by a pseudo-random permutation of the numbers 0 to n - 1,
so that any position of any epoch costs the same, and where a training stands is told by four
numbers. The permutation is an alternating Feistel network over pairs (l, r) with a x b >= n
values, and cycle walking over the few values beyond n: Black and Rogaway 2002, "Ciphers with
arbitrary finite domains" (CT-RSA), methods 2 and 3; that a Feistel network of random functions is
a pseudo-random permutation is Luby and Rackoff 1988. Its round function is SplitMix64's finaliser
(Steele, Lea and Flood 2014), which mixes well and hides nothing: this is no cipher.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt64

from lascaux.errors import BadInput

Last = Literal["drop", "keep"]

_ROUNDS = 12  # far beyond the four that are needed, since domains may be tiny
_GOLDEN = 0x9E3779B97F4A7C15


def shuffled(
    places: Int64[np.ndarray, " n"], records: int, seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """The records at these places of an epoch.

    Args:
        places: from 0 to `records` - 1.
        records: how many there are.
        seed: 0 or more.
        epoch: 0 or more; each has an order of its own.
    """
    left = math.isqrt(max(records - 1, 0)) + 1
    right = -(-records // left)
    keys = _keys(seed, epoch)
    found = _permuted(places.astype(np.uint64), left, right, keys)
    while (beyond := found >= records).any():
        found[beyond] = _permuted(found[beyond], left, right, keys)
    return found.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a training stands in its data, entirely.

    Attributes:
        seed: of all epochs' orders.
        epoch: counted from 0.
        position: records of the epoch that all ranks together have taken.
        world_size: ranks that took them; another number may go on from here, to the same records.
    """

    seed: int
    epoch: int = 0
    position: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("epoch", 0), ("position", 0), ("world_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise BadInput(f"{name}={value!r}; expected a whole number, at least {least}")

    def to_json(self) -> dict[str, int]:
        """The four numbers by their names."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> "Place":
        """What `to_json` gave.

        Raises:
            BadInput: other names, or values that no place has.
        """
        names = set(cls.__dataclass_fields__)
        if not isinstance(fields, dict) or fields.keys() != names:
            there = ", ".join(map(str, fields)) if isinstance(fields, dict) else repr(fields)
            raise BadInput(f"a place with {there}; expected {', '.join(sorted(names))}")
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Order:
    """Batches of one epoch after the other.

    The records of a batch depend on the seed and on where the epoch stands, not on the number of
    ranks: a rank takes its share of a batch that is the same for all. What is left at the end of an
    epoch and fills no batch is dropped, so that all steps weigh the same (other epochs drop other
    records), or kept as a smaller batch.

    Attributes:
        records: how many there are.
        batch_size: records of a batch, over all ranks.
        shuffle: False takes them as they come.
        last: what happens to an epoch's incomplete batch.

    Raises:
        BadInput: no records, or fewer than a batch where incomplete ones are dropped.
    """

    records: int
    batch_size: int
    shuffle: bool = True
    last: Last = "drop"

    def __post_init__(self) -> None:
        if self.records < 1 or self.batch_size < 1:
            raise BadInput(
                f"{self.records} records in batches of {self.batch_size}; expected at least 1 each"
            )
        if self.last not in ("drop", "keep"):
            raise BadInput(f"last={self.last!r}; expected 'drop' or 'keep'")
        if self.last == "drop" and self.batch_size > self.records:
            raise BadInput(
                f"a batch of {self.batch_size} is never filled by {self.records} records; take "
                "smaller batches, or last='keep'"
            )

    @property
    def batches(self) -> int:
        """In one epoch, from its beginning."""
        if self.last == "keep":
            return -(-self.records // self.batch_size)
        return self.records // self.batch_size

    def settled(self, place: Place) -> Place:
        """The place itself, or the next epoch's beginning where no batch is left of this one."""
        needed = self.batch_size if self.last == "drop" else 1
        if place.position + needed <= self.records:
            return place
        return Place(seed=place.seed, epoch=place.epoch + 1, world_size=place.world_size)

    def at(self, place: Place, rank: int = 0) -> Int64[np.ndarray, " n"]:
        """The records that a rank takes from the batch at a (settled) place.

        Ranks take stretches of one batch, in their order; of a batch that does not divide, some
        take one more than others.

        Raises:
            BadInput: no such rank.
        """
        if not 0 <= rank < place.world_size:
            raise BadInput(f"rank {rank} of {place.world_size}; expected 0 to one less")
        size = min(self.batch_size, self.records - place.position)
        first, end = (place.position + size * r // place.world_size for r in (rank, rank + 1))
        places = np.arange(first, end, dtype=np.int64)
        if not self.shuffle:
            return places
        return shuffled(places, self.records, place.seed, place.epoch)

    def after(self, place: Place) -> Place:
        """The place behind the batch at a (settled) place."""
        size = min(self.batch_size, self.records - place.position)
        moved = Place(
            seed=place.seed,
            epoch=place.epoch,
            position=place.position + size,
            world_size=place.world_size,
        )
        return self.settled(moved)

    def place_of(self, batch: int, seed: int, world_size: int = 1) -> Place:
        """The place of a batch counted from the beginning of the first epoch."""
        epoch, number = divmod(batch, self.batches)
        position = number * self.batch_size
        return Place(seed=seed, epoch=epoch, position=position, world_size=world_size)


def _keys(seed: int, epoch: int) -> list[int]:
    """One key for each round."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)
    return [int(key) for key in state]


def _permuted(
    values: UInt64[np.ndarray, " n"], left: int, right: int, keys: list[int]
) -> UInt64[np.ndarray, " n"]:
    """A permutation of 0 to left x right - 1."""
    a, b = np.uint64(left), np.uint64(right)
    high, low = values // b, values % b
    for number, key in enumerate(keys):
        if number % 2:
            low = (low + _mixed(high, key) % b) % b
        else:
            high = (high + _mixed(low, key) % a) % a
    return high * b + low


def _mixed(values: UInt64[np.ndarray, " n"], key: int) -> UInt64[np.ndarray, " n"]:
    x = (values + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
