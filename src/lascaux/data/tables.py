"""Tables of pictures with captions: CSV, TSV, JSONL, JSON, Parquet, and COCO's captions.

A table has one column with the paths of pictures, relative to the table's own folder or to a folder
that is given, and may have one with captions and one with classes. Rows that name the same picture
are one record with several captions. Nothing is fetched from a network.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lascaux.data.folders import NO_LABEL, PictureFiles
from lascaux.errors import BadInput

# Guessed in this order, in any case; the first that a table has is taken.
PICTURE_COLUMNS = (
    *("image", "picture", "file_name", "filename", "filepath", "file_path", "image_path"),
    *("image_file", "image_name", "path", "file", "img", "img_path", "photo", "jpg", "png"),
    *("url", "image_url"),
)
CAPTION_COLUMNS = (
    *("captions", "caption", "text", "texts", "title", "description", "sentences", "sentence"),
    *("raw", "comment", "alt_text", "alt", "txt", "prompt"),
)
CLASS_COLUMNS = ("label", "class", "class_name", "category", "class_id")
KEY_COLUMNS = ("key", "__key__", "id", "image_id")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LONGEST_CELL = 1 << 27  # characters


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table hold what; None where it has no such column."""

    picture: str
    captions: str | None
    label: str | None


def choose_columns(
    path: Path, names: Sequence[str], picture: str | None, captions: str | None
) -> Columns:
    """The columns asked for, or else those whose names tell.

    Raises:
        BadInput: a column that the table has not, or none that could be one of pictures.
    """
    there = f"{path} has the columns {', '.join(map(repr, names)) or '(none)'}"
    for asked in (picture, captions):
        if asked is not None and asked not in names:
            raise BadInput(f"there is no column {asked!r}; {there}")
    if picture is None:
        picture = _first_of(PICTURE_COLUMNS, names)
    if picture is None:
        raise BadInput(
            f"{there}; none is known to hold pictures ({', '.join(PICTURE_COLUMNS[:4])}, ...): "
            "say which one does, and is the first line the names of the columns?"
        )
    rest = [name for name in names if name != picture]
    return Columns(
        picture=picture,
        captions=captions if captions is not None else _first_of(CAPTION_COLUMNS, rest),
        label=_first_of(CLASS_COLUMNS, [name for name in rest if name != captions]),
    )


def table_pictures(
    path: Path,
    kind: str,
    *,
    picture_column: str | None = None,
    caption_column: str | None = None,
    pictures: Path | None = None,
) -> PictureFiles:
    """The records of a table whose pictures are files.

    Args:
        path: of the table.
        kind: csv, tsv, jsonl, json or parquet.
        picture_column: its name, if it is not a usual one.
        caption_column: likewise.
        pictures: the folder that paths are relative to, if not the table's own.

    Raises:
        BadInput: the table cannot be read, is empty, or its columns are others.
    """
    names, rows = _READERS[kind](path)
    columns = choose_columns(path, names, picture_column, caption_column)
    return pictures_of_rows(path, kind, rows, columns, pictures or path.parent)


def pictures_of_rows(
    path: Path,
    kind: str,
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    columns: Columns,
    folder: Path,
) -> PictureFiles:
    """The records of numbered rows; those of one picture become one.

    Raises:
        BadInput: no rows, or a cell that does not hold what its column should.
    """
    captions: dict[str, list[str]] = {}
    labels: dict[str, str | int] = {}
    for number, row in rows:
        picture = row.get(columns.picture)
        where = f"{path}, row {number}, column {columns.picture!r}"
        if not isinstance(picture, str) or not picture.strip():
            raise BadInput(f"{where}: {_brief(picture)}; expected the path of a picture")
        if _ADDRESS.match(picture):
            raise BadInput(
                f"{where}: {_brief(picture)} is an address, and nothing is fetched from a network; "
                "download the pictures first (img2dataset does), and name their files"
            )
        picture = picture.strip()
        told = captions.setdefault(picture, [])
        if columns.captions is not None:
            told += caption_texts(
                row.get(columns.captions), f"{path}, row {number}, column {columns.captions!r}"
            )
        label = row.get(columns.label) if columns.label is not None else None
        if isinstance(label, str | int) and label != "":
            labels.setdefault(picture, label)
    if not captions:
        raise BadInput(f"{path} has no rows; expected one for each picture")
    numbers, classes = numbered_classes(labels.get(picture) for picture in captions)
    return PictureFiles(
        kind,
        path,
        folder,
        captions,
        captions=captions.values() if columns.captions is not None else None,
        labels=numbers,
        classes=classes,
    )


def caption_texts(value: Any, where: str) -> tuple[str, ...]:
    """The captions of a cell: a text, a list of texts, or such a list written as JSON.

    Raises:
        BadInput: anything else.
    """
    if value is None:
        return ()
    if isinstance(value, str) and value.lstrip().startswith('["'):
        with suppress(ValueError):  # a caption may begin with a bracket, too
            value = json.loads(value)
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts):
        return tuple(text.strip() for text in texts if text.strip())
    raise BadInput(f"{where}: {_brief(value)}; expected a caption, or a list of captions")


