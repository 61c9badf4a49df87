"""From a picture to the square tensor that a model takes: resize, crop, and apart, normalise.

What was published is reproduced to the byte: OpenAI's CLIP resizes by Pillow's antialiased bicubic
(a = -0.5) in the picture's own mode and turns to RGB last (openai/CLIP, clip/clip.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lascaux.errors import BadInput, BadPicture, Unsupported
from lascaux.images.decode import Reading, Source, quiet_pillow, read_picture
from lascaux.images.opencv import resize_bicubic

Resize = Literal["crop", "squash", "pad"]
Filter = Literal["bicubic", "bilinear", "lanczos", "opencv-bicubic"]
Colour = tuple[float, float, float]

CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)

_PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
# A thin picture grows enormous before its middle is cut out. Beyond this many pixels only the
# middle is made. Of lines one pixel wide it is the same; else Pillow may take its two passes in
# another order, which shows where values are clipped in between.
_LARGEST_WHOLE = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to a picture before the image tower; it changes numbers, so it is exact.

    Raises:
        BadInput: a value that no picture can be prepared with.
    """

    size: int  # pixels, square
    resize: Resize = "crop"  # shorter side to size, then the middle; "pad": longer side to size
    filter: Filter = "bicubic"
    reading: Reading = "photo"
    mean: Colour = CLIP_MEAN  # of RGB in [0, 1]
    std: Colour = CLIP_STD

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise BadInput(f"size={self.size!r}; expected a number of pixels, at least 1")
        for name, allowed in (("resize", Resize), ("filter", Filter), ("reading", Reading)):
            if getattr(self, name) not in get_args(allowed):
                choices = ", ".join(get_args(allowed))
                raise BadInput(f"{name}={getattr(self, name)!r}; expected one of {choices}")
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or not np.isfinite(values).all():
                raise BadInput(f"{name}={values}; expected three numbers, for red, green and blue")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise BadInput(f"std={self.std}; expected positive numbers")

    def to_json(self) -> dict[str, Any]:
        """The content of a `preprocessor_config.json`; `from_json` gives the same back.

        The hub's own entries come with it, so that an image processor of CLIP's kind can be made
        from the file; those under "lascaux" decide when we read it.
        """
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.size}
            if self.resize == "crop"
            else {"height": self.size, "width": self.size},
            "resample": int(_PILLOW.get(self.filter, Image.Resampling.BICUBIC)),
            "do_center_crop": self.resize == "crop",
            "crop_size": {"height": self.size, "width": self.size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "lascaux": {"resize": self.resize, "filter": self.filter, "reading": self.reading},
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Read a `preprocessor_config.json` of ours or of CLIP on the hub, or open_clip's entries.

        Of open_clip take `preprocess_cfg`; its size may be missing there and must then be added.

        Raises:
            Unsupported: an entry that would change the pixels in a way this library has not.
            BadInput: the size is missing, or a value is out of range.
        """
        if "lascaux" in fields:
            return cls(
                size=_square(fields["crop_size"]),
                mean=_colour(fields["image_mean"]),
                std=_colour(fields["image_std"]),
                **fields["lascaux"],
            )
        if "preprocess_cfg" in fields:
            return _of_open_clip(fields["preprocess_cfg"])
        if any(name in fields for name in ("mean", "std", "interpolation", "resize_mode")):
            return _of_open_clip(fields)
        return _of_hub(fields)


_HUB_WITHOUT_EFFECT = {
    "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb",
    "return_tensors", "data_format", "input_data_format", "device", "disable_grouping",
    "_valid_processor_keys", "default_to_square", "_name_or_path", "image_seq_length",
}  # fmt: skip
_HUB_DECIDING = {
    "size", "crop_size", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "resample",
    "rescale_factor", "image_mean", "image_std",
}  # fmt: skip


def _of_hub(fields: Mapping[str, Any]) -> Preprocessing:
    kind = fields.get("image_processor_type") or fields.get("feature_extractor_type")
    if kind is not None and not str(kind).startswith("CLIP"):
        raise Unsupported(f"image processor {kind!r}; supported is CLIPImageProcessor")
    for name, value in fields.items():
        if name not in _HUB_WITHOUT_EFFECT | _HUB_DECIDING and value not in (None, False):
            raise Unsupported(f"entry {name!r} = {value!r} of an image processor is not known")
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if fields.get(name, True) is not True:
            raise Unsupported(f"{name} = {fields[name]!r}; supported is true")
    if abs(fields.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        raise Unsupported(f"rescale_factor = {fields['rescale_factor']!r}; supported is 1/255")
    filters: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}
    if fields.get("resample", 3) not in filters:
        raise Unsupported(f"resample = {fields['resample']!r}; supported are 2 and 3")
    if "size" not in fields:
        raise BadInput("no `size` in the preprocessing; expected the model's side in pixels")
    crops = fields.get("do_center_crop", True) is True
    size, whole = _square(fields["size"]), isinstance(fields["size"], Mapping)
    if crops and _square(fields.get("crop_size", size)) != size:
        raise Unsupported(
            f"size {fields['size']!r} and crop_size {fields['crop_size']!r} differ; supported is a "
            "crop as large as the shorter side"
        )
    squashes = whole and "shortest_edge" not in fields["size"]
    if not squashes and not crops:
        raise Unsupported("a picture that is resized but not cropped is not square")
    return Preprocessing(
        size=size,
        resize="squash" if squashes else "crop",
        filter=filters[fields.get("resample", 3)],
        mean=_colour(fields.get("image_mean", CLIP_MEAN)),
        std=_colour(fields.get("image_std", CLIP_STD)),
    )


def _of_open_clip(fields: Mapping[str, Any]) -> Preprocessing:
    known = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
    for name, value in fields.items():
        if name not in known and value is not None:
            raise Unsupported(f"entry {name!r} = {value!r} of preprocess_cfg is not known")
    if fields.get("mode", "RGB") != "RGB":
        raise Unsupported(f"mode = {fields['mode']!r}; supported is RGB")
    resizes: dict[str, Resize] = {"shortest": "crop", "squash": "squash", "longest": "pad"}
    resize = resizes.get(fields.get("resize_mode") or "shortest")
    if resize is None:
        raise Unsupported(
            f"resize_mode = {fields['resize_mode']!r}; supported are {', '.join(resizes)}"
        )
    filters: dict[str, Filter] = {"bicubic": "bicubic", "bilinear": "bilinear"}
    interpolation = fields.get("interpolation") or "bicubic"
    if interpolation not in filters:
        raise Unsupported(f"interpolation = {interpolation!r}; supported are {', '.join(filters)}")
    if not fields.get("size"):
        raise BadInput("no `size` in the preprocessing; expected the model's side in pixels")
    mean = _colour(fields.get("mean") or CLIP_MEAN)
    fill = fields.get("fill_color") or 0
    filled = tuple(fill) if isinstance(fill, Sequence) else (fill,) * 3
    if resize == "pad" and filled != _fill(mean):
        raise Unsupported(
            f"fill_color = {fill!r}; supported is the mean colour {list(_fill(mean))} where the "
            "longer side decides"
        )
    return Preprocessing(
        size=_square(fields["size"]),
        resize=resize,
        filter=filters[interpolation],
        mean=mean,
        std=_colour(fields.get("std") or CLIP_STD),
    )


def _square(size: Any) -> int:
    """The one number in 224, [224, 224], {"shortest_edge": 224} or height and width."""
    if isinstance(size, Mapping):
        values = [v for k, v in size.items() if k in ("shortest_edge", "height", "width")]
        if len(values) != len(size):
            raise Unsupported(f"size {dict(size)!r}; supported are shortest_edge, height and width")
    else:
        values = list(size) if isinstance(size, Sequence) else [size]
    if len(set(values)) != 1 or not isinstance(values[0], int):
        raise Unsupported(f"size {size!r}; supported is a square of whole pixels")
    return values[0]


def _colour(values: Any) -> Colour:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise BadInput(f"{values!r}; expected three numbers, for red, green and blue")
    return (float(values[0]), float(values[1]), float(values[2]))


def to_square(picture: Source, how: Preprocessing) -> Image.Image:
    """The picture as RGB of `how.size` x `how.size` pixels, to the byte as published.

    In "official" reading a picture is resized in its own mode and turned to RGB last: palettes and
    1-bit pictures by nearest neighbour, transparency dropped, 16-bit values clipped. OpenCV's
    filter knows RGB alone, so that it comes after the turn.

    Raises:
        BadPicture: it cannot be read, or cannot be turned to RGB.
    """
    return _squared(read_picture(picture, mode=how.reading), how)


def to_whole(
    picture: Source, how: Preprocessing, *, short: int | None = None, multiple: int = 1
) -> Image.Image:
    """The whole picture as RGB, of its own shape.

    Args:
        picture: anything that `read_picture` takes.
        how: its filter and reading count, its size does not.
        short: what the shorter side becomes, in pixels; None leaves it.
        multiple: of which both sides become multiples; what is over is cut off evenly all round.

    Raises:
        BadPicture: it cannot be read, or is smaller than one multiple.
    """
    found = read_picture(picture, mode=how.reading)
    try:
        with quiet_pillow():
            if how.filter == "opencv-bicubic":
                found = found.convert("RGB")
            if short is not None:
                least = min(found.size)
                width, height = (max(1, round(side * short / least)) for side in found.size)
                found = _resized(found, (width, height), how)
            found = found.convert("RGB")
    except (ValueError, OSError, MemoryError) as error:
        raise BadPicture(f"a picture of mode {found.mode} cannot be prepared: {error}") from error
    width, height = (side - side % multiple for side in found.size)
    if not width or not height:
        raise BadPicture(
            f"a picture of {found.width} x {found.height} pixels; at least {multiple} on each side "
            "are expected: make it larger, or give a size"
        )
    left, top = (found.width - width) // 2, (found.height - height) // 2
    return found.crop((left, top, left + width, top + height))


def _squared(picture: Image.Image, how: Preprocessing) -> Image.Image:
    try:
        with quiet_pillow():
            if how.filter == "opencv-bicubic":
                picture = picture.convert("RGB")
            resized = {"crop": _crop, "squash": _squash, "pad": _pad}[how.resize](picture, how)
            return resized.convert("RGB")
    except (ValueError, OSError) as error:  # Pillow's answer to a mode it cannot resize or convert
        raise BadPicture(
            f"a picture of mode {picture.mode} cannot be prepared ({error}); convert it to RGB"
        ) from error


def square_pixels(picture: Source, how: Preprocessing) -> UInt8[Tensor, "3 y x"]:
    """One picture as bytes, as `to_square` makes it.

    Raises:
        BadPicture: it cannot be read, or cannot be turned to RGB.
    """
    square = _squared(read_picture(picture, mode=how.reading), how)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def pixels(
    pictures: Sequence[Source], how: Preprocessing
) -> tuple[Float[Tensor, "b 3 y x"], list[tuple[int, BadPicture]]]:
    """The pictures that could be read, in order, in [0, 1], and which could not, and why.

    Not normalised: that is `normalise`. Failures are (index in `pictures`, reason).
    """
    squares: list[Tensor] = []
    failures: list[tuple[int, BadPicture]] = []
    for index, source in enumerate(pictures):
        try:
            squares.append(square_pixels(source, how))
        except BadPicture as error:
            failures.append((index, error))
    if not squares:
        return torch.zeros(0, 3, how.size, how.size), failures
    return torch.stack(squares).float() / 255, failures


def normalise(
    x: Float[Tensor, "b 3 y x"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "b 3 y x"]:
    """(x - mean) / std per colour: from RGB in [0, 1] to what an image tower takes."""
    return (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)


def denormalise(
    x: Float[Tensor, "b 3 y x"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "b 3 y x"]:
    """x * std + mean per colour: the inverse of `normalise`, not clamped."""
    return x * x.new_tensor(std).view(3, 1, 1) + x.new_tensor(mean).view(3, 1, 1)


def _crop(picture: Image.Image, how: Preprocessing) -> Image.Image:
    n, (width, height) = how.size, picture.size
    short, long = min(width, height), max(width, height)
    longer = int(n * long / short)
    # Halves go to even, as Python rounds.
    offset = round((longer - n) / 2)
    upright = width <= height
    size = (n, longer) if upright else (longer, n)
    left, top = (0, offset) if upright else (offset, 0)
    if n * longer > _LARGEST_WHOLE:
        return _resized_part(picture, size, (left, top), how)
    return _resized(picture, size, how).crop((left, top, left + n, top + n))


def _squash(picture: Image.Image, how: Preprocessing) -> Image.Image:
    return _resized(picture, (how.size, how.size), how)


def _pad(picture: Image.Image, how: Preprocessing) -> Image.Image:
    longest = max(picture.size)
    width, height = (max(1, round(side * how.size / longest)) for side in picture.size)
    whole = Image.new("RGB", (how.size, how.size), _fill(how.mean))
    inner = _resized(picture, (width, height), how).convert("RGB")
    whole.paste(inner, ((how.size - width) // 2, (how.size - height) // 2))
    return whole


def _fill(mean: Colour) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(value * 255))) for value in mean)
    return red, green, blue


def _resized(picture: Image.Image, size: tuple[int, int], how: Preprocessing) -> Image.Image:
    if picture.size == size:
        return picture
    if how.filter == "opencv-bicubic":
        return resize_bicubic(picture, size)
    return picture.resize(size, _PILLOW[how.filter])


def _resized_part(
    picture: Image.Image, size: tuple[int, int], corner: tuple[int, int], how: Preprocessing
) -> Image.Image:
    """The square at `corner` of the picture resized to `size`, without making the rest."""
    (left, top), n = corner, how.size
    if how.filter == "opencv-bicubic":
        return resize_bicubic(picture, size, part=(left, top, left + n, top + n))
    across, down = picture.width / size[0], picture.height / size[1]
    box = (left * across, top * down, (left + n) * across, (top + n) * down)
    return picture.resize((n, n), _PILLOW[how.filter], box=box)
