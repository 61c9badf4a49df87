"""Maps of classes that lie beside pictures: one for each, under the same name."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from lascaux.data.records import Record, Source
from lascaux.errors import BadInput, BadPicture
from lascaux.images.decode import Reading, read_picture
from lascaux.images.maps import labels_of_picture
from lascaux.images.preprocess import Preprocessing, to_square

_MOST = 1 << 16  # numbers of classes that two bytes hold
_SHOWN = 3  # absent files in a message


@dataclass(frozen=True, kw_only=True)
class MapRecord(Record):
    """A map in the place of a picture.

    Attributes:
        how: pictures are made square; of it the geometry counts.
        labels: how many classes there are.
    """

    how: Preprocessing = field(repr=False)
    labels: int

    def numbers(self) -> Int[np.ndarray, "y x"]:
        """The classes of the pixels that the square picture shows, by nearest neighbours.

        Raises:
            BadPicture: it cannot be read, is no map, or has a number that is none of the classes.
        """
        found = labels_of_picture(read_picture(self.picture, mode="official"))
        if found.min() < 0 or found.max() >= self.labels:
            raise BadPicture(
                f"a map with the numbers {found.min()} to {found.max()}; expected 0 to "
                f"{self.labels - 1}"
            )
        low, high = (_squared(each, self.how) for each in (found % 256, found // 256))
        return low.astype(np.int64) + 256 * high.astype(np.int64)

    def image(self, mode: Reading = "photo") -> Image.Image:
        """The same as a picture, whose red and green are the lower and the higher byte."""
        found = self.numbers()
        return Image.fromarray(
            np.stack((found % 256, found // 256, 0 * found), axis=2).astype(np.uint8)
        )


class LabelMaps(Source):
    """The maps of a source's pictures, in the same order and under the same keys.

    Of `animals/cat.jpg` it is `animals/cat.png` in the folder of maps.
    """

    kind = "maps"

    def __init__(self, pictures: Source, folder: Path, how: Preprocessing, labels: int) -> None:
        """Look for the map of every picture.

        Args:
            pictures: whose keys are names of files.
            folder: of the maps, which are indexed or grey PNGs of numbers of classes.
            how: the pictures are made square.
            labels: how many classes there are.

        Raises:
            BadInput: a map is missing, or there are more classes than two bytes hold.
        """
        if not 0 < labels <= _MOST:
            raise BadInput(f"maps of {labels} classes; expected 1 to {_MOST}")
        self.pictures, self.path, self.how, self.labels = pictures, folder, how, labels
        self.classes, self.notes = pictures.classes, pictures.notes
        absent = [path for i in range(len(self)) if not (path := self.picture(i)).is_file()]
        if absent:
            named = ", ".join(map(str, absent[:_SHOWN]))
            raise BadInput(
                f"{len(absent)} of {len(self)} pictures have no map: {named}"
                f"{', ...' if len(absent) > _SHOWN else ''} expected, each a PNG named as its "
                "picture"
            )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> MapRecord:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return MapRecord(
            key=self.key(index), picture=self.picture(index), how=self.how, labels=self.labels
        )

    def key(self, index: int) -> str:
        """Of the picture."""
        return self.pictures.key(index)

    def picture(self, index: int) -> Path:
        """The path of the map."""
        return (self.path / self.pictures.key(index)).with_suffix(".png")

    def captions(self, index: int) -> tuple[str, ...]:
        """None."""
        return ()

    def told(self) -> Iterable[str | bytes]:
        """Of each map its size."""
        return (str(self.picture(index).stat().st_size) for index in range(len(self)))

    @cached_property
    def fingerprint(self) -> str:
        """The pictures', whose records these are."""
        return self.pictures.fingerprint


def bytes_to_numbers(rgb: UInt8[np.ndarray, "b 3 y x"]) -> Int[np.ndarray, "b y x"]:
    """The classes that pictures of `MapRecord.image` stand for."""
    return rgb[:, 0].astype(np.int64) + 256 * rgb[:, 1].astype(np.int64)


def _squared(numbers: Int[np.ndarray, "y x"], how: Preprocessing) -> UInt8[np.ndarray, "n n"]:
    # Indexed, so that Pillow takes the nearest pixel whatever the filter.
    indexed = Image.fromarray(numbers.astype(np.uint8))
    indexed.putpalette(bytes(grey for grey in range(256) for _ in range(3)))
    exact = Preprocessing(size=how.size, resize=how.resize, filter="bicubic", reading="official")
    return np.asarray(to_square(indexed, exact))[..., 0]
