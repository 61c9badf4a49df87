"""Labelled sets of pictures, such as accuracies are measured on, and their layouts as folders."""

import csv
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lascaux.errors import BadInput
from lascaux.images.formats import SUFFIXES

_SPLITS = {"train", "val", "valid", "validation", "test"}
_SHOWN = 3  # of many names in a message


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Pictures with one class each; nothing of a picture is read before it is used.

    Attributes:
        name: of the set.
        protocol: the published way to measure on it, or "folder".
        split: "test", "train", or "" where the set says nothing.
        classes: the names of each class; the first is shown. Two classes may share names.
        keys: what tells the classes apart: folder, WordNet id or number.
        pictures: paths, or uint8 arrays (y x 3).
        labels: of each picture, an index into `classes`.
        sources: of each picture, its path within the set or what stands for it.
    """

    name: str
    protocol: str = "folder"
    split: str = ""
    classes: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...]
    pictures: tuple[Path | np.ndarray, ...]
    labels: tuple[int, ...]
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.pictures) == len(self.labels) == len(self.sources):
            raise BadInput(
                f"{len(self.pictures)} pictures, {len(self.labels)} labels and "
                f"{len(self.sources)} sources; expected as many of each"
            )
        if len(self.keys) != len(self.classes) or len(set(self.keys)) != len(self.keys):
            raise BadInput(
                f"{len(self.classes)} classes and {len(set(self.keys))} different keys; expected "
                "one key for each class"
            )
        if not all(0 <= label < len(self.classes) for label in self.labels):
            raise BadInput(f"a label is no class; expected 0 to {len(self.classes) - 1}")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sources with their keys and sizes; of arrays over their pixels."""
        digest = hashlib.sha256()
        for picture, label, source in zip(self.pictures, self.labels, self.sources, strict=True):
            if isinstance(picture, Path):
                size = picture.stat().st_size if picture.is_file() else -1
            else:
                digest.update(np.ascontiguousarray(picture).tobytes())
                size = picture.size
            digest.update(f"{source}\0{self.keys[label]}\0{size}\n".encode())
        return digest.hexdigest()

    def some(self, limit: int | None, seed: int) -> tuple[int, ...]:
        """Indices of `limit` pictures drawn by a seed, in order; of all where there are fewer."""
        if limit is None or limit >= len(self.pictures):
            return tuple(range(len(self.pictures)))
        rng = np.random.Generator(np.random.PCG64([seed]))
        drawn = rng.permutation(len(self.pictures))[:limit]
        return tuple(sorted(drawn.tolist()))


def folders_of_pictures(root: str | Path) -> Labelled:
    """One subfolder for each class, with its pictures at any depth.

    Classes are in the order of the folders' names; underscores in them become spaces.

    Raises:
        BadInput: no folder, no subfolder, or a subfolder without pictures.
    """
    root = Path(root)
    keys = class_folders(root)
    names = {key: (key.replace("_", " "),) for key in keys}
    return pictures_by_key(root, names)


def class_folders(root: Path) -> list[str]:
    """The names of the subfolders, sorted; hidden ones are left out.

    Raises:
        BadInput: no folder, or one that holds no subfolders, or splits instead of classes.
    """
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise BadInput(f"there is {what} at {root}; expected a folder with one subfolder per class")
    with os.scandir(root) as entries:
        found = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not found:
        raise BadInput(f"{root} has no subfolders; expected one for each class with its pictures")
    if set(found) <= _SPLITS:
        raise BadInput(f"{root} holds splits ({', '.join(found)}); name one: {root / found[0]}")
    return found


def pictures_by_key(
    root: Path, names: Mapping[str, tuple[str, ...]], *, protocol: str = "folder"
) -> Labelled:
    """Pictures in subfolders whose names are keys; the mapping gives the order of the classes.

    Raises:
        BadInput: a subfolder has no pictures.
    """
    pictures: list[Path] = []
    labels: list[int] = []
    empty: list[str] = []
    for place, key in enumerate(names):
        found = pictures_below(root / key)
        if not found:
            empty.append(key)
        pictures += found
        labels += [place] * len(found)
    if empty:
        raise BadInput(
            f"{len(empty)} of {len(names)} class folders in {root} have no pictures: "
            f"{shown(empty)}; add some, or take the folders away"
        )
    return _labelled(root, protocol, names, pictures, labels)


