"""A model written as a folder that `lascaux.load` reads back, and that a hub can hold."""

import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lascaux import __version__
from lascaux.errors import BadInput
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.folder import LIBRARY, WEIGHTS
from lascaux.weights.kinds import kind_of, whole_config
from lascaux.weights.parts import Composite, Elsewhere

_FILES = frozenset(
    {
        "config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer.bpe",
        "vocab.txt",
        "preprocessor_config.json",
        "README.md",
        ".gitattributes",
    }
)

_CARD = """\
---
library_name: lascaux
tags:
- {model}
---

# {name}

{summary}

```python
import lascaux

model = lascaux.load("path/to/{name}")
```
"""


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    card: str | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> Path:
    """Write a model as config, weights, tokenizer, preprocessing and card; gives the folder.

    The folder appears whole or not at all. One that `save` wrote before is replaced.

    Args:
        model: a model of this library, with its tokenizer if it has one.
        folder: to write; its parents are made.
        dtype: of the matrices in the file, to make it smaller; scales, shifts and statistics keep
            theirs, as in OpenAI's files. None: everything as it is.
        card: Markdown of README.md, instead of a plain one.
        elsewhere: models inside it whose weights are left out, each with the name by which they are
            loaded again; that these are the same weights then is checked.

    Raises:
        BadInput: it is no model of this library or has no such model inside it, or the folder
            holds files of another origin or cannot be written.
    """
    folder = Path(folder).expanduser().resolve()
    if (known := kind_of(model)) is None:
        raise BadInput(f"cannot save a {type(model).__name__}; only models of this library")
    name, kind = known
    others = _others(model, kind.parts, elsewhere or {})
    left_out = tuple(f"{place}." for place in others)
    state = {
        key: _stored(tensor, dtype)
        for key, tensor in model.state_dict().items()
        if not key.startswith(left_out)
    }
    with _written_aside(folder) as aside:
        save_tensors(state, aside / WEIGHTS, {"format": "pt"})
        _write_json(
            aside / "config.json",
            {
                "library_name": LIBRARY,
                "lascaux_version": __version__,
                "model": name,
                **_told(model, others).to_json(),
            },
        )
        if kind.beside is not None:
            kind.beside(model, aside)
        summary = (type(model).__doc__ or "").partition("\n")[0]
        plain = _CARD.format(name=folder.name, model=name, summary=summary)
        (aside / "README.md").write_text(card or plain, encoding="utf-8")
    return folder


def _others(
    model: nn.Module, known: Collection[str], elsewhere: Mapping[str, str]
) -> dict[str, Elsewhere]:
    """The models inside a model that only their names stand for.

    Raises:
        BadInput: it has no such model inside it.
    """
    inside = {place: part for place in known if (part := getattr(model, place)) is not None}
    if absent := sorted(elsewhere.keys() - inside.keys()):
        raise BadInput(
            f"elsewhere {', '.join(absent)}: this {type(model).__name__} has "
            f"{', '.join(inside) or 'no model'} inside it"
        )
    return {
        place: Elsewhere(name, weights_hash(inside[place])) for place, name in elsewhere.items()
    }


def _told(model: nn.Module, others: Mapping[str, Elsewhere]) -> Composite:
    whole = whole_config(model)
    parts = {place: part for place, part in whole.parts.items() if place not in others}
    return replace(whole, parts=parts, elsewhere=others)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file that others may read as the umask says."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata=metadata)
    path.chmod(mode)  # safetensors lets only the owner read


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is not None and tensor.is_floating_point() and tensor.ndim > 1:
        tensor = tensor.to(dtype)
    return tensor.detach().cpu().contiguous()


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _written_aside(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` at the end, or goes away."""
    _require_replaceable(folder)
    mark = f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}"
    aside, former = folder.with_name(f"{mark}.part"), folder.with_name(f"{mark}.former")
    try:
        aside.mkdir(parents=True)
        yield aside
        if folder.exists():
            folder.rename(former)
        try:
            aside.rename(folder)
        except OSError:
            if former.exists():
                former.rename(folder)
            raise
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise BadInput(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _require_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"cannot write {folder}: it is a file; name a folder")
    names = {entry.name for entry in folder.iterdir()}
    if foreign := sorted(names - _FILES):
        raise BadInput(
            f"cannot write {folder}: it holds other files ({', '.join(foreign[:5])}), which would "
            "be lost; name a new folder"
        )
    if names and not _ours(folder / "config.json"):
        raise BadInput(f"cannot write {folder}: it holds another library's model; name a new one")


def _ours(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("library_name") == LIBRARY
    except (OSError, ValueError, AttributeError):
        return False
