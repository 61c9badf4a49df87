"""Features of pictures for measures that compare sets: Inception's, or any image encoder's."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lascaux.data.records import Source
from lascaux.errors import BadInput, BadPicture, Unsupported
from lascaux.images.decode import quiet_pillow, read_picture
from lascaux.images.preprocess import normalise, square_pixels
from lascaux.models.inception import VARIANTS, Inception
from lascaux.tasks.features import Reading, evaluating
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.load import load

LAST = 3  # Inception's output block that FID compares
FID = "FID"


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """What makes features of pictures.

    Attributes:
        width: how many features a picture has.
        prepare: a picture as the model takes it, but for the normalisation; may be called from
            several threads, and raises BadPicture.
        features: of a batch of those.
        about: what they depend on: "called" (the distance of such features), "model", "weights",
            "features", "preparing", "dtype", "device".
    """

    width: int
    prepare: Callable[[Path | bytes], Float[Tensor, "3 y x"]]
    features: Callable[[Float[Tensor, "b 3 y x"]], Float[Tensor, "b d"]]
    about: dict[str, str]


def extractor(
    model: str | Path | Any,
    *,
    block: int = LAST,
    size: int | None = None,
    reading: Reading = "official",
    device: str = "cpu",
    dtype: str = "float32",
) -> Extractor:
    """Of an Inception, or of any model that has `encode_image`.

    Args:
        model: a name, folder or hub id, or a model.
        block: Inception's output, 0 to 3.
        size: pixels of a square that every picture is brought to first; None: as they are.
        reading: how files are read.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.

    Raises:
        BadInput: a block that the model has not, or a size below 1.
        Unsupported: the model makes no features of pictures.
        WeightsError: it cannot be found or loaded.
    """
    if size is not None and size < 1:
        raise BadInput(f"size {size}; expected a number of pixels, at least 1")
    name = str(model) if isinstance(model, str | Path) else type(model).__name__
    named = isinstance(model, str | Path)
    found: Any = load(model, device=device, dtype=dtype) if named else model
    if not isinstance(found, Inception) and not _encodes(found):
        raise Unsupported(
            f"{name} is a {type(found).__name__}, which makes no features of pictures; take "
            "inception-fid, or a CLIP"
        )
    about = {
        "model": name,
        "weights": weights_hash(found),
        "dtype": str(found.dtype).removeprefix("torch."),
        "device": found.device.type,
    }
    if isinstance(found, Inception):
        return _inception(found, about, block, size, reading)
    if block != LAST:
        raise BadInput(f"block {block} is of an Inception; {name} has one kind of features")
    return _encoder(found, about, size, reading)


def _encodes(model: Any) -> bool:
    """Whether it gives embeddings of pictures, and tells how they are prepared."""
    return hasattr(model, "encode_image") and hasattr(model.config, "preprocessing")


def _inception(
    model: Inception, about: dict[str, str], block: int, size: int | None, reading: Reading
) -> Extractor:
    if not 0 <= block <= LAST:
        raise BadInput(f"block {block}; an Inception has 0 to {LAST}")
    width = model.config.widths[block]
    published = VARIANTS["inception-fid"]
    is_fid = block == LAST and replace(model.config, classes=published.classes) == published

    def prepare(picture: Path | bytes) -> Tensor:
        rgb = _rgb(picture, size, reading)
        x = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 255
        return model.resize(x[None])[0]  # pictures of one batch may be of several sizes

    def features(x: Tensor) -> Tensor:
        with evaluating(model):
            return model.encode_image(model.normalise(x.to(model.device)).to(model.dtype), block)

    told = {
        "called": FID if is_fid else f"Fréchet distance of {about['model']} features ({width})",
        "features": f"block {block}, mean over places",
        "preparing": _told(size, reading, resized_to=model.config.size),
    }
    return Extractor(width=width, prepare=prepare, features=features, about={**about, **told})


def _encoder(model: Any, about: dict[str, str], size: int | None, reading: Reading) -> Extractor:
    how = replace(model.config.preprocessing, reading=reading)

    def prepare(picture: Path | bytes) -> Tensor:
        source = picture if size is None else _rgb(picture, size, reading)
        return square_pixels(source, how).float() / 255

    def features(x: Tensor) -> Tensor:
        with evaluating(model):
            x = normalise(x.to(model.device), how.mean, how.std)
            return model.encode_image(x.to(model.dtype))

    told = {
        "called": f"Fréchet distance of {about['model']} features",
        "features": "image embeddings, not brought to unit length",
        "preparing": _told(size, reading, resized_to=how.size, by=how.filter, as_=how.resize),
    }
    width = model.config.embed_width
    return Extractor(width=width, prepare=prepare, features=features, about={**about, **told})


def _told(size: int | None, reading: Reading, **more: Any) -> str:
    return json.dumps({"size": size, "reading": reading, **more}, sort_keys=True)


def _rgb(picture: Path | bytes, size: int | None, reading: Reading) -> Image.Image:
    """A picture as RGB, squashed to a square by Pillow's bilinear filter where a size is given."""
    found = read_picture(picture, mode=reading)
    try:
        with quiet_pillow():
            found = found.convert("RGB")
            return found.resize((size, size), Image.Resampling.BILINEAR) if size else found
    except (ValueError, OSError) as error:  # Pillow's answer to a mode it cannot convert
        raise BadPicture(
            f"a picture of mode {found.mode} cannot be turned to RGB ({error}); convert it"
        ) from error


def feature_batches(
    source: Source, how: Extractor, batch_size: int
) -> Iterator[tuple[Float[Tensor, "b d"] | None, dict[str, str], int]]:
    """Features of so many pictures at a time, those that could not be read, and how many in all.

    While the model works on one batch, threads decode the next; no more than two are in memory.
    """
    waiting: deque[tuple[str, Future[Tensor] | BadPicture]] = deque()
    places = iter(range(len(source)))
    pool = ThreadPoolExecutor(min(8, cpu_count() or 1), "decode")
    try:
        while True:
            for place in islice(places, 2 * batch_size - len(waiting)):
                waiting.append(_begun(pool, source, place, how))
            batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
            if not batch:
                return
            squares: list[Tensor] = []
            failures: dict[str, str] = {}
            for key, begun in batch:
                try:
                    squares.append(_ended(begun))
                except BadPicture as error:
                    failures[key] = str(error)
            yield how.features(_stacked(squares)) if squares else None, failures, len(batch)
    finally:
        pool.shutdown(cancel_futures=True)


def _stacked(pictures: list[Tensor]) -> Float[Tensor, "b 3 y x"]:
    shapes = sorted({tuple(x.shape[1:]) for x in pictures})
    if len(shapes) > 1:
        raise BadInput(
            f"pictures of several sizes ({shapes[0]} and {shapes[1]} pixels), which this model "
            "takes as they come; give the size to bring them to"
        )
    return torch.stack(pictures)


def _begun(
    pool: ThreadPoolExecutor, source: Source, place: int, how: Extractor
) -> tuple[str, Future[Tensor] | BadPicture]:
    key = source.key(place)
    try:
        return key, pool.submit(how.prepare, source.picture(place))
    except BadPicture as error:
        return key, error


def _ended(begun: Future[Tensor] | BadPicture) -> Tensor:
    if isinstance(begun, BadPicture):
        raise begun
    return begun.result()
