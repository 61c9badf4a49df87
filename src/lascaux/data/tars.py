"""WebDataset tars, read at random.

Files of one name up to its first dot belong to one record: `000017.jpg`, `000017.txt`,
`000017.json`, `000017.cls` (the webdataset library's convention). Where each of them lies is found
once for every shard; what was found can be kept in a folder, and serves until the shard changes.
"""

import hashlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from lascaux.data.labelled import shown
from lascaux.data.records import Source, Strings
from lascaux.data.tables import CAPTION_COLUMNS, caption_texts
from lascaux.errors import BadInput, BadPicture
from lascaux.images.formats import SUFFIXES

_TEXTS = (".txt", ".caption", ".text")
_PARTS = ("picture", "text", "json")  # an index has two columns for each: offset and size
_CLASS = 6  # the column of the class's number
_NONE = -1
_VERSION = 1  # of kept indices
_LARGEST_TEXT = 1 << 24  # bytes


class TarShards(Source):
    """Records in uncompressed tars."""

    kind = "webdataset"

    def __init__(self, path: Path, shards: Sequence[Path], index_folder: Path | None) -> None:
        """Find where everything lies.

        Args:
            path: where the source was opened.
            shards: the tars, in order.
            index_folder: where what was found is kept; None keeps nothing.

        Raises:
            BadInput: a tar that is missing, compressed, truncated or none; or no pictures at all.
        """
        self.path, self.shards = path, tuple(shards)
        found = [_index(shard, index_folder) for shard in shards]
        self._ends = np.cumsum([0, *(len(names) for names, _ in found)], dtype=np.int64)
        self._names = [names for names, _ in found]
        self._places = [places for _, places in found]
        if not len(self):
            raise BadInput(
                f"{path} has no pictures in {len(shards)} tars; expected files such as 000017.jpg "
                f"with 000017.txt; {shards[0].name} holds {_content(shards[0])}"
            )
        top = max(int(places[:, _CLASS].max(initial=_NONE)) for places in self._places)
        self.classes = tuple(map(str, range(top + 1)))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def key(self, index: int) -> str:
        """The shard's name and the picture's within it."""
        shard, row = self._place(index)
        return f"{self.shards[shard].name}/{self._names[shard][row]}"

    def picture(self, index: int) -> bytes:
        """Read from the tar."""
        found = self._read(index, "picture")
        assert found is not None  # no record is without
        return found

    def captions(self, index: int) -> tuple[str, ...]:
        """The lines of the text file; if there is none, what the JSON file calls a caption."""
        text = self._read(index, "text")
        if text is not None:
            lines = text.decode("utf-8", "replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
        about = self._read(index, "json")
        if about is None:
            return ()
        try:
            content = json.loads(about)
        except ValueError as error:
            raise BadPicture(f"its JSON file cannot be read: {error}") from error
        lower = {str(k).lower(): v for k, v in content.items()} if isinstance(content, dict) else {}
        name = next((name for name in CAPTION_COLUMNS if name in lower), None)
        return () if name is None else caption_texts(lower[name], f"{self.key(index)}, {name!r}")

    def label(self, index: int) -> int | None:
        """The number in the class file, read when the tar was indexed."""
        shard, row = self._place(index)
        number = int(self._places[shard][row, _CLASS])
        return None if number == _NONE else number

    def told(self) -> Iterator[str | bytes]:
        """The shards' names, and the names and places of what is in them."""
        for shard, names, places in zip(self.shards, self._names, self._places, strict=True):
            yield shard.name
            yield names.bytes.tobytes()
            yield places.astype("<i8").tobytes()

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, index, side="right")) - 1
        return shard, index - int(self._ends[shard])

    def _read(self, index: int, part: str) -> bytes | None:
        shard, row = self._place(index)
        column = 2 * _PARTS.index(part)
        offset, size = map(int, self._places[shard][row, column : column + 2])
        if offset == _NONE:
            return None
        if part != "picture" and size > _LARGEST_TEXT:
            raise BadPicture(f"its {part} file has {size:,} bytes; that is none")
        try:
            with self.shards[shard].open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise BadPicture(f"cannot read {self.shards[shard]}: {error}") from error
        if len(data) != size:
            raise BadPicture(f"{self.shards[shard]} has become shorter since it was opened")
        return data


