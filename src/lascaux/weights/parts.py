"""Configs of models that are made of models, each of which has a config of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """One model inside another."""

    model: str  # a key of KINDS
    config: Any


@dataclass(frozen=True)
class Elsewhere:
    """A model inside another, whose weights are not in the same file."""

    name: str  # by which it is loaded: of the catalogue, a folder or a hub id
    weights: str  # the hash of what the other was trained with


@dataclass(frozen=True)
class Composite:
    """The config of a model, and of the models that are given to it.

    Attributes:
        own: of the model itself.
        parts: by the name under which the model keeps each; absent ones are left out.
        elsewhere: likewise those that only their names stand for.
    """

    own: Any
    parts: Mapping[str, Part] = field(default_factory=dict)
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a folder's config.json, beside the model's name."""
        told = {"config": self.own.to_json()}
        if self.parts:
            told["parts"] = {
                name: {"model": part.model, "config": part.config.to_json()}
                for name, part in self.parts.items()
            }
        if self.elsewhere:
            told["elsewhere"] = {name: vars(other) for name, other in self.elsewhere.items()}
        return told
