"""Image tokenisers of any kind as tasks use them: pictures in [0, 1] to ids, and back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput, Unsupported
from lascaux.images.preprocess import Preprocessing, denormalise, normalise
from lascaux.nn.grid import Grid, require_count
from lascaux.tasks.features import evaluating
from lascaux.tasks.tiles import TileOptions, decode_tiled, encode_tiled
from lascaux.weights.fingerprint import weights_hash

_NEEDED = ("encode", "decode_ids", "codes")


@dataclass(frozen=True, kw_only=True)
class ImageTokeniser:
    """A model that spells pictures, with what must be known of it.

    Attributes:
        model: in any state; it is used in `eval()` mode.
        name: what it was asked for by; nothing where it was given itself.
        weights: the hash of its weights.
        codes: how many there are.
        factor: pixels per code, along one side; None where tokens have no places.
        length: tokens of a picture, where they have no places.
        preprocessing: as it was published, its size a multiple of the factor.
    """

    model: nn.Module
    name: str
    weights: str
    codes: int
    factor: int | None
    length: int | None
    preprocessing: Preprocessing

    @property
    def tiles(self) -> TileOptions:
        """Tiles of the size that the model was trained at, a quarter of it shared.

        Raises:
            Unsupported: its tokens have no places.
        """
        if self.factor is None:
            raise Unsupported(
                f"{self.shown} takes a picture as a whole: its tokens have no places, so pictures "
                "cannot be cut into tiles; leave tiles away"
            )
        size, factor = self.preprocessing.size, self.factor
        return TileOptions(size=size, overlap=max(1, size // 4 // factor) * factor)

    @property
    def shown(self) -> str:
        """Its name, or what it is."""
        return self.name or f"this {type(self.model).__name__}"

    def grid(self, height: int, width: int) -> Grid | None:
        """Rows and columns of codes of a picture of so many pixels."""
        return None if self.factor is None else (height // self.factor, width // self.factor)

    def sized(self, size: int | None) -> Preprocessing:
        """The preprocessing with another size.

        Raises:
            BadInput: the size is one that the model does not read.
        """
        own = self.preprocessing.size
        if size is None or size == own:
            return self.preprocessing
        if self.factor is None:
            raise BadInput(f"size {size}; {self.shown} reads pictures of {own} pixels alone")
        if size < 1 or size % self.factor:
            near = max(1, round(size / self.factor)) * self.factor
            raise BadInput(
                f"size {size}; {self.shown} has one code for {self.factor} x {self.factor} pixels, "
                f"so that sizes are multiples of {self.factor}: take {near}"
            )
        return replace(self.preprocessing, size=size)

    def encode(self, x: Float[Tensor, "b 3 y x"], *, tiled: bool = False) -> Int[Tensor, "b n"]:
        """The ids of pictures in [0, 1], on the CPU."""
        weight = _weight(self.model)
        with evaluating(self.model):
            x = self._normalised(x.to(weight.device)).to(weight.dtype)
            model: Any = self.model
            ids = encode_tiled(model, x, self.tiles)[0] if tiled else model.encode(x)
            return ids.cpu()

    def decode(
        self, ids: Int[Tensor, "b n"], grid: Grid | None, *, tiled: bool = False
    ) -> Float[Tensor, "b 3 y x"]:
        """Pictures of ids, in [0, 1], on the CPU."""
        with evaluating(self.model):
            model: Any = self.model
            ids = ids.to(_weight(self.model).device)
            if tiled and grid is not None:
                x = decode_tiled(model, ids, grid, self.tiles)
            else:
                x = model.decode_ids(ids, grid)
            return self._denormalised(x.float()).clamp(0, 1).cpu()

    def require(self, ids: Sequence[int], grid: Grid | None) -> None:
        """Check that ids can be decoded.

        Raises:
            BadInput: an id is none of the codes, there are more or fewer than the grid has places
                or the model has tokens, or there is a grid where there must be none, or none.
        """
        count = len(ids)
        if not count or min(ids) < 0 or max(ids) >= self.codes:
            found = f"ids from {min(ids)} to {max(ids)}" if count else "no ids"
            raise BadInput(
                f"{found}; {self.shown} has {self.codes} codes, from 0 to {self.codes - 1}"
            )
        if self.factor is None:
            if grid is not None:
                raise BadInput(f"a grid of {grid}; tokens of {self.shown} have no places")
            if self.length is not None and count != self.length:
                raise BadInput(f"{count} ids; {self.shown} has {self.length} for each picture")
        elif grid is None:
            raise BadInput(f"{count} ids without a grid; {self.shown} lays them in rows")
        else:
            require_count(count, grid)

    def _normalised(self, x: Tensor) -> Tensor:
        own = getattr(self.model, "normalise", None)
        how = self.preprocessing
        return own(x) if own is not None else normalise(x, how.mean, how.std)

    def _denormalised(self, x: Tensor) -> Tensor:
        own = getattr(self.model, "denormalise", None)
        how = self.preprocessing
        return own(x) if own is not None else denormalise(x, how.mean, how.std)


def image_tokeniser(
    model: str | Path | nn.Module | ImageTokeniser,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
) -> ImageTokeniser:
    """What a name stands for, or a model that is given, if it spells pictures.

    Args:
        model: a name, folder or hub id, or a model with `encode`, `decode_ids`, `codes`, `factor`
            or `length`, and `config.preprocessing`.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.

    Raises:
        Unsupported: it does not spell pictures, or has no codes yet.
        WeightsError: it cannot be found or loaded.
    """
    if isinstance(model, ImageTokeniser):
        return model
    if isinstance(model, nn.Module):
        name, found = "", cast(Any, model)
    else:
        from lascaux.weights.load import load

        name, found = str(model), load(model, device=device, dtype=dtype)
    shown, kind = name or "this model", type(found).__name__
    if missing := [each for each in _NEEDED if not hasattr(found, each)]:
        raise Unsupported(
            f"{shown} is a {kind}; what is wanted here is an image tokeniser (it has no "
            f"{' and no '.join(missing)})"
        )
    how = getattr(getattr(found, "config", None), "preprocessing", None)
    if how is None:
        raise Unsupported(
            f"{shown} is a {kind} that reads no RGB pictures; take one that does (`lascaux models`)"
        )
    if not found.codes:
        raise Unsupported(f"{shown} is a {kind} without codes: it has no codebook to spell with")
    factor = getattr(found, "factor", None)
    if factor is not None and how.size % factor:
        how = replace(how, size=max(1, how.size // factor) * factor)
    return ImageTokeniser(
        model=found,
        name=name,
        weights=weights_hash(found),
        codes=int(found.codes),
        factor=factor,
        length=getattr(found, "length", None),
        preprocessing=how,
    )


def _weight(model: nn.Module) -> Tensor:
    """A tensor that is where the model is, and in its dtype."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
