"""Files of ids: JSON for people and other programs, or safetensors, which are small."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from lascaux.data.prepared import token_dtype
from lascaux.errors import BadInput, BrokenFile, Unsupported
from lascaux.tasks.aside import written_aside
from lascaux.tasks.results import Failed, Spelling, as_json

FORMAT = "lascaux-ids-1"
SUFFIXES = (".json", ".safetensors")

_FIELDS = {"source": str, "model": str, "weights": str, "codes": int, "ids": list}


def write_spellings(spellings: Sequence[Spelling], path: str | Path) -> None:
    """Write a file of one or several pictures' ids: .json, or .safetensors (uint16 or uint32).

    Raises:
        BadInput: no spelling, another suffix, or a place that cannot be written.
    """
    if not spellings:
        raise BadInput(f"no ids to write to {path}")
    binary = _is_binary(path)
    with written_aside(path) as part:
        if binary:
            part.write_bytes(_packed(spellings))
        else:
            entries = [{"format": FORMAT} | as_json(spelling) for spelling in spellings]
            part.write_text(json_lines(entries, alone=len(entries) == 1), encoding="utf-8")


def json_lines(entries: Sequence[Mapping[str, Any]], *, alone: bool = False) -> str:
    """JSON with one entry a line: a list, or the one object itself."""
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    return f"{lines[0]}\n" if alone else "[\n{}\n]\n".format(",\n".join(lines))


def read_spellings(path: str | Path) -> list[Spelling | Failed]:
    """What `write_spellings` or `lascaux spell --json` wrote, also of pictures that had failed.

    Raises:
        BadInput: there is no such file, or it has another suffix.
        BrokenFile: it is no file of ids, or one that contradicts itself.
        Unsupported: it is of a later version.
    """
    path = Path(path).expanduser()
    binary = _is_binary(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; expected what `lascaux spell --out` wrote")
    entries = _unpacked(path) if binary else _of_json(path)
    if not entries:
        raise BrokenFile(f"{path} holds no ids")
    return [_spelling(entry, f"{path}, entry {number}") for number, entry in enumerate(entries)]


def _is_binary(path: str | Path) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput(f"{path}: files of ids are named {' or '.join(SUFFIXES)}")
    return suffix == ".safetensors"


def _packed(spellings: Sequence[Spelling]) -> bytes:
    arrays = {
        f"{number:05d}": np.array(spelling.ids, dtype=token_dtype(spelling.codes))
        for number, spelling in enumerate(spellings)
    }
    told = [
        {key: value for key, value in asdict(spelling).items() if key != "ids"}
        for spelling in spellings
    ]
    # One entry, since several would be written in any order.
    return save(arrays, {"spellings": json.dumps({"format": FORMAT, "entries": told})})


def _unpacked(path: Path) -> list[Any]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {})["spellings"])
            _require_format(told["format"], path)
            names = sorted(file.keys())
            ids = [file.get_tensor(name).tolist() for name in names]
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BrokenFile(f"{path} is no whole file of ids ({error}); write it again") from error
    entries = told.get("entries")
    if not isinstance(entries, list) or len(entries) != len(ids):
        raise BrokenFile(f"{path} tells of other ids than it has; write it again")
    return [{**entry, "ids": row} for entry, row in zip(entries, ids, strict=True)]


def _of_json(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # also what is no UTF-8
        raise BrokenFile(f"{path} is no JSON ({error}); expected a file of ids") from error
    return content if isinstance(content, list) else [content]


def _spelling(entry: Any, label: str) -> Spelling | Failed:
    if not isinstance(entry, dict):
        raise BrokenFile(f"{label} is no object; expected source, model, weights, codes, grid, ids")
    _require_format(entry.get("format", FORMAT), label)
    if "reason" in entry:
        return Failed(str(entry.get("source", "")), str(entry["reason"]))
    for name, kind in _FIELDS.items():
        if not _is(entry.get(name), kind):
            raise BrokenFile(f"{label}: {name} is {entry.get(name)!r:.40}; expected {_KINDS[kind]}")
    grid, ids = entry.get("grid"), entry["ids"]
    if grid is not None and not (_is(grid, list) and len(grid) == 2 and all(map(_is_count, grid))):
        raise BrokenFile(f"{label}: grid is {grid!r:.40}; expected rows and columns, or null")
    if odd := [one for one in ids if not _is(one, int)]:
        raise BrokenFile(f"{label}: {odd[0]!r:.40} is among the ids; whole numbers are expected")
    return Spelling(
        **{name: entry[name] for name in _FIELDS if name != "ids"},
        grid=None if grid is None else (grid[0], grid[1]),
        ids=tuple(ids),
    )


_KINDS = {str: "a text", int: "a whole number", list: "a list"}


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is(value, int) and value > 0


def _require_format(found: Any, label: str | Path) -> None:
    if found != FORMAT:
        raise Unsupported(
            f"{label} has the format {found!r}; this version reads {FORMAT}, a later one may read "
            "it"
        )
