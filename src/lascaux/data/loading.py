"""Batches for a training: read, prepared and put together by processes beside it.

Which records a batch has, what chance does to each of them and what stands in for a broken one
depend on the seed, the epoch and the record alone: not on the number of workers, nor on where the
run was stopped and went on.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from lascaux.data.ahead import made_ahead
from lascaux.data.order import Order, Place
from lascaux.data.records import Record, Source
from lascaux.errors import BadInput

log = logging.getLogger(__name__)

Prepare = Callable[[Record, np.random.Generator], Any]

_ATTEMPTS = 100  # records tried in the place of a broken one
_SHOWN = 3


@dataclass(frozen=True)
class Skipped:
    """A record that could not be used."""

    key: str
    reason: str
    index: int


class Loader:
    """Batches without end, from a place on.

    Attributes:
        place: of the batch that comes next; behind the one handed out last.
        skipped: the records that could not be used so far, each once; not part of the place.
    """

    def __init__(
        self,
        source: Source,
        prepare: Prepare,
        order: Order,
        place: Place,
        *,
        rank: int = 0,
        workers: int = 0,
        collate: Callable[[list[Any]], Any] = default_collate,
        most_skipped: int = 100,
    ) -> None:
        """Put together what batches need; nothing is read yet.

        Args:
            source: of the records.
            prepare: makes a sample of a record; all chance in it must come from the generator it
                is given. A `BadInput` from it, such as `BadPicture` from `Record.image`, means that
                the record is broken, and another one takes its place.
            order: of the records.
            place: where to begin; its world size is the number of ranks now.
            rank: of this process.
            workers: processes that prepare; 0 prepares here.
            collate: makes a batch of samples; of none, where a kept batch has fewer records than
                there are ranks, the batch is an empty list.
            most_skipped: different records that may be broken.

        Raises:
            BadInput: the order is that of another number of records, or there is no such rank.
        """
        if order.records != len(source):
            raise BadInput(
                f"an order of {order.records} records for a source of {len(source)}; make it with "
                "records=len(source)"
            )
        if not 0 <= rank < place.world_size:
            raise BadInput(f"rank {rank} of {place.world_size}; expected 0 to one less")
        self.source, self.order, self.rank, self.workers = source, order, rank, workers
        self.most_skipped = most_skipped
        self.place = self._checked(place)
        self._make = _Batches(source, prepare, order, rank, collate)
        self._skipped: dict[int, Skipped] = {}
        self._waited = self._passed = 0.0

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """In the order in which they were met."""
        return tuple(self._skipped.values())

    @property
    def waited(self) -> float:
        """The share of time, 0 to 1, that was spent in waiting for batches; first ones apart."""
        return self._waited / self._passed if self._passed else 0.0

    def __iter__(self) -> Iterator[Any]:
        """Batches from the place on, epoch after epoch.

        Raises:
            BadInput: more records are broken than may be.
        """
        return self._batches(lambda place: True)

    def epoch(self) -> Iterator[Any]:
        """What is left of the epoch that the place is in."""
        epoch = self.place.epoch
        return self._batches(lambda place: place.epoch == epoch)

    def state_dict(self) -> dict[str, int]:
        """The place: seed, epoch, position and world size."""
        return self.place.to_json()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place, to the bits that would have come without an interruption.

        The number of ranks may be another one now: together they take the same batches.

        Raises:
            BadInput: no place, or none of this source.
        """
        told = Place.from_json(state)
        self.place = self._checked(
            Place(
                seed=told.seed,
                epoch=told.epoch,
                position=told.position,
                world_size=self.place.world_size,
            )
        )

    def _checked(self, place: Place) -> Place:
        if place.position > self.order.records:
            raise BadInput(
                f"position {place.position} of {self.order.records} records; the place is that of "
                "other data"
            )
        return self.order.settled(place)

    def _batches(self, goes_on: Callable[[Place], bool]) -> Iterator[Any]:
        def places() -> Iterator[Place]:
            place = self.place
            while goes_on(place):
                yield place
                place = self.order.after(place)

        made = made_ahead(self._make, places(), self.workers)
        asked, first = time.perf_counter(), True
        for place, (batch, skipped) in zip(places(), made, strict=True):
            waited = time.perf_counter() - asked
            self._note(skipped)
            self.place = self.order.after(place)
            yield batch
            asked, before = time.perf_counter(), asked
            if not first:  # which waits for the processes to start
                self._waited += waited
                self._passed += asked - before
            first = False

    def _note(self, skipped: list[Skipped]) -> None:
        for one in skipped:
            if one.index not in self._skipped:
                self._skipped[one.index] = one
                log.warning("left out %s: %s", one.key, one.reason)
        if len(self._skipped) > self.most_skipped:
            raise BadInput(
                f"{len(self._skipped)} records of {self.source.path} cannot be used, and at most "
                f"{self.most_skipped} may be: {_told(self.skipped)}; `lascaux data check` lists "
                "all that are broken"
            )


@dataclass
class _Batches:
    """Makes the batch of a place."""

    source: Source
    prepare: Prepare
    order: Order
    rank: int
    collate: Callable[[list[Any]], Any]

    def __call__(self, place: Place) -> tuple[Any, list[Skipped]]:
        skipped: list[Skipped] = []
        indices = self.order.at(place, self.rank).tolist()
        samples = [self._sample(place, index, skipped) for index in indices]
        return self.collate(samples) if samples else [], skipped

    def _sample(self, place: Place, index: int, skipped: list[Skipped]) -> Any:
        for attempt in range(_ATTEMPTS):
            rng = np.random.Generator(np.random.PCG64([place.seed, place.epoch, index, attempt]))
            chosen = index if attempt == 0 else int(rng.integers(self.order.records))
            try:
                return self.prepare(self.source[chosen], rng)
            except BadInput as error:
                skipped.append(Skipped(self._key(chosen), str(error), chosen))
        raise BadInput(
            f"{_ATTEMPTS} records of {self.source.path} one after the other cannot be used: "
            f"{_told(skipped)}"
        )

    def _key(self, index: int) -> str:
        try:
            return self.source.key(index)
        except BadInput:
            return f"record {index}"


def _told(skipped: tuple[Skipped, ...] | list[Skipped]) -> str:
    text = "; ".join(f"{one.key}: {one.reason}" for one in skipped[:_SHOWN])
    return text + ("; ..." if len(skipped) > _SHOWN else "")
