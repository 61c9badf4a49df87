"""Configs of models as JSON, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from lascaux.errors import BadInput

Config = TypeVar("Config")


def config_to_json(config: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON types: tuples become lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def config_from_json(kind: type[Config], fields: Mapping[str, Any], name: str) -> Config:
    """The config of which `config_to_json` gave the fields.

    Args:
        kind: a dataclass whose sequences are tuples.
        fields: by name.
        name: of the model, for messages.

    Raises:
        BadInput: a field is unknown or missing, or its value is impossible.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore
    if unknown := sorted(set(fields) - set(known)):
        raise BadInput(f"unknown fields in a {name} config: {', '.join(unknown)}")
    absent = [
        each
        for each, field in known.items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and each not in fields
    ]
    if absent:
        raise BadInput(f"fields missing from a {name} config: {', '.join(absent)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInput(f"a {name} config with impossible values: {error}") from error
