"""What a frozen model answers about a set of pictures, computed once and written in shards.

Processes read the pictures while the model answers. What is written depends on the source, the
model and the settings alone: not on the number of processes, nor on where the work was killed and
went on.
"""

from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Shaped, UInt8
from safetensors.numpy import save
from torch import Tensor, nn

from lascaux.data.ahead import made_ahead
from lascaux.data.prepared import FORMAT, shard_arrays, token_dtype
from lascaux.data.records import Source
from lascaux.errors import BadInput
from lascaux.images.augment import Augmentation
from lascaux.images.preprocess import Preprocessing, to_square
from lascaux.nn.linear import chosen_way, settled
from lascaux.tasks.answerers import Answerer, answerer_of
from lascaux.tasks.aside import written_aside
from lascaux.tasks.options import PrepareOptions
from lascaux.tasks.results import Failed
from lascaux.tasks.resumable import Progress, ShardFolder, shard_folder

# What must be as it was when a folder was begun.
_SAME = ("fingerprint", "weights", "kind", "codes", "shape", "preprocessing", "settings")


@dataclass(frozen=True)
class Prepared:
    """A folder of features that was written."""

    out: str
    model: str
    weights: str  # the hash of the weights
    kind: str  # embedding or tokens
    views: int
    records: int
    shards: int
    bytes: int
    written: int  # shards of this call; the others were there
    skipped: tuple[Failed, ...]  # records that are broken, and not in it