def flat_pictures(
    root: Path, labels: Mapping[str, int], names: Mapping[str, tuple[str, ...]], *, protocol: str
) -> Labelled:
    """Pictures in one folder, with the labels of a file.

    Args:
        root: the folder; subfolders are left out.
        labels: the stem of every picture's name -> the place of its class in `names`.
        names: key -> names of all classes, in order.
        protocol: of the set.

    Raises:
        BadInput: a label without its picture, or a picture without a label.
    """
    found: dict[str, Path] = {}
    for path in pictures_below(root, deep=False):
        if (twin := found.setdefault(path.stem, path)) is not path:
            raise BadInput(f"{twin} and {path.name} have one name; labels go by name, so keep one")
    if missing := [stem for stem in labels if stem not in found]:
        raise BadInput(
            f"{len(missing)} of {len(labels)} labelled pictures are not in {root}: "
            f"{shown(missing)}; complete the folder, or shorten the file of labels"
        )
    if unlabelled := [path.name for stem, path in found.items() if stem not in labels]:
        raise BadInput(
            f"{len(unlabelled)} of {len(found)} pictures in {root} have no label: "
            f"{shown(unlabelled)}; is the file of labels that of another split?"
        )
    pictures = list(found.values())
    return _labelled(root, protocol, names, pictures, [labels[stem] for stem in found])


def _labelled(
    root: Path,
    protocol: str,
    names: Mapping[str, tuple[str, ...]],
    pictures: Sequence[Path],
    labels: Sequence[int],
) -> Labelled:
    """Pictures below `root` with their labels; the mapping gives keys and names in order."""
    return Labelled(
        name=root.resolve().name,
        protocol=protocol,
        classes=tuple(names.values()),
        keys=tuple(names),
        pictures=tuple(pictures),
        labels=tuple(labels),
        sources=tuple(path.relative_to(root).as_posix() for path in pictures),
    )


def imagenet_labels(path: str | Path, ids: Sequence[str]) -> dict[str, int]:
    """Labels of ImageNet's validation pictures: stem of the file's name -> index into `ids`.

    Read are Kaggle's `LOC_val_solution.csv` (ImageId, PredictionString: a WordNet id with boxes)
    and Caffe's `val.txt` (file name and index, from 0, in the order of the sorted WordNet ids).

    Raises:
        BadInput: another file, or the development kit's, which numbers the classes otherwise.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read labels from {path}: {error}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise BadInput(f"{path} is empty; expected LOC_val_solution.csv or Caffe's val.txt")
    if all(re.fullmatch(r"\d+", line) for line in lines):
        raise BadInput(
            f"{path} holds numbers alone, as the ground truth of the development kit does; its "
            "classes are numbered by ILSVRC2012_ID, another order than that of the sorted WordNet "
            "ids, and accuracies would be nonsense; take Kaggle's LOC_val_solution.csv or Caffe's "
            "val.txt, or sort the pictures into folders by WordNet id"
        )
    if lines[0].replace(" ", "").lower() == "imageid,predictionstring":
        return _kaggle(path, lines[1:], {key: place for place, key in enumerate(ids)})
    return _caffe(path, lines, len(ids))


def relabelled(
    data: Labelled, names: Mapping[str, tuple[str, ...]], places: Sequence[int]
) -> Labelled:
    """The same pictures among other classes; `places` tells for each old class where it is now."""
    return replace(
        data,
        classes=tuple(names.values()),
        keys=tuple(names),
        labels=tuple(places[label] for label in data.labels),
    )


def shown(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def pictures_below(folder: Path, *, deep: bool = True) -> list[Path]:
    """The pictures of a folder by their suffix, sorted; hidden files and folders are left out."""
    found: list[Path] = []
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")] if deep else []
        found += [
            Path(at, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def _put(labels: dict[str, int], stem: str, place: int, path: Path) -> None:
    if labels.setdefault(stem, place) != place:
        raise BadInput(f"{path} gives {stem} two labels; keep the right one")


def _kaggle(path: Path, lines: list[str], places: dict[str, int]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, row in enumerate(csv.reader(lines), 2):
        ids = set(row[1].split()[::5]) if len(row) == 2 else set()
        if len(ids) != 1 or not ids <= places.keys():
            raise BadInput(
                f"{path}, line {number}: {','.join(row)[:80]!r}; expected an image's name and one "
                "WordNet id of ImageNet-1k with its boxes"
            )
        _put(labels, _stem(row[0]), places[ids.pop()], path)
    return labels


def _caffe(path: Path, lines: list[str], classes: int) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name, _, index = line.rpartition(" ")
        if not name or not re.fullmatch(r"\d+", index):
            raise BadInput(
                f"{path}, line {number}: {line[:80]!r}; expected LOC_val_solution.csv "
                "(ImageId,PredictionString), or a file's name and the index of its class"
            )
        if int(index) >= classes:
            raise BadInput(
                f"{path}, line {number}: class {index}; expected 0 to {classes - 1}, from 0 in the "
                "order of the sorted WordNet ids; the development kit numbers from 1, otherwise"
            )
        _put(labels, _stem(name.strip()), int(index), path)
    return labels


def _stem(name: str) -> str:
    """The name of a picture without folders, and without a picture's suffix."""
    stem, suffix = os.path.splitext(name.replace("\\", "/").rpartition("/")[2])
    return stem if suffix.lower() in SUFFIXES else stem + suffix
