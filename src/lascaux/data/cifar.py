"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as their author publishes them.

Both come as pickles of Python 2 ("python version") and as plain records ("binary version"), each in
a folder or in the .tar.gz as it was downloaded. A pickle is read by a function that the caller
gives, so that nothing of it need be run.
"""

import re
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from lascaux.data.labelled import Labelled
from lascaux.errors import BadInput

Unpickled = Callable[[bytes, str], Any]  # a pickle, and what to call it in messages

_SIDE = 32  # pixels
_VALUES = 3 * _SIDE * _SIDE
_LARGEST_FILE = 1 << 28  # bytes; CIFAR-100's training file has 1.6e8
_ARCHIVE = re.compile(r"cifar[-_]?(100|10)(?!\d).*\.(tar|tar\.gz|tgz)$")


@dataclass(frozen=True)
class _Layout:
    name: str
    form: str  # "python" or "binary"
    folder: str
    test: tuple[str, ...]
    train: tuple[str, ...]
    meta: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.meta, *self.test, *self.train)


_LAYOUTS = (
    _Layout(
        *("cifar10", "python", "cifar-10-batches-py", ("test_batch",)),
        train=tuple(f"data_batch_{n}" for n in range(1, 6)),
        meta="batches.meta",
    ),
    _Layout(
        *("cifar10", "binary", "cifar-10-batches-bin", ("test_batch.bin",)),
        train=tuple(f"data_batch_{n}.bin" for n in range(1, 6)),
        meta="batches.meta.txt",
    ),
    _Layout("cifar100", "python", "cifar-100-python", ("test",), ("train",), "meta"),
    _Layout(
        *("cifar100", "binary", "cifar-100-binary", ("test.bin",), ("train.bin",)),
        meta="fine_label_names.txt",
    ),
)


def cifar_sets(path: str | Path) -> list[str]:
    """Which of the sets lie at a path, by their files' names: "cifar10", "cifar100"."""
    path = Path(path)
    if path.is_dir():
        return sorted({layout.name for layout, _ in _in_folders(path)})
    said = _ARCHIVE.search(path.name.lower()) if path.is_file() else None
    return [f"cifar{said[1]}"] if said else []


def read_cifar(
    path: str | Path,
    name: str,
    names: Sequence[str],
    unpickled: Unpickled,
    *,
    split: str = "test",
) -> Labelled:
    """The test pictures, or those for training.

    Args:
        path: the folder with the files, one above it, or the archive.
        name: "cifar10" or "cifar100" (its fine labels).
        names: of the classes, as prompts name them; the file's own are checked against them.
        unpickled: reads a pickle.
        split: "test" or "train".

    Raises:
        BadInput: not there, not whole, or not what its name says.
        WeightsError: a pickle that `unpickled` refuses.
    """
    path = Path(path)
    layout, contents = _found(path, name, split)
    keys = _names_in(layout, contents[layout.meta], path, unpickled)
    told = [key.replace("_", " ") for key in keys]
    if told != list(names):
        wrong = next((f"{a!r} for {b!r}" for a, b in zip(told, names, strict=False) if a != b), "")
        raise BadInput(
            f"{path}: {layout.meta} names {len(told)} classes{f', {wrong}' if wrong else ''}; "
            f"expected the {len(names)} of {name} in alphabetical order; fetch the file again"
        )
    pictures: list[np.ndarray] = []
    labels: list[int] = []
    sources: list[str] = []
    for part in getattr(layout, split):
        pixels, found = _part(layout, part, contents[part], path, unpickled)
        if found.size and not 0 <= found.min() <= found.max() < len(keys):
            raise BadInput(
                f"{path}: {part} has labels beyond its {len(keys)} classes; it is broken"
            )
        pictures += list(pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
        labels += found.tolist()
        sources += [f"{part}/{row}" for row in range(len(pixels))]
    return Labelled(
        name=name,
        protocol=name,
        split=split,
        classes=tuple((each,) for each in names),
        keys=tuple(keys),
        pictures=tuple(pictures),
        labels=tuple(labels),
        sources=tuple(sources),
    )


def _found(path: Path, name: str, split: str) -> tuple[_Layout, Mapping[str, bytes]]:
    if path.is_dir():
        for layout, folder in _in_folders(path):
            if layout.name == name:
                wanted = (layout.meta, *getattr(layout, split))
                return layout, {file: _content(folder / file) for file in wanted}
    elif path.is_file():
        contents = _unpacked(path, [layout for layout in _LAYOUTS if layout.name == name], split)
        for layout in _LAYOUTS:
            if layout.name == name and {layout.meta, *getattr(layout, split)} <= contents.keys():
                return layout, contents
    wanted = " or ".join(layout.folder for layout in _LAYOUTS if layout.name == name)
    raise BadInput(
        f"there is no {name} at {path}; expected the folder {wanted}, or its .tar.gz, from "
        "https://www.cs.toronto.edu/~kriz/cifar.html"
    )


def _in_folders(path: Path) -> list[tuple[_Layout, Path]]:
    """The layouts of which two files or more lie in the folder, or in one of theirs within it."""
    return [
        (layout, folder)
        for layout in _LAYOUTS
        for folder in (path, path / layout.folder)
        if sum((folder / file).is_file() for file in layout.files) >= 2
    ]


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadInput(f"{path} has more than {_LARGEST_FILE:,} bytes; no file of CIFAR has")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}; is the folder complete?") from error


