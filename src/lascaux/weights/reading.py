"""Tensors out of any checkpoint file, without running anything that is in it.

Read are safetensors, the zip and the legacy form of ``torch.save``, TorchScript archives, and plain
pickles of arrays. What a file is, its content decides, not its name. ``pickles.py`` says what is
refused as unsafe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lascaux.errors import BrokenFile, LascauxError, UnknownModel, Unsupported
from lascaux.weights.archives import (
    Container,
    MappedFile,
    Opened,
    is_tar,
    open_pickle,
    open_zip,
)
from lascaux.weights.inert import Array, Named, Placeholder, Refused, TensorRecord
from lascaux.weights.torchscript import ScriptedModules, module_tensors, pickled_module_parts

# Where trainers put the weights, in the order in which they are looked for.
NESTS = (
    *("state_dict", "model_state_dict", "module", "model", "params_ema", "params", "net"),
    *("network", "weights", "state", "ema", "ema_state_dict", "generator", "g_ema"),
)
_TRAINING = ("optim", "lr_", "scheduler", "callbacks", "loops", "amp", "scaler", "rng", "random_")
_DEEPEST_NEST = 4
_MOST_SKIPPED = 1000
CLASS = "class"  # no attribute of Python is called so
_MOST_VALUES = 200_000
_SAFETENSORS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Checkpoint:
    """What was read of a file.

    Attributes:
        tensors: published name -> tensor on the CPU; mapped from the file where its layout allows,
            so that tensors of one storage share memory and nothing is read before it is used.
        metadata: plain values beside the weights (epoch, step, hyper-parameters); ``inside`` names
            the dictionary the tensors were taken from, where they were nested. Of a module that was
            saved whole, its attributes, and under ``class`` what it was an object of.
        container: how the file is made.
        skipped: one line for everything that was left out: unknown classes, optimiser states.
        let_go: gives the memory of what was touched of the file back to the system; for before the
            tensors are used, and only if none was written to.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    container: Container
    skipped: list[str] = field(default_factory=list)
    let_go: Callable[[], None] = lambda: None


