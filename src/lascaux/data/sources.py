"""Opening a source of records, whatever its layout."""

import glob
import os
import re
from pathlib import Path
from typing import Literal, get_args

from lascaux.data.folders import (
    PictureFiles,
    absent_files,
    captioned_pictures,
    class_pictures,
    folder_pictures,
    has_captions_beside,
)
from lascaux.data.labelled import pictures_below, shown
from lascaux.data.manifest import format_of
from lascaux.data.prepared import PreparedFeatures
from lascaux.data.records import Source
from lascaux.data.shards import ParquetShards, has_bytes, packed_shards
from lascaux.data.tables import coco_pictures, is_coco, table_pictures
from lascaux.data.tars import TarShards, shards_of
from lascaux.errors import BadInput

Kind = Literal[
    "folder",
    "classes",
    "captioned",
    "csv",
    "tsv",
    "jsonl",
    "json",
    "coco",
    "parquet",
    "webdataset",
    "pack",
    "prepared",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Of tables within a folder, by which it is one of records; the first that is there.
_TABLES = tuple(
    f"{name}.{suffix}"
    for name in ("metadata", "captions")
    for suffix in ("jsonl", "csv", "tsv", "parquet", "json")
)
# Of folders that have a manifest: a version that is not read is still one of these.
_FORMAT_KINDS: tuple[tuple[str, Kind], ...] = (
    ("lascaux-pack-", "pack"),
    ("lascaux-prepared-", "prepared"),
)
_SUFFIX_KINDS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".tar": "webdataset",
}
_PATTERN = re.compile(r"\{\d+\.\.\d+\}|[*?]")


def open_source(
    path: str | Path,
    kind: Kind | None = None,
    *,
    pictures: str | Path | None = None,
    picture_column: str | None = None,
    caption_column: str | None = None,
    absent: Literal["refuse", "keep"] = "refuse",
    index_folder: str | Path | None = None,
) -> Source:
    """Records at a path.

    Args:
        path: a folder, a file, or a pattern of shards such as `train-{000..012}.tar` or `*.tar`.
        kind: its layout; None recognises it (`recognised`).
        pictures: the folder that a table's or COCO's pictures are in, if it is not found.
        picture_column: the name of a table's column of pictures, if it is not a usual one.
        caption_column: likewise of captions.
        absent: what to do when a table names files that are not there: refuse the table, or keep
            their records, which are then broken when they are read.
        index_folder: where indices of tars are kept; None keeps none.

    Raises:
        BadInput: nothing that can be read as records; the message says what is there.
        MissingExtra: Parquet without pyarrow.
    """
    path = Path(path).expanduser()
    if kind is not None and kind not in KINDS:
        raise BadInput(f"kind={kind!r}; expected one of {', '.join(KINDS)}")
    if kind is None:
        kind = recognised(path)
    table = _table_in(path)
    if kind in ("csv", "tsv", "jsonl", "json", "coco", "parquet") and table is not None:
        path = table
    folder = None if pictures is None else Path(pictures).expanduser()
    if folder is not None and not folder.is_dir():
        raise BadInput(f"there is no folder of pictures {folder}")
    source: Source
    if kind == "pack":
        source = packed_shards(path)
    elif kind == "prepared":
        source = PreparedFeatures(path)
    elif kind == "webdataset":
        place = None if index_folder is None else Path(index_folder)
        source = TarShards(path, _files(path, ".tar"), place)
    elif kind == "parquet" and has_bytes((files := _files(path, ".parquet"))[0], picture_column):
        source = ParquetShards(
            path, files, picture_column=picture_column, caption_column=caption_column
        )
    elif kind == "folder":
        source = folder_pictures(path)
    elif kind == "classes":
        source = class_pictures(path)
    elif kind == "captioned":
        source = captioned_pictures(path)
    else:
        _require_file(path, kind)
        if kind == "coco":
            source = coco_pictures(path, folder)
        else:
            source = table_pictures(
                path,
                kind,
                picture_column=picture_column,
                caption_column=caption_column,
                pictures=folder,
            )
        if absent == "refuse":
            _refuse_absent(source)
    return source


def recognised(path: Path) -> Kind:
    """The kind of source that lies at a path.

    A folder is, in this order: one that `lascaux data pack` or `prepare` wrote; one with a table
    called `metadata` or `captions`; tars; Parquet files; pictures with text files beside them; two
    subfolders or more that all hold pictures, where none lies above them (classes); and else a
    folder of pictures. One whose subfolders are no classes must be named as "folder".

    Raises:
        BadInput: there is nothing, or nothing known.
    """
    if path.is_dir():
        return _folder_kind(path)
    kind = _SUFFIX_KINDS.get(path.suffix.lower())
    if path.is_file():
        if kind == "json" and is_coco(path):
            return "coco"
        if kind is not None:
            return kind
        expected = ", ".join(_SUFFIX_KINDS)
        raise BadInput(f"{path} is no source of records; expected a folder, or one of {expected}")
    if _PATTERN.search(str(path)) and kind in ("webdataset", "parquet"):
        return kind
    raise BadInput(f"there is no file or folder {path}")


def _folder_kind(path: Path) -> Kind:
    told = format_of(path) or ""
    for beginning, kind in _FORMAT_KINDS:
        if told.startswith(beginning):
            return kind
    names = os.listdir(path)
    table = _table_in(path)
    if table is not None:
        return recognised(table)
    for suffix in (".tar", ".parquet"):
        if any(name.endswith(suffix) for name in names):
            return _SUFFIX_KINDS[suffix]
    coco = sorted(path.glob("annotations/captions_*.json"))
    if coco:
        raise BadInput(f"{path} holds COCO; name one split: {shown([str(file) for file in coco])}")
    if has_captions_beside(path):
        return "captioned"
    folders = [name for name in names if not name.startswith(".") and (path / name).is_dir()]
    if len(folders) < 2 or pictures_below(path, deep=False):
        return "folder"
    if all(pictures_below(path / name) for name in folders):
        return "classes"
    return "folder"


def _table_in(path: Path) -> Path | None:
    """The table that a folder's records are written in."""
    if not path.is_dir():
        return None
    return next((path / name for name in _TABLES if (path / name).is_file()), None)


def _files(path: Path, suffix: str) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.glob(f"*{glob.escape(suffix)}") if p.is_file())
        if not found:
            raise BadInput(f"{path} holds no files that end in {suffix}")
        return found
    return shards_of(str(path))


def _require_file(path: Path, kind: str) -> None:
    if not path.is_file():
        what = f"a folder without {_TABLES[0]}" if path.is_dir() else "nothing"
        raise BadInput(f"there is {what} at {path}; expected a file of kind {kind}")


def _refuse_absent(source: PictureFiles) -> None:
    absent = absent_files(source)
    if not absent:
        return
    raise BadInput(
        f"{source.path} names {len(absent)} pictures (of {len(source)}) that are not in "
        f"{source.folder}: {shown(absent)}; complete the folder, or say where the pictures are"
    )
