"""Scenes at random, of one split: train, validation or test.

A split holds pairs of object and background, drawn once and committed (`splits.json`); a scene is
of a split when every one of its pairs is. Tests therefore show known objects before known
backgrounds in combinations that were never trained on, and scans of digits never trained on.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from lascaux.data.world.backgrounds import BACKGROUNDS, COLOURS, PLACES, VARIANTS
from lascaux.data.world.objects import glyph_count, objects, scans_of
from lascaux.data.world.scene import Scene, Thing

Split = Literal["train", "validation", "test"]
Kind = Literal["single", "counted", "related", "any"]
SIZES = {"small": (0.28, 0.38), "medium": (0.44, 0.58), "large": (0.64, 0.82)}


@cache
def pairs(split: Split, digits: bool = False) -> dict[str, tuple[int, ...]]:
    """For each background, the objects that stand before it in this split."""
    held = json.loads((Path(__file__).parent / "splits.json").read_text(encoding="utf-8"))
    chosen = objects() if digits else objects()[: glyph_count()]
    result = {}
    for name in BACKGROUNDS:
        if split == "train":
            outside = {*held["validation"][name], *held["test"][name]}
            result[name] = tuple(o.index for o in chosen if o.code not in outside)
        else:
            result[name] = tuple(o.index for o in chosen if o.code in held[split][name])
    return result


def sample(
    rng: np.random.Generator,
    split: Split = "train",
    kind: Kind = "any",
    *,
    backgrounds: tuple[str, ...] = BACKGROUNDS,
    digits: bool = False,
) -> Scene:
    """A scene of `split` drawn with `rng`: the same generator state gives the same scene.

    `kind` is "single" (one object), "counted" (one object two to four times), "related" (two
    different objects side by side or one above the other) or "any" of these.
    `digits` lets handwritten digits appear as objects; it needs scikit-learn.
    """
    if split not in get_args(Split) or kind not in get_args(Kind):
        raise ValueError(
            f"split {split!r}, kind {kind!r}: expected one of {', '.join(get_args(Split))} and one "
            f"of {', '.join(get_args(Kind))}"
        )
    if kind == "any":
        kind = ("single", "single", "counted", "related")[rng.integers(4)]
    name = backgrounds[rng.integers(len(backgrounds))]
    variant = int(rng.integers(VARIANTS))
    choice = pairs(split, digits)[name]
    first = choice[rng.integers(len(choice))]
    if kind == "single":
        low, high = SIZES[("small", "medium", "large")[rng.integers(3)]]
        spots = [(*_spot(rng, size := float(rng.uniform(low, high))), size)]
        chosen = [first]
    elif kind == "counted":
        spots = _scattered(rng, int(rng.integers(2, 5)))
        chosen = [first] * len(spots)
    else:
        second = first
        while second == first:
            second = choice[rng.integers(len(choice))]
        size = float(rng.uniform(0.3, 0.42))
        near, far, shift = 0.27, 0.73, float(rng.uniform(0.35, 0.65))
        places = (
            [(near, shift), (far, shift)] if rng.random() < 0.5 else [(shift, near), (shift, far)]
        )
        jitter = rng.uniform(-0.04, 0.04, (2, 2))
        spots = [
            (x + float(dx), y + float(dy), size)
            for (x, y), (dx, dy) in zip(places, jitter, strict=True)
        ]
        chosen = [first, second]
    things = tuple(
        Thing(index, x, y, size, _scan(rng, index, split))
        for index, (x, y, size) in zip(chosen, spots, strict=True)
    )
    return Scene(name, things, variant)


def large(rng: np.random.Generator, split: Split = "train", *, digits: bool = False) -> Scene:
    """A scene of one object that covers half to nine tenths of the side: an easy one."""
    scene = sample(rng, split, "single", digits=digits)
    size = float(rng.uniform(0.5, 0.9))
    x, y = (float(v) for v in rng.uniform(size / 2, 1 - size / 2, 2))
    return replace(scene, things=(replace(scene.things[0], x=x, y=y, size=size),))


def portrait(
    rng: np.random.Generator, split: Split = "train", *, loose: float = 0.0, digits: bool = False
) -> Scene:
    """A scene of one object in the middle that is as long as three quarters of the side.

    With `loose` up to 1 its size varies, to 0.66 and 0.78, and its place by 0.03 of the side.
    """
    scene = sample(rng, split, "single", digits=digits)
    size = float(rng.uniform(0.75 - 0.09 * loose, 0.75 + 0.03 * loose))
    x, y = (float(v) for v in 0.5 + rng.uniform(-0.03, 0.03, 2) * loose)
    return replace(scene, things=(replace(scene.things[0], x=x, y=y, size=size),))


def aligned(scene: Scene, cells: int = 8) -> Scene:
    """A scene with the same things, moved and scaled a little so that each fills cells of a grid.

    A thing becomes 3, 4 or 6 of 8 cells long, whichever is nearest, and lies on the nearest cells
    within the picture. Who spells pictures cell by cell then spells a thing alike wherever it is.
    """
    lengths = [round(each * cells) for each in (0.375, 0.5, 0.75)]
    things = []
    for thing in scene.things:
        length = min(lengths, key=lambda each: abs(each / cells - thing.size))
        x, y = (
            (min(max(round(at * cells - length / 2), 0), cells - length) + length / 2) / cells
            for at in (thing.x, thing.y)
        )
        things.append(replace(thing, x=x, y=y, size=length / cells))
    return replace(scene, things=tuple(things))


def crowd(rng: np.random.Generator, split: Split = "train", *, digits: bool = False) -> Scene:
    """A scene full of different objects, which may hide parts of each other: much to see at once.

    Four of medium size or six to nine small ones; no caption tells of so many.
    """
    scene = sample(rng, split, "single", digits=digits)
    choice = pairs(split, digits)[scene.background]
    side = int(rng.integers(2, 4))  # of a grid of cells
    low, high = ((0.4, 0.56), (0.28, 0.4))[side - 2]
    count = side * side - int(rng.integers(4)) * (side - 2)
    cells = rng.permutation(side * side)[:count]
    things = []
    for index, cell in zip(rng.choice(choice, count, replace=False), cells, strict=True):
        row, column = divmod(int(cell), side)
        x, y = ((place + 0.5) / side + float(rng.uniform(-0.08, 0.08)) for place in (column, row))
        size = float(rng.uniform(low, high))
        things.append(Thing(int(index), x, y, size, _scan(rng, int(index), split)))
    return replace(scene, things=tuple(things))


def twin(
    rng: np.random.Generator, scene: Scene, split: Split = "train", *, digits: bool = False
) -> Scene:
    """A scene that is like another in parts.

    Its things before another background, or other things before its own; these always, where the
    split has no other background for its things.
    """
    table = pairs(split, digits)
    fitting = [
        name
        for name in BACKGROUNDS
        if name != scene.background and all(it.object in table[name] for it in scene.things)
    ]
    if fitting and rng.random() < 0.5:
        name = fitting[rng.integers(len(fitting))]
        return replace(scene, background=name, variant=int(rng.integers(VARIANTS)))
    other = sample(rng, split, backgrounds=(scene.background,), digits=digits)
    return replace(scene, things=other.things)


def single(
    rng: np.random.Generator,
    index: int,
    background: str,
    split: Split = "test",
    size: str = "large",
) -> Scene:
    """Object `index` alone before `background`, size and place drawn with `rng`."""
    extent = float(rng.uniform(*SIZES[size]))
    thing = Thing(index, *_spot(rng, extent), extent, _scan(rng, index, split))
    return Scene(background, (thing,), int(rng.integers(VARIANTS)))


def colour_pairs(split: Split, digits: bool = False) -> list[tuple[int, str]]:
    """All pairs (object, colour) of a split, in the order of the colours."""
    table = pairs(split, digits)
    return [(index, colour) for colour in COLOURS for index in table[colour]]


def place_pairs(split: Split, digits: bool = False) -> list[tuple[int, str]]:
    """All pairs (object, place) of a split, in the order of the places."""
    table = pairs(split, digits)
    return [(index, place) for place in PLACES for index in table[place]]


def _scan(rng: np.random.Generator, index: int, split: Split) -> int:
    digit = objects()[index].digit
    if digit is None:
        return 0
    scans = scans_of(digit, held_out=split == "test")
    return scans[rng.integers(len(scans))]


def _spot(rng: np.random.Generator, size: float) -> tuple[float, float]:
    """A centre from which a thing of `size` stays inside the picture."""
    margin = size / 2 + 0.02
    x, y = rng.uniform(margin, 1 - margin, 2)
    return float(x), float(y)


def _scattered(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """`count` spots of one size that do not overlap: cells of a two by two grid."""
    size = float(rng.uniform(0.28, 0.36))
    cells = [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]
    order = rng.permutation(4)[:count]
    jitter = rng.uniform(-0.05, 0.05, (count, 2))
    return [
        (cells[cell][0] + float(dx), cells[cell][1] + float(dy), size)
        for cell, (dx, dy) in zip(order, jitter, strict=True)
    ]
