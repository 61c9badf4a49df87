"""Parquet files whose pictures are bytes: those that `lascaux data pack` writes, and others.

Parquet reads whole row groups, so that a record costs the reading of its group. Ours hold about a
quarter of a megabyte; others' may be hundreds of megabytes, and such files are better packed before
training. The last groups read are kept, which makes reading in order cheap whatever their size.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lascaux.data.manifest import read_manifest, whole_shards
from lascaux.data.records import Source
from lascaux.data.tables import (
    CLASS_COLUMNS,
    KEY_COLUMNS,
    Columns,
    caption_texts,
    choose_columns,
)
from lascaux.errors import BadInput, BadPicture, MissingExtra

FORMAT = "lascaux-pack-1"
ABOUT = b"lascaux"  # the name of our entry in a file's metadata

_FILES_OPEN = 128  # opening reads the footer, which costs more than a record
_GROUPS_KEPT = 4


@dataclass
class _Handles:
    """What one process has open; another that was forked from it starts with nothing."""

    process: int = field(default_factory=os.getpid)
    files: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    groups: OrderedDict[tuple[int, int, bool], Any] = field(default_factory=OrderedDict)


class ParquetShards(Source):
    """Records in Parquet files."""

    kind = "parquet"

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        *,
        picture_column: str | None = None,
        caption_column: str | None = None,
        kind: str = "parquet",
    ) -> None:
        """Read the footers.

        Raises:
            BadInput: a file that is missing, truncated, no Parquet or without pictures; files of
                unlike columns; or no rows at all.
            MissingExtra: pyarrow is not installed.
        """
        self.kind, self.path, self.files = kind, path, tuple(files)
        self._handles = _Handles()
        first = opened(files[0])
        self._names = first.schema_arrow.names
        self._columns = choose_columns(files[0], self._names, picture_column, caption_column)
        self._nested = _nested(first, self._columns, files[0])
        self._key = next((name for name in KEY_COLUMNS if name in self._names), None)
        rows: list[tuple[int, int, int]] = []
        footers: list[str] = []
        for number, file in enumerate(files):
            parquet = first if number == 0 else opened(file)
            if parquet.schema_arrow.names != self._names:
                raise BadInput(
                    f"{file} has the columns {', '.join(parquet.schema_arrow.names)}, and "
                    f"{files[0]} {', '.join(self._names)}; expected the same in all"
                )
            about = parquet.metadata
            rows += [
                (number, group, about.row_group(group).num_rows)
                for group in range(about.num_row_groups)
            ]
            footers += [file.name, str(file.stat().st_size), _sizes(about)]
        self._groups = np.array(rows, np.int64).reshape(-1, 3)
        self._ends = np.cumsum([0, *self._groups[:, 2]], dtype=np.int64)
        if not len(self):
            raise BadInput(f"{path} has no rows; expected one for each picture")
        self._footers = footers
        self.classes = _classes(first)
        if largest := self._too_large(first):
            self.notes = (
                f"row groups of {largest} MB are read whole for each record; "
                "`lascaux data pack` makes files that are read at random",
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": _Handles(process=0)}

    def key(self, index: int) -> str:
        """From its column; else the picture's name, or the file's with the record's number."""
        group, row = self._place(index)
        told = self._light(group)[self._key][row].as_py() if self._key else None
        if told is not None:
            return str(told)
        if self._nested:
            name = self._light(group)[f"{self._columns.picture}.path"][row].as_py()
            if name:
                return str(name)
        return f"{self.files[int(self._groups[group, 0])].name}/{index}"

    def picture(self, index: int) -> bytes:
        """Read with its row group."""
        group, row = self._place(index)
        found = self._heavy(group)[row].as_py()
        if not found:
            raise BadPicture("its row has no bytes of a picture")
        return found

    def captions(self, index: int) -> tuple[str, ...]:
        """Read without the pictures."""
        if self._columns.captions is None:
            return ()
        group, row = self._place(index)
        name = self._columns.captions
        value = self._light(group)[name][row].as_py()
        return caption_texts(value, f"{self.path}, record {index}, column {name!r}")

    def label(self, index: int) -> int | None:
        """Read without the pictures; only numbers are classes here."""
        if not self.classes or self._columns.label is None:
            return None
        group, row = self._place(index)
        value = self._light(group)[self._columns.label][row].as_py()
        if value is None or 0 <= value < len(self.classes):
            return value
        raise BadPicture(f"its class is {value}; the file names {len(self.classes)}")

    def told(self) -> Iterable[str]:
        """The files' names and sizes, and those of their row groups."""
        return self._footers

    def _too_large(self, first: Any) -> int:
        """Megabytes of the first row group, where they are too many for reading at random."""
        size = first.metadata.row_group(0).total_byte_size if first.metadata.num_row_groups else 0
        return size >> 20 if size > 16 << 20 else 0

    def _place(self, index: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._ends, index, side="right")) - 1
        return group, index - int(self._ends[group])

    def _light(self, group: int) -> Any:
        return self._read(group, heavy=False)

    def _heavy(self, group: int) -> Any:
        return self._read(group, heavy=True)

    def _read(self, group: int, *, heavy: bool) -> Any:
        if self._handles.process != os.getpid():
            self._handles = _Handles()
        number, within, _ = map(int, self._groups[group])
        kept = self._handles.groups
        if (number, within, heavy) in kept:
            kept.move_to_end((number, within, heavy))
            return kept[number, within, heavy]
        try:
            file = self._file(number)
            read = self._read_pictures if heavy else self._read_rest
            found = read(file, within)
        except (OSError, ValueError) as error:
            raise BadPicture(
                f"cannot read row group {within} of {self.files[number]}: {error}"
            ) from error
        kept[number, within, heavy] = found
        if len(kept) > 2 * _GROUPS_KEPT:
            kept.popitem(last=False)
        return found

    def _read_pictures(self, file: Any, group: int) -> Any:
        name = self._columns.picture
        table = file.read_row_group(
            group, columns=[f"{name}.bytes" if self._nested else name], use_threads=False
        )
        column = table[name].combine_chunks()
        return column.field("bytes") if self._nested else column

    def _read_rest(self, file: Any, group: int) -> dict[str, Any]:
        wanted = {self._key, self._columns.captions, self._columns.label} - {None}
        name = f"{self._columns.picture}.path" if self._nested else ""
        table = file.read_row_group(
            group, columns=[*wanted, *([name] if name else [])], use_threads=False
        )
        found = {one: table[one] for one in wanted if one is not None}
        if name:
            found[name] = table[self._columns.picture].combine_chunks().field("path")
        return found

    def _file(self, number: int) -> Any:
        files = self._handles.files
        if number not in files:
            files[number] = opened(self.files[number])
            if len(files) > _FILES_OPEN:
                files.popitem(last=False)[1].close()
        files.move_to_end(number)
        return files[number]


