"""Pictures that are files of their own, wherever their captions and classes are written.

Layouts: a folder of pictures; a folder with one subfolder for each class (torchvision's
ImageFolder, ImageNet); pictures with their captions in `name.txt` beside `name.jpg`, one a line (as
lucidrains/DALLE-pytorch reads them).
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lascaux.data.labelled import folders_of_pictures, pictures_below, shown
from lascaux.data.records import Source, StringLists, Strings
from lascaux.errors import BadInput

NO_LABEL = -1


class PictureFiles(Source):
    """Records whose pictures are files."""

    def __init__(
        self,
        kind: str,
        path: Path,
        folder: Path,
        files: Iterable[str],
        *,
        captions: Iterable[Sequence[str]] | None = None,
        labels: Iterable[int] | None = None,
        classes: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        """Take a list of files.

        Args:
            kind: of the source.
            path: where it was opened.
            folder: that the files are named from.
            files: their paths, relative to the folder or absolute; these are the keys.
            captions: of each picture.
            labels: of each picture; -1 for one that has none.
            classes: their names.
            notes: for people.
        """
        self.kind, self.path, self.folder = kind, path, folder
        self.files = Strings(files)
        self._captions = None if captions is None else StringLists(captions)
        self._labels = None if labels is None else np.fromiter(labels, np.int32)
        self.classes, self.notes = classes, notes

    def __len__(self) -> int:
        return len(self.files)

    def key(self, index: int) -> str:
        """The path as it was given."""
        return self.files[index]

    def picture(self, index: int) -> Path:
        """The file's path."""
        return self.folder / self.files[index]

    def captions(self, index: int) -> tuple[str, ...]:
        """From memory."""
        return () if self._captions is None else self._captions[index]

    def label(self, index: int) -> int | None:
        """From memory."""
        if self._labels is None or self._labels[index] == NO_LABEL:
            return None
        return int(self._labels[index])

    def told(self) -> Iterable[str]:
        """Classes; then of each picture its key, size, captions and class."""
        yield "\n".join(self.classes)
        for index in range(len(self)):
            yield self.key(index)
            yield str(_size(self.picture(index)))
            yield "\n".join(self.captions(index))
            yield str(self.label(index))


def folder_pictures(root: Path) -> PictureFiles:
    """The pictures of a folder and its subfolders.

    Raises:
        BadInput: there are none.
    """
    files = _found(root)
    return PictureFiles("folder", root, root, files)


def class_pictures(root: Path) -> PictureFiles:
    """The pictures of a folder whose subfolders are classes, in the order of their names.

    Raises:
        BadInput: no subfolder, or one without pictures.
    """
    data = folders_of_pictures(root)
    return PictureFiles(
        "classes",
        root,
        root,
        data.sources,
        labels=data.labels,
        classes=tuple(names[0] for names in data.classes),
    )


def captioned_pictures(root: Path) -> PictureFiles:
    """Pictures with their captions in a text file of the same name beside them.

    A picture without one has no captions; empty lines are none.

    Raises:
        BadInput: no pictures, no such text file, or one that is not UTF-8.
    """
    files = _found(root)
    captions: list[tuple[str, ...]] = []
    without: list[str] = []
    for file in files:
        try:
            text = (root / file).with_suffix(".txt").read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            without.append(file)
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"cannot read captions from {(root / file).with_suffix('.txt')}: {error}; "
                "expected UTF-8, one caption a line"
            ) from error
        captions.append(tuple(line.strip() for line in text.splitlines() if line.strip()))
    if len(without) == len(files):
        raise BadInput(
            f"none of the {len(files)} pictures in {root} has its captions beside it; expected "
            f"{Path(files[0]).with_suffix('.txt')} beside {files[0]}"
        )
    notes = ()
    if without:
        notes = (f"{len(without)} of {len(files)} pictures have no text file: {shown(without)}",)
    return PictureFiles("captioned", root, root, files, captions=captions, notes=notes)


def has_captions_beside(root: Path) -> bool:
    """Whether a picture in the folder, at any depth, has a text file of its name."""
    return any(file.with_suffix(".txt").is_file() for file in pictures_below(root))


def absent_files(source: PictureFiles) -> list[str]:
    """The keys of pictures whose files are not there."""
    listed: dict[str, set[str]] = {}
    absent: list[str] = []
    for file in source.files:
        folder, name = os.path.split(source.folder / file)
        if folder not in listed:
            try:
                listed[folder] = set(os.listdir(folder))
            except OSError:
                listed[folder] = set()
        if name not in listed[folder]:
            absent.append(file)
    return absent


def _found(root: Path) -> list[str]:
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise BadInput(f"there is {what} at {root}; expected a folder of pictures")
    files = [path.relative_to(root).as_posix() for path in pictures_below(root)]
    if not files:
        with os.scandir(root) as entries:
            inside = sorted(entry.name for entry in entries)
        what = f"it holds {shown(inside)}" if inside else "it is empty"
        raise BadInput(f"{root} has no pictures: {what}; expected .jpg, .png, .webp or the like")
    return files


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
