"""A folder or file of weights: whose layout it is, and where its parts are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lascaux.errors import BadInput, BrokenFile, UnknownModel, Unsupported
from lascaux.images.preprocess import Preprocessing
from lascaux.models.clip import Clip, ClipConfig
from lascaux.models.judge import Judge, JudgeConfig
from lascaux.weights.maps.clip_config import config_from_huggingface, config_from_openclip

# What the config.json of our folders calls a model -> its class and its config's.
MODELS = {"clip": (Clip, ClipConfig), "judge": (Judge, JudgeConfig)}

LIBRARY = "lascaux"  # library_name in the config.json of folders that we save
WEIGHTS = "model.safetensors"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".jit")

_HUGGINGFACE_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPENCLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_VOCABULARIES = ("tokenizer.json", "bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")


@dataclass(frozen=True)
class Source:
    """Where the parts of one model are."""

    label: str  # what messages call it
    weights: tuple[Path, ...]  # several where they are sharded
    model: str = "clip"  # a key of MODELS
    config: ClipConfig | JudgeConfig | None = None  # None: the shapes of the weights must tell
    vocabulary: Path | None = None  # file or folder of the tokenizer


def find_source(path: Path) -> Source:
    """The parts of the model in a folder, or around a file.

    A folder is one that `lascaux.save` wrote, one of Hugging Face's `CLIPModel`, or one of
    OpenCLIP's; or it holds a single weights file. A weights file inside such a folder stands for
    the folder, because only its config tells the activation.

    Raises:
        UnknownModel: there is nothing of the kind.
        Unsupported: it is a model that this project does not have.
        BrokenFile: a config is no valid JSON, or a shard is missing.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise UnknownModel(f"{path} is neither a file nor a folder")
    if path.name in (*_HUGGINGFACE_WEIGHTS, *_OPENCLIP_WEIGHTS) and (
        found := _with_config(path.parent)
    ):
        return replace(found, weights=_shards(path))
    return Source(str(path), (path,), vocabulary=_vocabulary(path.parent))


def _of_folder(folder: Path) -> Source:
    if found := _with_config(folder):
        return found
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len(files) == 1:
        return Source(str(files[0]), (files[0],), vocabulary=_vocabulary(folder))
    raise UnknownModel(
        f"{folder} has no config.json of Lascaux or of a CLIPModel, no open_clip_config.json, and "
        f"{len(files)} weights files; name the file to load"
    )


def _with_config(folder: Path) -> Source | None:
    """The parts by the folder's config; None where it has none of a kind we know."""
    published = _json(folder / "config.json")
    kind = published.get("model_type")
    if published.get("library_name") == LIBRARY:
        return _own(published, folder)
    openclip = _json(folder / "open_clip_config.json")
    if kind == "clip" and (not openclip or _any(folder, _HUGGINGFACE_WEIGHTS)):
        config = config_from_huggingface(published, source=str(folder / "config.json"))
        config = _prepared(config, _json(folder / "preprocessor_config.json"), folder)
        weights = _weights(folder, _HUGGINGFACE_WEIGHTS)
        return Source(str(folder), weights, "clip", config, _vocabulary(folder))
    if openclip:
        config = config_from_openclip(openclip, source=str(folder / "open_clip_config.json"))
        config = _prepared(config, openclip.get("preprocess_cfg", {}), folder)
        weights = _weights(folder, _OPENCLIP_WEIGHTS)
        return Source(str(folder), weights, "clip", config, _vocabulary(folder))
    if kind is not None:
        raise Unsupported(f"{folder} holds a {kind!r} model; supported is a CLIPModel ('clip')")
    return None


def _own(published: Mapping[str, Any], folder: Path) -> Source:
    model = published.get("model")
    if model not in MODELS:
        raise Unsupported(
            f"{folder} holds a model {model!r}; this version has {', '.join(MODELS)}, a later one "
            "may have it"
        )
    try:
        config = MODELS[model][1].from_json(published.get("config", {}))
    except (BadInput, KeyError, TypeError) as error:
        raise BrokenFile(f"{folder / 'config.json'}: {error}") from error
    weights = _weights(folder, (WEIGHTS,))
    return Source(str(folder), weights, model, config, _vocabulary(folder))


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


def _weights(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    for name in names:
        if (folder / name).is_file():
            return _shards(folder / name)
    raise UnknownModel(f"{folder} has a config but no weights: expected {' or '.join(names)}")


def _shards(path: Path) -> tuple[Path, ...]:
    """The file itself, or the files that an index names."""
    if not path.name.endswith(".index.json"):
        return (path,)
    files = tuple(
        sorted({path.parent / name for name in _json(path).get("weight_map", {}).values()})
    )
    if missing := [file.name for file in files if not file.is_file()]:
        raise BrokenFile(f"{path} names shards that are not there: {', '.join(missing)}")
    if not files:
        raise BrokenFile(f"{path} names no shards")
    # A name with a folder in it could leave the folder of the index.
    if strange := [str(file) for file in files if file.parent != path.parent]:
        raise BrokenFile(f"{path} names shards outside its folder: {', '.join(strange)}")
    return files


def _vocabulary(folder: Path) -> Path | None:
    for name in _VOCABULARIES:
        if (folder / name).is_file():
            return folder / name
    both = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return folder if both else None


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenFile(f"{path} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise BrokenFile(f"{path} holds a JSON {type(content).__name__} instead of an object")
    return content
