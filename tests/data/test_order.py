import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lascaux.data.order import Order, Place, shuffled
from lascaux.errors import BadInput


def epoch_of(records, seed=0, epoch=0):
    return shuffled(np.arange(records), records, seed, epoch)


def taken(order, place, batches, rank=0):
    """The records of so many batches, and the place behind them."""
    found = []
    for _ in range(batches):
        found += order.at(place, rank).tolist()
        place = order.after(place)
    return found, place


@pytest.mark.parametrize("records", [1, 2, 3, 4, 5, 10, 97, 100, 101, 4096, 50_021])
def test_every_epoch_has_each_record_once(records):
    for epoch in range(3):
        assert np.array_equal(np.sort(epoch_of(records, 5, epoch)), np.arange(records))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_of(1000, seed, epoch) for seed in range(4) for epoch in range(4)]
    for first in range(16):
        for second in range(first):
            # Two random orders agree in one place on average.
            assert (orders[first] == orders[second]).sum() < 10


def test_an_order_stays_what_it_is():
    # Recorded when this was first released: a run that goes on under a newer version must agree.
    assert epoch_of(10, 3, 2).tolist() == [0, 5, 4, 9, 2, 3, 6, 7, 8, 1]


@pytest.mark.parametrize(("records", "orders"), [(3, 6), (4, 24)])
def test_all_orders_of_few_records_are_equally_frequent(records, orders):
    counts = Counter(tuple(epoch_of(records, 7, epoch).tolist()) for epoch in range(orders * 40))
    assert len(counts) == orders
    chi_square = sum((count - 40) ** 2 / 40 for count in counts.values())
    # Beyond mean and five deviations of that distribution.
    assert chi_square < orders - 1 + 5 * (2 * (orders - 1)) ** 0.5


def test_an_epoch_shows_no_structure():
    records = 40_000
    order = epoch_of(records, 1, 0) / (records - 1)
    places = np.arange(records) / (records - 1)
    bound = 5 / records**0.5  # deviations of a correlation of independent values
    for lag in (1, 2, 3, 199, 200, 201):  # 200 is the side of its square
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < bound
    assert abs(np.corrcoef(order, places)[0, 1]) < bound
    assert abs(np.corrcoef(order, epoch_of(records, 1, 1))[0, 1]) < bound
    squares = np.histogram2d(order, places, 20)[0]
    chi_square = ((squares - 100) ** 2 / 100).sum()
    assert abs(chi_square - 399) < 5 * (2 * 399) ** 0.5


def test_a_place_is_found_without_its_neighbours():
    order = epoch_of(12_345, 2, 1)
    assert shuffled(np.array([77, 12_000]), 12_345, 2, 1).tolist() == order[[77, 12_000]].tolist()


def test_billions_of_records_can_be_shuffled():
    records = 3_000_000_000
    found = shuffled(np.arange(records - 1000, records), records, 0, 0)
    assert len(set(found.tolist())) == 1000
    assert 0 <= found.min() < found.max() < records


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_batches_do_not_depend_on_the_number_of_ranks(world_size):
    order = Order(records=50, batch_size=12)
    place = Place(seed=4, world_size=world_size)
    alone = Place(seed=4)
    for _ in range(9):
        shares = [order.at(place, rank).tolist() for rank in range(world_size)]
        assert [one for share in shares for one in share] == order.at(alone).tolist()
        assert {len(share) for share in shares} == {12 // world_size}
        place, alone = order.after(place), order.after(alone)


def test_what_fills_no_batch_is_dropped_or_kept():
    dropping, keeping = (Order(records=10, batch_size=4, last=last) for last in ("drop", "keep"))
    assert (dropping.batches, keeping.batches) == (2, 3)
    found, place = taken(dropping, Place(seed=0), 2)
    assert (len(set(found)), place) == (8, Place(seed=0, epoch=1))
    found, place = taken(keeping, Place(seed=0), 3)
    assert (sorted(found), place) == (list(range(10)), Place(seed=0, epoch=1))


def test_a_run_that_goes_on_takes_what_it_would_have_taken():
    order = Order(records=23, batch_size=5)
    whole, _ = taken(order, Place(seed=9), 14)
    for step in range(14):
        before, place = taken(order, Place(seed=9), step)
        told = Place.from_json(json.loads(json.dumps(place.to_json())))
        after, _ = taken(order, told, 14 - step)
        assert before + after == whole
        assert told == order.place_of(step, 9)


def test_it_goes_on_with_other_ranks_and_other_batches():
    order = Order(records=24, batch_size=4)
    whole, _ = taken(order, Place(seed=1), 6)
    _, place = taken(order, Place(seed=1, world_size=2), 2)
    assert place.position == 8
    wider = replace(order, batch_size=8)
    after, _ = taken(wider, replace(place, world_size=1), 2)
    assert after == whole[8:]


def test_without_shuffling_records_come_as_they_are():
    order = Order(records=5, batch_size=2, shuffle=False, last="keep")
    assert taken(order, Place(seed=1), 4)[0] == [0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Order(records=0, batch_size=1), "0 records in batches of 1"),
        (lambda: Order(records=3, batch_size=4), "a batch of 4 is never filled by 3 records"),
        (lambda: Place(seed=-1), "seed=-1; expected a whole number, at least 0"),
        (lambda: Place(seed=1, world_size=0), "world_size=0"),
        (lambda: Place.from_json({"seed": 1}), "a place with seed; expected epoch, position"),
        (lambda: Order(records=3, batch_size=1).at(Place(seed=0), 1), "rank 1 of 1"),
    ],
)
def test_nonsense_is_refused(make, said):
    with pytest.raises(BadInput, match=said):
        make()
