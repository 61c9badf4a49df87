"""A checkpoint of any known layout as a folder that `lascaux.load` reads, with a report."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.clip import Activation, Clip, ClipConfig
from lascaux.weights.catalogue import OPENAI_VOCABULARY
from lascaux.weights.download import fetch, place_of, sha256_of
from lascaux.weights.folder import Source
from lascaux.weights.keymap import Rule
from lascaux.weights.load import DTYPES, assemble, find
from lascaux.weights.maps.clip import implied_activation, recognise, unwrapped
from lascaux.weights.reading import Container, read_tensors
from lascaux.weights.save import save

AS_STORED = "stored"
_OPENAI_TOKENS = 49408


@dataclass(frozen=True)
class File:
    """A file that was read or written."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Conversion:
    """What a conversion found and wrote.

    Attributes:
        sources: the weights files.
        container: how they are made.
        layout: whose names their tensors have.
        matched: tensors that went into the model.
        dropped: tensors that do not, each with the reason.
        left_out: what else is in the files, one line each.
        dtypes: of the tensors in the files, with how many have it.
        config: of the model.
        activation_known: where the activation is known from; None: it is assumed.
        dtype: how the weights are stored now.
        folder: what was written.
        written: its files.
        tokenizer: where the tokenizer came from; None: there is none.
        advice: how to get the tokenizer, where there is none.
    """

    sources: tuple[File, ...]
    container: Container
    layout: str
    matched: int
    dropped: dict[str, str]
    left_out: tuple[str, ...]
    dtypes: dict[str, int]
    config: ClipConfig
    activation_known: str | None
    dtype: str
    folder: str
    written: tuple[File, ...]
    tokenizer: str | None
    advice: str | None


def convert(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str = AS_STORED,
    activation: Activation | None = None,
    tokenizer: str | Path | None = None,
    force: bool = False,
) -> Conversion:
    """Write a checkpoint as a folder of config, safetensors, tokenizer and card.

    The folder appears whole or not at all. In `stored` form it answers bit for bit as the file.

    Args:
        source: a file, folder, name or hub id, as `lascaux.load` takes them.
        out: the folder to write.
        dtype: `stored` keeps each tensor as precise as the file has it; float32, float16 or
            bfloat16 is for the matrices, which changes answers where it is less precise.
        activation: `quick_gelu` or `gelu`, where the file cannot tell.
        tokenizer: a vocabulary file or folder, or `openai` for OpenAI's, fetched if need be; None
            takes the one beside the weights, or OpenAI's if it is in the cache.
        force: replaces a folder that Lascaux wrote.

    Raises:
        BadInput: the folder is not empty, or the dtype is none of those.
        UnknownModel, UnsafeFile, BrokenFile, WrongKeys, Unsupported: as `lascaux.load`.
    """
    out = Path(out).expanduser()
    if dtype not in (AS_STORED, "float32", "float16", "bfloat16"):
        raise BadInput(f"dtype {dtype!r}; stored, float32, float16 or bfloat16 is expected")
    if not force and out.is_dir() and any(out.iterdir()):
        raise BadInput(f"{out} is not empty; name a new folder, or use --force to replace it")
    found = find(source)
    found = replace(found, vocabulary=_vocabulary(found, tokenizer))
    state: dict[str, Tensor] = {}
    left_out: list[str] = []
    container: Container = "safetensors"
    for file in found.weights:
        read = read_tensors(file)
        state |= read.tensors
        left_out += read.skipped
        container = read.container
    state = unwrapped(state, source=found.label)
    layout = recognise(state.keys(), source=found.label)
    dropped = _dropped(state, layout.rules)
    model = assemble(found, device=torch.device("cpu"), dtype=torch.float32, activation=activation)
    vocabulary = _fitting(found, model, tokenizer)
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    if dtype == AS_STORED:
        _narrow(model, {tensor.dtype for tensor in state.values()})
    sources = tuple(map(_file, found.weights))
    folder = save(
        model,
        out,
        dtype=None if dtype == AS_STORED else DTYPES[dtype],
        card=_card(model.config, out.name, sources, layout.name),
    )
    return Conversion(
        sources=sources,
        container=container,
        layout=layout.name,
        matched=len(state) - len(dropped),
        dropped=dropped,
        left_out=tuple(left_out),
        dtypes=dict(kinds.most_common()),
        config=model.config,
        activation_known=_known(found, activation, implied_activation(state, layout)),
        dtype=dtype,
        folder=str(folder),
        written=tuple(_file(each) for each in sorted(folder.iterdir())),
        tokenizer=vocabulary,
        advice=None if vocabulary else _advice(model.config),
    )


