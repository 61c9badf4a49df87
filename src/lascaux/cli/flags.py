"""Command-line flags derived from frozen dataclasses of options, and how help pages look."""

import argparse
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lascaux.errors import BadInput

PROGRAM = "lascaux"
Options = TypeVar("Options")


class WrongUse(Exception):
    """A command was given words that do not make sense together; it exits with 2."""


class HelpPages(argparse.RawDescriptionHelpFormatter):
    """Help of one width on every terminal, with descriptions as they were written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=80)


def add_flags(parser: argparse._ActionsContainer, options: type) -> None:
    """Add one flag for each field of a dataclass, `batch_size` as `--batch-size`.

    Types: bool, int, float, str, Literal, tuples of these, and any of them or None. A field's
    metadata gives its `help`, and may give `metavar` and `choices`.

    Raises:
        TypeError: the class is no dataclass, or a field is of another type.
    """
    hints = get_type_hints(options)
    for field in fields(options):
        parser.add_argument(_flag(field.name), **_flag_settings(field, hints[field.name]))


def options_from(arguments: argparse.Namespace, options: type[Options]) -> Options:
    """The options that were chosen by flags.

    Raises:
        WrongUse: the dataclass refuses a value.
    """
    hints = get_type_hints(options)
    values: dict[str, Any] = {}
    for field in fields(options):  # type: ignore[arg-type]
        value = getattr(arguments, field.name)
        is_tuple = get_origin(_without_none(hints[field.name])) is tuple
        values[field.name] = tuple(value) if is_tuple and value is not None else value
    try:
        return options(**values)
    except BadInput as error:
        raise WrongUse(str(error)) from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flag_settings(field: Field, hint: Any) -> dict[str, Any]:
    kind = _without_none(hint)
    default = field.default
    if default is MISSING and field.default_factory is not MISSING:
        default = field.default_factory()
    settings: dict[str, Any] = {"dest": field.name, "help": _help(field, default)}
    if default is MISSING:
        settings["required"] = True
    else:
        settings["default"] = default
    if kind is bool:
        if default is False:
            return settings | {"action": "store_true"}
        return settings | {"action": argparse.BooleanOptionalAction}
    settings |= _value_settings(field.name, kind)
    settings |= {k: field.metadata[k] for k in ("metavar", "choices") if k in field.metadata}
    return settings


def _value_settings(name: str, kind: Any) -> dict[str, Any]:
    """How argparse reads a value of this type."""
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return _value_settings(name, parts[0]) | {"nargs": "+"}
        if len(set(parts)) == 1:
            return _value_settings(name, parts[0]) | {"nargs": len(parts)}
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return {"type": type(choices[0]), "choices": choices}
    readers: dict[type, tuple[Callable[[str], Any], str]] = {
        int: (int, "N"),
        float: (float, "X"),
        str: (str, name.rsplit("_", 1)[-1].upper()),
    }
    if kind not in readers:
        raise TypeError(f"no flag can be made of {name}: {kind}")
    reader, metavar = readers[kind]
    return {"type": reader, "metavar": metavar}


def _help(field: Field, default: Any) -> str:
    # argparse takes % as the beginning of a substitution.
    text = field.metadata.get("help", "").replace("%", "%%")
    if default is MISSING or default is None or default is False or default in ((), ""):
        return text
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else f"{default}"
    return f"{text} (default: {shown})" if text else f"default: {shown}"


def _without_none(hint: Any) -> Any:
    """The type that a value has unless it is None."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if len(kinds) == 1:
            return kinds[0]
    return hint
