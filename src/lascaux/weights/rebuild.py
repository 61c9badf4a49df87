"""The few names of a pickle that are carried out, each by a function of this file.

The published counterparts: torch/_utils.py, torch/_tensor.py, torch/storage.py, and the pickling of
dtype, scalar and array in NumPy's multiarray. Every function takes the interpreter first, then the
arguments the pickle gave.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lascaux.weights.inert import (
    Array,
    Named,
    Placeholder,
    Refused,
    StorageRef,
    TensorRecord,
    attribute_refusal,
)

if TYPE_CHECKING:
    from lascaux.weights.pickles import Interpreter

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "double": torch.float64,
    "float32": torch.float32,
    "float": torch.float32,
    "float16": torch.float16,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "long": torch.int64,
    "int32": torch.int32,
    "int": torch.int32,
    "int16": torch.int16,
    "short": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
    "bool": torch.bool,
    "complex64": torch.complex64,
    "cfloat": torch.complex64,
    "complex128": torch.complex128,
    "cdouble": torch.complex128,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
_STORAGES: dict[str, torch.dtype | None] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": None,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
}
_STORAGE_MODULES = {"torch", "torch.cuda", "torch.storage"}
_QUANTISED = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}


_PLAIN_ARRAY = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)")


@dataclass(eq=False)
class NumpyType:
    """A NumPy dtype as a pickle spells it: ``f4`` and its byte order."""

    text: str
    order: str = "="

    def plain(self) -> np.dtype | None:
        """The dtype, or None where it is not one of plain numbers."""
        # The pattern comes first: NumPy would parse whole structures from such a text.
        if not _PLAIN_ARRAY.fullmatch(self.text):
            return None
        found = np.dtype(self.text)
        return found.newbyteorder(">") if self.order == ">" else found


def _integers(values: Any) -> tuple[int, ...]:
    found = tuple(values)
    if any(type(value) is not int for value in found) or len(found) > 64:
        raise ValueError(f"sizes that are no integers: {str(found)[:80]}")
    return found


def _tensor(
    at: Interpreter,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    dtype: torch.dtype | None = None,
) -> Any:
    if isinstance(storage, Refused):
        return storage
    if not isinstance(storage, StorageRef):
        at.broken(f"a tensor on a {type(storage).__name__} instead of a storage")
    dtype = dtype or storage.dtype or torch.uint8
    if dtype in _QUANTISED:
        return Refused(f"quantised tensors ({dtype}) are not read; dequantise before saving")
    if type(offset) is not int:
        at.broken("a tensor whose offset is no integer")
    flags = metadata if isinstance(metadata, dict) else {}
    return TensorRecord(
        *(storage, dtype, offset, _integers(size), _integers(stride)),
        conjugated=flags.get("conj") is True,
        negated=flags.get("neg") is True,
    )


def _tensor_of_dtype(
    at: Interpreter,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Any:
    if not isinstance(dtype, torch.dtype):
        return Refused(f"a tensor of dtype {dtype}")
    return _tensor(at, storage, offset, size, stride, metadata=metadata, dtype=dtype)


def _parameter(at: Interpreter, data: Any, *rest: Any) -> Any:
    return data


def _subclass(at: Interpreter, function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    return at.call(function, arguments)


def _quantised(at: Interpreter, *arguments: Any) -> Refused:
    return Refused("quantised tensors are not read; dequantise before saving")


def _dict(at: Interpreter, *arguments: Any) -> Any:
    made: dict[Any, Any] = {}
    for argument in arguments:
        if isinstance(argument, dict | list | tuple):
            at.spend(16 * len(argument))
        if isinstance(argument, dict):
            made.update(argument)
        elif isinstance(argument, list | tuple):
            for key, value in argument:
                made[at.key(key)] = value
    return made


def set_of(at: Interpreter, values: Any = ()) -> Any:
    """A set of the values, each of which must be fit to be a key."""
    at.spend(16 * len(values))
    return {at.key(value) for value in values}


def _sequence(at: Interpreter, values: Any = ()) -> Any:
    at.spend(8 * len(values))
    return tuple(values)


def _listed(at: Interpreter, values: Any = (), *rest: Any) -> Any:
    at.spend(8 * len(values))
    return list(values)


def _encode(at: Interpreter, text: Any, encoding: Any = "latin1") -> Any:
    if encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        at.broken(f"text in the encoding {str(encoding)[:40]!r}")
    at.spend(len(text))
    return text.encode(encoding)


def _bytes(at: Interpreter, value: Any = b"", encoding: Any = "latin1") -> Any:
    if isinstance(value, str):
        return _encode(at, value, encoding)
    if not isinstance(value, bytes | bytearray | list | tuple):
        # bytes(10**12) would ask for that many zeros.
        at.broken(f"bytes made of a {type(value).__name__}")
    at.spend(len(value))
    return bytes(value)


def _attribute(at: Interpreter, target: Any, name: Any, *default: Any) -> Any:
    # Nested classes and enum members are pickled as getattr(outer, name) up to protocol 3.
    if not isinstance(target, Named | Placeholder) or not isinstance(name, str):
        at.unsafe(f"getattr({type(target).__name__}, {name!r})", "calls")
    owner = target if isinstance(target, Named) else target.of
    last = owner.name.rpartition(".")[2].lstrip("_")
    reason = attribute_refusal(name)
    if reason or not last[:1].isupper():
        at.unsafe(f"getattr({owner}, {name!r})", "calls")
    return at.named(owner.module, f"{owner.name}.{name}")


def _reconstructed(at: Interpreter, kind: Any, base: Any = None, state: Any = None) -> Any:
    made = at.call(kind, (), class_made=True) if isinstance(kind, Named) else None
    if not isinstance(made, Placeholder):
        at.broken("an object of no class")
    if isinstance(state, dict):
        at.spend(16 * len(state))
        made.mapping.update(state)
    return made


def _new_object(at: Interpreter, kind: Any, *arguments: Any) -> Any:
    return at.call(kind, arguments, class_made=True)


def _new_with_names(at: Interpreter, kind: Any, arguments: Any, names: Any) -> Any:
    return at.call(kind, arguments, class_made=True)


def _storage_bytes(at: Interpreter, data: Any) -> Any:
    if at.nested is None or not isinstance(data, bytes):
        return Refused("storages saved inside a storage are not read")
    at.spend(len(data))
    return at.nested(data)


def _numpy_type(at: Interpreter, text: Any, *rest: Any) -> NumpyType:
    return NumpyType(text if isinstance(text, str) else "O")


def _number_bytes(data: Any) -> bytes | None:
    if isinstance(data, str):
        return data.encode("latin1")
    return bytes(data) if isinstance(data, bytes | bytearray) else None


def array_of(
    at: Interpreter, shape: Any, kind: Any, data: Any, *, fortran: bool
) -> torch.Tensor | None:
    """The numbers of a NumPy array as a tensor, or None where it holds objects."""
    raw = _number_bytes(data)
    plain = kind.plain() if isinstance(kind, NumpyType) else None
    if plain is None or raw is None:
        return None
    at.spend(2 * len(raw))
    shaped = np.frombuffer(raw, dtype=plain) if raw else np.empty(0, dtype=plain)
    shaped = shaped.reshape(_integers(shape), order="F" if fortran else "C")
    native = shaped.astype(plain.newbyteorder("="), order="C", copy=True)
    # torch's own memory is aligned; NumPy's need not be.
    return torch.from_numpy(native).clone()


def _numpy_scalar(at: Interpreter, kind: Any, data: Any = b"") -> Any:
    raw = _number_bytes(data)
    plain = kind.plain() if isinstance(kind, NumpyType) else None
    if plain is None or raw is None:
        return Placeholder(Named("numpy", "scalar"), (str(kind),))
    return np.frombuffer(raw, dtype=plain, count=1)[0].item()


def _numpy_empty(at: Interpreter, *arguments: Any) -> Array:
    return Array()


def _numpy_buffer(at: Interpreter, data: Any, kind: Any, shape: Any, order: Any = "C") -> Array:
    return Array(array_of(at, shape, kind, data, fortran=order == "F"))


REBUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._utils", "_rebuild_qtensor"): _quantised,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    ("torch.storage", "_load_from_bytes"): _storage_bytes,
    ("torch", "Size"): _sequence,
    ("collections", "OrderedDict"): _dict,
    ("collections", "Counter"): _dict,
    ("collections", "defaultdict"): _dict,
    ("collections", "deque"): _listed,
    ("builtins", "dict"): _dict,
    ("builtins", "list"): _listed,
    ("builtins", "tuple"): _sequence,
    ("builtins", "set"): set_of,
    ("builtins", "frozenset"): set_of,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("builtins", "getattr"): _attribute,
    ("_codecs", "encode"): _encode,
    ("copy_reg", "_reconstructor"): _reconstructed,
    ("copy_reg", "__newobj__"): _new_object,
    ("copy_reg", "__newobj_ex__"): _new_with_names,
    ("numpy", "dtype"): _numpy_type,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("numpy.core.multiarray", "_reconstruct"): _numpy_empty,
    ("numpy._core.multiarray", "_reconstruct"): _numpy_empty,
    ("numpy.core.numeric", "_frombuffer"): _numpy_buffer,
    ("numpy._core.numeric", "_frombuffer"): _numpy_buffer,
}


def storage_dtype(kind: Any) -> tuple[bool, torch.dtype | None]:
    """Whether a value names a kind of torch storage, and the dtype it says (None: bytes)."""
    if isinstance(kind, Named) and kind.module in _STORAGE_MODULES and kind.name in _STORAGES:
        return True, _STORAGES[kind.name]
    return False, None
