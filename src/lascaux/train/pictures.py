"""What all recipes share that learn pictures of the user's own, without captions."""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from lascaux.data.loading import Loader
from lascaux.data.samples import Samples
from lascaux.errors import BadInput
from lascaux.images.augment import Augmentation
from lascaux.images.preprocess import Preprocessing
from lascaux.train.aside import trained_on, validated_on
from lascaux.train.mixin import Beside
from lascaux.train.recipe import Part, setting
from lascaux.train.records import loaded, source_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pictured(Beside):
    """Settings of where pictures come from; batches have "picture", uint8 RGB, square."""

    data: str = setting("", "pictures: a folder, table, COCO, tars, Parquet")
    validation: str = setting("", "likewise, to validate on; if not given, a part is kept aside")
    aside: float = setting(0.05, "share of the records that is kept aside, at most 1000 records")
    image_size: int = setting(0, "side of the pictures in pixels; 0: what the architecture is for")
    area: float = setting(0.3, "smallest share of a picture that is cut out by chance; 1: none")
    flip: float = setting(0.5, "chance of mirroring")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise BadInput("--data is missing: name a folder, table or archive with pictures")
        for name, low, high in (("aside", 0, 0.5), ("area", 1e-3, 1), ("flip", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"--{name} is {getattr(self, name)}; expected {low} to {high}")
        if self.image_size < 0:
            raise BadInput(f"--image-size is {self.image_size}; it must be at least 0")

    @property
    @abstractmethod
    def side(self) -> int:
        """Side of the pictures, in pixels."""

    def settings(self) -> dict[str, Any]:
        """The fields, and what tells the records apart from others at the same path."""
        return {**super().settings(), "records": source_of(self.data).fingerprint[:16]}

    def feed(self, part: Part) -> Loader:
        """Batches of pictures."""
        source = source_of(self.data)
        if not self.validation:
            source = trained_on(source, self.aside)
        return loaded(self, part, source, self._samples())

    @property
    def kept(self) -> UInt8[Tensor, "b 3 y x"]:
        """The pictures kept aside, whole as far as a square can be."""
        return _kept(self.data, self.validation, self.aside, self.side)

    def _samples(self) -> Samples:
        if self.area == 1 and not self.flip:
            return Samples(_plain(self.side))
        changes = Augmentation(
            size=self.side, area=(self.area, 1.0), aspect=(1.0, 1.0), flip=self.flip
        )
        return Samples(changes)


def _plain(size: int) -> Preprocessing:
    return Preprocessing(size=size, resize="crop", filter="lanczos", reading="photo")


@lru_cache(maxsize=2)
def _kept(data: str, validation: str, aside: float, size: int) -> Tensor:
    other = source_of(validation) if validation else None
    source = validated_on(source_of(data), aside, other)
    how, chance = Samples(_plain(size)), np.random.Generator(np.random.PCG64([0]))
    made = []
    for index in range(len(source)):
        try:
            made.append(how(source[index], chance)["picture"])
        except BadInput as error:
            log.warning("left out of the validation: %s: %s", source.key(index), error)
    return torch.stack(made) if made else torch.empty(0, 3, size, size, dtype=torch.uint8)
