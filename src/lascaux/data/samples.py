"""From a record to what a model learns from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from lascaux.data.records import Record
from lascaux.errors import BadInput, BadText
from lascaux.images.augment import Augmentation
from lascaux.images.preprocess import Preprocessing, to_square

Part = Literal["picture", "caption", "label", "key"]


@dataclass(frozen=True)
class Samples:
    """Makes a sample of a record: a dictionary of the parts asked for.

    `picture` is uint8, `3 y x`, since bytes are quicker to hand over than numbers in [0, 1];
    `caption` one of the record's, drawn evenly; `label` an int; `key` the record's.

    Attributes:
        how: an augmentation, or the preprocessing of a model, in which nothing is left to chance.
        parts: what a sample has.

    Raises:
        BadInput: a part of another name.
    """

    how: Augmentation | Preprocessing
    parts: tuple[Part, ...] = ("picture",)

    def __post_init__(self) -> None:
        if unknown := set(self.parts) - set(get_args(Part)):
            raise BadInput(f"parts {sorted(unknown)}; expected some of {get_args(Part)}")

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """The sample.

        Raises:
            BadPicture: the picture cannot be read.
            BadText: a caption is asked for, and there is none.
            BadInput: likewise of a label.
        """
        sample = said_of(record, self.parts, rng)
        if "picture" in self.parts:
            if isinstance(self.how, Augmentation):
                image = self.how(record.image(), rng)
            else:
                image = to_square(record.image(self.how.reading), self.how)
            sample["picture"] = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return sample


def said_of(record: Record, parts: Iterable[str], rng: np.random.Generator) -> dict[str, Any]:
    """What a sample has besides its picture or features: of `parts`, caption, label and key.

    The generator gives one number, whatever is asked for, so that the rest is drawn alike.

    Raises:
        BadText: a caption is asked for, and there is none.
        BadInput: likewise of a label.
    """
    drawn = rng.integers(max(1, len(record.captions)))
    sample: dict[str, Any] = {}
    if "caption" in parts:
        if not record.captions:
            raise BadText("it has no caption")
        sample["caption"] = record.captions[drawn]
    if "label" in parts:
        if record.label is None:
            raise BadInput("it has no class")
        sample["label"] = record.label
    if "key" in parts:
        sample["key"] = record.key
    return sample
