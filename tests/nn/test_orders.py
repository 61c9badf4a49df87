import pytest

from lascaux.errors import BadInput
from lascaux.nn.orders import ORDERS, order_of


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("side", [2, 4, 16])
def test_every_place_is_written_once(name: str, side: int):
    assert sorted(order_of(name, (side, side)).tolist()) == list(range(side * side))


def test_a_small_grid_is_written_as_one_would_by_hand():
    assert order_of("alternate", (3, 2)).tolist() == [0, 1, 3, 2, 4, 5]
    assert order_of("z-curve", (4, 4)).tolist()[:8] == [0, 1, 4, 5, 2, 3, 6, 7]
    assert order_of("subsample", (4, 4)).tolist()[:8] == [0, 2, 8, 10, 1, 3, 9, 11]
    assert order_of("spiral-out", (2, 2)).tolist() == [2, 0, 1, 3]
    assert order_of("spiral-in", (2, 2)).tolist() == [3, 1, 0, 2]


def test_an_order_is_the_same_every_time():
    assert order_of("random", (4, 6)).tolist() == order_of("random", (4, 6)).tolist()


@pytest.mark.parametrize(
    ("name", "grid"),
    [("z-curve", (6, 6)), ("z-curve", (4, 8)), ("subsample", (3, 3)), ("spiral-out", (3, 3))],
)
def test_a_grid_that_an_order_cannot_have_is_refused(name: str, grid: tuple[int, int]):
    with pytest.raises(BadInput, match=f"{grid[0]} x {grid[1]}"):
        order_of(name, grid)
    with pytest.raises(BadInput, match="zigzag"):
        order_of("zigzag", grid)
