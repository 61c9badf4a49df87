"""Unit vectors on disk, kept batch by batch: whatever interrupts the work, what was done stays.

The truth is one SQLite file, written in one transaction for each batch, so that a process killed
at any moment loses at most the batch in flight.
"""

import json
import os
import sqlite3
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from torch import Tensor

from lascaux.errors import BadInput, BadPicture, BrokenFile, WrongHash
from lascaux.models.clip import Clip
from lascaux.tasks.features import Reading, stream_features
from lascaux.weights.fingerprint import weights_hash

FORMAT = "lascaux-index-1"
_WAIT = 10  # seconds for another process that writes
_TABLES = """
create table about (name text primary key, value text not null);
create table inputs (id integer primary key, key blob not null unique, size integer not null,
                     changed integer not null, reason text);
create table vectors (id integer primary key, vector blob not null);
"""

State = tuple[int, int]  # a file's bytes and its time of change in ns; (0, 0) where it is no file


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What vectors were made with; vectors of two origins cannot be compared."""

    model: str  # a name to find the model by; it may differ among equal origins
    weights: str  # `weights_hash`
    preprocessing: str  # JSON; of texts, what was done with those that are too long
    width: int
    dtype: str = "float32"  # of the model
    numbers: Literal["float16", "float32"] = "float16"


class Entry(NamedTuple):
    """One input with its vector, or with the reason why it has none."""

    key: bytes
    state: State
    vector: np.ndarray | None
    reason: str | None = None


class Version(NamedTuple):
    """Which contents a ledger has: two of one version are equal."""

    ledger: str  # drawn once for every ledger
    generation: int  # counts the transactions that changed something


def picture_origin(model: Clip, name: str, reading: Reading, **changes: Any) -> Origin:
    """The origin of pictures' vectors."""
    how = replace(model.config.preprocessing, reading=reading)
    return Origin(
        model=name,
        weights=weights_hash(model),
        preprocessing=json.dumps(how.to_json(), sort_keys=True),
        width=model.config.embed_width,
        dtype=str(model.dtype).removeprefix("torch."),
        **changes,
    )


