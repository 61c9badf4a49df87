"""Maps of depth and of classes as pictures, and numbers of models as bytes.

As CompVis/taming-transformers reads and shows them (`scripts/extract_depth.py`, the notebook,
`scripts/make_samples.py`).
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from lascaux.errors import BadPicture

_PALETTE = 256  # colours, at most
_NUMBERS = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")  # modes of Pillow with one channel


def depth_from_rgba(rgba: UInt8[np.ndarray, "y x 4"]) -> Float[np.ndarray, "y x"]:
    """Depth from a PNG whose four channels are the bytes of one little-endian float32."""
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise BadPicture(
            f"a depth map of shape {rgba.shape} and {rgba.dtype}; expected RGBA of 8 bits a "
            "channel, the four of which are one float32"
        )
    return np.ascontiguousarray(rgba).view("<f4")[..., 0]


def depth_to_rgba(depth: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 4"]:
    """The reverse of `depth_from_rgba`."""
    return np.ascontiguousarray(depth, dtype="<f4")[..., None].view(np.uint8)


def scaled_depth(depth: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Depth from -1 to 1, by the least and largest of the picture.

    Raises:
        BadPicture: some of it is no number.
    """
    if not depth.size or not np.isfinite(depth).all():
        raise BadPicture("a depth map that is empty, or some of which is no number")
    low, high = depth.min(), depth.max()
    return 2 * (depth - low) / max(1e-8, float(high - low)) - 1


def class_colours(count: int) -> Float[np.ndarray, "l 3"]:
    """A colour for each class, always the same; channels of all classes add up to one.

    As published: drawn from a normal distribution, so that some are negative, and divided by the
    sum of each channel.
    """
    drawn = np.random.RandomState(1).randn(1, 1, count, 3)
    return (drawn / drawn.sum(axis=2, keepdims=True))[0, 0]


def coloured(labels: Int[np.ndarray, "y x"], count: int) -> UInt8[np.ndarray, "y x 3"]:
    """A map of classes in `class_colours`.

    Raises:
        BadPicture: a label that is none of so many classes.
    """
    if labels.size and (labels.min() < 0 or labels.max() >= count):
        raise BadPicture(f"labels from {labels.min()} to {labels.max()}; expected 0 to {count - 1}")
    return _bytes((class_colours(count)[labels] + 1) * 127.5)


def palette_picture(labels: Int[np.ndarray, "y x"], count: int) -> Image.Image:
    """A map of classes as it is seen in `class_colours`, whose values are the numbers themselves.

    More classes than a palette has colours (256) are given in colours alone.

    Raises:
        BadPicture: as `coloured`.
    """
    seen = coloured(labels, count)
    if count > _PALETTE:
        return Image.fromarray(seen)
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(coloured(np.arange(count)[None], count)[0].tobytes())
    return picture


def labels_of_picture(picture: Image.Image) -> Int[np.ndarray, "y x"]:
    """The numbers of classes that the pixels of an indexed or grey picture are.

    Raises:
        BadPicture: it has colours or transparency, or is a JPEG, which changes numbers.
    """
    if picture.mode not in (*_NUMBERS, "P"):
        raise BadPicture(
            f"a map of classes of mode {picture.mode}; expected an indexed or a grey PNG, whose "
            "pixels are the numbers of classes: colours do not say which class they stand for"
        )
    if picture.format in ("JPEG", "MPO", "WEBP"):
        raise BadPicture(
            f"a map of classes as {picture.format}, which changes numbers near edges; expected a "
            "PNG, written from the map itself"
        )
    return np.asarray(picture).astype(np.int64)


def depth_of_picture(picture: Image.Image) -> Float[np.ndarray, "y x"]:
    """Depth from a picture, in any unit.

    As published, RGBA is the bytes of float32; grey ones of 8 or 16 bits and of floats are taken
    as they are.

    Raises:
        BadPicture: it is none of these.
    """
    if picture.mode == "RGBA":
        return depth_from_rgba(np.asarray(picture))
    if picture.mode not in (*_NUMBERS, "F") or picture.mode == "1":
        raise BadPicture(
            f"a depth map of mode {picture.mode}; expected a grey picture of 8 bits, 16 bits or "
            "floats, or RGBA whose four bytes are one float32"
        )
    return np.asarray(picture).astype(np.float32)


def to_bytes(x: Float[Tensor, "c y x"]) -> UInt8[np.ndarray, "y x c"]:
    """A picture in [-1, 1] as bytes: clipped, then cut to whole numbers, not rounded."""
    wide = rearrange(x.detach().to("cpu", torch.float32), "c y x -> y x c").numpy()
    return _bytes((wide + 1) * 127.5)


def _bytes(x: np.ndarray) -> np.ndarray:
    return x.clip(0, 255).astype(np.uint8)
