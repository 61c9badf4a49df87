"""What a picture is to be made from: a sentence, a picture, or something between two of them."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from lascaux.errors import BadInput, BadPicture, BadText
from lascaux.images.decode import read_picture
from lascaux.models.clip import Clip
from lascaux.tasks.features import Reading, TooLong, image_features, text_features
from lascaux.tasks.pictures import source_name

_STRAIGHT = 1e-3  # radians; below, an arc and its chord are the same in float32
_OPPOSITE = 1e-3  # radians from half a turn, where no way is shorter than the others


@dataclass(frozen=True)
class Wish:
    """A sentence or a picture, or a point on the way from one wish to another."""

    sentence: str = ""
    picture: Image | None = None
    name: str = ""  # of the picture
    ends: "tuple[Wish, Wish] | None" = None
    share: float = 0.0  # of the way between the ends, 0 to 1

    def told(self) -> dict[str, Any]:
        """What is noted of it beside a picture, in JSON values."""
        if self.ends is not None:
            return {"between": [end.shown for end in self.ends], "share": self.share}
        return {"image": self.shown} if self.picture is not None else {}

    @property
    def shown(self) -> str:
        """What people call it."""
        if self.ends is not None:
            first, last = self.ends
            return f"{first.shown} ... {last.shown}"
        return self.sentence or self.name


def wish_of(
    sentence: str | None = None, picture: Any = None, *, reading: Reading = "photo"
) -> Wish:
    """A wish of one sentence or one picture.

    Args:
        sentence: what is to be seen.
        picture: anything that `read_picture` takes.
        reading: how a picture's file is read.

    Raises:
        BadInput: neither, or both.
        BadPicture: the picture cannot be read.
        BadText: an empty sentence, or no text.
    """
    if (sentence is None) == (picture is None):
        what = "both a sentence and a picture" if sentence is not None else "nothing to imagine"
        raise BadInput(f"{what}; give a sentence or a picture, or go from one to the other")
    if picture is not None:
        name = source_name(picture, 1)
        try:
            return Wish(picture=read_picture(picture, mode=reading), name=name)
        except BadPicture as error:
            raise BadPicture(f"{name}: {error}") from error
    if not isinstance(sentence, str):
        raise BadText(f"a sentence of type {type(sentence).__name__}; expected a str")
    if not sentence.strip():
        raise BadText("the sentence is empty; say what is to be seen")
    return Wish(sentence=sentence)


def between(first: Wish, last: Wish, steps: int) -> list[Wish]:
    """Wishes on the way from one to another, of which the first and the last are at the ends.

    Raises:
        BadInput: fewer than two steps.
    """
    if steps < 2:
        raise BadInput(f"{steps} steps; both ends are steps, so at least 2 are expected")
    return [Wish(ends=(first, last), share=step / (steps - 1)) for step in range(steps)]


def embedding_of(clip: Clip, wish: Wish, *, reading: Reading, too_long: TooLong) -> Tensor:
    """The unit embedding `e` of a wish, in float32 on the CPU.

    Raises:
        BadPicture: a picture cannot be read.
        BadText: a sentence is too long, and that is to be refused.
        BadInput: the CLIP has no tokenizer, or the ends of a way lie opposite each other.
    """
    if wish.ends is not None:
        first, last = (embedding_of(clip, e, reading=reading, too_long=too_long) for e in wish.ends)
        return on_the_arc(first, last, wish.share)
    if wish.picture is None:
        return text_features(clip, [wish.sentence], too_long)[0]
    rows, failures = image_features(clip, [wish.picture], reading)
    if failures:
        raise BadPicture(f"{wish.shown}: {failures[0][1]}") from failures[0][1]
    return rows[0]


def on_the_arc(
    first: Float[Tensor, " e"], last: Float[Tensor, " e"], share: float
) -> Float[Tensor, " e"]:
    """The unit vector that far on the shortest way over the sphere (Shoemake 1985, slerp).

    Raises:
        BadInput: the ends lie opposite each other.
    """
    if share in (0, 1):
        return last if share else first
    a, b = first.double(), last.double()
    # From chords, since the cosine of a small angle says little about it.
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    if angle < _STRAIGHT:
        return F.normalize(a + share * (b - a), dim=0).float()
    if angle > torch.pi - _OPPOSITE:
        raise BadInput("both ends lie opposite each other, so that there is no way between them")
    mixed = ((1 - share) * angle).sin() * a + (share * angle).sin() * b
    return F.normalize(mixed, dim=0).float()
