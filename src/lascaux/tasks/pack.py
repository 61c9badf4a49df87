"""Writing records into Parquet files that are read at random, and quickly copied.

Which records a file holds follows from its number alone, so that files can be made by several
processes and in any order. A file is written aside and renamed; the manifest, rewritten after each,
tells which are finished. A packing that was killed goes on with those that are not.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image

from lascaux.data.ahead import made_ahead
from lascaux.data.records import Record, Source
from lascaux.data.shards import ABOUT, FORMAT, MANIFEST, is_packed, read_manifest
from lascaux.errors import BadInput, MissingExtra
from lascaux.tasks.aside import written_aside
from lascaux.tasks.options import PackOptions
from lascaux.tasks.results import Failed

Progress = Callable[[str, int, int], None]

_GROUP_BYTES = 1 << 18  # of pictures; what reading one record costs at most, or one picture
_GROUP_RECORDS = 64
_WAIT = 10  # seconds; processes of a packing that was killed end a little later than it


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
    manifest = _begun(out, about)
    try:
        with FileLock(out / ".lock", timeout=_WAIT):
            return _packed(source, out, options, manifest, progress)
    except Timeout as error:
        raise BadInput(f"another process is packing into {out}; wait for it") from error


def _begun(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The manifest that is there, or an empty one."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder to write to")
    if not is_packed(out):
        left = [p.name for p in out.iterdir() if p.name != ".lock"] if out.is_dir() else []
        if left:
            raise BadInput(f"{out} holds other files ({left[0]}); name a new folder")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"cannot make the folder {out}: {error.strerror}") from error
        return {**about, "finished": False, "shards": []}
    manifest = read_manifest(out)
    changed = [name for name in ("fingerprint", "settings") if manifest[name] != about[name]]
    if changed:
        what = "other records" if changed[0] == "fingerprint" else "other settings"
        raise BadInput(
            f"{out} was begun with {what} ({manifest['source']}, {manifest['settings']}); name a "
            "new folder, or delete this one"
        )
    return manifest


def _packed(
    source: Source,
    out: Path,
    options: PackOptions,
    manifest: dict[str, Any],
    progress: Progress | None,
) -> Packed:
    for left in out.glob(".*.part"):  # of a process that was killed
        left.unlink()
    shards = {
        shard["number"]: shard
        for shard in manifest["shards"]
        if not shard["file"] or _size(out / shard["file"]) == shard["bytes"]
    }
    numbers = range(-(-len(source) // options.shard_size))
    missing = [number for number in numbers if number not in shards]

    def note(finished: bool) -> None:
        manifest["shards"] = [shards[number] for number in sorted(shards)]
        manifest["finished"] = finished
        with written_aside(out / MANIFEST) as part:
            part.write_text(json.dumps(manifest, ensure_ascii=True, indent=1), encoding="utf-8")

    note(finished=False)
    for shard in made_ahead(_Writer(source, out, options), missing, options.workers, ahead=1):
        shards[shard["number"]] = shard
        note(finished=False)
        if progress is not None:
            progress("files", len(shards), len(numbers))
    skipped = tuple(Failed(**one) for n in numbers for one in shards[n]["skipped"])
    records = sum(shard["records"] for shard in shards.values())
    if not records:
        raise BadInput(
            f"none of the {len(source)} records of {source.path} can be read: "
            f"{skipped[0].source}: {skipped[0].reason}"
        )
    note(finished=True)
    return Packed(
        out=str(out),
        records=records,
        shards=sum(bool(shard["file"]) for shard in shards.values()),
        bytes=sum(shard["bytes"] for shard in shards.values()),
        written=len(missing),
        skipped=skipped,
    )


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
            size, digest = part.stat().st_size, _sha256(part)
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


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("packing needs pyarrow: pip install 'lascaux[data]'") from error
    return pyarrow, pyarrow.parquet
