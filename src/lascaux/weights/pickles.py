"""Pickles read as data: an interpreter of the opcodes that imports nothing and calls nothing.

A pickle is a program that may import any module and call anything in it. Here a global is only a
name, and what becomes of it is decided by tables:

1. *Rebuilt* (``rebuild.py``): the few names of which tensors consist, such as
   ``torch._utils._rebuild_tensor_v2``, storages, dtypes, ``OrderedDict``, NumPy arrays.
2. *Refused* with ``UnsafeFile`` (``inert.py``), already when it is named: anything of Python's
   standard library but a list of plain values (so ``os.system``, ``builtins.eval``, ``subprocess``,
   ``importlib``, ...), modules of other packages that load or run code, and names that reach
   through dunders or into another module; also the extension registry.
3. *Inert*: every other class becomes a ``Placeholder`` that keeps what the pickle gave it and does
   nothing, so that a training checkpoint full of callbacks can still be read.
   A *call* of an unknown name that is not capitalised like a class is refused: a pickle that calls
   functions is a program, not a checkpoint. Functions that are only mentioned stay inert.

Work and memory are bounded: at most ``MAX_OPERATIONS`` opcodes, copies in proportion to the file,
and no length in the stream is believed before as many bytes are there.
The opcodes are those of PEP 307, 3154 and 574.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from lascaux.errors import BrokenFile, UnsafeFile
from lascaux.weights.inert import (
    Array,
    Named,
    Placeholder,
    Refused,
    canonical,
    like_a_class,
    refusal,
)
from lascaux.weights.rebuild import (
    DTYPES,
    REBUILDERS,
    NumpyType,
    array_of,
    set_of,
    storage_dtype,
)

MAX_OPERATIONS = 10_000_000
_LONGEST_NAME = 1000
_DEEPEST_KEY = 8  # tuples within tuples as dictionary keys: hashing them recurses in C


class _Mark:
    """What MARK puts on the stack."""


_MARK = _Mark()


class Interpreter:
    """Runs one pickle of a stream.

    Args:
        data: the bytes the pickle lies in.
        where: the file (and entry) as messages shall call it.
        position: where the pickle starts.
        persistent: turns a persistent id into a value; None refuses them.
        nested: reads the bytes of a storage saved inside a pickle; None refuses them.
    """

    def __init__(
        self,
        data: Any,
        where: str,
        position: int = 0,
        persistent: Callable[[Any], Any] | None = None,
        nested: Callable[[bytes], Any] | None = None,
    ) -> None:
        self.data = memoryview(data)
        self.where = where
        self.position = position
        self.persistent = persistent
        self.nested = nested
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        # An honest pickle copies each of its bytes a few times at most.
        self.allowance = (16 << 20) + 8 * len(self.data)

    def run(self) -> Any:
        """The object of the pickle; ``position`` then stands behind its STOP.

        Raises:
            UnsafeFile: it names or calls something that could run code.
            BrokenFile: it is not a pickle, ends early, or is too long.
        """
        try:
            for _ in range(MAX_OPERATIONS):
                code = self.take(1)[0]
                step = _STEPS.get(code)
                if step is None:
                    self.broken(f"byte 0x{code:02x} is no pickle opcode")
                if step(self) is _STOP:
                    return self.pop()
        except (UnsafeFile, BrokenFile):
            raise
        except (
            *(IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError),
            *(struct.error, RecursionError, MemoryError),
        ) as error:
            self.broken(f"{type(error).__name__}: {error}")
        self.broken(f"it has more than {MAX_OPERATIONS:,} opcodes")

    # Reading and the stack

    def broken(self, what: str) -> NoReturn:
        """Ends the reading: the stream is not a whole pickle."""
        raise BrokenFile(
            f"{self.where}: the pickle cannot be read at byte {self.position}: {what}; the file "
            "is truncated or corrupt; fetch it again"
        )

    def unsafe(self, what: str, why: str) -> NoReturn:
        """Ends the reading: the stream tries to run code."""
        raise UnsafeFile(
            f"{self.where}: the pickle {why} {what}; that could run code, so nothing was executed "
            "and the file is refused; ask its maker for a safetensors file"
        )

    def spend(self, size: int) -> None:
        """Counts bytes that a copy needs, so that repeated copies cannot fill the memory."""
        self.allowance -= size
        if self.allowance < 0:
            self.broken("it copies its values over and over")

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            self.broken(f"{count} bytes expected, {len(self.data) - self.position} left")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, form: str) -> int:
        """The next little-endian integer, ``form`` as in ``struct``."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def line(self) -> bytes:
        """The next line, without its end."""
        start = self.position
        while start < len(self.data):
            piece = bytes(self.data[start : start + 4096])
            found = piece.find(b"\n")
            if found >= 0:
                whole = bytes(self.data[self.position : start + found])
                self.position = start + found + 1
                return whole
            start += 4096
        self.broken("a line without an end")

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Takes a value from the stack."""
        value = self.stack.pop()
        if value is _MARK:
            self.broken("a mark where a value should be")
        return value

    def above_mark(self) -> list[Any]:
        """Takes the values above the last mark, and the mark."""
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        if at < 0:
            self.broken("no mark on the stack")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def key(self, value: Any, depth: int = 0) -> Any:
        """The value, if it can be a key without running anything deep or foreign."""
        if type(value) is tuple and depth < _DEEPEST_KEY:
            for each in value:
                self.key(each, depth + 1)
        elif not isinstance(
            value,
            (str, int, float, bytes, complex, type(None), Named, Placeholder, torch.dtype),
        ):
            self.broken(f"a {type(value).__name__} as the key of a dictionary or set")
        return value

    # Names, calls, state

    def named(self, module: str, name: str) -> Any:
        """What a global stands for here."""
        module = canonical(module)
        if not module or not name or len(module) + len(name) > _LONGEST_NAME:
            self.broken("a global without a name, or with one of more than a thousand letters")
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        torchscript = module.partition(".")[0] == "__torch__" or module == "torch.jit._pickle"
        if not torchscript and (module, name) not in REBUILDERS:
            reason = refusal(module, name)
            if reason is not None:
                self.unsafe(f"{module}.{name}", reason)
        return Named(module, name)

    def call(self, function: Any, arguments: Any, *, class_made: bool = False) -> Any:
        """What a call in the pickle gives: rebuilt by us, inert, or refused."""
        if isinstance(function, Placeholder):
            self.unsafe(f"an object of {function.of}", "calls")
        if not isinstance(function, Named):
            self.broken(f"a call of a {type(function).__name__}")
        if not isinstance(arguments, tuple):
            self.broken("a call without a tuple of arguments")
        rebuild = REBUILDERS.get((function.module, function.name))
        if rebuild is not None:
            return rebuild(self, *arguments)
        if storage_dtype(function)[0]:
            return Refused(f"a storage made by a call of {function}")
        if function.name.startswith("_rebuild") and function.module.startswith("torch."):
            return Refused(f"tensors made by {function} are not read")
        if function.module == "torch.jit._pickle":
            # build_intlist and its kin tag a list or dict with its TorchScript type.
            return arguments[0] if arguments else []
        if not class_made and not like_a_class(function.module, function.name):
            self.unsafe(str(function), "calls the function")
        return Placeholder(function, arguments)

    def build(self, target: Any, state: Any) -> None:
        """Keeps the state of an object; nothing of the object is run."""
        if isinstance(target, Placeholder):
            target.state = state
        elif isinstance(target, NumpyType):
            target.order = str(state[1])
        elif isinstance(target, Array):
            target.tensor = array_of(self, state[1], state[2], state[4], fortran=bool(state[3]))
        # Attributes of dicts and parameters (a state dict's _metadata) carry no tensors.

    def set_items(self, target: Any, pairs: list[Any]) -> None:
        """Sets keys and values, given in turn, into a dict."""
        if isinstance(target, Placeholder):
            target = target.mapping
        if not isinstance(target, dict):
            self.broken(f"items for a {type(target).__name__}")
        if len(pairs) % 2:
            self.broken("a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[self.key(key)] = value

    def append(self, target: Any, values: list[Any]) -> None:
        """Adds values to a list or set."""
        if isinstance(target, Placeholder):
            target = target.elements
        if isinstance(target, set):
            target.update(self.key(value) for value in values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            self.broken(f"elements for a {type(target).__name__}")


# One function per opcode

_STOP = object()
_STEPS: dict[int, Callable[[Interpreter], Any]] = {}


_Step = Callable[[Interpreter], Any]


def _opcode(*codes: bytes) -> Callable[[_Step], _Step]:
    def keep(step: _Step) -> _Step:
        for code in codes:
            _STEPS[code[0]] = step
        return step

    return keep


def _pushes(code: bytes, value: Callable[[Interpreter], Any]) -> None:
    _STEPS[code[0]] = lambda at: at.push(value(at))


def _text_number(line: bytes) -> int:
    return int(line.rstrip(b"L"))


def _text_integer(line: bytes) -> int | bool:
    # Protocol 0 writes booleans as 00 and 01.
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else _text_number(line)


def _quoted(line: bytes) -> str:
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return line[1:-1].decode("unicode_escape")


def _sized(at: Interpreter, form: str) -> bytes:
    return bytes(at.take(at.number(form)))


def _text(at: Interpreter, form: str) -> str:
    return str(at.take(at.number(form)), "utf-8", "surrogatepass")


def _popped(at: Interpreter, count: int) -> tuple[Any, ...]:
    if len(at.stack) < count:
        at.broken("the stack is empty")
    found = tuple(at.stack[-count:])
    if any(value is _MARK for value in found):
        at.broken("a mark where a value should be")
    del at.stack[-count:]
    return found


_pushes(b"(", lambda at: _MARK)
_pushes(b"N", lambda at: None)
_pushes(b"\x88", lambda at: True)
_pushes(b"\x89", lambda at: False)
_pushes(b"}", lambda at: {})
_pushes(b"]", lambda at: [])
_pushes(b")", lambda at: ())
_pushes(b"\x8f", lambda at: set())
_pushes(b"K", lambda at: at.number("B"))
_pushes(b"M", lambda at: at.number("H"))
_pushes(b"J", lambda at: at.number("i"))
_pushes(b"I", lambda at: _text_integer(at.line()))
_pushes(b"L", lambda at: _text_number(at.line()))
_pushes(b"\x8a", lambda at: int.from_bytes(at.take(at.number("B")), "little", signed=True))
_pushes(b"\x8b", lambda at: int.from_bytes(at.take(at.number("i")), "little", signed=True))
_pushes(b"F", lambda at: float(at.line()))
_pushes(b"G", lambda at: struct.unpack(">d", at.take(8))[0])
_pushes(b"S", lambda at: _quoted(at.line()))
_pushes(b"V", lambda at: at.line().decode("raw-unicode-escape"))
# Strings of Python 2 are bytes: Latin-1 keeps every one of them.
_pushes(b"T", lambda at: str(at.take(at.number("i")), "latin1"))
_pushes(b"U", lambda at: str(at.take(at.number("B")), "latin1"))
_pushes(b"X", lambda at: _text(at, "I"))
_pushes(b"\x8c", lambda at: _text(at, "B"))
_pushes(b"\x8d", lambda at: _text(at, "Q"))
_pushes(b"B", lambda at: _sized(at, "I"))
_pushes(b"C", lambda at: _sized(at, "B"))
_pushes(b"\x8e", lambda at: _sized(at, "Q"))
_pushes(b"\x96", lambda at: _sized(at, "Q"))
_pushes(b"t", lambda at: tuple(at.above_mark()))
_pushes(b"l", lambda at: at.above_mark())
_pushes(b"\x91", lambda at: set_of(at, at.above_mark()))
_pushes(b"\x85", lambda at: _popped(at, 1))
_pushes(b"\x86", lambda at: _popped(at, 2))
_pushes(b"\x87", lambda at: _popped(at, 3))
_pushes(b"2", lambda at: at.stack[-1])
_pushes(b"h", lambda at: at.memo[at.number("B")])
_pushes(b"j", lambda at: at.memo[at.number("I")])
_pushes(b"g", lambda at: at.memo[_text_number(at.line())])


@_opcode(b".")
def _stop(at: Interpreter) -> Any:
    return _STOP


@_opcode(b"\x80")
def _set_protocol(at: Interpreter) -> None:
    protocol = at.number("B")
    if protocol > 5:
        at.broken(f"protocol {protocol}; up to 5 are known")


@_opcode(b"\x95")
def _frame(at: Interpreter) -> None:
    at.number("Q")


@_opcode(b"\x98")
def _read_only(at: Interpreter) -> None:
    """A buffer made read-only stays what it is."""


@_opcode(b"0")
def _drop(at: Interpreter) -> None:
    at.stack.pop()


@_opcode(b"1")
def _drop_mark(at: Interpreter) -> None:
    at.above_mark()


def _remember(at: Interpreter, place: int) -> None:
    at.memo[place] = at.stack[-1]


@_opcode(b"q")
def _remember_short(at: Interpreter) -> None:
    _remember(at, at.number("B"))


@_opcode(b"r")
def _remember_long(at: Interpreter) -> None:
    _remember(at, at.number("I"))


@_opcode(b"p")
def _remember_text(at: Interpreter) -> None:
    _remember(at, _text_number(at.line()))


@_opcode(b"\x94")
def _remember_next(at: Interpreter) -> None:
    _remember(at, len(at.memo))


@_opcode(b"d")
def _dict_of_marked(at: Interpreter) -> None:
    made: dict[Any, Any] = {}
    at.set_items(made, at.above_mark())
    at.push(made)


@_opcode(b"s")
def _set_item(at: Interpreter) -> None:
    at.set_items(at.stack[-3], list(_popped(at, 2)))


@_opcode(b"u")
def _set_marked_items(at: Interpreter) -> None:
    pairs = at.above_mark()
    at.set_items(at.stack[-1], pairs)


@_opcode(b"a")
def _append_one(at: Interpreter) -> None:
    value = at.pop()
    at.append(at.stack[-1], [value])


@_opcode(b"e", b"\x90")
def _append_marked(at: Interpreter) -> None:
    values = at.above_mark()
    at.append(at.stack[-1], values)


@_opcode(b"c")
def _global(at: Interpreter) -> None:
    module, name = at.line().decode(), at.line().decode()
    at.push(at.named(module, name))


@_opcode(b"\x93")
def _stack_global(at: Interpreter) -> None:
    module, name = _popped(at, 2)
    if not isinstance(module, str) or not isinstance(name, str):
        at.broken("a global whose name is no text")
    at.push(at.named(module, name))


@_opcode(b"R")
def _reduce(at: Interpreter) -> None:
    function, arguments = _popped(at, 2)
    at.push(at.call(function, arguments))


@_opcode(b"i")
def _instance(at: Interpreter) -> None:
    module, name = at.line().decode(), at.line().decode()
    kind = at.named(module, name)
    at.push(at.call(kind, tuple(at.above_mark())))


@_opcode(b"o")
def _object(at: Interpreter) -> None:
    kind, *arguments = at.above_mark()
    at.push(at.call(kind, tuple(arguments)))


@_opcode(b"\x81")
def _new(at: Interpreter) -> None:
    kind, arguments = _popped(at, 2)
    at.push(at.call(kind, arguments, class_made=True))


@_opcode(b"\x92")
def _new_with_names(at: Interpreter) -> None:
    kind, arguments, _names = _popped(at, 3)
    at.push(at.call(kind, arguments, class_made=True))


@_opcode(b"b")
def _build(at: Interpreter) -> None:
    state = at.pop()
    at.build(at.stack[-1], state)


@_opcode(b"P")
def _persistent_text(at: Interpreter) -> None:
    _persist(at, at.line().decode())


@_opcode(b"Q")
def _persistent(at: Interpreter) -> None:
    _persist(at, at.pop())


def _persist(at: Interpreter, name: Any) -> None:
    if at.persistent is None:
        at.broken("a persistent id in a plain pickle")
    at.push(at.persistent(name))


@_opcode(b"\x82", b"\x83", b"\x84")
def _extension(at: Interpreter) -> None:
    at.unsafe("a code of the extension registry", "calls")


@_opcode(b"\x97")
def _outside_buffer(at: Interpreter) -> None:
    at.broken("a buffer outside the pickle")
