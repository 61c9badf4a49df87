"""Accuracies that others published, as data with their sources, to stand beside measured ones."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lascaux.errors import UnknownModel
from lascaux.weights.catalogue import ENTRIES, find


@dataclass(frozen=True)
class Published:
    """One published accuracy of one model."""

    data: str  # the protocol
    model: str  # OpenAI's name
    metric: str  # "top-1" or "top-5"
    value: float  # percent, with the digits that were published
    source: str  # in short


@cache
def _listing() -> dict[str, Any]:
    home = files("lascaux.evaluate").joinpath("published.json")
    return json.loads(home.read_text(encoding="utf-8"))


def published() -> tuple[Published, ...]:
    """All that is known."""
    titles = {name: source["title"] for name, source in _listing()["sources"].items()}
    return tuple(
        Published(**figure | {"source": titles[figure["source"]]})
        for figure in _listing()["figures"]
    )


def published_of(data: str, model: str) -> tuple[Published, ...]:
    """What was published of a model, by any of its names, on the data of a protocol."""
    name = official_name(model)
    return tuple(each for each in published() if (each.data, each.model) == (data, name))


def official_names() -> tuple[str, ...]:
    """OpenAI's nine models."""
    return tuple(dict.fromkeys(each.model for each in published()))


def official_name(model: str) -> str | None:
    """OpenAI's name of these weights; None where they are others, or a folder or file."""
    if Path(model).exists():
        return None
    try:
        entry = find(model)
    except UnknownModel:
        return None
    same = [
        each.name
        for each in ENTRIES
        if each.name in official_names()
        and (each.model, each.variant) == (entry.model, entry.variant)
    ]
    return same[0] if same else None
