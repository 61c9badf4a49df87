"""Lloyd's k-means in bounded memory, for codebooks of hundreds of thousands of codes.

Lloyd: "Least squares quantization in PCM", 1982; Arthur, Vassilvitskii: "k-means++: the advantages
of careful seeding", 2007. Rows may lie in a file that is mapped, in any dtype, on another device
than the centres: they are taken a part at a time. The table of distances holds at most
`_ROWS x _CODES` numbers (16 MiB of float32), whatever the number of rows and codes; beside it a
round needs the centres twice, in float32 and float64 (0.3 GiB for 194,560 codes of 128), and 12
bytes a row.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lascaux.errors import BadInput

Distance = Literal["cosine", "euclidean"]
Start = Literal["sample", "k-means++"]
Way = Literal["torch", "faiss"]

_ROWS = 1024
_CODES = 4096
_FAISS_ROWS = 1 << 14  # faiss tiles within
_ROWS_A_CODE = 64  # k-means++ looks at so many rows for each code
_MOST_PLUS_PLUS = 1 << 14  # codes, beyond which its time grows out of hand
_TRIED_ROWS = 2048  # by which the two ways of assigning are compared


@dataclass(frozen=True)
class Assigned:
    """Which centre each row is nearest to, and how far from it.

    Attributes:
        ids: of centres, the first of equals.
        distances: squared; of unit vectors for the cosine distance (twice 1 - cosine).
    """

    ids: Int[Tensor, " n"]
    distances: Float[Tensor, " n"]


@dataclass(frozen=True)
class Round:
    """What one round of k-means came to.

    Attributes:
        centres: the means of what was assigned to the former centres.
        distortion: mean squared distance of the rows to the former centres.
        used: how many of the former centres had a row.
    """

    centres: Float[Tensor, "s d"]
    distortion: float
    used: int


def assign(
    x: Float[Tensor, "n d"],
    centres: Float[Tensor, "s d"],
    *,
    distance: Distance = "euclidean",
    way: Way = "torch",
) -> Assigned:
    """The nearest centre of every row; the answer lies beside the centres.

    Raises:
        BadInput: a row or a centre is not finite.
    """
    centres = _prepared(centres, distance, centres.device)
    lengths = centres.square().sum(dim=1)
    parts = []
    for part in _parts(x, distance, centres.device, _FAISS_ROWS if way == "faiss" else _ROWS):
        near, ids = (
            _by_faiss(part, centres) if way == "faiss" else _by_torch(part, centres, lengths)
        )
        parts.append((ids, near))
    if not parts:
        nothing = centres.new_zeros(0)
        return Assigned(nothing.long(), nothing)
    ids, distances = (torch.cat(each) for each in zip(*parts, strict=True))
    if int(ids.min()) < 0 or not bool(distances.isfinite().all()):
        raise BadInput("features or centres that are not finite: look at what the model gives")
    return Assigned(ids, distances.clamp(min=0))


def centres_of(
    x: Float[Tensor, "n d"],
    ids: Int[Tensor, " n"],
    former: Float[Tensor, "s d"],
    *,
    distance: Distance = "euclidean",
) -> Float[Tensor, "s d"]:
    """The mean of the rows of every centre, at unit length for the cosine distance.

    A centre without rows stays where it was.
    """
    counts = torch.bincount(ids, minlength=len(former))
    # Sums of many rows would lose their last digits in float32.
    sums = torch.zeros_like(former, dtype=torch.float64)
    first = 0
    for part in _parts(x, distance, former.device, _ROWS):
        sums.index_add_(0, ids[first : first + len(part)], part.double())
        first += len(part)
    means = (sums / counts.clamp(min=1)[:, None]).to(former.dtype)
    if distance == "cosine":
        means = F.normalize(means, dim=-1)
    return torch.where((counts > 0)[:, None], means, former)


def one_round(
    x: Float[Tensor, "n d"],
    centres: Float[Tensor, "s d"],
    *,
    distance: Distance = "euclidean",
    way: Way = "torch",
    generator: torch.Generator | None = None,
) -> Round:
    """Assign all rows, move the centres to their means, and give empty ones new places.

    An empty centre goes to a row, drawn by its squared distance from its own centre, so that it
    splits what is coarse. Where fewer rows differ than there are centres, some stay empty.

    Args:
        x: the rows.
        centres: to begin from.
        distance: that is minimised.
        way: how rows are assigned; both give the same but for rounding.
        generator: of the drawing, on the CPU; None: the farthest rows are taken.
    """
    found = assign(x, centres, distance=distance, way=way)
    moved = centres_of(x, found.ids, centres, distance=distance)
    empty = torch.bincount(found.ids, minlength=len(centres)) == 0
    used = len(centres) - int(empty.sum())
    if used < len(centres):
        rows = _coarse(found.distances, len(centres) - used, generator)
        places = empty.nonzero()[:, 0][: len(rows)]
        moved[places] = _prepared(x[rows.to(x.device)], distance, moved.device).to(moved.dtype)
    return Round(moved, float(found.distances.double().mean()), used)


def starting_centres(
    x: Float[Tensor, "n d"],
    count: int,
    *,
    distance: Distance = "euclidean",
    start: Start = "sample",
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "s d"]:
    """Rows to begin from: drawn all alike, or one after the other far from the ones before.

    k-means++ looks at 64 rows a code, drawn from all.

    Args:
        x: the rows.
        count: how many centres.
        distance: that will be minimised.
        start: how they are drawn.
        device: where they go.
        generator: of the drawing, on the CPU.

    Raises:
        BadInput: there are fewer rows than centres, or more centres than k-means++ is good for.
    """
    if count < 1 or len(x) < count:
        raise BadInput(
            f"{count} codes from {len(x)} features: at least one code, and no more than features"
        )
    order = torch.randperm(len(x), generator=generator)
    if start == "sample":
        return _taken(x, order[:count], distance, torch.device(device))
    if count > _MOST_PLUS_PLUS:
        raise BadInput(f"k-means++ for {count} codes takes too long: begin from a 'sample'")
    rows = _taken(x, order[: _ROWS_A_CODE * count], distance, torch.device(device))
    chosen = [0]
    nearest = (rows - rows[0]).square().sum(dim=1)
    for _ in range(count - 1):
        chosen.append(int(_coarse(nearest, 1, generator, spare=True)[0]))
        nearest = torch.minimum(nearest, (rows - rows[chosen[-1]]).square().sum(dim=1))
    return rows[chosen].clone()


def faster_way(
    x: Float[Tensor, "n d"], centres: Float[Tensor, "s d"], distance: Distance = "euclidean"
) -> Way:
    """Whether faiss assigns rows faster than torch here, by trying some; torch where it is not."""
    if centres.device.type != "cpu" or faiss() is None:
        return "torch"

    def seconds(way: Way, rows: int) -> float:
        started = time.perf_counter()
        assign(x[:rows], centres, distance=distance, way=way)
        return time.perf_counter() - started

    ways: tuple[Way, Way] = ("torch", "faiss")
    for way in ways:
        seconds(way, 1)  # the first time costs more
    taken = {way: seconds(way, _TRIED_ROWS) for way in ways}
    return "faiss" if taken["faiss"] < taken["torch"] else "torch"


@cache
def faiss() -> Any:
    """The package, or None where it is not installed."""
    try:
        import faiss as package
    except ImportError:
        return None
    return package


def _parts(
    x: Tensor, distance: Distance, device: torch.device, rows: int
) -> Iterator[Float[Tensor, "m d"]]:
    for part in x.split(rows):
        if len(part):
            yield _prepared(part, distance, device)


def _prepared(x: Tensor, distance: Distance, device: torch.device) -> Tensor:
    x = x.detach().to(device=device, dtype=torch.float32)
    return F.normalize(x, dim=-1) if distance == "cosine" else x


def _taken(x: Tensor, rows: Tensor, distance: Distance, device: torch.device) -> Tensor:
    return _prepared(x[rows.to(x.device)], distance, device).clone()


def _by_torch(part: Tensor, centres: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    best = part.new_full((len(part),), torch.inf)
    ids = torch.zeros(len(part), dtype=torch.int64, device=part.device)
    for first in range(0, len(centres), _CODES):
        last = first + _CODES
        # The row's own length is the same for all centres and comes in at the end.
        near = torch.addmm(lengths[first:last], part, centres[first:last].t(), alpha=-2)
        least, here = near.min(dim=1)
        nearer = least < best  # of equals the earlier stays
        best = torch.where(nearer, least, best)
        ids = torch.where(nearer, here + first, ids)
    return best + part.square().sum(dim=1), ids


def _by_faiss(part: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    package = faiss()
    if package is None:
        raise BadInput("faiss is not installed here: assign by torch")
    distances, ids = package.knn(part.contiguous().numpy(), centres.contiguous().numpy(), 1)
    return torch.from_numpy(distances[:, 0]), torch.from_numpy(ids[:, 0])


def _coarse(
    distances: Tensor, count: int, generator: torch.Generator | None, *, spare: bool = False
) -> Int[Tensor, " m"]:
    """Rows drawn without replacement, each by its distance; at most as many as are apart from 0."""
    distances = distances.detach().cpu()
    count = count if spare else min(count, int((distances > 0).sum()))
    if generator is None:
        return distances.topk(count).indices
    # Exponential waiting times: whose distance is larger comes sooner.
    waits = torch.empty_like(distances).exponential_(generator=generator) / distances
    return waits.topk(count, largest=False).indices
