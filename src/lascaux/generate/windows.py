"""Pictures of any size by a transformer that sees a window of codes at a time.

Esser, Rombach, Ommer: "Taming Transformers for High-Resolution Image Synthesis", 2020,
arXiv:2012.09841, section 3.3 and the rule of its published samplers: every code is drawn with the
window around it that keeps within the picture, after the condition's codes of the same window. What
lies right of or below the code in the window is never looked at, so it is not computed; and while a
window stands where it was, only codes that are new in it are read.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.generate.sampling import Drawn, NearTie, Sampling, draw
from lascaux.generate.tokens import chances, near_ties

Grid = tuple[int, int]
Corner = tuple[int, int]
Order = Literal["raster", "wavefront"]

_MEMORY = 2 << 30  # bytes of keys and values, unless another bound is given


@runtime_checkable
class WindowModel(Protocol):
    """A model that reads on in some rows of a cache, each from where it was."""

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Any:
        """An empty cache, of which `clear(rows)` forgets rows."""
        ...

    def step(
        self,
        new_ids: Tensor,
        cache: Any,
        *,
        rows: slice | Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v"]:
        """The logits, in float32, of the token after the first `counts` of each row's new ones."""
        ...


class Place(NamedTuple):
    """One code of a picture, and the corner of the window it is drawn with."""

    row: int
    column: int
    top: int
    left: int

    @property
    def corner(self) -> Corner:
        """Of the window, which tells windows apart."""
        return self.top, self.left


@dataclass(frozen=True)
class WindowProgress:
    """How far the pictures of a batch are."""

    ids: Int[Tensor, "b y x"]  # what is not drawn yet is as it was given, or 0
    done: int  # codes of a picture that are drawn
    total: int  # that are to be drawn
    steps: int  # calls of the model so far
    read: int  # tokens of a picture that the model has read so far
    near_ties: tuple[NearTie, ...]  # draws that rounding might have turned; places row by row
    cache_bytes: int

    @property
    def finished(self) -> bool:
        """Whether all codes are there."""
        return self.done == self.total


def place_of(row: int, column: int, grid: Grid, size: int) -> Place:
    """A code with its window: in the middle of it, but near the picture's edges.

    Args:
        row: of the code.
        column: of the code.
        grid: rows and columns of the picture's codes.
        size: rows and columns of the window.
    """
    top, left = (
        at - _within(at, length, size) for at, length in zip((row, column), grid, strict=True)
    )
    return Place(row, column, top, left)


def _within(at: int, length: int, size: int) -> int:
    """Where in the window, as published: halves of odd sizes are not rounded."""
    if at <= size / 2:
        return at
    if length - at < size / 2:
        return size - (length - at)
    return size // 2


def steps_of(
    grid: Grid, size: int, order: Order, known: Bool[Tensor, "y x"] | None = None
) -> list[list[Place]]:
    """Which codes are drawn together, step by step.

    In raster order one at a time. Along the wavefront all whose windows have what they need: codes
    of one step do not see each other, and what each sees is the same as in raster order.

    Args:
        grid: rows and columns of codes.
        size: of the window.
        order: raster or wavefront.
        known: codes that are not to be drawn.

    Raises:
        BadInput: the picture is smaller than the window.
    """
    rows, columns = grid
    if size < 1 or min(grid) < size:
        raise BadInput(
            f"{rows} x {columns} codes with a window of {size}: a picture needs at least a window "
            "in both directions; take a larger picture, or write it as one sequence"
        )
    places = [place_of(row, column, grid, size) for row in range(rows) for column in range(columns)]
    wanted = [place for place in places if known is None or not known[place.row, place.column]]
    if order == "raster":
        return [[place] for place in wanted]
    after = torch.zeros(grid, dtype=torch.int64).tolist()  # the step after which a code is there
    steps: dict[int, list[Place]] = {}
    drawn = set(wanted)
    for place in places:
        left = after[place.row][place.column - 1] if place.column else 0
        above = after[place.row - 1][place.left + size - 1] if place.row else 0
        step = max(left, above) + (place in drawn)
        after[place.row][place.column] = step
        if place in drawn:
            steps.setdefault(step, []).append(place)
    return [steps[step] for step in sorted(steps)]


