"""What a record of a data set is, and the form that all sources of records have.

A source is random access: a record is asked for by its index, in any order and from any process,
and nothing of its picture is read before. What a source holds in memory lies in few large arrays,
so that worker processes share it and it is quickly sent to them.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from lascaux.errors import BadInput
from lascaux.images.decode import Reading, read_picture


@dataclass(frozen=True, kw_only=True)
class Record:
    """One picture with what is said of it.

    Attributes:
        key: tells it apart within its source, and stays the same from one opening to the next.
        picture: a path, or the bytes of a file.
        captions: in no order of worth.
        label: the index of its class, or None.
        class_name: of that class.
    """

    key: str
    picture: Path | bytes
    captions: tuple[str, ...] = ()
    label: int | None = None
    class_name: str | None = None

    def image(self, mode: Reading = "photo") -> Image.Image:
        """The picture, decoded.

        Raises:
            BadPicture: it is missing, broken or no picture.
        """
        return read_picture(self.picture, mode=mode)


class Source(ABC):
    """Records by index, from 0.

    Attributes:
        kind: the name of its layout; one of `lascaux.data.sources.KINDS`, or "part".
        path: where it was opened.
        classes: the names of the classes that labels count; empty where there are none.
        notes: what a person should know of how it was read, each a sentence.
    """

    kind: str
    path: Path
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """The key of a record; where it was a file's name, it has that file's suffix."""

    @abstractmethod
    def picture(self, index: int) -> Path | bytes:
        """The path of a picture, or its bytes.

        Raises:
            BadPicture: the bytes cannot be read.
        """

    @abstractmethod
    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a record, without reading its picture."""

    def label(self, index: int) -> int | None:
        """The class of a record, without reading its picture."""
        return None

    @abstractmethod
    def told(self) -> Iterable[str | bytes]:
        """All that is known of the records without reading pictures, in parts."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what is known of the records without reading pictures."""
        return digest_of(self.told())

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        label = self.label(index)
        return Record(
            key=self.key(index),
            picture=self.picture(index),
            captions=self.captions(index),
            label=label,
            class_name=None if label is None else self.classes[label],
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))


class Part(Source):
    """Some records of a source, in the order of the indices given."""

    kind = "part"

    def __init__(self, whole: Source, indices: Iterable[int]) -> None:
        """Choose records.

        Raises:
            BadInput: an index that the source has not.
        """
        self.whole = whole
        self.indices = np.fromiter(indices, np.int64)
        if len(self.indices) and not (self.indices.min() >= 0 and self.indices.max() < len(whole)):
            raise BadInput(f"an index outside of the {len(whole)} records of {whole.path}")
        self.path, self.classes, self.notes = whole.path, whole.classes, whole.notes

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """Of the whole."""
        return self.whole.key(int(self.indices[index]))

    def picture(self, index: int) -> Path | bytes:
        """Of the whole."""
        return self.whole.picture(int(self.indices[index]))

    def captions(self, index: int) -> tuple[str, ...]:
        """Of the whole."""
        return self.whole.captions(int(self.indices[index]))

    def label(self, index: int) -> int | None:
        """Of the whole."""
        return self.whole.label(int(self.indices[index]))

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.whole[int(self.indices[index])]  # which may have more than a picture

    def told(self) -> Iterable[str | bytes]:
        """The whole's fingerprint, and the indices."""
        return self.whole.fingerprint, self.indices.astype("<i8").tobytes()


class Strings(Sequence[str]):
    """Many strings in one array of bytes: a tenth of the objects, and none to copy on write."""

    def __init__(self, texts: Iterable[str]) -> None:
        # Names of files need not be UTF-8; this keeps theirs.
        coded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self.ends = np.cumsum([0, *map(len, coded)], dtype=np.int64)
        self.bytes = np.frombuffer(b"".join(coded), np.uint8)

    @classmethod
    def of_arrays(cls, ends: np.ndarray, data: np.ndarray) -> "Strings":
        """What `ends` and `bytes` were."""
        made = cls(())
        made.ends, made.bytes = ends, data
        return made

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        index %= len(self)
        found = self.bytes[self.ends[index] : self.ends[index + 1]]
        return found.tobytes().decode("utf-8", "surrogateescape")


class StringLists:
    """Many short lists of strings, kept like `Strings`."""

    def __init__(self, lists: Iterable[Sequence[str]]) -> None:
        lists = list(lists)
        self.ends = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        self.strings = Strings(text for one in lists for text in one)

    @classmethod
    def of_arrays(cls, ends: np.ndarray, strings: Strings) -> "StringLists":
        """What `ends` and `strings` were."""
        made = cls(())
        made.ends, made.strings = ends, strings
        return made

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> tuple[str, ...]:
        return tuple(self.strings[int(self.ends[index]) : int(self.ends[index + 1])])


def digest_of(parts: Iterable[str | bytes]) -> str:
    """SHA-256 over parts, each with its length, so that no two lists of parts look alike."""
    digest = hashlib.sha256()
    for part in parts:
        coded = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(b"%d:" % len(coded))
        digest.update(coded)
    return digest.hexdigest()
