"""The files ``torch.save`` and ``torch.jit.save`` write, opened as names, records and bytes.

A zip archive has one pickle, ``<prefix>/data.pkl``, and one entry ``<prefix>/data/<key>`` for each
storage; a TorchScript archive adds ``<prefix>/code/``. The legacy form (before torch 1.6) is five
pickles in a row and the storages after them. Sources: torch/serialization.py and
caffe2/serialize/inline_container.cc of torch 2.13.
"""

from __future__ import annotations

import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from lascaux.errors import BrokenFile, Unsupported
from lascaux.weights.inert import Placeholder, Refused, StorageRef, TensorRecord
from lascaux.weights.pickles import Interpreter
from lascaux.weights.rebuild import storage_dtype

# Bytes, as torch allocates, and as it aligns the storages of a zip archive.
ALIGNMENT = 64
_VERIFIED_AT_ONCE = 32 << 20  # bytes, read into memory to check them, and not kept there
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LARGEST_PICKLE = 1 << 30
_LARGEST_CODE = 16 << 20
_LARGEST_NUMBER = 1 << 48  # elements, offsets, strides: what any file can hold and more
_LARGEST_VIEW = 1 << 26  # elements of a tensor that repeats its storage (stride 0)


Container = Literal["safetensors", "torch-zip", "torch-legacy", "torchscript", "pickle"]


