"""A folder that is filled shard by shard; when the work is killed, the same command goes on.

Which records a shard holds follows from its number alone, so that shards can be made by several
processes and in any order. Each is written aside and renamed; the manifest, rewritten after each,
tells which are finished.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lascaux.data.manifest import MANIFEST, format_of, read_manifest, size_of
from lascaux.errors import BadInput
from lascaux.tasks.aside import written_aside
from lascaux.tasks.results import Failed

Progress = Callable[[str, int, int], None]

_LOCK = ".lock"
_WAIT = 10  # seconds; processes of work that was killed end a little later than it


@dataclass(frozen=True)
class Filled:
    """What a finished folder holds."""

    records: int
    shards: int
    bytes: int
    written: int  # shards of this call; the others were there
    skipped: tuple[Failed, ...]  # records that could not be read, and are not in it


class ShardFolder:
    """A folder while it is filled.

    Attributes:
        out: the folder.
        manifest: as it was begun; a folder that goes on has the one of its beginning.
        count: shards in all.
        missing: numbers of the shards that are still to be made.
    """

    def __init__(self, out: Path, manifest: dict[str, Any], count: int) -> None:
        self.out, self.manifest, self.count = out, manifest, count
        for left in out.glob(".*.part"):  # of a process that was killed
            left.unlink()
        self._shards = {
            shard["number"]: shard
            for shard in manifest["shards"]
            if not shard["file"] or size_of(out / shard["file"]) == shard["bytes"]
        }
        self.missing = [number for number in range(count) if number not in self._shards]
        self._note(finished=False)

    def add(self, shard: dict[str, Any]) -> None:
        """Note that a shard is written; see `lascaux.data.manifest` for what is told of it."""
        self._shards[shard["number"]] = shard
        self._note(finished=False)

    def __len__(self) -> int:
        """How many shards are finished."""
        return len(self._shards)

    def finish(self) -> Filled:
        """Note that all is done.

        Raises:
            BadInput: not one record could be read.
        """
        shards = [self._shards[number] for number in range(self.count)]
        skipped = tuple(Failed(**one) for shard in shards for one in shard["skipped"])
        records = sum(shard["records"] for shard in shards)
        if not records:
            first = f": {skipped[0].source}: {skipped[0].reason}" if skipped else ""
            raise BadInput(
                f"none of the {len(skipped)} records of {self.manifest['source']} can be read"
                f"{first}"
            )
        self._note(finished=True)
        return Filled(
            records=records,
            shards=sum(bool(shard["file"]) for shard in shards),
            bytes=sum(shard["bytes"] for shard in shards),
            written=len(self.missing),
            skipped=skipped,
        )

    def _note(self, *, finished: bool) -> None:
        told = {
            **self.manifest,
            "finished": finished,
            "shards": [self._shards[number] for number in sorted(self._shards)],
        }
        with written_aside(self.out / MANIFEST) as part:
            part.write_text(json.dumps(told, ensure_ascii=True, indent=1), encoding="utf-8")


@contextmanager
def shard_folder(
    out: Path, about: dict[str, Any], count: int, *, same: Sequence[str], doing: str
) -> Iterator[ShardFolder]:
    """A new folder, or one to go on with; nobody else fills it meanwhile.

    Args:
        out: the folder.
        about: what the manifest tells besides its shards; has "format" and "source".
        count: shards in all.
        same: entries of `about` that must not have changed; "fingerprint" is that of the records.
        doing: what is being done, for a message: "packing into".

    Raises:
        BadInput: it holds something else, or was begun otherwise; or another process fills it.
    """
    about = json.loads(json.dumps(about))  # as it will be read
    _require_own(out, about["format"])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {out}: {error.strerror}") from error
    lock = FileLock(out / _LOCK, timeout=_WAIT)
    try:
        lock.acquire()
    except Timeout as error:
        raise BadInput(f"another process is {doing} {out}; wait for it") from error
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror or error}") from error
    try:
        yield ShardFolder(out, _begun(out, about, same), count)
    finally:
        lock.release()


def _require_own(out: Path, format: str) -> None:
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder to write to")
    if not out.is_dir() or format_of(out) == format:
        return
    # A manifest that was written aside is all that a killed beginning leaves.
    left = [p.name for p in out.iterdir() if p.name != _LOCK and not _is_part(p.name)]
    if left:
        raise BadInput(f"{out} holds other files ({left[0]}); name a new folder")


def _is_part(name: str) -> bool:
    return name.startswith(f".{MANIFEST}.") and name.endswith(".part")


def _begun(out: Path, about: dict[str, Any], same: Sequence[str]) -> dict[str, Any]:
    """The manifest that is there, or an empty one."""
    if format_of(out) != about["format"]:
        return {**about, "finished": False, "shards": []}
    manifest = read_manifest(out, about["format"])
    changed = [name for name in same if manifest.get(name) != about[name]]
    if changed:
        what = "records" if changed[0] == "fingerprint" else changed[0]
        begun = (manifest[name] for name in ("source", "model", "settings") if name in manifest)
        raise BadInput(
            f"{out} was begun with other {what} ({', '.join(map(str, begun))}); name a new "
            "folder, or delete this one"
        )
    return manifest
