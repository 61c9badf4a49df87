"""Pictures as ids of an image tokeniser's codes, and back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from lascaux.errors import BadInput, BadPicture
from lascaux.images.preprocess import to_square, to_whole
from lascaux.tasks.features import Reading
from lascaux.tasks.options import SpellOptions
from lascaux.tasks.pictures import expanded, is_folder, several, source_name
from lascaux.tasks.results import Failed, Spelling
from lascaux.tasks.tiles import Seams, seams
from lascaux.tasks.tokenisers import ImageTokeniser, image_tokeniser

_SHOWN = 12  # digits of a hash in a message


@dataclass(frozen=True)
class Reconstruction:
    """A picture by way of its ids."""

    spelling: Spelling
    seen: Image.Image  # the picture as the model saw it
    picture: Image.Image  # what the ids give back
    seams: Seams | None = None  # where there was more than one tile

    @property
    def bits_per_pixel(self) -> float:
        """What the ids take, shared among the pixels they stand for."""
        return self.spelling.bits / (self.seen.width * self.seen.height)


class Speller:
    """Spells pictures with an image tokeniser, and makes pictures of what was spelt.

        speller = Speller("vqgan-imagenet-f16-1024")
        spelling = speller.spell("photo.jpg")
        speller.unspell(spelling).save("again.png")

    Attributes:
        tokeniser: the model with what must be known of it.
        preprocessing: what pictures go through.
        tile: whether whole pictures are taken, in tiles.
    """

    def __init__(
        self,
        model: str | Path | nn.Module | ImageTokeniser,
        *,
        size: int | None = None,
        tile: bool = False,
        reading: Reading = "photo",
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        batch_size: int = 4,
    ) -> None:
        """Load the model.

        Args:
            model: a name, folder or hub id, or an image tokeniser.
            size: what the shorter side of pictures becomes, in pixels; by default the model's own
                size, or with `tile` what it is.
            tile: False: the middle square of pictures. True: whole pictures, in overlapping tiles
                of the model's own size, at which it is at its best.
            reading: how picture files are read.
            device: where to compute; for a model given by name.
            dtype: of the weights; for a model given by name.
            batch_size: pictures that the model takes at once; with `tile`, one.

        Raises:
            BadInput: a size that the model does not read, or a batch size below 1.
            Unsupported: it is no image tokeniser, or knows no tiles.
            WeightsError: it cannot be found or loaded.
        """
        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; it must be at least 1")
        self.tokeniser = image_tokeniser(model, device=device, dtype=dtype)
        if tile:
            _ = self.tokeniser.tiles
            how, self._short = self.tokeniser.preprocessing, size
        else:
            how, self._short = self.tokeniser.sized(size), None
        self.preprocessing = replace(how, reading=reading)
        self.tile = tile
        self.batch_size = 1 if tile else batch_size

    @classmethod
    def from_options(cls, options: SpellOptions) -> "Speller":
        """The speller that options describe."""
        return cls(
            options.model,
            size=options.size,
            tile=options.tile,
            reading=options.reading,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
        )

    def spell(self, picture: Any) -> Spelling:
        """The ids of one picture; a picture is anything that `read_picture` takes.

        Raises:
            BadPicture: it cannot be read.
            BadInput: several pictures.
        """
        return _only(self.spell_many(_single(picture)))

    def spell_many(self, pictures: Any, *, recursive: bool = False) -> Iterator[Spelling | Failed]:
        """Ids in the order of the pictures, as soon as each batch is done.

        Folders and patterns (`shots/*.png`) stand for the pictures in them. A picture that cannot
        be read, or a folder without any, gives `Failed` in its place and the rest go on.

        Args:
            pictures: an iterable, read as it is needed; or one picture, folder or pattern, or array
                or tensor of several.
            recursive: whether folders are searched with their subfolders.
        """
        for batch in self._batches(pictures, recursive):
            yield from self._merged(batch, self._spelt(batch))

    def reconstruct(self, picture: Any) -> Reconstruction:
        """One picture by way of its ids; arguments and errors as `spell`."""
        return _only(self.reconstruct_many(_single(picture)))

    def reconstruct_many(
        self, pictures: Any, *, recursive: bool = False
    ) -> Iterator[Reconstruction | Failed]:
        """Pictures by way of their ids; arguments and order as `spell_many`."""
        for batch in self._batches(pictures, recursive):
            yield from self._merged(batch, self._reconstructed(batch))

    def unspell(self, spelling: Spelling) -> Image.Image:
        """The picture of ids.

        Raises:
            BadInput: the ids are another model's, none of this one's codes, or not as many as they
                must be.
        """
        tokeniser = self.tokeniser
        if spelling.weights != tokeniser.weights:
            raise BadInput(
                f"these ids were spelt by {spelling.model or 'a model'} with weights "
                f"{spelling.weights[:_SHOWN]}; {tokeniser.shown} has {tokeniser.weights[:_SHOWN]}, "
                "to which they mean something else: take the model that gave them"
            )
        tokeniser.require(spelling.ids, spelling.grid)
        ids = torch.tensor([spelling.ids])
        return _picture(tokeniser.decode(ids, spelling.grid, tiled=self.tile)[0])

    def _batches(
        self, pictures: Any, recursive: bool
    ) -> Iterator[list[tuple[str, Image.Image | Failed]]]:
        """Pictures with their names, read and prepared, as many as the model takes at once."""
        given = pictures if several(pictures) else [pictures]
        queue = enumerate(p for each in given for p in expanded(each, recursive=recursive))
        while batch := list(islice(queue, self.batch_size)):
            yield [self._read(picture, position) for position, picture in batch]

    def _read(self, picture: Any, position: int) -> tuple[str, Image.Image | Failed]:
        name = source_name(picture, position)
        try:
            if is_folder(picture):
                raise BadPicture("no pictures in this folder")
            how, factor = self.preprocessing, self.tokeniser.factor or 1
            if self.tile:
                return name, to_whole(picture, how, short=self._short, multiple=factor)
            return name, to_square(picture, how)
        except BadPicture as error:
            return name, Failed(name, str(error))

    def _spelt(self, batch: list[tuple[str, Any]]) -> Iterator[Spelling]:
        names, x = _together(batch)
        if x is None:
            return
        tokeniser = self.tokeniser
        rows = tokeniser.encode(x, tiled=self.tile)
        grid = tokeniser.grid(*x.shape[-2:])
        for name, ids in zip(names, rows.tolist(), strict=True):
            yield Spelling(
                source=name,
                model=tokeniser.name,
                weights=tokeniser.weights,
                codes=tokeniser.codes,
                grid=grid,
                ids=tuple(ids),
            )

    def _reconstructed(self, batch: list[tuple[str, Any]]) -> Iterator[Reconstruction]:
        spellings = list(self._spelt(batch))
        if not spellings:
            return
        ids = torch.tensor([spelling.ids for spelling in spellings])
        found = self.tokeniser.decode(ids, spellings[0].grid, tiled=self.tile)
        seen = [image for _, image in batch if isinstance(image, Image.Image)]
        for spelling, image, x in zip(spellings, seen, found, strict=True):
            yield Reconstruction(spelling, image, _picture(x), self._seams(x))

    def _seams(self, x: Tensor) -> Seams | None:
        """How much tiles show, where there are several."""
        if not self.tile or self.tokeniser.factor is None:
            return None
        if max(x.shape[-2:]) <= self.tokeniser.tiles.size:
            return None
        return seams(x[None], self.tokeniser.factor, self.tokeniser.tiles)

    @staticmethod
    def _merged(batch: list[tuple[str, Any]], results: Iterable[Any]) -> Iterator[Any]:
        """Results, and in their places what failed."""
        found = iter(results)
        for _, image in batch:
            yield image if isinstance(image, Failed) else next(found)


def _single(picture: Any) -> list[Any]:
    if several(picture):
        raise BadInput("several pictures were given; the function named _many yields results")
    return [picture]


def _only(results: Iterable[Any]) -> Any:
    """The one result.

    Raises:
        BadPicture: it failed.
    """
    first, *more = islice(results, 2)
    if more:
        raise BadInput("several pictures were given; the function named _many yields results")
    if isinstance(first, Failed):
        raise BadPicture(first.reason)
    return first


def _together(batch: list[tuple[str, Any]]) -> tuple[list[str], Float[Tensor, "b 3 y x"] | None]:
    """The names and pixels, in [0, 1], of what could be read."""
    names = [name for name, image in batch if isinstance(image, Image.Image)]
    if not names:
        return names, None
    squares = [np.array(image) for _, image in batch if isinstance(image, Image.Image)]
    x = torch.from_numpy(np.stack(squares))
    return names, rearrange(x, "b y x c -> b c y x").float() / 255


def _picture(x: Float[Tensor, "3 y x"]) -> Image.Image:
    """A picture of eight bits."""
    values = rearrange((x * 255).round().to(torch.uint8), "c y x -> y x c")
    return Image.fromarray(values.contiguous().numpy())