class Ledger:
    """The vectors of one origin in one file; reading never changes it."""

    def __init__(self, file: Path, origin: Origin) -> None:
        """Check the file, if there is one.

        Raises:
            BrokenFile: it is something else, or damaged.
            WrongHash: its vectors were made with other weights.
            BadInput: with other preprocessing; or the file cannot be opened.
        """
        self.file = file
        self.origin = origin
        if self.exists():
            with self._opened() as connection:
                self._check(connection)

    def exists(self) -> bool:
        """Whether there is anything."""
        return self.file.is_file() and self.file.stat().st_size > 0

    def about(self, name: str) -> str | None:
        """One of the notes kept beside the vectors."""
        if not self.exists():
            return None
        with self._opened() as connection:
            return _about(connection).get(name)

    def version(self) -> Version | None:
        """Which contents there are; None where there are none at all."""
        if not self.exists():
            return None
        with self._opened() as connection:
            return _version(connection)

    def known(self) -> dict[bytes, State]:
        """The state of every input when it was last looked at."""
        if not self.exists():
            return {}
        with self._opened() as connection:
            rows = connection.execute("select key, size, changed from inputs")
            return {key: (size, changed) for key, size, changed in rows}

    def failed(self) -> list[tuple[bytes, str]]:
        """Inputs that could not be read, and why, in order of their keys."""
        if not self.exists():
            return []
        with self._opened() as connection:
            found = connection.execute(
                "select key, reason from inputs where reason is not null order by key"
            )
            return found.fetchall()

    def count(self) -> int:
        """How many vectors there are."""
        if not self.exists():
            return 0
        with self._opened() as connection:
            return connection.execute("select count(*) from vectors").fetchone()[0]

    def all(self) -> tuple[Version, np.ndarray, np.ndarray]:
        """Version, identities (int64) and vectors (`n e`), all of one moment."""
        with self._opened() as connection:
            connection.execute("begin")
            version = _version(connection)
            found = connection.execute("select id, vector from vectors order by id").fetchall()
        identities = np.fromiter((row[0] for row in found), np.int64, len(found))
        return version, identities, self._rows([row[1] for row in found])

    def keys(self, identities: Sequence[int]) -> list[bytes | None]:
        """The inputs of these identities; None for one that is gone by now."""
        with self._opened() as connection:
            found = (
                connection.execute("select key from inputs where id = ?", (one,)).fetchone()
                for one in identities
            )
            return [row and row[0] for row in found]

    def vectors(self, keys: Iterable[bytes], size: int) -> Iterator[tuple[list[bytes], np.ndarray]]:
        """Blocks of at most `size` inputs that have a vector, in the order given."""
        look = "select vector from inputs join vectors using (id) where key = ?"
        queue = iter(keys)
        with self._opened() as connection:
            while block := list(islice(queue, size)):
                rows = [(key, connection.execute(look, (key,)).fetchone()) for key in block]
                if found := [(key, row[0]) for key, row in rows if row]:
                    yield [key for key, _ in found], self._rows([blob for _, blob in found])

    @contextmanager
    def writing(self, *, passing: bool = False) -> Iterator["Writer"]:
        """The only writer of this moment; the file is made if it is not there.

        Args:
            passing: the file goes away when the work is done, or if it was broken off before
                anything was written.

        Raises:
            BadInput: another process is writing, or the file cannot be written.
        """
        if not self.file.parent.is_dir():
            raise BadInput(f"there is no folder {self.file.parent} for {self.file.name}")
        lock = FileLock(f"{self.file}.lock", timeout=_WAIT)
        try:
            lock.acquire()
        except Timeout as error:
            raise BadInput(
                f"another process is writing {self.file}; wait until it has finished"
            ) from error
        except OSError as error:
            raise BadInput(f"{self.file} cannot be written: {error}") from error
        done = False
        try:
            with self._opened(make=True) as connection:
                if not _tables(connection):
                    self._make(connection)
                self._check(connection)
                yield Writer(connection, self.origin)
            done = True
        finally:
            # Under the lock: another process may be waiting to begin.
            if passing and (done or not self._is_begun()):
                self._remove()
            lock.release()

    def _is_begun(self) -> bool:
        """Whether there is anything that must not be lost."""
        try:
            return self.count() > 0
        except (BadInput, BrokenFile, KeyError):
            return True

    def _remove(self) -> None:
        # The log first: SQLite would replay it into another ledger of that name.
        for ending in ("-wal", "-shm", "", ".lock"):
            Path(f"{self.file}{ending}").unlink(missing_ok=True)

    def _make(self, connection: sqlite3.Connection) -> None:
        connection.execute("pragma journal_mode = wal")
        about = {name: str(value) for name, value in asdict(self.origin).items()}
        about |= {"format": FORMAT, "ledger": uuid.uuid4().hex, "generation": "0"}
        with _transaction(connection):
            for statement in filter(str.strip, _TABLES.split(";")):
                connection.execute(statement)
            connection.executemany("insert into about values (?, ?)", about.items())

    def _check(self, connection: sqlite3.Connection) -> None:
        if not (tables := _tables(connection)):
            return  # whoever made it was killed before the first transaction
        about = _about(connection) if "about" in tables else {}
        if not about.get("format", "").startswith("lascaux-index-"):
            raise BrokenFile(f"{self.file} is no index of Lascaux; give the name of another file")
        if about["format"] != FORMAT:
            raise BrokenFile(
                f"{self.file} is in the form {about['format']}, this version reads {FORMAT}; "
                "delete it, and it is made anew"
            )
        if about["weights"] != self.origin.weights:
            raise WrongHash(
                f"{self.file} was made with other weights ({about['model'] or 'unnamed'}, "
                f"{about['weights'][:12]}) than those of {self.origin.model or 'the given model'} "
                f"({self.origin.weights[:12]}); take that model, or another file for this one"
            )
        for name in ("preprocessing", "width", "dtype", "numbers"):
            if about.get(name) != str(getattr(self.origin, name)):
                raise BadInput(
                    f"{self.file} was made with other {name} ({about.get(name)}; now "
                    f"{getattr(self.origin, name)}); read the pictures as then, or take another "
                    "file"
                )

    def _rows(self, blobs: list[bytes]) -> np.ndarray:
        width, kind = self.origin.width, np.dtype(self.origin.numbers).newbyteorder("<")
        if any(len(blob) != width * kind.itemsize for blob in blobs):
            raise BrokenFile(_damaged(self.file, "a vector of another length"))
        return np.frombuffer(bytearray().join(blobs), kind).reshape(len(blobs), width)

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection whose errors are told as ours."""
        if not make and not self.file.is_file():
            raise BadInput(f"there is no file {self.file}")
        try:
            where = f"file:{urllib.parse.quote(os.fsencode(self.file.absolute()))}"
            if not make and not os.access(self.file.parent, os.W_OK):
                where += "?mode=ro&immutable=1"  # nobody writes there; SQLite need not keep a log
            with closing(
                sqlite3.connect(where, timeout=_WAIT, isolation_level=None, uri=True)
            ) as connection:
                # Enough against a killed process; a power cut may cost the last batches.
                connection.execute("pragma synchronous = normal")
                yield connection
        except sqlite3.OperationalError as error:
            raise BadInput(f"{self.file} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                advice = "give the name of another file"
                raise BrokenFile(f"{self.file} is no index of Lascaux; {advice}") from error
            raise BrokenFile(_damaged(self.file, str(error))) from error


class Writer:
    """Changes a ledger; every call is one transaction."""

    def __init__(self, connection: sqlite3.Connection, origin: Origin) -> None:
        self._connection = connection
        self._kind = np.dtype(origin.numbers).newbyteorder("<")

    def write(self, entries: Iterable[Entry]) -> None:
        """Add inputs, or replace what is known of them."""
        with self._changing() as connection:
            for key, (size, changed), vector, reason in entries:
                (identity,) = connection.execute(
                    "insert into inputs (key, size, changed, reason) values (?, ?, ?, ?) "
                    "on conflict (key) do update set size = excluded.size, "
                    "changed = excluded.changed, reason = excluded.reason returning id",
                    (key, size, changed, reason),
                ).fetchone()
                if vector is None:
                    connection.execute("delete from vectors where id = ?", (identity,))
                else:
                    blob = vector.astype(self._kind).tobytes()
                    connection.execute(
                        "insert or replace into vectors values (?, ?)", (identity, blob)
                    )

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forget inputs."""
        with self._changing() as connection:
            for key in keys:
                where = "where id = (select id from inputs where key = ?)"
                connection.execute(f"delete from vectors {where}", (key,))
                connection.execute("delete from inputs where key = ?", (key,))

    def note(self, name: str, value: str) -> None:
        """Keep something beside the vectors."""
        with _transaction(self._connection):
            self._connection.execute("insert or replace into about values (?, ?)", (name, value))

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with _transaction(self._connection):
            yield self._connection
            self._connection.execute("update about set value = value + 1 where name = 'generation'")