def _unpacked(path: Path, layouts: list[_Layout], split: str) -> dict[str, bytes]:
    """The files of the layouts that an archive holds; nothing is written."""
    wanted = {file for each in layouts for file in (each.meta, *getattr(each, split))}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name not in wanted or not member.isreg():
                    continue
                if member.size > _LARGEST_FILE:
                    raise BadInput(f"{path}: {member.name} has {member.size:,} bytes; not CIFAR's")
                opened = archive.extractfile(member)
                contents[name] = opened.read() if opened else b""
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise BadInput(f"{path} is no whole .tar.gz: {error}; fetch it again") from error
    return contents


def _names_in(layout: _Layout, data: bytes, path: Path, unpickled: Unpickled) -> list[str]:
    if layout.form == "binary":
        lines = data.decode("utf-8", "replace").split("\n")
        return [line.strip() for line in lines if line.strip()]
    field = "label_names" if layout.name == "cifar10" else "fine_label_names"
    names = _field(unpickled(data, f"{path} ({layout.meta})"), field, path, layout.meta)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise BadInput(f"{path}: {field} of {layout.meta} is no list of names; fetch it again")
    return [name.decode("latin1") if isinstance(name, bytes) else name for name in names]


def _part(
    layout: _Layout, part: str, data: bytes, path: Path, unpickled: Unpickled
) -> tuple[UInt8[np.ndarray, "b v"], Int[np.ndarray, " b"]]:
    """The pixels (colours, rows, columns) and labels of one file."""
    if layout.form == "binary":
        head = 1 if layout.name == "cifar10" else 2  # of CIFAR-100 the second byte is the fine one
        if not data or len(data) % (head + _VALUES):
            raise BadInput(
                f"{path}: {part} has {len(data):,} bytes; expected records of {head + _VALUES}; "
                "it is not whole, fetch it again"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, head + _VALUES)
        return records[:, head:], records[:, head - 1].astype(np.int64)
    content = unpickled(data, f"{path} ({part})")
    pixels = _field(content, "data", path, part)
    field = "labels" if layout.name == "cifar10" else "fine_labels"
    labels = _field(content, field, path, part)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise BadInput(f"{path}: data of {part} are no array of bytes; fetch the file again")
    if pixels.ndim != 2 or pixels.shape[1] != _VALUES:
        raise BadInput(f"{path}: data of {part} have shape {pixels.shape}; expected (n, {_VALUES})")
    if isinstance(labels, list) and not all(type(label) is int for label in labels):
        raise BadInput(f"{path}: {field} of {part} are no whole numbers; fetch the file again")
    labels = np.asarray(labels, dtype=np.int64)
    if labels.shape != (len(pixels),):
        raise BadInput(f"{path}: {part} has {len(pixels)} pictures and {labels.size} labels")
    return pixels, labels


def _field(content: Any, field: str, path: Path, part: str) -> Any:
    """An entry of a pickled dictionary, whose keys may be text or bytes."""
    for key in (field, field.encode()):
        if isinstance(content, dict) and key in content:
            return content[key]
    raise BadInput(f"{path}: {part} holds no {field!r}; it is no file of CIFAR")
