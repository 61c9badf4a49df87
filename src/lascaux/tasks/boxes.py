"""Layouts: boxes of objects, as the scene models of the taming transformers read them.

An object is three tokens: what it is, and the places of two corners of its box; the rest of so many
objects as the model was trained with is left empty, and two tokens tell what part of a picture is
shown. Rules and numbers as CompVis published them (https://github.com/CompVis/taming-transformers,
2021).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from PIL import Image, ImageDraw, ImageFont

from lascaux.errors import BadInput
from lascaux.models.taming_transformer import COCO_OBJECTS, TamingTransformerConfig
from lascaux.tasks.conditions import class_number

Box = tuple[float, float, float, float]  # left, top, width and height, as shares of the sides

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
# What else a file may say of an object -> how many times all classes its number is raised by. Those
# of COCO were never raised: its "iscrowd" is a number, which the published comparison takes for no.
# So a model of COCO knows no token of a marked object.
_MARKS = {"group": 1, "occluded": 2, "depiction": 4, "inside": 8}
_FAR = 2.0  # sides beyond which a box is surely told in pixels
_SIDE = 512  # pixels of a layout that is shown
_COLOURS = ("#1e76b3", "#e8710a", "#2b9f2b", "#d52627", "#9366bc", "#8b554a", "#c23fa0", "#16a3b3")


@dataclass(frozen=True)
class Placed:
    """An object and where it is.

    Attributes:
        number: of its class.
        name: of it; the number, where it has none.
        box: of the object.
        marks: what else is known of it.
    """

    number: int
    name: str
    box: Box
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Objects of a picture, and the part of it that is shown."""

    objects: tuple[Placed, ...]
    shown: Box = _WHOLE

    def to_json(self) -> dict[str, Any]:
        """What `read_layout` takes, as JSON types."""
        return {
            "objects": [
                {"object": each.number, "box": list(each.box)} | dict.fromkeys(each.marks, True)
                for each in self.objects
            ],
            "shown": list(self.shown),
        }


def read_layout(source: Any, config: TamingTransformerConfig) -> Layout:
    """A layout, from a file or as its content.

        {"objects": [{"object": "dog", "box": [0.1, 0.4, 0.5, 0.5]},
                     {"object": "grass", "box": [0, 0.6, 1, 0.4]}]}

    A list of objects alone will do. Boxes are left, top, width and height, as shares of the
    picture's sides, from its upper left corner. An object is the name or number of a class. It may
    be marked "group", "occluded", "depiction" or "inside", which models of Open Images were trained
    with. "shown" is the box of what is to be seen of the picture: all, where nothing is said.

    Args:
        source: path of a JSON file, or what is in one.
        config: of the model.

    Raises:
        BadInput: it is none, or has more objects or others than the model knows.
    """
    content = _read(source) if isinstance(source, str | Path) else source
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = {"objects": content}
    if not isinstance(content, Mapping) or not isinstance(content.get("objects"), Sequence):
        raise BadInput(
            'a layout has no objects; expected {"objects": [{"object": "dog", "box": [left, top, '
            "width, height]}, ...]}"
        )
    told = cast("Mapping[str, Any]", content)
    if unknown := sorted(map(str, told.keys() - {"objects", "shown"})):
        raise BadInput(f"a layout with {', '.join(unknown)}; it has objects and shown")
    shown = _box(told.get("shown", _WHOLE), "shown", within=True)
    found = [_placed(each, n, config) for n, each in enumerate(told["objects"], 1)]
    seen = tuple(each for each in found if _meet(each.box, shown))
    if not seen:
        raise BadInput(f"{len(found)} objects, and none of them within what is shown")
    if len(seen) > config.objects:
        raise BadInput(f"{len(seen)} objects; this model knows layouts of up to {config.objects}")
    return Layout(seen, shown)


def layout_tokens(layout: Layout, config: TamingTransformerConfig) -> list[int]:
    """The tokens of a layout: three for each object there may be, and two of what is shown.

    Raises:
        BadInput: marks of objects, where the model was trained with none, does not say how many
            classes it has, or has no token for so large a number.
    """
    places = math.isqrt(config.codes)  # along each side
    empty = config.codes - 1
    tokens: list[int] = []
    for each in layout.objects:
        raised = sum(_MARKS[mark] for mark in each.marks)
        if raised and config.classes == COCO_OBJECTS:
            raise BadInput(
                f"{each.name} is marked {' and '.join(each.marks)}; models of COCO were trained "
                "without marks: leave them out"
            )
        if raised and not config.classes:
            raise BadInput(
                f"{each.name} is marked; this model does not say how many classes it has"
            )
        number = each.number + raised * (config.classes or 0)
        if number >= empty:
            raise BadInput(
                f"{each.name}, marked {' and '.join(each.marks)}, would be token {number}; this "
                f"model has {config.codes}, the last of which stands for no object"
            )
        tokens += number, *_corners(_within(each.box), places)
    tokens += 3 * (config.objects - len(layout.objects)) * [empty]
    return [*tokens, *_corners(layout.shown, places)]


