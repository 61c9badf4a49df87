"""What pictures are painted after: maps, depth, pictures and classes, as a model takes them."""

import difflib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from lascaux.errors import BadClasses, BadInput, BadPicture, Unsupported
from lascaux.images.decode import read_picture
from lascaux.images.maps import (
    depth_of_picture,
    labels_of_picture,
    palette_picture,
    scaled_depth,
    to_bytes,
)
from lascaux.models.taming_transformer import TamingTransformer
from lascaux.tasks.pictures import source_name
from lascaux.tasks.templates import class_ids, class_list

Kind = Literal["map", "depth", "picture", "label", "boxes", "tokens", "coordinates", "nothing"]
PLACELESS: tuple[Kind, ...] = ("label", "boxes", "tokens", "nothing")  # no grid of tokens
Sides = tuple[int, int]  # width and height, in pixels

_COCO_LABELS = 183
_IMAGENET = (1000, 1001)  # classes of models of ImageNet; the last of 1001 is none of its own
_NEAR = 3  # names in a message
_WORDS = {
    "map": "a map of classes (--map FILE)",
    "depth": "a depth map (--depth FILE)",
    "picture": "a picture (--picture FILE)",
    "label": "a class (--class NAME)",
    "boxes": "boxes of objects (--boxes FILE)",
    "tokens": "tokens (in Python alone)",
    "coordinates": "coordinates, which come by themselves",
    "nothing": "nothing",
}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be painted; of the first six, what the model was trained with.

    Attributes:
        map: of classes: an indexed or grey picture whose pixels are their numbers, or an array.
        depth: grey, or RGBA whose bytes are float32; or an array.
        picture: in colours, for models that are conditioned on pictures.
        label: a class, by number or by name.
        boxes: of objects, as `read_layout` takes them.
        tokens: as the model was trained with.
        complete: a picture of which the upper part is kept, and the rest painted.
    """

    map: Any = None
    depth: Any = None
    picture: Any = None
    label: int | str | None = None
    boxes: Any = None
    tokens: Sequence[int] | None = None
    complete: Any = None

    @property
    def given(self) -> list[str]:
        """Names of what is given, but for the picture to be completed."""
        names = [field.name for field in fields(self) if field.name != "complete"]
        return [name for name in names if getattr(self, name) is not None]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a model is given, before it is encoded."""

    x: Tensor  # as `encode_condition` of the model takes it, one row
    sides: Sides | None = None  # of the picture that it is a map of
    prompt: str = ""  # a class, or the name of a file
    told: dict[str, Any]  # for the label of a picture
    shown: Image.Image | None = None  # as the model sees it


def kind_of(model: TamingTransformer) -> Kind:
    """What a model paints after."""
    kind = model.config.condition
    if kind in ("class", "tokens", "coordinates"):
        if kind == "tokens" and model.config.objects:
            return "boxes"
        return "label" if kind == "class" else kind
    if kind == "start":
        return "nothing"
    stage: Any = model.condition_stage if kind == "stage" else model.first_stage
    if stage is None:
        raise Unsupported(
            "this model came without the stage that encodes its conditions: load the whole "
            "checkpoint, or a folder that was saved with it"
        )
    if stage.config.labels is not None or stage.config.in_channels > 4:
        return "map"
    return "depth" if stage.config.in_channels == 1 else "picture"


def require_kind(kind: Kind, wish: Wish, shown: str) -> None:
    """Check that a wish gives what a model paints after, and nothing else.

    Raises:
        BadInput: it does not.
    """
    needed = [] if kind in ("coordinates", "nothing") else [kind]
    if wish.given == needed or (kind == "boxes" and wish.given == ["tokens"]):
        return
    came = " and ".join(_WORDS[name] for name in wish.given) or "nothing"
    raise BadInput(f"{shown} paints after {_WORDS[kind]}; what came is {came}")


def labels_of(model: TamingTransformer) -> int:
    """How many classes a model's maps have."""
    stage: Any = model.condition_stage or model.first_stage
    return stage.config.in_channels


