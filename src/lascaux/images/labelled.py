"""PNG files that say in themselves how their picture was made, so that it can be made again."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from lascaux.errors import BadInput, BadPicture, Unsupported
from lascaux.images.decode import quiet_pillow

FORMAT = "lascaux-picture-1"
CHUNK = "lascaux"  # the keyword of the text chunk

_ADVICE = (
    "expected a PNG as Lascaux wrote it (editors and messengers drop what a file says of itself)"
)


def labelled_png(picture: Image.Image, label: Mapping[str, Any]) -> bytes:
    """The bytes of a PNG with a label: JSON in a text chunk called `lascaux`.

    Args:
        picture: of any mode that PNG has.
        label: JSON values under names; `format` is added.

    Raises:
        BadInput: the label is no JSON, such as a number that is not finite.
    """
    told = {"format": FORMAT, **label}
    try:
        text = json.dumps(told, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, as from an argument that is no UTF-8
        text = json.dumps(told, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"a label that is no JSON ({error}); expected texts and finite numbers"
        ) from (error)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(CHUNK, text)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def write_labelled(picture: Image.Image, path: str | Path, label: Mapping[str, Any]) -> None:
    """Write a PNG with a label, as `labelled_png`; nobody ever sees half of it.

    Raises:
        BadInput: the place cannot be written, or the label is no JSON.
    """
    path = Path(path).expanduser()
    content = labelled_png(picture, label)
    if path.is_dir() or not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: expected a file in a folder that exists")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror or error}; make room, or name another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def read_label(path: str | Path, verb: str | None = None) -> dict[str, Any]:
    """What a PNG says of itself, without `format`.

    Args:
        path: of the file.
        verb: which the label must have under `verb`.

    Raises:
        BadPicture: there is no such file, or it is no PNG of ours.
        BadInput: another verb made it.
        Unsupported: it is of a later version.
    """
    path = Path(path).expanduser()
    label = _parsed(_text(path), path)
    if (found := label.pop("format", None)) != FORMAT:
        raise Unsupported(
            f"{path} has a label of the format {found!r:.40}; this version reads {FORMAT}, a later "
            "one may read it"
        )
    if verb is not None and (made := label.get("verb")) != verb:
        raise BadInput(
            f"{path} was made by `lascaux {made}`, not by `lascaux {verb}`; repeat it with that"
        )
    return label


def _text(path: Path) -> str:
    """The text chunk of a file."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise BadPicture(f"{path} is {what}; {_ADVICE}")
    try:
        with quiet_pillow(), Image.open(path, formats=["PNG"]) as image:
            assert isinstance(image, PngImagePlugin.PngImageFile)
            # Our chunk stands before the pixels, which are not decoded unless it is missing.
            found = image.info.get(CHUNK) or image.text.get(CHUNK)
    except Exception as error:  # Pillow's plugins let anything through from a damaged file
        raise BadPicture(f"{path} cannot be read as PNG ({error}); {_ADVICE}") from error
    if not isinstance(found, str):
        raise BadPicture(f"{path} does not say how it was made; {_ADVICE}")
    return found


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        label = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPicture(f"the label of {path} is damaged ({error}); {_ADVICE}") from error
    if not isinstance(label, dict):
        raise BadPicture(f"the label of {path} is no JSON object; {_ADVICE}")
    return label
