"""Looking through a set of pictures for what would spoil a training."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64
from PIL import Image

from lascaux.data.ahead import made_ahead
from lascaux.data.records import Source
from lascaux.errors import BadInput, BadPicture
from lascaux.images.decode import read_picture
from lascaux.images.formats import SUFFIXES, SUPPORTED, kind_of
from lascaux.tasks.options import CheckOptions

Progress = Callable[[str, int, int], None]

_CHUNK = 16  # records that a process looks at in one go
_FLAT = 8  # grey levels; a picture of fewer has no difference hash worth comparing
_SUFFIXES_OF = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "TIFF": {".tif", ".tiff"},
    "BMP": {".bmp", ".dib"},
}


@dataclass(frozen=True)
class Remark:
    """Something about one record."""

    key: str
    reason: str


@dataclass(frozen=True)
class Checked:
    """What was found; every list is in the order of the records."""

    source: str
    kind: str
    records: int
    broken: tuple[Remark, ...]  # cannot be decoded
    absent: tuple[str, ...]  # named by a table, and not there
    duplicates: tuple[tuple[str, ...], ...]  # groups of the same bytes
    near_duplicates: tuple[tuple[str, ...], ...]  # groups of pictures that look alike
    tiny: tuple[Remark, ...]
    extreme: tuple[Remark, ...]
    wrong_suffix: tuple[Remark, ...]
    without_captions: tuple[str, ...]  # where others have some
    texts_without_picture: tuple[str, ...]  # of captions beside pictures

    @property
    def fine(self) -> bool:
        """Whether every record can be read."""
        return not self.broken and not self.absent


class _Seen(NamedTuple):
    key: str
    broken: str | None
    absent: bool
    digest: bytes  # of the file's bytes
    alike: int | None  # the difference hash
    size: tuple[int, int] | None
    wrong_suffix: str | None
    captioned: bool


def check(source: Source, options: CheckOptions, progress: Progress | None = None) -> Checked:
    """Read every picture of a source.

    Near-duplicates are pictures whose difference hashes (signs of the horizontal differences of 9 x
    8 grey values; Krawetz 2013, hackerfactor.com) differ in at most `options.near` of 64 bits, and
    whatever is linked by such pairs. Pictures of one plain tone are left out of that.
    """
    seen: list[_Seen] = []
    chunks = range(0, len(source), _CHUNK)
    for found in made_ahead(_Looker(source), chunks, options.workers, ahead=8):
        seen += found
        if progress is not None:
            progress("pictures", len(seen), len(source))
    keys = [one.key for one in seen]
    duplicates = _same_bytes(seen)
    first = {group[0] for group in duplicates}
    repeats = {place for group in duplicates for place in group} - first
    candidates = [n for n, one in enumerate(seen) if one.alike is not None and n not in repeats]
    hashes = np.array([seen[n].alike for n in candidates], np.uint64)
    near = [[candidates[place] for place in group] for group in alike(hashes, options.near)]
    captioned = any(one.captioned for one in seen)
    sized = [(one.key, *one.size) for one in seen if one.size is not None]
    return Checked(
        source=str(source.path),
        kind=source.kind,
        records=len(seen),
        broken=tuple(Remark(one.key, one.broken) for one in seen if one.broken and not one.absent),
        absent=tuple(one.key for one in seen if one.absent),
        duplicates=tuple(tuple(keys[n] for n in group) for group in duplicates),
        near_duplicates=tuple(tuple(keys[n] for n in group) for group in near),
        tiny=tuple(
            Remark(key, f"{width} x {height}")
            for key, width, height in sized
            if min(width, height) < options.smallest
        ),
        extreme=tuple(
            Remark(key, f"{width} x {height}")
            for key, width, height in sized
            if max(width, height) > options.extreme * min(width, height)
        ),
        wrong_suffix=tuple(Remark(one.key, one.wrong_suffix) for one in seen if one.wrong_suffix),
        without_captions=tuple(one.key for one in seen if captioned and not one.captioned),
        texts_without_picture=tuple(_lone_texts(source)) if source.kind == "captioned" else (),
    )


def difference_hash(image: Image.Image) -> int | None:
    """64 bits that stay alike when a picture is resized or compressed; None of a plain one."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    if np.ptp(small) < _FLAT:
        return None
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def alike(hashes: UInt64[np.ndarray, " n"], most: int) -> list[list[int]]:
    """Groups of places whose hashes are linked by pairs that differ in at most so many bits."""
    parents = list(range(len(hashes)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    # Two hashes that differ in `most` bits agree in one of `most` + 1 stretches.
    edges = np.linspace(0, 64, most + 2).astype(int)
    for low, high in pairwise(edges):
        stretch = hashes >> np.uint64(low) << np.uint64(64 - (high - low))
        order = np.argsort(stretch, kind="stable")
        borders = np.flatnonzero(np.diff(stretch[order])) + 1
        for run in np.split(order, borders):
            for number, place in enumerate(run[:-1]):
                rest = run[number + 1 :]
                for other in rest[_bits(hashes[rest] ^ hashes[place]) <= most]:
                    one, two = sorted((root(int(place)), root(int(other))))
                    parents[two] = one
    groups: dict[int, list[int]] = {}
    for place in range(len(hashes)):
        groups.setdefault(root(place), []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _bits(values: UInt64[np.ndarray, " n"]) -> np.ndarray:
    """How many bits are set in each."""
    return np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).sum(1)


class _Looker:
    """Looks at the records from one on."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, start: int) -> list[_Seen]:
        return [self._look(n) for n in range(start, min(start + _CHUNK, len(self.source)))]

    def _look(self, index: int) -> _Seen:
        source = self.source
        key, captioned = f"record {index}", False
        try:
            key = source.key(index)
            captioned = bool(source.captions(index))
            picture = source.picture(index)
        except BadInput as error:
            return _Seen(key, str(error), False, b"", None, None, None, captioned)
        if isinstance(picture, Path) and not picture.is_file():
            return _Seen(key, "no file", True, b"", None, None, None, captioned)
        try:
            data = picture.read_bytes() if isinstance(picture, Path) else picture
        except OSError as error:
            reason = error.strerror or str(error)
            return _Seen(key, reason, False, b"", None, None, None, captioned)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        wrong = _wrong_suffix(key, data)
        try:
            image = read_picture(data)
        except BadPicture as error:
            return _Seen(key, str(error), False, digest, None, None, wrong, captioned)
        alike = difference_hash(image)
        return _Seen(key, None, False, digest, alike, image.size, wrong, captioned)


def _wrong_suffix(key: str, data: bytes) -> str | None:
    suffix, kind = os.path.splitext(key)[1].lower(), kind_of(data)
    if suffix not in SUFFIXES or kind not in SUPPORTED:
        return None
    if suffix in _SUFFIXES_OF.get(kind, {f".{kind.lower()}"}):
        return None
    return f"it is {kind}"


def _same_bytes(seen: Iterable[_Seen]) -> list[list[int]]:
    groups: dict[bytes, list[int]] = {}
    for place, one in enumerate(seen):
        if one.broken is None:
            groups.setdefault(one.digest, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _lone_texts(source: Source) -> list[str]:
    stems = {os.path.splitext(source.key(index))[0] for index in range(len(source))}
    found = (path.relative_to(source.path).as_posix() for path in source.path.rglob("*.txt"))
    return sorted(name for name in found if name.removesuffix(".txt") not in stems)