def map_condition(
    source: Any, labels: int, *, shift: int | None, sides: Sides | None, scale: float
) -> Condition:
    """A map of classes, one channel for each.

    Args:
        source: a picture as `labels_of_picture` takes it, or an array of whole numbers.
        labels: how many there are.
        shift: what is added to the numbers; None: 1 for COCO's, else nothing.
        sides: to which it is brought, by nearest neighbours.
        scale: then by cubic interpolation of the channels, as published.

    Raises:
        BadPicture: it is none, or has numbers that the model does not know.
    """
    numbers = _numbers(source)
    if shift is None:
        shift = int(labels == _COCO_LABELS)
    numbers = (numbers + shift) % 256 if shift else numbers
    found = np.unique(numbers)
    if unknown := [int(each) for each in found if not 0 <= each < labels]:
        before = f" after adding {shift}, modulo 256" if shift else ""
        more = ", ..." if len(unknown) > 8 else ""
        raise BadPicture(
            f"a map with the labels {', '.join(map(str, unknown[:8]))}{more}{before}; this model "
            f"knows 0 to {labels - 1}: write the map with its numbers, or say by --label-shift "
            "what is to be added to them"
        )
    x = _covering(torch.from_numpy(numbers)[None, None].float(), sides, "nearest-exact")[0, 0]
    ones = rearrange(F.one_hot(x.long(), labels), "y x l -> 1 l y x").float()
    ones = _scaled(ones, scale)
    seen = ones[0].argmax(0).numpy()
    told = {"kind": "map", "source": _name(source), "sha256": _hash(ones), "label_shift": shift}
    return Condition(
        x=ones,
        sides=(ones.shape[3], ones.shape[2]),
        prompt=told["source"],
        told=told,
        shown=palette_picture(seen, labels),
    )


def depth_condition(source: Any, *, sides: Sides | None, scale: float) -> Condition:
    """Depth from -1 to 1, by the least and largest of the whole map.

    Raises:
        BadPicture: it is no depth map.
    """
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray) and source.ndim == 2:
        values = source.astype(np.float32)
    else:
        values = depth_of_picture(read_picture(source, mode="official"))
    x = torch.from_numpy(scaled_depth(values).astype(np.float32))[None, None]
    x = _scaled(_covering(x, sides, "bicubic").clamp(-1, 1), scale)
    told = {"kind": "depth", "source": _name(source), "sha256": _hash(x)}
    return Condition(
        x=x,
        sides=(x.shape[3], x.shape[2]),
        prompt=told["source"],
        told=told,
        shown=Image.fromarray(to_bytes(x[0])[..., 0]),
    )


def picture_condition(source: Any, *, sides: Sides | None, scale: float) -> Condition:
    """A picture in [0, 1], three channels.

    Raises:
        BadPicture: it cannot be read.
    """
    picture = read_picture(source)
    if sides is not None:
        picture = _cut(picture, sides)
    x = rearrange(torch.from_numpy(np.array(picture)), "y x c -> 1 c y x").float() / 255
    x = _scaled(x, scale).clamp(0, 1)
    told = {"kind": "picture", "source": _name(source), "sha256": _hash(x)}
    return Condition(
        x=x,
        sides=(x.shape[3], x.shape[2]),
        prompt=told["source"],
        told=told,
        shown=Image.fromarray(to_bytes(2 * x[0] - 1)),
    )


def class_condition(label: int | str, model: TamingTransformer) -> Condition:
    """A class, by number or by name.

    Raises:
        BadClasses: there is no such class.
    """
    config = model.config
    number, name = class_number(label, config.classes or model.codes, config.class_names)
    told = {"kind": "class", "number": number, "name": name}
    return Condition(x=torch.tensor([number]), prompt=name or str(number), told=told)


