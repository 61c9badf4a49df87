"""What a pickle's names and objects become when nothing of it may run, and which names are refused.

``check`` holds the rule; ``pickles.py`` says when it is asked.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch

# Standard-library names that occur in honest checkpoints and stay inert; everything else of the
# standard library is refused. Values of a set are the names allowed, None allows the module.
_PLAIN_VALUES: dict[str, set[str] | None] = {
    "abc": {"ABC", "ABCMeta"},
    "argparse": {"Namespace"},
    "array": {"array", "_array_reconstructor"},
    "builtins": {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int"),
        *("list", "object", "range", "set", "slice", "str", "tuple", "Ellipsis", "NotImplemented"),
        "NoneType",
    },
    "_codecs": {"encode"},
    "collections": {"ChainMap", "Counter", "OrderedDict", "UserDict", "UserList"}
    | {"defaultdict", "deque"},
    "copy_reg": {"_reconstructor", "__newobj__", "__newobj_ex__"},
    "dataclasses": {"_MISSING_TYPE", "Field", "_HAS_DEFAULT_FACTORY_CLASS"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "enum": {"Enum", "IntEnum", "Flag", "IntFlag", "StrEnum"},
    "fractions": {"Fraction"},
    "functools": {"partial"},
    "ipaddress": None,
    "logging": {"Logger", "RootLogger", "getLogger"},
    "numbers": None,
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"},
    "random": {"Random"},
    "re": {"_compile"},
    "time": {"struct_time"},
    "types": {"SimpleNamespace", "NoneType", "MappingProxyType"},
    "typing": None,
    "uuid": {"UUID", "SafeUUID"},
    "zoneinfo": {"ZoneInfo"},
}
_SAME_MODULE = {"__builtin__": "builtins", "copyreg": "copy_reg", "UserDict": "collections"}
# Python 2's names for what the standard library refuses today.
_OLD_STDLIB = {"commands", "popen2", "thread", "urllib2", "imp", "new", "nt", "posix", "dircache"}
_STDLIB = frozenset(sys.stdlib_module_names) | _OLD_STDLIB
# Other packages' modules that load or run code when called.
_REFUSED_MODULES = (
    *("torch.hub", "torch.jit", "torch.serialization", "torch.package", "torch.ops", "torch._ops"),
    *("torch.utils.cpp_extension", "torch.utils.model_zoo", "torch.utils.collect_env"),
    *("torch.utils.bottleneck", "torch._inductor", "torch._dynamo", "torch.testing"),
    *("torch.distributed.rpc", "torch.multiprocessing", "torch.fx", "torch.onnx", "torch.export"),
    *("numpy.testing", "numpy.f2py", "numpy.distutils", "numpy.lib.npyio", "numpy.ctypeslib"),
    *("pip", "setuptools", "pkg_resources", "distutils", "IPython", "cffi", "pexpect", "fabric"),
    *("dill", "cloudpickle", "joblib", "jsonpickle", "yaml", "requests", "httpx", "paramiko"),
    *("aiohttp", "pandas.io", "sympy", "scipy.io", "lib2to3", "nose", "numexpr", "ptyprocess"),
)
_REFUSED_NAMES = {"system", "popen", "Popen", "eval", "exec", "execfile", "__import__", "spawn"}
# Functions that honest checkpoints call and that stay without effect here.
_HARMLESS_CALLS = {
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("torch.serialization", "_get_layout"),
    ("torch.nn.modules.utils", "_ntuple"),
    ("torch", "device"),
    ("pytz", "_p"),
    ("pytz", "_UTC"),
    ("omegaconf.base", "_reconstruct"),
}


def refusal(module: str, name: str) -> str | None:
    """Why a global is refused, or None if it may stay as an inert name."""
    whole = f"{module}.{name}"
    if (module, name) in _HARMLESS_CALLS:
        return None
    allowed = _PLAIN_VALUES.get(module, set())
    if module.partition(".")[0] in _STDLIB and allowed is not None and name not in allowed:
        return "names"
    if _under(module, _REFUSED_MODULES) or _under(whole, _REFUSED_MODULES):
        return "names"
    if module in ("torch", "numpy") and name == "load":
        return "names"
    return attribute_refusal(name)


def attribute_refusal(name: str) -> str | None:
    """Why a dotted name within a module or class is refused: dunders, or through to a module."""
    parts = name.split(".")
    reaches = any(part.startswith("__") for part in parts)
    through = any(part in _STDLIB for part in parts[:-1])
    return "reaches for" if reaches or through or parts[-1] in _REFUSED_NAMES else None


def like_a_class(module: str, name: str) -> bool:
    """Whether a called name is a class as far as one can tell, or a function known as harmless."""
    if (module, name) in _HARMLESS_CALLS or module in _PLAIN_VALUES:
        return True
    if module.partition(".")[0] == "__torch__":
        return True
    return name.rpartition(".")[2].lstrip("_")[:1].isupper()


def canonical(module: str) -> str:
    """The module's name in Python 3."""
    return _SAME_MODULE.get(module, module)


def _under(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


@dataclass(frozen=True)
class Named:
    """A global of a pickle: a name that was never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Placeholder:
    """An object of a class that was not imported: what the pickle gave it, and nothing else.

    Attributes:
        of: the class or function the pickle named.
        arguments: what it was made with.
        state: what BUILD gave it, mostly its attributes as a dict.
        mapping: items set into it (subclasses of dict).
        elements: values appended to it (subclasses of list or set).
    """

    of: Named
    arguments: tuple[Any, ...] = ()
    state: Any = None
    mapping: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.of}>"


@dataclass(frozen=True)
class StorageRef:
    """A storage a pickle refers to: its key in the container, its dtype, its elements.

    ``start`` is where a view of another storage begins, in elements (legacy files only).
    """

    key: str
    dtype: torch.dtype | None
    elements: int
    start: int = 0


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as its pickle describes it, in elements; not yet checked against any file."""

    storage: StorageRef
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False


@dataclass(frozen=True)
class Refused:
    """A kind of tensor that is not read, and why."""

    reason: str


@dataclass(eq=False)
class Array:
    """A NumPy array of a pickle; ``tensor`` is None where it held objects instead of numbers."""

    tensor: torch.Tensor | None = None