def prepare(
    source: Source,
    out: str | Path,
    model: Answerer | nn.Module | None,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Prepared:
    """Write what a model answers about the records of a source, or go on with it.

    The folder then is itself a source: `lascaux.data.prepared`. Records that cannot be read are
    left out and listed. Batches never reach over the end of a shard, and which records they hold
    follows from `batch_size`; another one may be taken when the work goes on, and moves answers by
    rounding at most.

    Args:
        source: of the pictures.
        out: the folder.
        model: that answers; None takes the one that the options name.
        options: whose model, device and dtype hold where none is given, and whose reading holds
            unless an `Answerer` is.
        progress: called with what is answered, how many are done, and of how many.

    Raises:
        BadInput: the folder holds something else, or was begun with other records, weights or
            settings; no record can be read; or the model answers what cannot be written.
        Unsupported: the model answers with neither embeddings nor tokens.
        WeightsError: it cannot be found or loaded.
    """
    if not isinstance(model, Answerer):
        model = answerer_of(
            options.model if model is None else model,
            reading=options.reading,
            device=options.device,
            dtype=options.dtype,
        )
    out = Path(out)
    reader = _Reader.of_options(source, model.preprocessing, options)
    about = _about(source, model, reader, options)
    count = -(-len(source) // options.shard_size)
    with shard_folder(out, about, count, same=_SAME, doing="preparing") as folder:
        way = folder.manifest.get("products")
        with settled(way) if way else nullcontext():
            _fill(folder, model, reader, options, progress)
        done = folder.finish()
    return Prepared(
        out=str(out),
        model=model.name,
        weights=model.weights,
        kind=model.kind,
        views=options.views,
        **vars(done),
    )


def _about(
    source: Source, model: Answerer, reader: "_Reader", options: PrepareOptions
) -> dict[str, Any]:
    """What the manifest tells besides its shards."""
    side = model.preprocessing.size
    shape = model.answers(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape
    if len(shape) != 2 or (model.grid and shape[1] != model.grid[0] * model.grid[1]):
        grid = f"a grid of {model.grid}" if model.grid else "one row"
        raise BadInput(f"the model answers one picture with {tuple(shape)}; expected {grid}")
    embeds = model.kind == "embedding"
    augmentation = reader.augmentation
    return {
        "format": FORMAT,
        "model": model.name,
        "weights": model.weights,
        "kind": model.kind,
        "codes": model.codes,
        "grid": model.grid,
        "shape": [shape[1]],
        "dtype": options.numbers if embeds else token_dtype(model.codes or 0),
        "device": model.device,
        # So that products are the same where the work goes on.
        "products": chosen_way(model.dtype) if model.device == "cpu" else None,
        "preprocessing": model.preprocessing.to_json(),
        "source": str(source.path),
        "source_kind": source.kind,
        "fingerprint": source.fingerprint,
        "settings": {
            "views": options.views,
            "seed": None if augmentation is None else options.seed,
            "augmentation": None if augmentation is None else asdict(augmentation),
            "numbers": options.numbers if embeds else None,
            "model_dtype": str(model.dtype).removeprefix("torch."),
            "shard_size": options.shard_size,
        },
        "classes": list(source.classes),
    }


class _Stretch(NamedTuple):
    """Records that are read in one go."""

    shard: int
    first: int
    end: int


@dataclass
class _Read:
    """What a process read."""

    pixels: UInt8[Tensor, "r views 3 y x"]
    keys: list[str] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Reader:
    """Reads a stretch of records; each view of each depends on the seed and on its numbers alone.

    Attributes:
        augmentation: of all views but the first; None where there is but one.
    """

    source: Source
    how: Preprocessing
    augmentation: Augmentation | None
    views: int
    seed: int

    @classmethod
    def of_options(cls, source: Source, how: Preprocessing, options: PrepareOptions) -> "_Reader":
        augmentation = Augmentation(
            size=how.size,
            area=options.augment_area,
            flip=options.augment_flip,
            filter="bilinear" if how.filter == "bilinear" else "bicubic",
        )
        several = options.views > 1
        return cls(source, how, augmentation if several else None, options.views, options.seed)

    def __call__(self, stretch: _Stretch) -> _Read:
        side = self.how.size
        squares: list[np.ndarray] = []
        read = _Read(torch.zeros(0, self.views, 3, side, side, dtype=torch.uint8))
        for index in range(stretch.first, stretch.end):
            key = f"record {index}"
            try:
                key = self.source.key(index)
                record = self.source[index]
                squares.append(np.stack(list(self._views(record.image(self.how.reading), index))))
            except (BadInput, OSError) as error:
                read.skipped.append({"source": key, "reason": str(error)})
                continue
            read.keys.append(key)
            read.captions.append(record.captions)
            read.labels.append(record.label)
        if squares:
            stacked = torch.from_numpy(np.stack(squares))
            read.pixels = rearrange(stacked, "r views y x c -> r views c y x").contiguous()
        return read

    def _views(self, image: Any, index: int) -> Iterator[np.ndarray]:
        yield np.asarray(to_square(image, self.how))
        for view in range(1, self.views):
            assert self.augmentation is not None
            rng = np.random.Generator(np.random.PCG64([self.seed, index, view]))
            yield np.asarray(self.augmentation(image, rng))


def _fill(
    folder: ShardFolder,
    model: Answerer,
    reader: _Reader,
    options: PrepareOptions,
    progress: Progress | None,
) -> None:
    """Make the shards that are missing."""
    total, size = len(reader.source), options.shard_size
    ends = {number: min((number + 1) * size, total) for number in folder.missing}
    left = sum(end - number * size for number, end in ends.items())
    together = max(1, options.batch_size // options.views)  # records

    def stretches() -> Iterator[_Stretch]:
        for number, end in ends.items():
            for first in range(number * size, end, together):
                yield _Stretch(number, first, min(first + together, end))

    done = 0
    with closing(made_ahead(reader, stretches(), options.workers)) as made:
        pairs = zip(stretches(), made, strict=True)
        for number, group in groupby(pairs, lambda pair: pair[0].shard):
            shard = _Shard(number)
            for stretch, read in group:
                shard.add(read, _answers(model, read, options, folder.manifest))
                done += stretch.end - stretch.first
                if progress is not None:
                    progress("pictures", done, left)
            folder.add(shard.written(folder.out))


def _answers(
    model: Answerer, read: _Read, options: PrepareOptions, about: dict[str, Any]
) -> Shaped[np.ndarray, "r views n"]:
    """What is stored of a stretch.

    Raises:
        BadInput: the model answers what cannot be stored.
    """
    dtype, views = np.dtype(about["dtype"]), options.views
    flat = rearrange(read.pixels, "r views c y x -> (r views) c y x")
    rows = [model.answers(batch).numpy() for batch in flat.split(options.batch_size) if len(batch)]
    found = np.concatenate(rows) if rows else np.zeros((0, *about["shape"]), dtype)
    if found.shape != (len(flat), *about["shape"]):
        raise BadInput(
            f"the model answers {len(flat)} pictures with {found.shape}; expected rows of "
            f"{about['shape'][0]}, as of the first"
        )
    with np.errstate(over="ignore"):
        stored = found.astype(dtype)
    if dtype.kind == "f":
        fits, what = np.isfinite(stored), f"numbers that are not finite in {dtype}; take float32"
    else:
        fits = (found >= 0) & (found < about["codes"])
        what = f"ids that are not among its {about['codes']} codes; its weights may be damaged"
    if not fits.all():
        key = read.keys[int(np.argmin(fits.all(axis=1))) // views]
        raise BadInput(f"the model answers {key} with {what}")
    return rearrange(stored, "(r views) n -> r views n", views=views)


class _Shard:
    """The contents of a file, while they come together."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.features: list[np.ndarray] = []
        self.keys: list[str] = []
        self.captions: list[tuple[str, ...]] = []
        self.labels: list[int | None] = []
        self.skipped: list[dict[str, str]] = []

    def add(self, read: _Read, features: np.ndarray) -> None:
        """Add a stretch, of which nothing but the pixels is let go."""
        self.features.append(features)
        for name in ("keys", "captions", "labels", "skipped"):
            getattr(self, name).extend(getattr(read, name))

    def written(self, out: Path) -> dict[str, Any]:
        """Write the file; what the manifest tells of it."""
        entry = {
            "number": self.number,
            "file": "",
            "records": len(self.keys),
            "bytes": 0,
            "skipped": self.skipped,
        }
        if not self.keys:
            return entry
        arrays = shard_arrays(np.concatenate(self.features), self.keys, self.captions, self.labels)
        # One entry, since several would be written in any order.
        data = save(arrays, {"format": FORMAT})
        file = out / f"part-{self.number:05d}.safetensors"
        with written_aside(file) as part:
            part.write_bytes(data)
        return {**entry, "file": file.name, "bytes": len(data), "sha256": sha256(data).hexdigest()}