def shards_of(pattern: str) -> list[Path]:
    """The files of a pattern: `{000..012}`, `*`, both, or a plain path.

    Raises:
        BadInput: a numbered file that is missing, or nothing matches.
    """
    found: list[Path] = []
    missing: list[str] = []
    for one in _numbered(pattern):
        path = Path(one).expanduser()
        if re.search(r"[*?\[]", one) and not path.exists():
            found += sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        elif path.is_file():
            found.append(path)
        else:
            missing.append(one)
    if missing:
        raise BadInput(f"{len(missing)} files of {pattern} are missing: {shown(missing)}")
    if not found:
        raise BadInput(f"nothing matches {pattern}")
    return found


def _numbered(pattern: str) -> Iterator[str]:
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        middle = f"{number:0{len(first)}d}"
        yield from _numbered(f"{pattern[: found.start()]}{middle}{pattern[found.end() :]}")


def _index(shard: Path, folder: Path | None) -> tuple[Strings, np.ndarray]:
    """Names of the pictures, and for each the offset and size of every part."""
    try:
        state = shard.stat()
    except OSError as error:
        raise BadInput(f"cannot read {shard}: {error.strerror}") from error
    stamp = np.array([_VERSION, state.st_size, state.st_mtime_ns], np.int64)
    kept = None
    if folder is not None:
        name = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:32]
        kept = folder / f"tar-{name}.npz"
        with (
            suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
            np.load(kept, allow_pickle=False) as arrays,
        ):
            if np.array_equal(arrays["stamp"], stamp):
                names = Strings.of_arrays(arrays["ends"], arrays["names"])
                return names, arrays["places"]
    names, places = _walk(shard, state.st_size)
    if kept is not None:
        _keep(kept, stamp=stamp, ends=names.ends, names=names.bytes, places=places)
    return names, places


def _keep(file: Path, **arrays: np.ndarray) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    with suppress(OSError):  # it only saves time
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as out:
                np.savez(out, **arrays)  # pyright: ignore[reportArgumentType]
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def _walk(shard: Path, size: int) -> tuple[Strings, np.ndarray]:
    names: list[str] = []
    rows: list[list[int]] = []
    stem, row, picture = "", [_NONE] * 7, ""

    def finish() -> None:
        if picture:
            names.append(picture)
            rows.append(row)

    for name, offset, length in _members(shard, size):
        head, _, suffix = name.rpartition("/")[2].partition(".")
        this = f"{name.rpartition('/')[0]}/{head}"
        if this != stem:
            finish()
            stem, row, picture = this, [_NONE] * 7, ""
        part = _part(f".{suffix}".lower())
        if part == "class":
            row[_CLASS] = _number(shard, name, offset, length)
        elif part is not None and row[2 * _PARTS.index(part)] == _NONE:
            at = 2 * _PARTS.index(part)
            row[at : at + 2] = offset, length
            if part == "picture":
                picture = name
    finish()
    return Strings(names), np.array(rows, np.int64).reshape(-1, 7)


def _members(shard: Path, size: int) -> Iterator[tuple[str, int, int]]:
    end = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # it would remember all  # pyright: ignore[reportAttributeAccessIssue]
                end = member.offset_data + member.size
                if member.isreg():
                    if end > size:
                        break
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        if size and _is_compressed(shard):
            raise BadInput(
                f"{shard} is compressed, so nothing in it can be found without reading all before "
                "it; uncompress it first (gunzip)"
            ) from error
        raise BadInput(
            f"{shard} is truncated, or no tar ({error}); copy or download it again"
        ) from error
    if end > size:
        raise BadInput(
            f"{shard} is truncated: it has {size:,} bytes, and a file in it ends at {end:,}; copy "
            "or download it again"
        )


def _is_compressed(shard: Path) -> bool:
    with shard.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _part(suffix: str) -> str | None:
    last = os.path.splitext(suffix)[1] or suffix
    if last in SUFFIXES:
        return "picture"
    return {**dict.fromkeys(_TEXTS, "text"), ".json": "json", ".cls": "class"}.get(suffix)


def _number(shard: Path, name: str, offset: int, size: int) -> int:
    with shard.open("rb") as file:
        file.seek(offset)
        text = file.read(min(size, 40)).decode("ascii", "replace").strip()
    if not re.fullmatch(r"\d{1,6}", text):
        raise BadInput(f"{shard}: {name} holds {text!r}; expected a class's number, from 0")
    return int(text)


def _content(shard: Path) -> str:
    with tarfile.open(shard, "r:") as tar:
        names = [member.name for member, _ in zip(tar, range(4), strict=False)]
    return shown(names) if names else "nothing"