def encode_pictures(
    writer: Writer,
    model: Clip,
    wanted: Mapping[bytes, tuple[Any, State]],
    reading: Reading,
    *,
    batch_size: int,
    progress: Callable[[int], None],
) -> list[tuple[bytes, str]]:
    """Encode pictures and write them, batch by batch.

    Args:
        writer: of the ledger.
        model: that encodes.
        wanted: for each key what to read, and its state from before it is read.
        reading: how files are read.
        batch_size: pictures encoded and written at once.
        progress: called with how many are done.

    Returns:
        What could not be read for a reason that may pass, which is not written.
    """
    passing: list[tuple[bytes, str]] = []
    batch: list[Entry] = []
    found = stream_features(
        model, (picture for picture, _ in wanted.values()), reading, batch_size=batch_size
    )
    for done, ((key, (picture, state)), (_, row)) in enumerate(
        zip(wanted.items(), found, strict=True), 1
    ):
        if not isinstance(row, BadPicture):
            batch.append(_entry(key, state, row))
        elif _passes(row, picture):
            passing.append((key, str(row)))
        else:
            batch.append(Entry(key, state, None, str(row)))
        if done % batch_size == 0:
            writer.write(batch)
            batch.clear()
        progress(done)
    if batch:
        writer.write(batch)
    return passing


def state_of(path: str | Path) -> State:
    """A file's state, by which a change is noticed."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _entry(key: bytes, state: State, row: Float[Tensor, " e"]) -> Entry:
    if torch.isfinite(row).all():
        return Entry(key, state, row.numpy())
    return Entry(key, state, None, "the model gives no finite vector; take dtype float32")


def _passes(error: BadPicture, picture: Any) -> bool:
    """Whether it may be otherwise next time although the file stays as it is."""
    # Pillow's own errors are of this kind too, but without a number.
    system = isinstance(error.__cause__, OSError) and error.__cause__.errno is not None
    return system or (isinstance(picture, str | Path) and state_of(picture) == (0, 0))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("select name from sqlite_master")}


def _about(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("select name, value from about").fetchall())


def _version(connection: sqlite3.Connection) -> Version:
    about = _about(connection)
    return Version(about["ledger"], int(about["generation"]))


def _damaged(file: Path, what: str) -> str:
    return f"{file} is damaged ({what}); delete it, and it is made anew"