def read_tensors(path: str | Path, *, inside: str | None = None, verify: bool = True) -> Checkpoint:
    """The tensors of a checkpoint file, by the names they have in it.

    Args:
        path: the file.
        inside: the nested dictionary to take (``params``, ``ema.state_dict``); None finds it.
        verify: checks the CRC-32 that zip entries carry; not needed after a hash of the file.

    Raises:
        UnknownModel: there is no such file.
        UnsafeFile: the file could run code; nothing of it was executed.
        BrokenFile: truncated, corrupt, or no checkpoint.
        Unsupported: quantised, encrypted or of an age that is not read; the message says why.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise UnknownModel(f"{path}: there is {what} here; give the path of a checkpoint file")
    file = MappedFile(path)
    head = bytes(file.data[:64])
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _checkpoint(open_zip(file, verify=verify), inside)
    if _looks_like_safetensors(head):
        return _read_safetensors(file)
    _refuse_by_look(path, head, file.data)
    return _checkpoint(_open_unmarked(file, head), inside)


# Which container


def _looks_like_safetensors(head: bytes) -> bool:
    # Eight bytes of header length, then a JSON object.
    return len(head) > 8 and head[8:9] == b"{" and head[5:8] == b"\0\0\0"


def _refuse_by_look(path: Path, head: bytes, data: memoryview) -> None:
    if is_tar(data):
        raise Unsupported(
            f"{path}: a tar archive, the form of torch.save before 0.1.11, which is not read; "
            "load it with an old torch and save it again"
        )
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise BrokenFile(
            f"{path}: a Git LFS pointer instead of the file; fetch the file itself (git lfs pull)"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BrokenFile(f"{path}: a web page instead of a checkpoint; the download went wrong")
    if head[:2] == b"\x1f\x8b":
        raise Unsupported(f"{path}: compressed with gzip; unpack it first (gunzip)")
    if head[:4] == b"\x89HDF":
        raise Unsupported(f"{path}: an HDF5 file (Keras); only checkpoints of PyTorch are read")


def _open_unmarked(file: MappedFile, head: bytes) -> Opened:
    try:
        return open_pickle(file)
    except BrokenFile as error:
        if head[:1] == b"\x80":
            raise
        raise BrokenFile(
            f"{file.path}: neither safetensors nor a file of torch.save or torch.jit.save "
            f"(it begins with {head[:8]!r}); truncated, or something else under this name"
        ) from error


def _read_safetensors(file: MappedFile) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    path = file.path
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:  # checks the whole header
            metadata = dict(opened.metadata() or {})
        length = int.from_bytes(file.data[:8], "little")
        header = json.loads(bytes(file.data[8 : 8 + length]))
        header.pop("__metadata__", None)
        tensors = {
            name: _of_safetensors(file, 8 + length, entry, name) for name, entry in header.items()
        }
    except (SafetensorError, ValueError, RuntimeError, KeyError, OSError, TypeError) as error:
        raise BrokenFile(
            f"{path}: not a whole safetensors file: {error}; truncated or corrupt; fetch it again"
        ) from error
    return Checkpoint(tensors, metadata, "safetensors", let_go=file.let_go)


def _of_safetensors(file: MappedFile, base: int, entry: dict[str, Any], name: str) -> Tensor:
    """One tensor, mapped; where it does not lie as its elements need it, a copy."""
    if (dtype := _SAFETENSORS.get(entry["dtype"])) is None:
        raise Unsupported(f"{file.path}: tensor {name!r} is of dtype {entry['dtype']}")
    first, last = entry["data_offsets"]
    storage = file.stretch(base + first, last - first)
    if (base + first) % dtype.itemsize:
        storage = storage.clone()
    return torch.empty(0, dtype=dtype).set_(storage).view(tuple(entry["shape"]))


# Which part of the object is the state dict


def _checkpoint(opened: Opened, inside: str | None) -> Checkpoint:
    skipped: list[str] = []
    path = opened.file.path
    try:
        found, records = _state(opened, inside, skipped)
    except LascauxError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error
    tensors: dict[str, Tensor] = {}
    for name, record in records.items():
        if isinstance(record, Refused):
            raise Unsupported(f"{path}: tensor {name!r}: {record.reason}")
        tensor = record.tensor if isinstance(record, Array) else opened.tensor(record, name)
        assert tensor is not None, "arrays of objects are no tensors"
        tensors[name] = tensor
    metadata = _metadata(opened.root, found, records, skipped)
    if found:
        metadata["inside"] = found
    return Checkpoint(tensors, metadata, opened.container, skipped, opened.file.let_go)


def _state(opened: Opened, inside: str | None, skipped: list[str]) -> tuple[str, dict[str, Any]]:
    """Where the state dict is, and its records."""
    root, path = opened.root, opened.file.path
    parts: Callable[..., Any] = pickled_module_parts
    if opened.container == "torchscript":
        parts = ScriptedModules(opened.code).parts
    if inside is not None:
        for step in inside.split("."):
            held = _mapping(root)
            if held is None or step not in held:
                shown = ", ".join(map(str, list(held or {})[:10])) or "nothing"
                raise BrokenFile(f"{path}: no dictionary {inside!r} in it; there is {shown}")
            root = held[step]
    found = _find(root, parts, skipped, 0, set())
    if opened.container == "torchscript" and not (found and found[1]):
        raise Unsupported(
            f"{path}: a TorchScript archive whose weights are constants of its program (frozen, or "
            "made for phones); save the module before torch.jit.freeze or optimize_for_mobile"
        )
    if found is None or not found[1]:
        held = _mapping(root)
        shown = ", ".join(map(str, list(held or {})[:10])) or _described(root)
        raise BrokenFile(f"{path}: it holds no tensors; there is {shown}")
    where = ".".join(filter(None, (inside, found[0])))
    return where, found[1]


def _find(
    value: Any, parts: Callable[..., Any], skipped: list[str], depth: int, seen: set[int]
) -> tuple[str, dict[str, Any]] | None:
    if _is_tensor(value):
        return "", {"tensor": value}
    if parts(value, "") is not None:
        return "", module_tensors(value, parts, skipped)
    held = _mapping(value)
    if held is None or depth > _DEEPEST_NEST or id(value) in seen:
        return None
    seen.add(id(value))
    direct = {_name(key): each for key, each in held.items() if _is_tensor(each)}
    for name in NESTS:
        if name not in held or _is_tensor(held[name]):
            continue
        found = _find(held[name], parts, skipped, depth + 1, seen)
        if found is not None and len(found[1]) >= len(direct):
            return ".".join(filter(None, (name, found[0]))), found[1]
    if direct:
        if len(direct) != sum(map(_is_tensor, held.values())):
            raise BrokenFile("two tensors have the same name")
        return "", direct
    # Several state dicts side by side, such as those of an encoder and a decoder.
    joined: dict[str, Any] = {}
    for key, each in held.items():
        name = _name(key)
        if not name.startswith(_TRAINING):
            found = _find(each, parts, skipped, depth + 1, seen)
            joined |= {
                f"{name}.{inner}": record for inner, record in (found or ("", {}))[1].items()
            }
    return ("", joined) if joined else None


def _is_tensor(value: Any) -> bool:
    if isinstance(value, Array):
        return value.tensor is not None
    return isinstance(value, TensorRecord | Refused)


def _mapping(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, dict):
        return value
    if isinstance(value, Placeholder) and value.mapping:
        return value.mapping
    if isinstance(value, list | tuple) and len(value) <= 64:
        return dict(enumerate(value))
    return None


def _name(key: Any) -> str:
    return key if isinstance(key, str) else str(key)


# What else is in the file

_NOT_PLAIN = object()


class _Beside:
    """Collects plain values, and one line for everything else, within a bound of steps."""

    def __init__(self, skipped: list[str]) -> None:
        self.skipped = skipped
        self.steps = _MOST_VALUES

    def note(self, line: str) -> None:
        if len(self.skipped) < _MOST_SKIPPED:
            self.skipped.append(line)

    def leave_out(self, name: str, tensors: int) -> None:
        self.note(f"{name}: {tensors} {'tensor' if tensors == 1 else 'tensors'} left out")

    def tensors(self, value: Any) -> int:
        """How many tensors are anywhere in a value."""
        seen: set[int] = set()
        rest, count = [value], 0
        while rest and self.steps > 0:
            self.steps -= 1
            each = rest.pop()
            if _is_tensor(each):
                count += 1
            elif isinstance(each, dict | list | tuple) and id(each) not in seen:
                seen.add(id(each))
                rest += each.values() if isinstance(each, dict) else each
        return count

    def plain(self, value: Any, name: str, depth: int = 0) -> Any:
        """The value without what is not plain, or `_NOT_PLAIN`."""
        self.steps -= 1
        if self.steps < 0 or depth > 8:
            return _NOT_PLAIN
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dict | list | tuple):
            self.steps -= len(value)
            keyed = value if isinstance(value, dict) else dict(enumerate(value))
            if keyed and all(map(_is_tensor, keyed.values())):
                self.leave_out(name, len(keyed))
                return _NOT_PLAIN
            made = {
                _name(key): self.plain(each, f"{name}.{_name(key)}", depth + 1)
                for key, each in keyed.items()
            }
            made = {key: each for key, each in made.items() if each is not _NOT_PLAIN}
            return made if isinstance(value, dict) else list(made.values())
        if _is_tensor(value):
            self.leave_out(name, 1)
            return _NOT_PLAIN
        self.note(f"{name}: {_described(value)}")
        return _NOT_PLAIN


def _described(value: Any) -> str:
    if isinstance(value, Placeholder):
        return f"{value.of} (class not imported)"
    if isinstance(value, Named):
        return f"{value} (not imported)"
    return f"{type(value).__name__} left out"


def _metadata(root: Any, taken: str, names: Iterable[str], skipped: list[str]) -> dict[str, Any]:
    """Plain values beside the state dict; what is not plain gets a line in `skipped`."""
    if isinstance(root, Placeholder) and isinstance(root.state, dict):
        # Attributes of a module saved whole or scripted: numbers such as an input resolution.
        attributes = {
            key: each
            for key, each in root.state.items()
            if isinstance(key, str) and type(each) in (int, float, str) and not key.startswith("_")
        }
        return attributes | {CLASS: str(root.of)}
    beside = _Beside(skipped)
    metadata: dict[str, Any] = {}
    outer = taken.partition(".")[0]
    parents = {name.partition(".")[0] for name in names}
    for key, each in (_mapping(root) or {}).items():
        name = _name(key)
        if taken and name == outer:
            if "." in taken:
                beside.note(f"{name}: only {taken} of it is read")
            continue
        if not taken and (_is_tensor(each) or (name in parents and _mapping(each))):
            continue
        if name.startswith(_TRAINING) and (tensors := beside.tensors(each)):
            beside.leave_out(name, tensors)
            continue
        plain = beside.plain(each, name)
        if plain is not _NOT_PLAIN:
            metadata[name] = plain
    return metadata