class _Slots:
    """Which windows are kept, in a bounded number of slots.

    Where there are too few, the window goes that is needed last.
    """

    def __init__(self, steps: list[list[Place]], most: int) -> None:
        self.uses: dict[Corner, deque[int]] = {}
        for number, places in enumerate(steps):
            for place in places:
                self.uses.setdefault(place.corner, deque()).append(number)
        self.kept: dict[Corner, int] = {}
        widest = max(map(len, steps), default=1)
        self.count = max(widest, min(most, self._standing(len(steps))))
        self.free = list(range(self.count))

    def _standing(self, steps: int) -> int:
        """How many windows stand at once, at most: were drawn with, and will be again."""
        change = [0] * (steps + 1)
        for uses in self.uses.values():
            change[uses[0]] += 1
            change[uses[-1] + 1] -= 1
        most = standing = 0
        for each in change:
            standing += each
            most = max(most, standing)
        return most

    def take(self, corners: list[Corner]) -> tuple[list[int], list[int]]:
        """The slot of each window of a step, and those of them that must be emptied first."""
        emptied: list[int] = []
        for corner in corners:
            self.uses[corner].popleft()
            if corner in self.kept:
                continue
            if not self.free:
                others = [each for each in self.kept if each not in corners]
                last = max(others, key=lambda each: self.uses[each][0])
                self.free.append(self.kept.pop(last))
            self.kept[corner] = self.free.pop()
            emptied.append(self.kept[corner])
        return [self.kept[corner] for corner in corners], emptied

    def leave(self, corners: list[Corner]) -> None:
        """Give back the slots of windows that are not needed again."""
        for corner in corners:
            if not self.uses[corner]:
                self.free.append(self.kept.pop(corner))


class _Batch(NamedTuple):
    """What the model reads in one step."""

    ids: Int[Tensor, "r m"]
    rows: slice | list[int]
    counts: list[int]


