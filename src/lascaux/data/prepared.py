"""What a frozen model answered about a set of pictures: written once, read in every epoch.

A folder has `manifest.json` and shards `part-00000.safetensors`, which are mapped into memory, so
that a record at random costs the reading of its own numbers. Each holds `features` (records views
...), the records' keys and captions as bytes with their ends, and their labels (-1: none): the
folder stands alone, without the pictures.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from lascaux.data.folders import NO_LABEL
from lascaux.data.manifest import read_manifest, sha256_of, whole_shards
from lascaux.data.records import Record, Source, StringLists, Strings
from lascaux.data.samples import said_of
from lascaux.errors import BadInput, BadPicture, WrongHash
from lascaux.images.decode import Reading

FORMAT = "lascaux-prepared-1"
COMMAND = "lascaux data prepare"

FeatureKind = Literal["embedding", "tokens"]
Numbers = Literal["float16", "float32"]
Views = Literal["all", "plain", "augmented"]
Part = Literal["features", "caption", "label", "key"]

_DTYPES = {
    **{"F16": "<f2", "F32": "<f4", "U16": "<u2", "U32": "<u4"},
    **{"U8": "|u1", "I32": "<i4", "I64": "<i8"},
}
_TENSORS = {
    "features": ("<f2", "<f4", "<u2", "<u4"),
    **{"keys": ("|u1",), "key_ends": ("<i8",), "labels": ("<i4",)},
    **{"captions": ("|u1",), "caption_ends": ("<i8",), "caption_list_ends": ("<i8",)},
}
_LONGEST_HEADER = 1 << 16


def token_dtype(codes: int) -> str:
    """What ids of so many codes are stored in: uint16 or uint32."""
    return "uint16" if codes <= 1 << 16 else "uint32"


@dataclass(frozen=True, kw_only=True)
class PreparedRecord(Record):
    """A record without its picture, but with what a model answered about it.

    Attributes:
        picture: empty; `image` says that there is none.
        features: of all views, as stored; mapped from the file, and not to be written to.
    """

    picture: Path | bytes = b""
    features: Shaped[np.ndarray, "views ..."] = field(repr=False, compare=False)

    def image(self, mode: Reading = "photo") -> NoReturn:
        """Nothing.

        Raises:
            BadPicture: always.
        """
        raise BadPicture(_NO_PICTURE)


class PreparedFeatures(Source):
    """Records with features in the place of their pictures.

    Sent to another process, it carries paths and no data; each process maps the files by itself.

    Attributes:
        feature_kind: "embedding", of unit length, or "tokens".
        views: of each record; the first is the picture as it is, others are cut-outs by chance.
        shape: of one view's features: (width,) or (length,).
        dtype: that they are stored in: float16 or float32; uint16 or uint32.
        codes: how many different tokens there are; None for embeddings.
        grid: rows and columns of the tokens, where they lie on a grid.
        model: what the model was called.
        weights_hash: the fingerprint of its weights.
        prepared_from: path of the pictures' source, as it was opened then.
        manifest: all that the folder tells of itself.
    """

    kind = "prepared"

    def __init__(self, path: Path) -> None:
        """Read the manifest; shards are opened when they are needed.

        Raises:
            BadInput: no such folder, one that is not finished or of another format, or a shard
                that is missing or of another size.
        """
        self.path = path
        self.manifest = told = read_manifest(path, FORMAT)
        shards = whole_shards(path, told, COMMAND)
        try:
            self.feature_kind: FeatureKind = told["kind"]
            self.views = int(told["settings"]["views"])
            self.shape: tuple[int, ...] = tuple(told["shape"])
            self.dtype = np.dtype(told["dtype"]).newbyteorder("<")
            self.codes: int | None = told["codes"]
            self.grid: tuple[int, int] | None = tuple(told["grid"]) if told["grid"] else None
            self.model, self.weights_hash = str(told["model"]), str(told["weights"])
            self.prepared_from = str(told["source"])
            self.classes = tuple(told["classes"])
            self._files = [str(shard["file"]) for shard in shards]
            self._ends = np.cumsum([0, *(shard["records"] for shard in shards)], dtype=np.int64)
            skipped = sum(len(shard["skipped"]) for shard in told["shards"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"the manifest of {path} is damaged ({error!r}); copy it again, or prepare anew"
            ) from error
        if self.feature_kind not in get_args(FeatureKind) or not len(self):
            raise BadInput(f"the manifest of {path} is damaged; copy it again, or prepare anew")
        if skipped:
            self.notes = (f"{skipped} records of {self.prepared_from} could not be read",)
        self._opened: dict[int, _Shard] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __getitem__(self, index: int) -> PreparedRecord:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard, row = self._place(index)
        label = self.label(index)
        return PreparedRecord(
            key=shard.keys[row],
            captions=shard.captions[row],
            label=label,
            class_name=None if label is None else self.classes[label],
            features=shard.features[row],
        )

    def features(self, index: int, view: int = 0) -> Shaped[Tensor, "..."]:
        """What the model answered about one view: float32, or int64 for tokens.

        Raises:
            IndexError: no such record or view.
        """
        if not (0 <= index < len(self) and 0 <= view < self.views):
            raise IndexError(f"record {index} of {len(self)}, view {view} of {self.views}")
        shard, row = self._place(index)
        return _as_tensor(shard.features[row, view])

    def key(self, index: int) -> str:
        """Of the record that it was prepared from."""
        shard, row = self._place(index)
        return shard.keys[row]

    def picture(self, index: int) -> NoReturn:
        """Nothing.

        Raises:
            BadPicture: always.
        """
        raise BadPicture(_NO_PICTURE)

    def captions(self, index: int) -> tuple[str, ...]:
        """From the shard."""
        shard, row = self._place(index)
        return shard.captions[row]

    def label(self, index: int) -> int | None:
        """From the shard."""
        shard, row = self._place(index)
        label = int(shard.labels[row])
        return None if label == NO_LABEL else label

    def told(self) -> Iterable[str | bytes]:
        """The model, and the hashes of all shards."""
        shards = self.manifest["shards"]
        return self.weights_hash, *(shard["sha256"] for shard in shards if shard["file"])

    def require_model(self, weights_hash: str, name: str = "") -> None:
        """Refuse the features of other weights.

        Args:
            weights_hash: of the model that is wanted (`lascaux.weights.fingerprint`).
            name: what it is called, for the message.

        Raises:
            WrongHash: these are of another model.
        """
        if weights_hash != self.weights_hash:
            raise WrongHash(
                f"{self.path} holds what {self.model or 'an unnamed model'} answered "
                f"({self.weights_hash[:12]}); wanted is {name or 'a model of other weights'} "
                f"({weights_hash[:12]}): name that folder, or prepare with this model"
            )

    def damaged(self) -> list[str]:
        """The shards whose bytes are not those that were written; all are read for that."""
        return [
            shard["file"]
            for shard in self.manifest["shards"]
            if shard["file"] and sha256_of(self.path / shard["file"]) != shard["sha256"]
        ]

    def _place(self, index: int) -> tuple["_Shard", int]:
        number = int(np.searchsorted(self._ends, index, side="right")) - 1
        first = int(self._ends[number])
        shard = self._opened.get(number)
        if shard is None:
            records = int(self._ends[number + 1]) - first
            expected = (records, self.views, *self.shape)
            shard = _Shard.open(self.path / self._files[number], expected, self.dtype)
            self._opened[number] = shard
        return shard, index - first


@dataclass(frozen=True)
class FeatureSamples:
    """Makes a sample of a prepared record: a dictionary of the parts asked for.

    `features` is float32, or int64 for tokens; `caption`, `label` and `key` are as of `Samples`,
    which draws the same captions from the same generator.

    Attributes:
        parts: what a sample has.
        views: which views are drawn from, evenly: all, the plain first one, or the others.

    Raises:
        BadInput: a part or choice of another name.
    """

    parts: tuple[Part, ...] = ("features",)
    views: Views = "all"

    def __post_init__(self) -> None:
        if unknown := set(self.parts) - set(get_args(Part)):
            raise BadInput(f"parts {sorted(unknown)}; expected some of {get_args(Part)}")
        if self.views not in get_args(Views):
            raise BadInput(f"views={self.views!r}; expected one of {get_args(Views)}")

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """The sample.

        Raises:
            BadText: a caption is asked for, and there is none.
            BadInput: likewise of a label, of features or of augmented views.
        """
        sample = said_of(record, self.parts, rng)
        if "features" in self.parts:
            if not isinstance(record, PreparedRecord):
                raise BadInput(f"it has no features; open a folder that `{COMMAND}` wrote")
            views = len(record.features)
            first, end = {"all": (0, views), "plain": (0, 1), "augmented": (1, views)}[self.views]
            if first == end:
                raise BadInput(f"it has no augmented views; give `{COMMAND}` more --views than 1")
            sample["features"] = _as_tensor(record.features[rng.integers(first, end)])
        return sample


_NO_PICTURE = f"only features are here, and no pictures: `{COMMAND}` wrote this; open its source"


@dataclass(frozen=True)
class _Shard:
    """One file, mapped."""

    features: np.ndarray
    keys: Strings
    captions: StringLists
    labels: np.ndarray

    @classmethod
    def open(cls, file: Path, expected: tuple[int, ...], dtype: np.dtype) -> "_Shard":
        """The file's tensors, checked against what the manifest tells of them.

        Raises:
            BadInput: they are others.
        """
        arrays = _mapped(file)
        there = arrays["features"]
        if there.shape != expected or there.dtype != dtype:
            raise BadInput(
                f"{file} holds features {there.shape} of {there.dtype}; the manifest says "
                f"{expected} of {dtype}: copy the folder again, or prepare anew"
            )
        keys = Strings.of_arrays(arrays["key_ends"], arrays["keys"])
        captions = StringLists.of_arrays(
            arrays["caption_list_ends"],
            Strings.of_arrays(arrays["caption_ends"], arrays["captions"]),
        )
        return cls(features=there, keys=keys, captions=captions, labels=arrays["labels"])


def shard_arrays(
    features: Shaped[np.ndarray, "records views ..."],
    keys: Iterable[str],
    captions: Iterable[tuple[str, ...]],
    labels: Iterable[int | None],
) -> dict[str, np.ndarray]:
    """The tensors of a shard's file, by their names."""
    names, said = Strings(keys), StringLists(captions)
    numbers = [NO_LABEL if label is None else label for label in labels]
    return {
        "features": features,
        "keys": names.bytes,
        "key_ends": names.ends,
        "captions": said.strings.bytes,
        "caption_ends": said.strings.ends,
        "caption_list_ends": said.ends,
        "labels": np.array(numbers, np.int32),
    }


def _mapped(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file; nothing of them is read.

    Raises:
        BadInput: the file is missing, or is not of our making.
    """
    try:
        data = np.asarray(np.memmap(file, np.uint8, "r"))
        length = int.from_bytes(data[:8].tobytes(), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        told = json.loads(data[8 : 8 + length].tobytes())
        found = {name: _array(data[8 + length :], **told[name]) for name in _TENSORS}
        for name, array in found.items():
            if array.dtype.str not in _TENSORS[name]:
                raise ValueError(f"{name} of {array.dtype}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{file} is damaged, or not of `{COMMAND}` ({error}); copy it again, or prepare anew"
        ) from error
    return found


def _array(data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    begin, end = data_offsets
    return data[begin:end].view(_DTYPES[dtype]).reshape(shape)


def _as_tensor(row: np.ndarray) -> Tensor:
    """A copy, in what models take."""
    wanted = np.float32 if row.dtype.kind == "f" else np.int64
    return torch.from_numpy(row.astype(wanted))
