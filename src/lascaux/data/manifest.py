"""What a folder of shards tells of itself: `manifest.json`, written by whoever fills the folder.

It has `format`, `finished` and `shards`; each shard has `number`, `file` (empty where no record of
it could be read), `records`, `bytes`, `sha256` and `skipped`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from lascaux.errors import BadInput

MANIFEST = "manifest.json"


def format_of(folder: Path) -> str | None:
    """The format of a folder that has a manifest of ours; None where it has none."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    told = content.get("format") if isinstance(content, dict) else None
    return told if isinstance(told, str) and told.startswith("lascaux-") else None


def read_manifest(folder: Path, format: str) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        BadInput: it is missing, damaged, or of another format.
    """
    file = folder / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    told = content.get("format") if isinstance(content, dict) else None
    if told != format:
        raise BadInput(
            f"{file} is no manifest of {format}, but {told or 'something else'}; name another "
            "folder, or take the version of lascaux that wrote it"
        )
    if not isinstance(content.get("shards"), list) or not isinstance(content.get("finished"), bool):
        raise BadInput(f"{file} is damaged: no list of shards; copy it again, or make it anew")
    return content


def whole_shards(folder: Path, manifest: dict[str, Any], command: str) -> list[dict[str, Any]]:
    """The shards that have a file, all of which are there.

    Args:
        folder: of the manifest.
        manifest: as `read_manifest` gives it.
        command: that fills such folders.

    Raises:
        BadInput: the folder was not finished, or a file is missing or of another size.
    """
    if not manifest["finished"]:
        raise BadInput(
            f"{folder} is not finished: {len(manifest['shards'])} shards are written; give the "
            f"command of `{command}` again, and it goes on"
        )
    shards = [shard for shard in manifest["shards"] if shard["file"]]
    for shard in shards:
        file = folder / shard["file"]
        size = size_of(file)
        if size != shard["bytes"]:
            what = "is missing" if size < 0 else f"has {size:,} bytes"
            raise BadInput(
                f"{file} {what}; the manifest says {shard['bytes']:,}: copy it again, or give "
                f"`{command}` once more for a new folder"
            )
    return shards


def size_of(file: Path) -> int:
    """Its bytes; -1 where there is no such file."""
    return file.stat().st_size if file.is_file() else -1


def sha256_of(file: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