class MappedFile:
    """A file's bytes in memory, mapped: read when touched, never written back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.stat().st_size == 0:
            raise BrokenFile(f"{path}: the file is empty; fetch it again")
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise BrokenFile(f"{path}: the file cannot be read: {error}") from error
        self.storage = torch.frombuffer(self._map, dtype=torch.uint8).untyped_storage()
        self.data = memoryview(cast(Any, _as_bytes(self.storage).numpy()))

    def stretch(self, start: int, length: int) -> torch.UntypedStorage:
        """A storage on a stretch of the file."""
        return cast(torch.UntypedStorage, self.storage[start : start + length])

    def let_go(self) -> None:
        """Give the memory of what was touched back to the system, which reads it again at need.

        Whatever was written to the mapping would be lost: nothing that reads a file does.
        """
        if sys.platform == "linux":
            with suppress(OSError):  # of a process whose memory is locked
                self._map.madvise(mmap.MADV_DONTNEED)


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


@dataclass(frozen=True)
class Piece:
    """Where the bytes of one storage are: a stretch of the file, or bytes of their own."""

    start: int
    length: int
    own: bytes | None = None


@dataclass
class Opened:
    """A container that was opened: the object of its pickle, and the way to its storages.

    Attributes:
        root: the object, made of plain values, records and placeholders.
        container: ``torch-zip``, ``torch-legacy``, ``torchscript`` or ``pickle``.
        piece: the bytes of a storage by its key.
        swapped: the storages are big-endian.
        code: a TorchScript archive's source of a module path such as ``__torch__.model``.
    """

    file: MappedFile
    root: Any
    container: Container
    piece: Callable[[str], Piece]
    swapped: bool = False
    code: Callable[[str], str | None] = lambda module: None

    def __post_init__(self) -> None:
        self._storages: dict[tuple[str, torch.dtype | None], torch.UntypedStorage] = {}

    def tensor(self, record: TensorRecord, name: str) -> torch.Tensor:
        """The tensor of a record; tensors of one storage share memory, as when they were saved.

        Raises:
            BrokenFile: size, stride or offset lead outside the storage, or the storage is not as
                long as its record says.
        """
        broken = f"{self.file.path}: tensor {name!r}: "
        numbers = (*record.size, *record.stride, record.offset, record.storage.elements)
        if len(record.size) != len(record.stride) or not all(
            0 <= number < _LARGEST_NUMBER for number in numbers
        ):
            raise BrokenFile(
                f"{broken}size {record.size}, stride {record.stride} and offset {record.offset} "
                "do not describe a tensor; the file is corrupt"
            )
        storage = self._storage(record.storage, record.dtype, broken)
        offset = record.storage.start + record.offset
        elements = 1
        for extent in record.size:
            elements *= extent
        reach = sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True))
        available = storage.nbytes() // record.dtype.itemsize
        if elements and offset + reach + 1 > available:
            raise BrokenFile(
                f"{broken}it needs elements up to {offset + reach}, its storage has {available}; "
                "the file is corrupt"
            )
        if elements > max(available, _LARGEST_VIEW) or elements >= _LARGEST_NUMBER:
            raise BrokenFile(f"{broken}{elements} elements are read from {available}")
        offset = offset if elements else 0
        tensor = torch.empty(0, dtype=record.dtype)
        tensor.set_(storage, offset, record.size, record.stride)
        if record.conjugated:
            tensor = tensor.conj()
        return tensor.neg() if record.negated else tensor

    def _storage(self, wanted: StorageRef, dtype: torch.dtype, broken: str) -> torch.UntypedStorage:
        found = self._storages.get((wanted.key, wanted.dtype))
        piece = self.piece(wanted.key)
        itemsize = 1 if wanted.dtype is None else wanted.dtype.itemsize
        expected = wanted.elements * itemsize
        if piece.length != expected:
            raise BrokenFile(
                f"{broken}its storage {wanted.key!r} has {piece.length} bytes, {expected} were "
                "announced; the file is corrupt"
            )
        if found is not None:
            return found
        if piece.own is not None:
            # A copy: a tensor may be written to, bytes may not.
            found = torch.UntypedStorage(piece.length)
            if piece.length:
                held = torch.frombuffer(bytearray(piece.own), dtype=torch.uint8)
                _as_bytes(found).copy_(held)
        else:
            found = self.file.stretch(piece.start, piece.length)
            if piece.start % ALIGNMENT or self.swapped:
                found = found.clone()
        if self.swapped:
            found.byteswap(dtype)
        self._storages[wanted.key, wanted.dtype] = found
        return found


def storage_named(value: Any, where: str) -> Any:
    """The storage, or the class, that a persistent id of torch means."""
    if isinstance(value, tuple) and len(value) >= 2 and value[0] == "module":
        return value[1]
    if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
        raise BrokenFile(f"{where}: {str(value)[:80]!r} is no reference to a storage of torch")
    _, kind, key, _location, elements, *view = value
    if isinstance(key, int):
        key = str(key)
    if not isinstance(key, str) or type(elements) is not int or elements < 0:
        raise BrokenFile(f"{where}: a storage without key or length; the file is corrupt")
    known, dtype = storage_dtype(kind)
    if not known:
        return Refused(f"storages of kind {kind} are not read")
    start = 0
    if view and view[0] is not None:
        # Legacy: (key of the view, where it begins, its length), in elements of the whole.
        if not isinstance(view[0], tuple) or len(view[0]) != 3 or type(view[0][1]) is not int:
            raise BrokenFile(f"{where}: a view of a storage without its place; file corrupt")
        start = view[0][1]
        if not 0 <= start <= elements:
            raise BrokenFile(f"{where}: a view begins outside its storage; the file is corrupt")
    return StorageRef(key, dtype, elements, start)


# Zip archives


def open_zip(file: MappedFile, *, verify: bool) -> Opened:
    """Opens what ``torch.save`` (since 1.6) or ``torch.jit.save`` wrote.

    Args:
        file: the archive.
        verify: checks the CRC-32 of every entry that is used, where it has one.

    Raises:
        BrokenFile: the archive is truncated, corrupt or no archive of torch.
        UnsafeFile: its pickle could run code.
        Unsupported: encrypted, or of a layout that is not read.
    """
    archive = _Archive(file, verify=verify)
    prefix = archive.prefix()
    entry = prefix + "data.pkl"
    where = f"{file.path} ({entry})"
    pickle = Interpreter(
        archive.bytes_of(entry, _LARGEST_PICKLE),
        where,
        persistent=lambda value: storage_named(value, where),
    )
    root = pickle.run()
    scripted = isinstance(root, Placeholder) and root.of.module.startswith("__torch__")
    order = b"little"
    if prefix + "byteorder" in archive.entries:
        order = bytes(archive.bytes_of(prefix + "byteorder", 64)).strip()
    if order not in (b"little", b"big"):
        raise BrokenFile(f"{file.path}: byte order {order!r}; 'little' or 'big' expected")

    def code(module: str) -> str | None:
        name = f"{prefix}code/{module.replace('.', '/')}.py"
        if name not in archive.entries:
            return None
        return str(archive.bytes_of(name, _LARGEST_CODE), "utf-8", "replace")

    return Opened(
        *(file, root, "torchscript" if scripted else "torch-zip"),
        piece=lambda key: archive.piece(f"{prefix}data/{key}"),
        swapped=order == b"big",
        code=code,
    )


class _Archive:
    def __init__(self, file: MappedFile, *, verify: bool) -> None:
        self.file = file
        self.verify = verify
        self.verified = 0  # bytes since the memory was last given back
        self.pieces: dict[str, Piece] = {}
        # What deflated entries may unfold to, all together.
        self.allowance = (64 << 20) + 200 * len(file.data)
        try:
            with zipfile.ZipFile(file.path) as archive:
                self.entries = {info.filename: info for info in archive.infolist()}
        except _ZIP_ERRORS as error:
            raise BrokenFile(
                f"{file.path}: the zip archive cannot be read: {error}; the file is truncated or "
                "corrupt; fetch it again"
            ) from error

    def prefix(self) -> str:
        """The folder all entries lie in, with its slash."""
        names = [name for name in self.entries if name.split("/")[-1] == "data.pkl"]
        if names:
            return min(names, key=lambda name: (name.count("/"), name))[: -len("data.pkl")]
        ends = {name.split("/")[-1] for name in self.entries}
        path = self.file.path
        if "model.json" in ends:
            raise Unsupported(
                f"{path}: a TorchScript archive of torch 1.0 to 1.3 (model.json), which is not "
                "read; load it with such a torch and save its state_dict()"
            )
        if "extern_modules" in ends or "archive_format" in ends:
            raise Unsupported(
                f"{path}: a torch.package or torch.export archive, which carries programs and is "
                "not read; save the module's state_dict() instead"
            )
        if any(name.endswith(".npy") for name in ends):
            raise Unsupported(f"{path}: a NumPy archive (.npz), not a checkpoint of torch")
        shown = ", ".join(sorted(self.entries)[:5]) or "nothing"
        raise BrokenFile(f"{path}: a zip archive without data.pkl; it holds {shown}")

    def bytes_of(self, name: str, largest: int) -> memoryview:
        piece = self.piece(name)
        if piece.length > largest:
            raise BrokenFile(
                f"{self.file.path}: entry {name!r} has {piece.length} bytes, at most {largest} "
                "are read"
            )
        if piece.own is not None:
            return memoryview(piece.own)
        return self.file.data[piece.start : piece.start + piece.length]

    def piece(self, name: str) -> Piece:
        if name not in self.pieces:
            self.pieces[name] = self._find(name)
        return self.pieces[name]

    def _find(self, name: str) -> Piece:
        path, data = self.file.path, self.file.data
        info = self.entries.get(name)
        if info is None:
            raise BrokenFile(f"{path}: entry {name!r} is missing; the file is incomplete")
        if info.flag_bits & 1:
            raise Unsupported(f"{path}: entry {name!r} is encrypted; unpack the archive first")
        if info.compress_type != zipfile.ZIP_STORED:
            return Piece(0, info.file_size, self._unfold(info))
        head = bytes(data[info.header_offset : info.header_offset + 30])
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise BrokenFile(f"{path}: entry {name!r} has no header; the file is corrupt")
        # The lengths here, not those of the directory: padding for alignment is only here.
        start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        end = start + info.file_size
        if info.compress_size != info.file_size or end > len(data):
            raise BrokenFile(f"{path}: entry {name!r} leads outside the file; it is truncated")
        # torch.serialization.set_crc32_options(False) writes zeros.
        if self.verify and info.CRC:
            if zlib.crc32(data[start:end]) != info.CRC:
                raise BrokenFile(
                    f"{path}: the checksum of entry {name!r} is wrong; the file is corrupt; fetch "
                    "it again"
                )
            self.verified += info.file_size
            if self.verified > _VERIFIED_AT_ONCE:
                self.verified = 0
                self.file.let_go()
        return Piece(start, info.file_size)

    def _unfold(self, info: zipfile.ZipInfo) -> bytes:
        path = self.file.path
        self.allowance -= info.file_size
        if self.allowance < 0:
            raise BrokenFile(f"{path}: compressed entries unfold to an absurd size")
        try:
            with zipfile.ZipFile(path) as archive, archive.open(info) as entry:
                unfolded = entry.read(info.file_size + 1)
        except _ZIP_ERRORS as error:
            raise BrokenFile(f"{path}: entry {info.filename!r} is corrupt: {error}") from error
        if len(unfolded) != info.file_size:
            raise BrokenFile(f"{path}: entry {info.filename!r} has not the length it announces")
        return unfolded


_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, OSError, EOFError),
    *(ValueError, RuntimeError, OverflowError, IndexError, KeyError, MemoryError),
)


# The legacy form, and plain pickles


def open_pickle(file: MappedFile) -> Opened:
    """Opens what ``torch.save`` wrote before 1.6, or a plain pickle of arrays or tensors.

    Raises:
        BrokenFile: truncated, corrupt or no pickle.
        UnsafeFile: one of its pickles could run code.
    """
    pieces: dict[str, Piece] = {}
    path = str(file.path)

    def nested(data: bytes) -> Any:
        within = f"{path} (a storage within the pickle)"
        inner: dict[str, Piece] = {}
        root, _ = _read_legacy(memoryview(data), within, inner, nested=None)
        if not isinstance(root, StorageRef):
            return Refused("an object saved inside a storage")
        key = f"within-{len(pieces)}"
        if root.key not in inner:
            raise BrokenFile(f"{within}: its bytes are missing")
        found = inner[root.key]
        own = data[found.start : found.start + found.length]
        pieces[key] = Piece(0, found.length, own)
        return StorageRef(key, root.dtype, root.elements, root.start)

    root, legacy = _read_legacy(file.data, path, pieces, nested)

    def piece(key: str) -> Piece:
        if key not in pieces:
            raise BrokenFile(f"{path}: storage {key!r} is missing; the file is incomplete")
        return pieces[key]

    return Opened(file, root, "torch-legacy" if legacy else "pickle", piece)


def _read_legacy(
    data: memoryview,
    where: str,
    pieces: dict[str, Piece],
    nested: Callable[[bytes], Any] | None,
) -> tuple[Any, bool]:
    first = Interpreter(data, where, nested=nested)
    magic = first.run()
    if magic != LEGACY_MAGIC:
        return magic, False
    position = first.position
    parts: list[Any] = []
    sizes: dict[str, tuple[int, int]] = {}

    def persistent(value: Any) -> Any:
        found = storage_named(value, where)
        if isinstance(found, StorageRef):
            itemsize = 1 if found.dtype is None else found.dtype.itemsize
            if sizes.setdefault(found.key, (found.elements, itemsize))[0] != found.elements:
                raise BrokenFile(f"{where}: storage {found.key!r} has two lengths; file corrupt")
        return found

    for _ in ("protocol", "system", "object", "keys"):
        pickle = Interpreter(data, where, position, persistent, nested)
        parts.append(pickle.run())
        position = pickle.position
    protocol, system, root, keys = parts
    if protocol != _LEGACY_PROTOCOL:
        raise Unsupported(f"{where}: protocol {protocol} of torch.save; 1001 is read")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise Unsupported(f"{where}: written on a big-endian machine in the legacy form; save anew")
    if not isinstance(keys, list):
        raise BrokenFile(f"{where}: no list of storages; the file is corrupt")
    for key in keys:
        position = _place(data, where, str(key), position, sizes, pieces)
    return root, True


def _place(
    data: memoryview,
    where: str,
    key: str,
    position: int,
    sizes: dict[str, tuple[int, int]],
    pieces: dict[str, Piece],
) -> int:
    """Notes where a storage lies; gives the position behind it."""
    if key not in sizes:
        raise BrokenFile(f"{where}: storage {key!r} belongs to no tensor; the file is corrupt")
    announced, itemsize = sizes[key]
    start = position + 8
    if start > len(data):
        raise BrokenFile(f"{where}: it ends before storage {key!r}; the file is truncated")
    (elements,) = struct.unpack("<q", data[position:start])
    if elements != announced:
        raise BrokenFile(
            f"{where}: storage {key!r} has {elements} elements, {announced} were announced; the "
            "file is corrupt"
        )
    end = start + elements * itemsize
    if end > len(data):
        raise BrokenFile(
            f"{where}: storage {key!r} needs {end - len(data)} more bytes than the file has; it "
            "is truncated; fetch it again"
        )
    pieces[key] = Piece(start, elements * itemsize)
    return end


def is_tar(data: memoryview) -> bool:
    """Whether bytes begin like a tar archive, the form of torch.save before 0.1.11."""
    return bytes(data[257:262]) == b"ustar"
