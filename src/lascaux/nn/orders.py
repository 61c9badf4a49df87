"""Orders in which the codes of a picture are written, other than row by row.

Esser, Rombach, Ommer 2020, arXiv:2012.09841, appendix: an ablation of orderings.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.nn.grid import Grid


def order_of(name: str, grid: Grid) -> Int[Tensor, " n"]:
    """Which place, counted row by row, is written first, second and so on.

    Raises:
        BadInput: there is no such order, or none for such a grid.
    """
    if name not in ORDERS:
        raise BadInput(f"order {name!r}; expected one of {', '.join(ORDERS)}")
    places = ORDERS[name](*grid)
    return torch.from_numpy(np.ascontiguousarray(places, dtype=np.int64))


def _identity(rows: int, columns: int) -> np.ndarray:
    return np.arange(rows * columns)


def _subsample(rows: int, columns: int) -> np.ndarray:
    """Every second place of every second row, of those again, and so on."""
    _require_power_of_two(rows, columns)
    bits = rows.bit_length() - 1
    # Of a place's row and column the lowest bits come first: they say which subsample it is in.
    places = np.arange(rows * columns).reshape(2 * bits * (2,))
    axes = [axis for bit in range(bits) for axis in (bits - 1 - bit, 2 * bits - 1 - bit)]
    return places.transpose(axes).ravel()


def _z_curve(rows: int, columns: int) -> np.ndarray:
    """Morton's order: quarter by quarter, and each of them likewise."""
    _require_power_of_two(rows, columns)
    bits = rows.bit_length() - 1
    places = np.arange(rows * columns).reshape(2 * bits * (2,))
    return places.transpose([axis for bit in range(bits) for axis in (bit, bits + bit)]).ravel()


def _spiral_out(rows: int, columns: int) -> np.ndarray:
    """From the middle: up, right, down, left, ever longer."""
    if rows != columns or rows % 2:
        raise BadInput(f"a spiral over {rows} x {columns}; expected an even square")
    row, column = rows // 2, columns // 2 - 1
    places = [(row, column)]
    directions = ((-1, 0), (0, 1), (1, 0), (0, -1))
    leg = 0
    while len(places) < rows * columns:
        down, right = directions[leg % 4]
        for _ in range(leg // 2 + 1):
            row, column = row + down, column + right
            places.append((row, column))
        leg += 1
    return np.array([y * columns + x for y, x in places[: rows * columns]])


def _spiral_in(rows: int, columns: int) -> np.ndarray:
    return _spiral_out(rows, columns)[::-1]


def _random(rows: int, columns: int) -> np.ndarray:
    return np.random.RandomState(1).permutation(rows * columns)


def _alternate(rows: int, columns: int) -> np.ndarray:
    """Row by row, every second one from right to left."""
    places = np.arange(rows * columns).reshape(rows, columns)
    places[1::2] = places[1::2, ::-1].copy()
    return places.ravel()


def _require_power_of_two(rows: int, columns: int) -> None:
    if rows != columns or rows < 1 or rows & (rows - 1):
        raise BadInput(
            f"an order of quarters over {rows} x {columns}; expected a square whose side is a "
            "power of two"
        )


ORDERS: dict[str, Callable[[int, int], np.ndarray]] = {
    "identity": _identity,
    "subsample": _subsample,
    "z-curve": _z_curve,
    "spiral-out": _spiral_out,
    "spiral-in": _spiral_in,
    "random": _random,
    "alternate": _alternate,
}
