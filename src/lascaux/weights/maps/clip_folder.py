"""CLIP's folders as Hugging Face and OpenCLIP publish them, and what lies in ours."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lascaux.errors import BadInput, Unsupported
from lascaux.images.preprocess import Preprocessing
from lascaux.models.clip import Clip, ClipConfig
from lascaux.text.clip_bpe import ClipTokenizer
from lascaux.weights.maps.clip_config import config_from_huggingface, config_from_openclip
from lascaux.weights.published import read_json

_HUGGINGFACE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPENCLIP = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
WEIGHTS = (*_HUGGINGFACE, *_OPENCLIP)


def published_folder(folder: Path) -> tuple[tuple[str, ...], ClipConfig] | None:
    """The names that the weights may have, and the config; None where it is no CLIP's folder.

    Raises:
        Unsupported: it asks for something a CLIP of this project does not have.
        BrokenFile: a config is no valid JSON.
    """
    published = read_json(folder / "config.json")
    openclip = read_json(folder / "open_clip_config.json")
    there = any((folder / name).is_file() for name in _HUGGINGFACE)
    if published.get("model_type") == "clip" and (not openclip or there):
        config = config_from_huggingface(published, source=str(folder / "config.json"))
        how = read_json(folder / "preprocessor_config.json")
        return _HUGGINGFACE, _prepared(config, how, folder)
    if openclip:
        config = config_from_openclip(openclip, source=str(folder / "open_clip_config.json"))
        return _OPENCLIP, _prepared(config, openclip.get("preprocess_cfg", {}), folder)
    return None


def _prepared(config: ClipConfig, published: Mapping[str, Any], folder: Path) -> ClipConfig:
    """The config with what the folder says of how pictures are prepared."""
    if not published:
        return config
    how = Preprocessing.from_json({"size": config.image_size, **published})
    if how.size != config.image_size:
        raise Unsupported(
            f"{folder}: pictures are prepared at {how.size} pixels, but the model takes "
            f"{config.image_size}"
        )
    return replace(config, resize=how.resize, filter=how.filter, mean=how.mean, std=how.std)


def _any(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)


def give_tokenizer(model: Clip, vocabulary: Path) -> None:
    """Gives a loaded CLIP its tokenizer.

    Raises:
        BadInput: the vocabulary has more tokens than the model.
    """
    config = model.config
    tokenizer = ClipTokenizer.from_file(vocabulary, context_length=config.context_length)
    if tokenizer.vocabulary_size > config.vocabulary_size:
        raise BadInput(
            f"the vocabulary in {vocabulary} has {tokenizer.vocabulary_size} tokens, the model "
            f"only {config.vocabulary_size}: they do not belong together"
        )
    model.tokenizer = tokenizer


def write_beside(model: Clip, folder: Path) -> None:
    """Writes how pictures are prepared, and the tokenizer if the model has one."""
    how = json.dumps(model.config.preprocessing.to_json(), indent=2, ensure_ascii=False)
    (folder / "preprocessor_config.json").write_text(how + "\n", encoding="utf-8")
    if model.tokenizer is not None:
        model.tokenizer.save(folder / "tokenizer.json")