class _Painting:
    """The codes of a batch of pictures, and what the model keeps of its windows."""

    def __init__(
        self,
        model: WindowModel,
        ids: Tensor,
        condition: Tensor,
        size: int,
        steps: list[list[Place]],
        memory: int,
        dtype: torch.dtype | None,
    ) -> None:
        self.model, self.ids, self.condition, self.size = model, ids, condition, size
        self.pictures = len(ids)
        before = size * size if condition.ndim == 3 else condition.shape[1]
        length = before + size * size - 1
        slot_bytes = model.new_cache(self.pictures, length, dtype).nbytes
        self.slots = _Slots(steps, memory // slot_bytes)
        self.cache = model.new_cache(self.slots.count * self.pictures, length, dtype)

    def logits(self, places: list[Place]) -> tuple[Tensor, int]:
        """Of the codes at some places, all pictures of the first before those of the next; and how
        many tokens of a picture were read for them.
        """
        corners = [place.corner for place in places]
        slots, emptied = self.slots.take(corners)
        self.cache.clear([row for slot in emptied for row in self._rows(slot)])
        batch = self._batch(places, slots)
        logits = self.model.step(batch.ids, self.cache, rows=batch.rows, counts=batch.counts)
        self.slots.leave(corners)
        return logits, sum(batch.counts) // self.pictures

    def _rows(self, slot: int) -> range:
        return range(slot * self.pictures, (slot + 1) * self.pictures)

    def _batch(self, places: list[Place], slots: list[int]) -> _Batch:
        new = [
            self._sequence(place)[:, self.cache.lengths[self._rows(slot)[0]] :]
            for place, slot in zip(places, slots, strict=True)
        ]
        counts = [each.shape[1] for each in new for _ in range(self.pictures)]
        if len(new) == 1:
            rows = self._rows(slots[0])
            return _Batch(new[0], slice(rows.start, rows.stop), counts)
        ids = new[0].new_zeros(len(counts), max(counts))
        for number, each in enumerate(new):
            ids[number * self.pictures : (number + 1) * self.pictures, : each.shape[1]] = each
        return _Batch(ids, [row for slot in slots for row in self._rows(slot)], counts)

    def _sequence(self, place: Place) -> Tensor:
        """The condition's and the picture's codes in the window, up to the one to be drawn."""
        down = slice(place.top, place.top + self.size)
        across = slice(place.left, place.left + self.size)
        inside = (place.row - place.top) * self.size + place.column - place.left
        before = self.condition
        if before.ndim == 3:
            before = rearrange(before[:, down, across], "b y x -> b (y x)")
        codes = rearrange(self.ids[:, down, across], "b y x -> b (y x)")
        return torch.cat((before, codes[:, :inside]), dim=1)


def write_windows(
    model: WindowModel,
    condition: Int[Tensor, "b y x"] | Int[Tensor, "b m"],
    *,
    grid: Grid | None = None,
    size: int = 16,
    given: Int[Tensor, "b y x"] | None = None,
    known: Bool[Tensor, "y x"] | None = None,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    uniforms: Float64[Tensor, "b n"] | None = None,
    order: Order = "raster",
    memory: int = _MEMORY,
    dtype: torch.dtype | None = None,
    stop: Callable[[], bool] | None = None,
    every: int = 1,
) -> Iterator[WindowProgress]:
    """Draw the codes of pictures with a window that slides over them.

    A code's uniform number depends on the picture's seed and the code's place, so both orders give
    the same pictures, but for draws within rounding of going another way.

    Args:
        model: the model.
        condition: codes of the condition on the picture's grid; or tokens that are read before
            every window.
        grid: rows and columns of a picture's codes, where the condition does not tell.
        size: rows and columns of the window; a model means what it was trained at.
        given: codes that are there already, where `known` says so.
        known: places that are not drawn.
        sampling: how codes are drawn, without guidance.
        seeds: one a picture; not needed where the likeliest is taken.
        uniforms: numbers to draw with, in raster order, instead of those of the seeds.
        order: wavefront draws several codes at once: fewer steps, which pays where a step of
            several costs no more than one, as on a GPU.
        memory: bytes that kept windows may take. With fewer some are read again; a step's own are
            always kept.
        dtype: of what is kept; the model's own.
        stop: asked before every step; where it says yes, nothing more is drawn.
        every: steps between two reports.

    Raises:
        GenerationFailed: logits are no numbers; the message names the step.
        BadInput: sizes, seeds or codes that do not fit each other.
    """
    sampling = sampling or Sampling()
    if sampling.guided:
        raise BadInput(f"guidance {sampling.guidance}: windows are written without")
    if every < 1:
        raise BadInput(f"told every {every} steps: from 1 on")
    grid = _grid_of(condition, grid, given)
    if (known is None) != (given is None) or (known is not None and known.shape != grid):
        raise BadInput(
            f"codes that are given need a table of {grid[0]} x {grid[1]} that says where"
        )
    places = grid[0] * grid[1]
    u = chances(len(condition), places, sampling, seeds, uniforms)
    steps = steps_of(grid, size, order, known)
    ids = condition.new_zeros(len(condition), *grid) if given is None else given.clone()
    painting = _Painting(model, ids, condition, size, steps, memory, dtype)
    ties: list[NearTie] = []
    total = sum(map(len, steps))
    done = read = 0

    def progress(steps: int) -> WindowProgress:
        size = painting.cache.nbytes
        return WindowProgress(ids.clone(), done, total, steps, read, tuple(ties), size)

    for number, step in enumerate(steps):
        if stop is not None and stop():
            yield progress(number)
            return
        at = [place.row * grid[1] + place.column for place in step]
        these = None if u is None else rearrange(u[:, at], "b p -> (p b)")
        with torch.no_grad():  # around no yield, where it would reach into the caller
            logits, new = painting.logits(step)
            drawn = draw(logits, sampling, these, step=number)
        for which, place in enumerate(step):
            mine = slice(which * len(ids), (which + 1) * len(ids))
            ids[:, place.row, place.column] = drawn.ids[mine]
            ties += near_ties(Drawn(drawn.ids[mine], drawn.margins[mine]), at[which])
        done, read = done + len(step), read + new
        if (number + 1) % every == 0 or number + 1 == len(steps):
            yield progress(number + 1)
    if not steps:
        yield progress(0)


def _grid_of(condition: Tensor, grid: Grid | None, given: Tensor | None) -> Grid:
    told = {tuple(x.shape[1:]) for x in (condition, given) if x is not None and x.ndim == 3}
    told |= {tuple(grid)} if grid is not None else set()
    if len(told) != 1:
        raise BadInput(
            f"grids of codes {sorted(told)}; expected one, from the condition, the given codes or "
            "the grid"
        )
    (found,) = told
    return found[0], found[1]
