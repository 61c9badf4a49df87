"""Writing records into Parquet files that are read at random, and quickly copied.

A packing that was killed goes on with the files that are missing: see `resumable`.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lascaux.data.ahead import made_ahead
from lascaux.data.manifest import sha256_of
from lascaux.data.records import Record, Source
from lascaux.data.shards import ABOUT, FORMAT
from lascaux.errors import BadInput, MissingExtra
from lascaux.tasks.aside import written_aside
from lascaux.tasks.options import PackOptions
from lascaux.tasks.results import Failed
from lascaux.tasks.resumable import Progress, shard_folder

_GROUP_BYTES = 1 << 18  # of pictures; what reading one record costs at most, or one picture
_GROUP_RECORDS = 64


@dataclass(frozen=True)
class Packed:
    """A folder of Parquet files that was written."""

    out: str
    records: int
    shards: int
    bytes: int
    written: int  # shards of this call; the others were there
    skipped: tuple[Failed, ...]  # records that are broken, and not in it


def pack(
    source: Source, out: str | Path, options: PackOptions, progress: Progress | None = None
) -> Packed:
    """Write the records of a source into a folder, or go on with it.

    The folder then is itself a source. Records that cannot be read are left out and listed.

    Raises:
        BadInput: the folder holds something else, or a packing of other records or settings; or
            no record can be read.
        MissingExtra: pyarrow is not installed.
    """
    _pyarrow()
    out = Path(out)
    about = {
        "format": FORMAT,
        "source": str(source.path),
        "kind": source.kind,
        "fingerprint": source.fingerprint,
        "settings": {k: v for k, v in asdict(options).items() if k != "workers"},
        "classes": list(source.classes),
    }
    count = -(-len(source) // options.shard_size)
    with shard_folder(
        out, about, count, same=("fingerprint", "settings"), doing="packing into"
    ) as folder:
        writer = _Writer(source, out, options)
        for shard in made_ahead(writer, folder.missing, options.workers, ahead=1):
            folder.add(shard)
            if progress is not None:
                progress("files", len(folder), count)
        return Packed(out=str(out), **vars(folder.finish()))


class _Writer:
    """Writes the file of a number."""

    def __init__(self, source: Source, out: Path, options: PackOptions) -> None:
        self.source, self.out, self.options = source, out, options

    def __call__(self, number: int) -> dict[str, Any]:
        skipped: list[dict[str, str]] = []
        rows = self._rows(number, skipped)
        first = next(rows, None)
        entry = {"number": number, "file": "", "records": 0, "bytes": 0, "skipped": skipped}
        if first is None:
            return entry
        file = self.out / f"part-{number:05d}.parquet"
        with written_aside(file) as part:
            records = self._write(part, first, rows)
            size, digest = part.stat().st_size, sha256_of(part)
        return {**entry, "file": file.name, "records": records, "bytes": size, "sha256": digest}

    def _rows(self, number: int, skipped: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
        start = number * self.options.shard_size
        for index in range(start, min(start + self.options.shard_size, len(self.source))):
            key = f"record {index}"
            try:
                key = self.source.key(index)
                record = self.source[index]
                picture = self._picture(record)
            except (BadInput, OSError) as error:
                skipped.append({"source": key, "reason": str(error)})
                continue
            yield {
                "key": key,
                "picture": picture,
                "captions": list(record.captions),
                "label": record.label,
                "class_name": record.class_name,
            }

    def _picture(self, record: Record) -> bytes:
        """The bytes to write; the picture is decoded even if they stay, since it may be broken."""
        image = record.image()
        size = self.options.size
        if size is None or min(image.size) <= size:
            return (
                record.picture if isinstance(record.picture, bytes) else record.picture.read_bytes()
            )
        scale = size / min(image.size)
        smaller = tuple(max(size, round(side * scale)) for side in image.size)
        out = io.BytesIO()
        resized = image.resize((smaller[0], smaller[1]), Image.Resampling.BICUBIC)
        resized.save(out, "JPEG", quality=self.options.quality)
        return out.getvalue()

    def _write(self, part: Path, first: dict[str, Any], rows: Iterator[dict[str, Any]]) -> int:
        arrow, parquet = _pyarrow()
        schema = arrow.schema(
            [
                arrow.field("key", arrow.string(), nullable=False),
                arrow.field("picture", arrow.binary(), nullable=False),
                arrow.field("captions", arrow.list_(arrow.string()), nullable=False),
                arrow.field("label", arrow.int32()),
                arrow.field("class_name", arrow.string()),
            ],
            metadata={ABOUT: json.dumps({"format": FORMAT, "classes": list(self.source.classes)})},
        )
        records = 0
        # Pictures are compressed already; the rest is little.
        with parquet.ParquetWriter(
            part, schema, compression="none", use_dictionary=["class_name"], write_statistics=False
        ) as writer:
            for group in _groups(first, rows):
                writer.write_table(
                    arrow.Table.from_pylist(group, schema), row_group_size=len(group)
                )
                records += len(group)
        return records


def _groups(
    first: dict[str, Any], rows: Iterator[dict[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    group, size = [first], len(first["picture"])
    for row in rows:
        if size + len(row["picture"]) > _GROUP_BYTES or len(group) == _GROUP_RECORDS:
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row["picture"])
    yield group


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("packing needs pyarrow: pip install 'lascaux[data]'") from error
    return pyarrow, pyarrow.parquet