def class_number(label: int | str, classes: int, own: Sequence[str] = ()) -> tuple[int, str | None]:
    """The number of a class, and its name where it has one.

    Args:
        label: a number, a name, or of ImageNet a WordNet id.
        classes: how many there are.
        own: their names; where there are none, those of ImageNet, if there are as many.

    Raises:
        BadClasses: there is no such class, or several.
    """
    of_imagenet = not own and classes in _IMAGENET
    names = [entry[0] for entry in class_list("imagenet")] if of_imagenet else list(own)
    text = str(label).strip()
    if isinstance(label, str) and text in own:
        return list(own).index(text), text
    if text.lstrip("-").isdecimal():
        number = int(text)
        if not 0 <= number < classes:
            raise BadClasses(f"class {number}; this model has 0 to {classes - 1}")
        return number, names[number] if number < len(names) else None
    if not names:
        raise BadClasses(
            f"class {label!r}; the {classes} classes of this model have no names that are known: "
            f"give a number from 0 to {classes - 1}"
        )
    wanted = _plain(text)
    found = [number for number, name in enumerate(names) if _plain(name) == wanted]
    if of_imagenet and wanted in (ids := class_ids("imagenet")):
        found = [ids.index(wanted)]
    if len(found) == 1:
        return found[0], names[found[0]]
    if found:
        raise BadClasses(
            f"{len(found)} classes are called {label!r}: give one of the numbers "
            f"{', '.join(map(str, found))}"
        )
    plain = {_plain(name): name for name in names}
    near = difflib.get_close_matches(wanted, plain, _NEAR, 0.5)
    near += [each for each in plain if wanted and wanted in each and each not in near]
    hint = f"; nearest: {', '.join(plain[each] for each in near[:_NEAR])}" if near else ""
    of = "ImageNet" if of_imagenet else "this model"
    raise BadClasses(f"no class of {of} is called {label!r}{hint}")


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _numbers(source: Any) -> Int[np.ndarray, "y x"]:
    """The numbers of a map, from whatever it is."""
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    if not isinstance(source, np.ndarray):
        return labels_of_picture(read_picture(source, mode="official"))
    if source.ndim != 2 or not source.size or not np.issubdtype(source.dtype, np.integer):
        raise BadPicture(
            f"a map of classes of shape {source.shape} and {source.dtype}; expected rows and "
            "columns of whole numbers"
        )
    return source.astype(np.int64)


def _covering(x: Float[Tensor, "1 c y x"], sides: Sides | None, filter: str) -> Tensor:
    """Scaled until it covers so many pixels, and the middle of it."""
    height, width = x.shape[-2:]
    if sides is None or sides == (width, height):
        return x
    larger = _covering_sides((width, height), sides)
    smooth = {"align_corners": False, "antialias": True} if filter == "bicubic" else {}
    x = F.interpolate(x, size=larger[::-1], mode=filter, **smooth)
    left, top = ((have - want) // 2 for have, want in zip(larger, sides, strict=True))
    return x[..., top : top + sides[1], left : left + sides[0]]


def _cut(picture: Image.Image, sides: Sides) -> Image.Image:
    """The same of a picture."""
    if picture.size == sides:
        return picture
    larger = _covering_sides(picture.size, sides)
    left, top = ((have - want) // 2 for have, want in zip(larger, sides, strict=True))
    picture = picture.resize(larger, Image.Resampling.LANCZOS)
    return picture.crop((left, top, left + sides[0], top + sides[1]))


def _covering_sides(have: Sides, wanted: Sides) -> Sides:
    scale = max(want / side for want, side in zip(wanted, have, strict=True))
    # A hair less, so that rounding does not make a side a pixel longer than it must be.
    width, height = (math.ceil(side * scale - 1e-6) for side in have)
    return max(width, wanted[0]), max(height, wanted[1])


def _scaled(x: Float[Tensor, "1 c y x"], scale: float) -> Tensor:
    if scale == 1:
        return x
    if min(math.floor(side * scale) for side in x.shape[-2:]) < 1:
        raise BadInput(f"scale_factor {scale} leaves nothing of {x.shape[3]} x {x.shape[2]} pixels")
    return F.interpolate(x, scale_factor=scale, mode="bicubic")


def _name(source: Any) -> str:
    return "array" if isinstance(source, np.ndarray | Tensor) else source_name(source, 0)


def _hash(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