def numbered_classes(
    labels: Iterable[str | int | None],
) -> tuple[list[int] | None, tuple[str, ...]]:
    """Indices for classes told by names or by numbers, and the names in their order.

    Numbers stay as they are; names are sorted.
    """
    labels = list(labels)
    told = {label for label in labels if label is not None}
    if not told:
        return None, ()
    numbers = {_whole(label) for label in told}
    if None not in numbers:
        top = max(number for number in numbers if number is not None)
        classes = tuple(map(str, range(top + 1)))
        places = {label: _whole(label) for label in told}
    else:
        classes = tuple(sorted({str(label) for label in told}))
        places = {label: classes.index(str(label)) for label in told}
    return [NO_LABEL if label is None else places[label] or 0 for label in labels], classes


def coco_pictures(path: Path, pictures: Path | None = None) -> PictureFiles:
    """The pictures of a COCO captions file (Chen et al. 2015, arXiv 1504.00325).

    Args:
        path: such as `annotations/captions_val2017.json`.
        pictures: the folder of the pictures; if not given, it is looked for around the file.

    Raises:
        BadInput: another kind of file, captions of pictures it does not list, or no such folder.
    """
    content = _json(path)
    lists = (content.get("images"), content.get("annotations")) if _is_coco(content) else ()
    if not lists or not all(isinstance(one, list) and one for one in lists):
        raise BadInput(f"{path} is no COCO file; expected lists `images` and `annotations`")
    images, annotations = lists
    if not all(isinstance(image, dict) and {"id", "file_name"} <= image.keys() for image in images):
        raise BadInput(f"{path}: an image without `id` and `file_name`; expected both")
    captions: dict[Any, list[str]] = {image["id"]: [] for image in images}
    for number, one in enumerate(annotations):
        if not isinstance(one, dict) or not isinstance(one.get("caption"), str):
            there = ", ".join(one) if isinstance(one, dict) else _brief(one)
            raise BadInput(
                f"{path}, annotation {number}: no caption but {there}; expected a captions file, "
                "such as captions_train2017.json"
            )
        if one.get("image_id") not in captions:
            raise BadInput(
                f"{path}, annotation {number}: its image_id {one.get('image_id')!r} is no image's"
            )
        captions[one["image_id"]] += [text] if (text := one["caption"].strip()) else []
    files = [str(image["file_name"]) for image in images]
    folder = pictures or _coco_folder(path, files[0])
    return PictureFiles("coco", path, folder, files, captions=captions.values())


def is_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's lists."""
    return _is_coco(_json(path))


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def _coco_folder(path: Path, first: str) -> Path:
    split = path.stem.partition("_")[2]  # train2017 of captions_train2017
    tried = []
    for above in (path.parent, path.parent.parent):
        for below in ("", "images", split, f"images/{split}"):
            folder = above / below
            if folder not in tried and (folder / first).is_file():
                return folder
            tried.append(folder)
    raise BadInput(
        f"the pictures of {path} were not found: no {first} in "
        f"{', '.join(dict.fromkeys(map(str, tried)))}; say which folder has them"
    )


def _csv_rows(path: Path, separator: str) -> tuple[list[str], Any]:
    csv.field_size_limit(_LONGEST_CELL)

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for number, row in enumerate(csv.DictReader(file, delimiter=separator), 2):
                    if None in row or None in row.values():
                        raise BadInput(
                            f"{path}, row {number}: another number of cells than of columns; "
                            "put texts that hold a separator in quotes"
                        )
                    yield number, row
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BadInput(f"cannot read {path}: {error}; expected a table in UTF-8") from error

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=separator), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"cannot read {path}: {error}; expected a table in UTF-8") from error
    return names, rows()


def _json_line_rows(path: Path) -> tuple[list[str], Any]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}; expected JSON lines in UTF-8") from error
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{path}, line {number}: no JSON ({error})") from error
            rows.append((number, row))
    return _names(path, rows), rows


def _json_rows(path: Path) -> tuple[list[str], Any]:
    content = _json(path)
    if not isinstance(content, list):
        raise BadInput(
            f"{path} is neither a list of objects nor COCO captions (`images`, `annotations`)"
        )
    rows = list(enumerate(content))
    return _names(path, rows), rows


def _parquet_rows(path: Path) -> tuple[list[str], Any]:
    from lascaux.data.shards import opened

    file = opened(path)
    names = file.schema_arrow.names

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        number = 0
        for batch in file.iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                yield number, row
                number += 1

    return names, rows()


def _names(path: Path, rows: Sequence[tuple[int, Any]]) -> list[str]:
    """All names that objects have, in the order of their first appearance."""
    for number, row in rows:
        if not isinstance(row, dict):
            raise BadInput(f"{path}, row {number}: {_brief(row)}; expected an object")
    return list(dict.fromkeys(name for _, row in rows for name in row))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}; expected JSON") from error


_READERS = {
    "csv": lambda path: _csv_rows(path, ","),
    "tsv": lambda path: _csv_rows(path, "\t"),
    "jsonl": _json_line_rows,
    "json": _json_rows,
    "parquet": _parquet_rows,
}


def _first_of(known: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), None)


def _whole(label: str | int) -> int | None:
    if isinstance(label, int):
        return label if label >= 0 else None
    return int(label) if re.fullmatch(r"\d{1,6}", label) else None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