def layout_picture(layout: Layout) -> Image.Image:
    """A layout to look at: boxes with names, and in grey what is not to be seen."""
    picture = Image.new("RGB", (_SIDE, _SIDE), "#d8d8d8")
    draw = ImageDraw.Draw(picture)
    draw.rectangle(_pixels(layout.shown), fill="white")
    font = ImageFont.load_default(18)
    # From large to small, so that none is hidden.
    by_area = sorted(enumerate(layout.objects), key=lambda each: -each[1].box[2] * each[1].box[3])
    for number, each in by_area:
        colour = _COLOURS[number % len(_COLOURS)]
        left, top, right, bottom = _pixels(_within(each.box))
        draw.rectangle((left, top, right, bottom), outline=colour, width=3)
        name = ", ".join((each.name, *each.marks))
        told = draw.textbbox((left + 8, top + 6), name, font=font)
        draw.rectangle((told[0] - 5, told[1] - 3, told[2] + 5, told[3] + 3), fill=colour)
        draw.text((left + 8, top + 6), name, font=font, fill="white")
    return picture


def object_names(config: TamingTransformerConfig) -> tuple[str, ...]:
    """Names of the classes of a model's objects, by number; none where they are not known."""
    if config.class_names or config.classes != COCO_OBJECTS:
        return config.class_names
    return _coco_objects()


@cache
def _coco_objects() -> tuple[str, ...]:
    """Names of COCO's objects and stuff, in the order of their ids as strings, as published."""
    path = Path(__file__).parent / "coco_objects.json"
    by_id: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return tuple(by_id[each] for each in sorted(by_id))


def _read(path: str | Path) -> Any:
    path = Path(path).expanduser()
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {error}") from error


def _placed(told: Any, n: int, config: TamingTransformerConfig) -> Placed:
    if not isinstance(told, Mapping) or not {"object", "box"} <= told.keys():
        raise BadInput(f'object {n} is {told!r}; expected {{"object": "dog", "box": [...]}}')
    fields = cast("Mapping[str, Any]", told)
    if unknown := sorted(map(str, fields.keys() - {"object", "box", *_MARKS})):
        raise BadInput(
            f"object {n} has {', '.join(unknown)}; beside object and box it may be marked "
            f"{', '.join(_MARKS)}"
        )
    what = fields["object"]
    if isinstance(what, bool) or not isinstance(what, int | str):
        raise BadInput(f"object {n} is {what!r}; expected the name or number of a class")
    classes = config.classes or config.codes - 1
    number, name = class_number(what, classes, object_names(config))
    for mark in _MARKS.keys() & fields.keys():
        if fields[mark] not in (True, False):
            raise BadInput(f"object {n} has {mark} {fields[mark]!r}; expected true or false")
    marks = tuple(mark for mark in _MARKS if fields.get(mark))
    return Placed(number, name or str(number), _box(fields["box"], f"object {n}"), marks)


def _box(told: Any, of: str, *, within: bool = False) -> Box:
    numbers = list(told) if isinstance(told, Sequence) and not isinstance(told, str) else []
    good = len(numbers) == 4 and all(
        isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each)
        for each in numbers
    )
    if not good or min(numbers[2:]) <= 0:
        raise BadInput(
            f"the box of {of} is {told!r}; expected left, top, width and height as shares of the "
            "picture's sides"
        )
    left, top, width, height = map(float, numbers)
    box = left, top, width, height
    inside = left >= 0 and top >= 0 and max(left + width, top + height) <= 1 + 1e-6
    if (within and not inside) or not _meet(box, _WHOLE) or max(width, height) > _FAR:
        raise BadInput(
            f"the box of {of} is {told!r}, not within the picture, whose sides are 0 to 1: give "
            "shares of them, not pixels"
        )
    return box


def _meet(first: Box, second: Box) -> bool:
    """Whether two boxes have a part in common."""
    return all(
        first[side] < second[side] + second[side + 2]
        and second[side] < first[side] + first[side + 2]
        for side in (0, 1)
    )


def _within(box: Box) -> Box:
    """A box that ends with the picture; as published, one that begins outside keeps its sides."""
    left, top = (min(max(each, 0.0), 1.0) for each in box[:2])
    return left, top, min(box[2], 1 - left), min(box[3], 1 - top)


def _corners(box: Box, places: int) -> tuple[int, int]:
    """The tokens of a box's upper left and lower right corner, of so many places along a side."""
    left, top, width, height = box
    corners = (left, top), (left + width, top + height)
    first, second = (round(y * (places - 1)) * places + round(x * (places - 1)) for x, y in corners)
    return first, second


def _pixels(box: Box) -> tuple[int, int, int, int]:
    left, top, width, height = box
    corners = left, top, left + width, top + height
    first, second, third, fourth = (round(each * (_SIDE - 1)) for each in corners)
    return first, second, third, fourth
