"""`lascaux models`: the models known by name, and all there is to know about one."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from lascaux.cli.flags import WrongUse
from lascaux.weights.catalogue import ENTRIES, Entry, RemoteFile, find
from lascaux.weights.download import address_of, place_of

_EXAMPLES = """\
examples:
  lascaux models
  lascaux models info ViT-B/32
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "what", nargs="?", choices=("list", "info"), default="list", help="(default: list)"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the model to tell about")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or what there is to know about one model."""
    if arguments.what == "list":
        if arguments.name is not None:
            raise WrongUse(f"list takes no name; `lascaux models info {arguments.name}` tells more")
        return _list(as_json=arguments.json)
    if arguments.name is None:
        raise WrongUse("which model? `lascaux models` lists them")
    return _info(find(arguments.name), as_json=arguments.json)


def _list(*, as_json: bool) -> int:
    if as_json:
        rows = [
            {"name": e.name, "where": _where(e), "licence": e.licence, "source": e.source}
            for e in ENTRIES
        ]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    rows = [("name", "where", "licence", "source")]
    rows += [(e.name, _where(e), e.licence, e.source.partition(" (")[0]) for e in ENTRIES]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        print("  ".join((*cells, row[3])).rstrip())
    print("\nA folder, a file and any hub id of a CLIP are names of models, too.")
    return 0


def _where(entry: Entry) -> str:
    if entry.embedded:
        return "embedded" if entry.available else "not installed"
    if entry.hub:
        return "hub"
    there = all(place_of(file).is_file() for file in (*entry.files, *entry.tokenizer))
    if there:
        return "in cache"
    return "by hand" if any(file.by_hand for file in entry.files) else "download"


def _info(entry: Entry, *, as_json: bool) -> int:
    config = _config(entry)
    if as_json:
        files = [_file(file) for file in (*entry.files, *entry.tokenizer)]
        content = asdict(entry) | {"where": _where(entry), "files": files, "config": config}
        print(json.dumps(content, ensure_ascii=False, indent=1))
        return 0
    lines = [
        ("name", entry.name),
        ("also", ", ".join(entry.aliases)),
        ("source", entry.source),
        ("licence", entry.licence),
        ("where", _where(entry)),
        ("folder", str(entry.embedded_folder) if entry.available and entry.embedded else ""),
        ("hub id", entry.hub or ""),
        ("notes", entry.notes),
    ]
    for label, files in (("weights", entry.files), ("tokenizer", entry.tokenizer)):
        for file in files:
            kept = place_of(file)
            lines += [
                (label, address_of(file)),
                ("", f"sha256 {file.sha256 or 'not published'}"),
                ("", f"{'in cache at' if kept.is_file() else 'goes to'} {kept}"),
                ("", f"by hand: {file.by_hand}" if file.by_hand else ""),
            ]
    told = ", ".join(f"{key} {value}" for key, value in config.items() if value is not None)
    lines.append(("config", told or "comes with the weights"))
    for label, text in lines:
        if text:
            print(f"{label:<10} {text}")
    return 0


def _file(file: RemoteFile) -> dict[str, Any]:
    kept = place_of(file)
    return asdict(file) | {
        "name": file.name,
        "path": str(kept),
        "in_cache": kept.is_file(),
        "fetched_from": address_of(file),
    }


def _config(entry: Entry) -> dict[str, Any]:
    """The sizes of a variant; empty where only the folder tells."""
    if entry.variant is None or entry.hub:
        return {}
    # Here and not above, because it imports torch.
    from lascaux.weights.kinds import KINDS

    return KINDS[entry.model].variants[entry.variant].to_json()