def packed_shards(folder: Path) -> ParquetShards:
    """A folder that `lascaux data pack` wrote.

    Raises:
        BadInput: the packing was not finished, a shard is missing or of another size, or the
            manifest is none.
    """
    shards = whole_shards(folder, read_manifest(folder, FORMAT), "lascaux data pack")
    return ParquetShards(folder, [folder / shard["file"] for shard in shards], kind="pack")


def has_bytes(file: Path, picture_column: str | None = None) -> bool:
    """Whether a Parquet file holds its pictures themselves, and not their paths.

    Raises:
        BadInput: the file is truncated or no Parquet, or has no column of pictures.
    """
    parquet = opened(file)
    columns = choose_columns(file, parquet.schema_arrow.names, picture_column, None)
    kind = parquet.schema_arrow.field(columns.picture).type
    return not _is_text(kind)


def opened(file: Path) -> Any:
    """A Parquet file, opened.

    Raises:
        BadInput: it is missing, truncated or no Parquet.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(f"{file}: Parquet needs pyarrow: pip install 'lascaux[data]'") from error
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        if file.is_file():
            raise BadInput(
                f"{file} is truncated, damaged or no Parquet ({error}); copy or download it again"
            ) from error
        raise BadInput(f"there is no file {file}") from error


def _nested(file: Any, columns: Columns, path: Path) -> bool:
    """Whether pictures are structs of bytes and path, as the datasets library writes them."""
    import pyarrow.types as types

    kind = file.schema_arrow.field(columns.picture).type
    if types.is_binary(kind) or types.is_large_binary(kind):
        return False
    if types.is_struct(kind) and {"bytes", "path"} <= {f.name for f in kind}:
        return True
    raise BadInput(
        f"{path}: its column {columns.picture!r} holds {kind}; expected bytes of pictures, structs "
        "of bytes and path, or paths"
    )


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_string(kind) or types.is_large_string(kind)


def _classes(file: Any) -> tuple[str, ...]:
    """The names of the classes as our files, or those of the datasets library, tell them."""
    about = file.schema_arrow.metadata or {}
    try:
        if ABOUT in about:
            return tuple(json.loads(about[ABOUT])["classes"])
        features = json.loads(about.get(b"huggingface", b"{}"))["info"]["features"]
        named = (features[name]["names"] for name in CLASS_COLUMNS if name in features)
        return tuple(map(str, next(named, ())))
    except (ValueError, KeyError, TypeError):
        return ()


def _sizes(about: Any) -> str:
    groups = (about.row_group(group) for group in range(about.num_row_groups))
    return " ".join(f"{group.num_rows}/{group.total_byte_size}" for group in groups)
