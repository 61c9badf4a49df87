"""Pictures in any form a caller may have, as PIL images; bad ones are refused with a reason."""

import base64
import binascii
import io
import re
import threading
import urllib.parse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageChops
from torch import Tensor

from lascaux.errors import BadInput, BadPicture
from lascaux.images.formats import ADVICE, SUPPORTED, ends_early, kind_of

Reading = Literal["official", "photo"]


@runtime_checkable
class OpenFile(Protocol):
    """A file opened for reading bytes, or what is like one."""

    def read(self, size: int = -1, /) -> Any:
        """The next bytes, at most so many."""
        ...


Source: TypeAlias = (
    str | Path | bytes | bytearray | memoryview | OpenFile | Image.Image | np.ndarray | Tensor
)

MAX_PIXELS = 178_956_970  # where Pillow itself refuses to go on
MAX_BYTES = 1 << 28

_FORMATS = "JPEG, PNG, WebP, GIF, TIFF or BMP"
_TRUNCATED = "truncated: the file ends early; copy or download it again"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def read_picture(
    source: Source,
    *,
    mode: Reading = "photo",
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Image.Image:
    """The picture, decoded.

    Args:
        source: a path, a data URI, the bytes of a file, an open file, a PIL image, an array
            (`y x`, `y x 1`, `y x 3` or `y x 4`; bool, uint8, uint16, or float in [0, 1]) or a
            tensor (`c y x`, uint8 or float in [0, 1]). Of an animation, the first frame.
        mode: "photo" gives RGB as a person sees it: upright by EXIF, transparency over white, 16
            bits scaled to 8, CMYK converted. "official" gives what Pillow decodes, in its own mode.
        max_pixels: more are refused. Files beyond 178,956,970 pixels are always refused.
        max_bytes: larger files are refused.

    Raises:
        BadPicture: missing, empty, truncated, damaged, enormous, or not a picture of a known kind.
            Nothing is decoded where the header tells.
    """
    if mode not in ("official", "photo"):
        raise BadInput(f"mode={mode!r}; expected 'official' or 'photo'")
    try:
        with quiet_pillow():
            image = _opened(source, max_pixels, max_bytes)
            if mode == "photo":
                return _as_seen(image)
            return image.copy() if image is source else image
    except BadPicture as error:
        if isinstance(source, str | Path):
            error.add_note(f"picture: {_shown(str(source))}")
        raise


def _opened(source: Source, max_pixels: int, max_bytes: int) -> Image.Image:
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels)
        return _loaded(source)
    if isinstance(source, np.ndarray):
        return _of_array(source, max_pixels)
    if isinstance(source, Tensor):
        return _of_tensor(source, max_pixels)
    if isinstance(source, str | Path):
        return _decoded(_contents(source, max_bytes), max_pixels, max_bytes)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decoded(bytes(source), max_pixels, max_bytes)
    if isinstance(source, OpenFile):
        data = source.read(max_bytes + 1)
        if not isinstance(data, bytes):
            raise BadPicture("a file that was opened as text; open it with mode 'rb'")
        return _decoded(data, max_pixels, max_bytes)
    raise BadPicture(no_picture(source))


def no_picture(value: Any) -> str:
    """What to say of a value of a type that no picture has."""
    return (
        f"a value of type {type(value).__name__} is no picture; expected a path, a data URI, "
        "bytes, an open file, a PIL image, a numpy array or a tensor"
    )


def _contents(source: str | Path, max_bytes: int) -> bytes:
    text = str(source)
    if isinstance(source, str):
        if text[:5].lower() == "data:":
            return _of_data_uri(text, max_bytes)
        if _SCHEME.match(text):
            raise BadPicture(
                f"{_shown(text)} is an address; pictures are read from files and never fetched "
                "from a network: download it first"
            )
    path = Path(source)
    try:
        if path.is_dir():
            raise BadPicture("a folder; expected a picture file")
        if not path.exists():
            raise BadPicture(f"no file at {_shown(text)}")
        if not path.is_file():
            raise BadPicture("not a regular file; expected a picture file")
        size = path.stat().st_size
        if size > max_bytes:
            raise BadPicture(_too_heavy(size, max_bytes))
        return path.read_bytes()
    except BadPicture:
        raise
    except PermissionError as error:
        raise BadPicture("the file may not be read: permission denied") from error
    except (OSError, ValueError) as error:  # a name that no file can have, a failing disk
        raise BadPicture(f"cannot read {_shown(text)}: {error}") from error


