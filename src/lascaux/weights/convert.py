"""A checkpoint of any known layout as a folder that `lascaux.load` reads, with a report."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lascaux.errors import BadInput
from lascaux.models.clip import Activation, Clip, ClipConfig
from lascaux.weights.catalogue import OPENAI_VOCABULARY
from lascaux.weights.download import fetch, place_of, sha256_of
from lascaux.weights.folder import Source
from lascaux.weights.kinds import adopted, recognise
from lascaux.weights.load import DTYPES, assemble, find, read
from lascaux.weights.maps.clip import LAYOUTS, implied_activation, unwrapped
from lascaux.weights.reading import Container
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
        model: which model it is.
        sources: the weights files.
        container: how they are made.
        layout: whose names their tensors have.
        matched: tensors that went into the model.
        dropped: tensors that do not, each with the reason.
        left_out: what else is in the files, one line each.
        dtypes: of the tensors in the files, with how many have it.
        config: of the model.
        activation_known: where a CLIP's activation is known from; None: it is assumed.
        dtype: how the weights are stored now.
        folder: what was written.
        written: its files.
        tokenizer: where the tokenizer came from; None: there is none.
        advice: how to get the tokenizer of a CLIP, where there is none.
    """

    model: str
    sources: tuple[File, ...]
    container: Container
    layout: str
    matched: int
    dropped: dict[str, str]
    left_out: tuple[str, ...]
    dtypes: dict[str, int]
    config: Any
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
    part: str | None = None,
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
        part: of a checkpoint that holds several models, the prefix of the one to take.
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
    if part is not None:
        found = replace(found, part=part.rstrip("."), model=None)
    published, files = read(found)
    name = found.model or recognise(published.tensors.keys(), source=found.label)
    options = {**published.options, "activation": activation}
    ours = adopted(name, replace(published, options=options))
    model = assemble(found, device=torch.device("cpu"), dtype=torch.float32, activation=activation)
    vocabulary = _fitting(found, model, tokenizer)
    stored = [tensor.dtype for tensor in published.tensors.values()]
    if dtype == AS_STORED:
        _narrow(model, set(stored))
    sources = tuple(map(_file, found.weights))
    folder = save(
        model,
        out,
        dtype=None if dtype == AS_STORED else DTYPES[dtype],
        card=_card(model, name, out.name, sources, ours.layout),
    )
    a_clip = isinstance(model, Clip)
    implied = None
    if a_clip:
        keys = unwrapped(published.tensors, source=found.label).keys()
        implied = implied_activation(keys, LAYOUTS[ours.layout])
    return Conversion(
        model=name,
        sources=sources,
        container=files[-1].container,
        layout=ours.layout,
        matched=len(published.tensors) - len(ours.dropped),
        dropped=dict(ours.dropped),
        left_out=tuple(line for file in files for line in file.skipped),
        dtypes={
            str(kind).removeprefix("torch."): count for kind, count in Counter(stored).most_common()
        },
        config=model.config,
        activation_known=_known(found, activation, implied) if a_clip else None,
        dtype=dtype,
        folder=str(folder),
        written=tuple(_file(each) for each in sorted(folder.iterdir())),
        tokenizer=vocabulary,
        advice=_advice(model.config) if a_clip and not vocabulary else None,
    )


def _narrow(model: nn.Module, stored: set[torch.dtype]) -> None:
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


def _fitting(found: Source, model: nn.Module, tokenizer: str | Path | None) -> str | None:
    """Where a CLIP's tokenizer came from, after OpenAI's was tried from the cache."""
    from lascaux.text.clip_bpe import ClipTokenizer

    if not isinstance(model, Clip):
        return None
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


def _card(model: nn.Module, kind: str, name: str, sources: tuple[File, ...], layout: str) -> str:
    listed = "\n".join(f"- `{Path(file.path).name}`, SHA-256 `{file.sha256}`" for file in sources)
    if isinstance(model, Clip):
        config = model.config
        head = "pipeline_tag: zero-shot-image-classification\n"
        what = (
            f"A CLIP of {config.image_size} x {config.image_size} pixels and "
            f"{config.context_length} tokens, with\n{config.embed_width} dimensions and "
            f"{config.activation}. Converted by Lascaux from files of the\nlayout `{layout}`:"
        )
    else:
        head = ""
        summary = (type(model).__doc__ or "").partition("\n")[0]
        what = f"{summary} Converted by Lascaux from files of the layout `{layout}`:"
    return f"""\
---
library_name: lascaux
{head}tags:
- {kind}
---

# {name}

{what}

{listed}

The licence is that of the weights it was converted from.

```python
import lascaux

model = lascaux.load("path/to/{name}")
```
"""
