"""Finding pictures in folders and by patterns, and naming what a picture came from."""

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lascaux.data.labelled import pictures_below
from lascaux.errors import BadInput, BadPicture
from lascaux.images.decode import OpenFile, no_picture
from lascaux.images.formats import SUFFIXES


def pictures_in(path: str | Path, *, recursive: bool = False) -> list[Path]:
    """The pictures of a folder or of a pattern, sorted; a single file is taken as it is.

    In folders files are chosen by their suffix, and hidden ones are left out. In a pattern `**`
    reaches into subfolders.

    Raises:
        BadInput: there is nothing of that name.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return pictures_below(path, deep=recursive)
    if path.exists() or not glob.has_magic(str(path)):
        if not path.exists():
            raise BadInput(f"there is no file or folder {path}")
        return [path]
    found: list[Path] = []
    for match in sorted(glob.glob(str(path), recursive=True)):
        if Path(match).is_dir():
            found += pictures_below(Path(match)) if recursive else []
        elif Path(match).suffix.lower() in SUFFIXES:
            found.append(Path(match))
    if not found:
        raise BadInput(f"no picture matches {path}; quote the pattern, or name a folder")
    return found


def expanded(source: Any, *, recursive: bool = False) -> Iterator[Any]:
    """The source itself, or the pictures of a folder or pattern; nothing is read.

    A folder without pictures, or a pattern that matches nothing, stays as it is, so that reading it
    fails in its place.
    """
    found: list[Path] = []
    if isinstance(source, str | Path) and not str(source).startswith("data:"):
        path = Path(source).expanduser()
        if path.is_dir() or (not path.exists() and glob.has_magic(str(path))):
            with suppress(BadInput):
                found = pictures_in(path, recursive=recursive)
    yield from found or [source]


def is_folder(source: Any) -> bool:
    """Whether this is the path of a folder."""
    return isinstance(source, str | Path) and os.path.isdir(os.path.expanduser(source))


def source_name(source: Any, position: int) -> str:
    """A short name of a picture for results: its path, or what and the how-manieth it is."""
    if isinstance(source, Path):
        return str(source)
    if isinstance(source, str):
        return f"data URI {position}" if source.startswith("data:") else source
    if isinstance(source, bytes | bytearray | memoryview):
        return f"bytes {position}"
    if hasattr(source, "read"):
        named = getattr(source, "name", None)  # a file without a path has a number, or no name
        return named if isinstance(named, str) else f"file {position}"
    return getattr(source, "filename", None) or f"picture {position}"


def several(pictures: Any) -> bool:
    """Whether this is a collection of pictures rather than one.

    Raises:
        BadPicture: it is neither.
    """
    if isinstance(pictures, Tensor | np.ndarray):
        return pictures.ndim == 4
    single = str | bytes | bytearray | memoryview | Path | Image.Image | OpenFile
    if isinstance(pictures, single):
        return False
    if not isinstance(pictures, Iterable):
        raise BadPicture(no_picture(pictures))
    return True