def _of_data_uri(uri: str, max_bytes: int) -> bytes:
    head, comma, body = uri[5:].partition(",")
    if not comma:
        raise BadPicture("a data URI without a comma; expected data:image/png;base64,...")
    if len(body) * 3 // 4 > max_bytes:
        raise BadPicture(_too_heavy(len(body) * 3 // 4, max_bytes))
    raw = urllib.parse.unquote_to_bytes(body)
    if not head.lower().endswith(";base64"):
        return raw
    packed = b"".join(raw.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise BadPicture(f"a data URI that is not valid base64: {error}") from error


def _decoded(data: bytes, max_pixels: int, max_bytes: int) -> Image.Image:
    if not data:
        raise BadPicture("empty: it has no bytes")
    if len(data) > max_bytes:
        raise BadPicture(_too_heavy(len(data), max_bytes))
    kind = kind_of(data)
    if kind not in SUPPORTED:
        what = f"it begins with {data[:8]!r}" if kind is None else f"it is {kind}"
        advice = ADVICE.get(kind or "", f"expected a file in {_FORMATS}")
        raise BadPicture(f"not a picture that can be read: {what}; {advice}")
    try:
        image = Image.open(io.BytesIO(data), formats=[kind])
        _check_size(image.size, max_pixels)
    except Image.DecompressionBombError as error:
        raise BadPicture(
            f"enormous: more than {MAX_PIXELS:,} pixels; make it smaller first"
        ) from error
    except BadPicture:
        raise
    except Exception as error:  # Pillow's plugins let anything through from a damaged header
        raise BadPicture(_TRUNCATED if ends_early(data, kind) else _damaged(kind, error)) from error
    if ends_early(data, kind):
        raise BadPicture(_TRUNCATED)
    return _loaded(image)


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # as above; Image.load has no error of its own
        if "truncated" in str(error).lower():
            raise BadPicture(_TRUNCATED) from error
        raise BadPicture(_damaged(image.format or "picture", error)) from error
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadPicture(f"empty: it is {width} x {height} pixels")
    if width * height > max_pixels:
        raise BadPicture(
            f"enormous: {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are "
            "read: make it smaller first"
        )


def _of_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    shape = " x ".join(map(str, array.shape))
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        raise BadPicture(f"an array of shape {shape}: channels come first; expected y x c")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise BadPicture(
            f"an array of shape {shape or 'nothing'}; expected y x, y x 1, y x 3 or y x 4, one "
            "picture at a time"
        )
    _check_size((array.shape[1], array.shape[0]), max_pixels)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array)))


def _of_tensor(tensor: Tensor, max_pixels: int) -> Image.Image:
    shape = " x ".join(map(str, tensor.shape))
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4) and tensor.shape[2] in (1, 3, 4):
        raise BadPicture(
            f"a tensor of shape {shape}: channels come last; expected c y x: permute(2, 0, 1)"
        )
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise BadPicture(
            f"a tensor of shape {shape or 'nothing'}; expected c y x with 1, 3 or 4 channels, one "
            "picture at a time"
        )
    tensor = tensor.detach().permute(1, 2, 0).cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return _of_array(tensor.numpy(), max_pixels)


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return _from_sixteen_bits(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise BadPicture(
            f"values of type {array.dtype}; expected bool, uint8, uint16, or float in [0, 1]"
        )
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadPicture("values that are not finite; expected numbers in [0, 1]")
    if low < -1e-4 or high > 1 + 1e-4:
        advice = "denormalise first" if low < 0 else "divide by 255, or pass uint8"
        raise BadPicture(f"values from {low:.4g} to {high:.4g}; expected [0, 1]: {advice}")
    return np.rint(array.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)


def _as_seen(image: Image.Image) -> Image.Image:
    upright = _UPRIGHT.get(_orientation(image))
    try:
        seen = _as_rgb(image)
    except BadPicture:
        raise
    except (ValueError, OSError) as error:
        raise BadPicture(
            f"its colours are {image.mode}, which cannot be shown as RGB; convert it to RGB first"
        ) from error
    if upright is not None:
        seen = seen.transpose(upright)
    seen.info = {}  # what it said (orientation, transparency) is done
    return seen


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data raises many kinds of errors, and says nothing
        return 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in (*_SIXTEEN_BITS, "I", "F"):
        return _deep_as_rgb(image)
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for Adobe's, whose inks are stored inverted.
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        # Premultiplied modes reach RGBA only by their own counterpart.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        over = (image.convert(straight) if straight else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def _deep_as_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode in _SIXTEEN_BITS:
        grey = _from_sixteen_bits(values)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey = np.where(values == transparent, np.uint8(255), grey)
    elif image.mode == "I" and image.format == "PNG":  # how Pillow before 11 opens 16 bits
        grey = _from_sixteen_bits(values)
    else:
        tops = (255, 65535) if image.mode == "I" else (1, 255, 65535)
        grey = _from_any_range(values.astype(np.float64), tops)
    return Image.fromarray(grey).convert("RGB")


def _from_sixteen_bits(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_any_range(values: np.ndarray, tops: tuple[int, ...]) -> np.ndarray:
    """Grey values whose file does not tell their range: from 0 to the first top that holds them.

    Values outside of all are spread from the lowest to the highest.
    """
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadPicture("values that are not finite; expected a picture's grey values")
    holding = [top for top in tops if high <= top]
    if low >= 0 and holding:
        low, high = 0, holding[0]
    return np.rint((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


def _damaged(kind: str, error: Exception) -> str:
    detail = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
    return f"damaged: it begins like {kind} but cannot be decoded{detail}; save or copy it again"


def _too_heavy(size: int, max_bytes: int) -> str:
    return f"enormous: {size:,} bytes; at most {max_bytes:,} are read: make it smaller first"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:99] + "…")


class _Quiet:
    """Pillow's warnings off while any thread decodes.

    `warnings.catch_warnings` restores what it found, so that overlapping uses in several threads
    would leave filters behind; here the first in saves them and the last out restores them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.caught: Any = None

    def enter(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.caught.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Nothing that Pillow would warn of reaches the caller within."""
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()
