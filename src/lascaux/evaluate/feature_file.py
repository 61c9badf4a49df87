"""Embeddings of pictures kept in a file while they are made, so that a stopped run goes on.

The file is a safetensors file that grows: its head is written whole at the beginning, rows follow
as they are known. Once all rows are there, any reader of safetensors takes it.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lascaux.errors import BadInput, BadPicture, Unsupported
from lascaux.models.clip import Clip
from lascaux.tasks.aside import written_aside
from lascaux.tasks.features import Reading, stream_features

_FORMAT = "lascaux-features-1"
_MOST_HEAD = 1 << 20  # bytes

Kept = tuple[Float[Tensor, "b e"], dict[int, str]]


def picture_features(
    model: Clip,
    pictures: Sequence[Any],
    reading: Reading,
    *,
    batch_size: int = 32,
    keep: Path | None = None,
    about: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Kept:
    """Unit embeddings of pictures, and why some could not be read (their rows are zeros).

    Args:
        model: whose image tower is used.
        pictures: see `stream_features`.
        reading: how files are read.
        batch_size: pictures encoded at once. A run goes on with the batch it was stopped in, so
            that its numbers are those of a run that was never stopped.
        keep: the file; where it is there already, its rows are not made again. Pictures that
            could not be read are tried again.
        about: of what the embeddings are; a file that says otherwise is refused.
        progress: called with how many are done, and of how many.

    Raises:
        BadInput: the file is of something else, or cannot be written.
        Unsupported: an embedding is not finite.
    """
    rows = torch.zeros(len(pictures), model.config.embed_width)
    failures: dict[int, str] = {}
    tell = progress or (lambda done, total: None)
    with _Rows(keep, rows, dict(about or {})) as (done, put):
        done -= done % batch_size if done < len(pictures) else 0
        # Zeros could not be read, and a machine that lost its power may leave anything.
        whole = (rows[:done].norm(dim=1) - 1).abs() < 1e-3
        again = torch.nonzero(~whole)[:, 0].tolist()
        _encode(model, pictures, again, reading, batch_size, rows, failures, put, tell)
        rest = range(done, len(pictures))
        _encode(model, pictures, rest, reading, batch_size, rows, failures, put, tell)
    return rows, failures


def _encode(
    model: Clip,
    pictures: Sequence[Any],
    places: Sequence[int],
    reading: Reading,
    batch_size: int,
    rows: Float[Tensor, "b e"],
    failures: dict[int, str],
    put: Callable[[int, int], None],
    tell: Callable[[int, int], None],
) -> None:
    if not places:
        return
    found = stream_features(
        model, (pictures[place] for place in places), reading, batch_size=batch_size
    )
    written = 0
    for count, (place, (_, row)) in enumerate(zip(places, found, strict=True), 1):
        if isinstance(row, BadPicture):
            failures[place] = str(row)
            rows[place] = 0
        elif not row.isfinite().all():
            raise Unsupported(
                f"the embedding of picture {place} is not finite in {model.dtype}; use float32"
            )
        else:
            rows[place] = row
        if count % batch_size == 0 or count == len(places):
            for first, last in _runs(places[written:count]):
                put(first, last)
            written = count
        tell(place + 1, len(pictures))


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring places as (first, one past the last)."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = found[-1][0], place + 1
        else:
            found.append((place, place + 1))
    return found


class _Rows:
    """The rows of a file that are there, put into `rows`, and a way to write further ones."""

    def __init__(self, path: Path | None, rows: Float[Tensor, "b e"], about: dict[str, str]):
        self.path, self.rows, self.about = path, rows, {"format": _FORMAT, **about}
        self.file: BinaryIO | None = None

    def __enter__(self) -> tuple[int, Callable[[int, int], None]]:
        if self.path is None:
            return 0, lambda first, last: None
        head = self._head()
        if not self.path.exists():
            with written_aside(self.path) as part:
                part.write_bytes(head)
        self._check(self.path)
        try:
            self.file = open(self.path, "r+b")
            size = os.fstat(self.file.fileno()).st_size - len(head)
            width = self.rows.shape[1]
            done = min(size // (4 * width), len(self.rows))
            there = np.fromfile(self.path, "<f4", done * width, offset=len(head))
            there = there.reshape(-1, width)
        except OSError as error:
            raise BadInput(f"cannot use {self.path}: {error.strerror or error}") from error
        self.rows[: len(there)] = torch.from_numpy(there.astype(np.float32))
        return len(there), self._put

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            with self.file:
                os.fsync(self.file.fileno())

    def _put(self, first: int, last: int) -> None:
        assert self.file is not None
        self.file.seek(len(self._head()) + 4 * self.rows.shape[1] * first)
        data = self.rows[first:last].numpy().astype("<f4").tobytes()
        try:
            self.file.write(data)
            self.file.flush()
        except OSError as error:
            raise BadInput(f"cannot write {self.path}: {error.strerror or error}") from error

    def _head(self) -> bytes:
        count, width = self.rows.shape
        tensor = {"dtype": "F32", "shape": [count, width], "data_offsets": [0, 4 * count * width]}
        text = json.dumps({"__metadata__": self.about, "features": tensor}, sort_keys=True)
        padded = text.encode() + b" " * (-len(text.encode()) % 8)
        return len(padded).to_bytes(8, "little") + padded

    def _check(self, path: Path) -> None:
        """Refuses a file of something else, which must not be written to."""
        told = _told(path)
        advice = f"name another file, or remove {path} to begin anew"
        if told is None:
            raise BadInput(f"{path} is there and holds no features of pictures; {advice}")
        if told == json.loads(self._head()[8:]):
            return
        theirs = told.get("__metadata__") or {}
        wrong = [name for name, value in self.about.items() if theirs.get(name) != value]
        of = ", ".join(wrong) or "number of pictures"
        raise BadInput(f"{path} holds features of another run (other {of}); {advice}")


def _told(path: Path) -> dict[str, Any] | None:
    """The head of a file of features; None of any other file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            told = json.loads(file.read(length)) if length <= _MOST_HEAD else None
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("__metadata__"), dict):
        return None
    return told if told["__metadata__"].get("format") == _FORMAT else None
