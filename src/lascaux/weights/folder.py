"""A folder or file of weights: whose layout it is, and where its parts are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lascaux.errors import BadInput, BrokenFile, UnknownModel, Unsupported
from lascaux.weights.kinds import KINDS, config_from_json
from lascaux.weights.published import read_json

LIBRARY = "lascaux"  # library_name in the config.json of folders that we save
WEIGHTS = "model.safetensors"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".jit", ".pkl")

_KNOWN = frozenset(
    {WEIGHTS, *(name for kind in KINDS.values() for name in (*kind.weights, *kind.halves))}
)
_VOCABULARIES = (
    *("tokenizer.json", "bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt"),
    *("tokenizer.bpe", "vocab.txt"),
)


@dataclass(frozen=True)
class Source:
    """Where the parts of one model are."""

    label: str  # what messages call it
    weights: tuple[Path, ...]  # several where they are sharded
    model: str | None = None  # a key of KINDS; None: the keys of the weights must tell
    config: Any = None  # None: the shapes of the weights must tell, or what lies beside them
    vocabulary: Path | None = None  # file or folder of the tokenizer
    part: str | None = None  # under which prefix its keys are in a larger checkpoint


def find_source(path: Path) -> Source:
    """The parts of the model in a folder, or around a file.

    A folder is one that `lascaux.save` wrote, one of Hugging Face's `CLIPModel`, or one of
    OpenCLIP's; or it holds a single weights file, or both halves of one checkpoint. A weights
    file inside such a folder stands for the folder, because only its config tells the activation,
    or because it is a half.

    Raises:
        UnknownModel: there is nothing of the kind.
        Unsupported: it is a model that this project does not have.
        BrokenFile: a config is no valid JSON, or a shard is missing.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise UnknownModel(f"{path} is neither a file nor a folder")
    if path.name in _KNOWN and (found := _with_config(path.parent)):
        return found if path in found.weights else replace(found, weights=_shards(path))
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
    published = read_json(folder / "config.json")
    if published.get("library_name") == LIBRARY:
        return _own(published, folder)
    for name, kind in KINDS.items():
        if kind.folder is not None and (found := kind.folder(folder)):
            names, config = found
            return Source(str(folder), _weights(folder, names), name, config, _vocabulary(folder))
        if kind.halves and all((folder / half).is_file() for half in kind.halves):
            return Source(str(folder), tuple(folder / half for half in kind.halves), name)
    if (foreign := published.get("model_type")) is not None:
        raise Unsupported(f"{folder} holds a {foreign!r} model; supported is a CLIPModel ('clip')")
    return None


def _own(published: Mapping[str, Any], folder: Path) -> Source:
    model = published.get("model")
    if model not in KINDS:
        raise Unsupported(
            f"{folder} holds a model {model!r}; this version has {', '.join(KINDS)}, a later one "
            "may have it"
        )
    try:
        config = config_from_json(model, published)
    except (BadInput, KeyError, TypeError) as error:
        raise BrokenFile(f"{folder / 'config.json'}: {error}") from error
    weights = _weights(folder, (WEIGHTS,))
    return Source(str(folder), weights, model, config, _vocabulary(folder))


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
        sorted({path.parent / name for name in read_json(path).get("weight_map", {}).values()})
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