def _dropped(state: Iterable[str], rules: Sequence[Rule]) -> dict[str, str]:
    """The keys that a layout drops, with its reasons."""
    reasons = [
        (re.compile(re.sub(r"\\\{\w+\\\}", "[^.]+", re.escape(pattern))), rule.why)
        for rule in rules
        if rule.ours is None
        for pattern in rule.patterns
    ]
    return {
        key: why for key in state for pattern, why in reasons if pattern.fullmatch(key) is not None
    }


def _narrow(model: Clip, stored: set[torch.dtype]) -> None:
    """Stores each tensor in the narrowest dtype of the file that holds it exactly."""
    narrow = [dtype for dtype in (torch.float16, torch.bfloat16) if dtype in stored]
    for tensor in (*model.parameters(), *model.buffers()):
        for dtype in narrow if tensor.is_floating_point() else ():
            halved = tensor.data.to(dtype)
            if torch.equal(halved.to(tensor.dtype), tensor.data):
                tensor.data = halved
                break


def _vocabulary(found: Source, tokenizer: str | Path | None) -> Path | None:
    if tokenizer == "openai":
        return fetch(OPENAI_VOCABULARY)
    if tokenizer is not None:
        path = Path(tokenizer).expanduser()
        if not path.exists():
            raise BadInput(f"tokenizer {path}: there is no such file or folder")
        return path
    return found.vocabulary


def _fitting(found: Source, model: Clip, tokenizer: str | Path | None) -> str | None:
    """Where the model's tokenizer came from, after OpenAI's was tried from the cache."""
    from lascaux.text.clip_bpe import ClipTokenizer

    if model.tokenizer is not None:
        return "OpenAI's vocabulary" if tokenizer == "openai" else str(found.vocabulary)
    kept = place_of(OPENAI_VOCABULARY)
    if model.config.vocabulary_size != _OPENAI_TOKENS or not kept.is_file():
        return None
    path = fetch(OPENAI_VOCABULARY, offline=True)
    model.tokenizer = ClipTokenizer.from_file(path, context_length=model.config.context_length)
    return "OpenAI's vocabulary, from the cache"


def _known(found: Source, given: Activation | None, implied: Activation | None) -> str | None:
    if given is not None:
        return "as you said"
    if found.config is not None:
        return "from the config"
    return "from the layout" if implied is not None else None


def _advice(config: ClipConfig) -> str:
    if config.vocabulary_size == _OPENAI_TOKENS:
        return (
            "texts need a tokenizer: convert again with --tokenizer openai, which fetches "
            f"{OPENAI_VOCABULARY.url}, or with --tokenizer FILE for one you have"
        )
    return (
        f"texts need the tokenizer that the model was trained with, of {config.vocabulary_size} "
        "tokens: convert again with --tokenizer FILE (tokenizer.json, or vocab.json with merges)"
    )


def _file(path: Path) -> File:
    return File(str(path), path.stat().st_size, sha256_of(path))


def _card(config: ClipConfig, name: str, sources: tuple[File, ...], layout: str) -> str:
    listed = "\n".join(f"- `{Path(file.path).name}`, SHA-256 `{file.sha256}`" for file in sources)
    return f"""\
---
library_name: lascaux
pipeline_tag: zero-shot-image-classification
tags:
- clip
---

# {name}

A CLIP of {config.image_size} x {config.image_size} pixels and {config.context_length} tokens, with
{config.embed_width} dimensions and {config.activation}. Converted by Lascaux from files of the
layout `{layout}`:

{listed}

The licence is that of the weights it was converted from.

```python
import lascaux

model = lascaux.load("path/to/{name}")
```
"""
