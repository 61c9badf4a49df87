"""What passes between files and the tables of `maps/`: what was found, and what became of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lascaux.errors import BrokenFile
from lascaux.weights.keymap import Rule


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint as it was found.

    Attributes:
        tensors: under the names they have in the files.
        label: what messages call it.
        paths: the files, in whose folder its publisher may have put more.
        values: plain values that lie in the files beside the tensors, such as hyper-parameters.
        config: where a folder, the catalogue or the caller tells it; None: it must be found out.
        options: what the caller says of a file that cannot tell, by name.
    """

    tensors: dict[str, Tensor]
    label: str = "the checkpoint"
    paths: tuple[Path, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    config: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A checkpoint under our names.

    Attributes:
        tensors: our name -> tensor.
        config: of the model.
        rules: by which the names came; none where they were ours already.
        layout: the publisher's way of naming.
        dropped: published names that have no place in the model, each with the reason.
        fetched: models that it is made of and that the file has not, by the names under which it
            keeps them: their names in the catalogue.
    """

    tensors: dict[str, Tensor]
    config: Any
    rules: tuple[Rule, ...] = ()
    layout: str = "lascaux"
    dropped: Mapping[str, str] = field(default_factory=dict)
    fetched: Mapping[str, str] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file.

    Raises:
        BrokenFile: it is no valid JSON, or no object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenFile(f"{path} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise BrokenFile(f"{path} holds a JSON {type(content).__name__} instead of an object")
    return content
