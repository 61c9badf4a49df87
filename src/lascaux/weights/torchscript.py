"""The state dict of a TorchScript archive, or of a pickled module, from its tree of objects.

``torch.jit.save`` pickles a module as an object of a class ``__torch__...`` whose state holds its
attributes: tensors, numbers, lists, submodules. Which tensors are parameters and buffers stands in
the archive's source (``code/``), of which only the head of each class is read here, as text;
nothing is compiled. The rules follow torch/csrc/jit/api/module.h: a parameter is what
``__parameters__`` names, a buffer is what ``__buffers__`` names and, in archives older than that
line, any attribute declared ``Tensor``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lascaux.errors import BrokenFile, Unsupported
from lascaux.weights.inert import Array, Named, Placeholder, Refused, TensorRecord

_DEEPEST = 200
_MOST_MODULES = 1_000_000  # shared submodules count once for each name
_CLASS = re.compile(r"^class (\w+)(?:\((\w+)\))?:")
_NAMES = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]")
_ATTRIBUTE = re.compile(r'^  (?:(\w+) : |__annotations__\["([^"]+)"\] = )(.+)$')


@dataclass
class Declared:
    """What the source of an archive says of one class."""

    module: bool
    parameters: set[str] = field(default_factory=set)
    buffers: set[str] | None = None
    tensors: set[str] = field(default_factory=set)

    def holds(self, name: str) -> bool:
        """Whether an attribute is part of the state dict."""
        if name in self.parameters:
            return True
        return name in (self.tensors if self.buffers is None else self.buffers)


def declared_classes(source: str) -> dict[str, Declared]:
    """The classes of one file of an archive's ``code/``."""
    found: dict[str, Declared] = {}
    current: Declared | None = None
    for line in source.splitlines():
        if match := _CLASS.match(line):
            current = found[match[1]] = Declared(module=match[2] == "Module")
        elif line.startswith("  def ") or (line and not line.startswith(" ")):
            current = None
        elif current is None:
            continue
        elif match := _NAMES.match(line):
            names = set(re.findall(r'"([^"]+)"', match[2]))
            if match[1] == "parameters":
                current.parameters = names
            else:
                current.buffers = names
        elif (match := _ATTRIBUTE.match(line)) and match[3].strip() == "Tensor":
            current.tensors.add(match[1] or match[2])
    return found


class ScriptedModules:
    """Reads modules of a TorchScript archive.

    Args:
        code: gives the source of a module path such as ``__torch__.model``, or None.
    """

    def __init__(self, code: Callable[[str], str | None]) -> None:
        self._code = code
        self._files: dict[str, dict[str, Declared] | None] = {}

    def _declared(self, of: Named) -> Declared | None:
        if of.module not in self._files:
            source = self._code(of.module)
            self._files[of.module] = None if source is None else declared_classes(source)
        classes = self._files[of.module]
        return None if classes is None else classes.get(of.name)

    def parts(self, value: Any, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Tensors and submodules of a module, or None where the value is no module."""
        if not isinstance(value, Placeholder) or not value.of.module.startswith("__torch__"):
            return None
        packed = not isinstance(value.state, dict) and ".quantized." in f"{value.of}."
        if packed:
            raise Unsupported(
                f"{name!r} holds quantised weights ({value.of}), which are not read; save the "
                "model before it is quantised"
            )
        declared = self._declared(value.of)
        if not isinstance(value.state, dict) or (declared is not None and not declared.module):
            return None
        tensors = {
            key: held
            for key, held in value.state.items()
            if isinstance(held, TensorRecord | Refused)
            and (declared is None or declared.holds(key))
        }
        if declared is not None:
            # torch lists parameters before buffers.
            tensors = dict(sorted(tensors.items(), key=lambda it: it[0] not in declared.parameters))
        children = {k: held for k, held in value.state.items() if isinstance(held, Placeholder)}
        return tensors, children


def pickled_module_parts(value: Any, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Tensors and submodules of an ``nn.Module`` saved whole, or None where it is none."""
    state = value.state if isinstance(value, Placeholder) else None
    if not isinstance(state, dict) or not isinstance(state.get("_parameters"), dict):
        return None
    passing = state.get("_non_persistent_buffers_set")
    passing = passing if isinstance(passing, set) else set()
    buffers = state.get("_buffers")
    tensors = dict(state["_parameters"])
    tensors |= {
        key: held
        for key, held in (buffers if isinstance(buffers, dict) else {}).items()
        if key not in passing
    }
    children = state.get("_modules")
    return (
        {k: v for k, v in tensors.items() if isinstance(v, TensorRecord | Array | Refused)},
        dict(children) if isinstance(children, dict) else {},
    )


_Parts = Callable[[Any, str], tuple[dict[str, Any], dict[str, Any]] | None]


def module_tensors(root: Any, parts: _Parts, skipped: list[str]) -> dict[str, Any]:
    """The dotted names and tensor records of a tree of modules, in the order of a state dict.

    Args:
        root: the outermost module.
        parts: gives tensors and submodules of a value.
        skipped: gets a line for every attribute object that is no module.

    Raises:
        BrokenFile: the tree is nested too deeply or does not end.
    """
    found: dict[str, Any] = {}
    visits = 0

    def walk(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
        nonlocal visits
        visits += 1
        if depth > _DEEPEST or visits > _MOST_MODULES:
            raise BrokenFile("modules are nested without end; the file is corrupt")
        both = parts(value, name.rstrip("."))
        if both is None:
            if isinstance(value, Placeholder) and len(skipped) < 1000:
                skipped.append(f"{name.rstrip('.')}: {value.of} (no module)")
            return
        for key, held in both[0].items():
            yield f"{name}{key}", held
        for key, child in both[1].items():
            yield from walk(child, f"{name}{key}.", depth + 1)

    for name, held in walk(root, "", 0):
        found[name] = held
    return found
