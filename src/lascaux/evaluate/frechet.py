"""The Fréchet distance of two sets of features, from their means and covariances.

Fréchet 1957; Dowson, Landau 1982; for pictures Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter:
"GANs Trained by a Two Time-Scale Update Rule", 2017, arXiv:1706.08500, Eq. 6.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.tasks.aside import written_aside
from lascaux.weights.save import save_tensors

OFFSET = 1e-6  # as published: added to the diagonals where the root of the product is not finite
SUFFIXES = (".safetensors", ".npz")
_FORMAT = "lascaux-statistics-1"


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, in float64.

    Attributes:
        mean: of every feature.
        covariance: with count - 1 below, as numpy.cov has it.
        count: pictures; None where a file does not tell.
        about: of what these are; a file keeps it.
    """

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    count: int | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, features: Float[Tensor, "b d"]) -> "Statistics":
        """Those of features that are all at hand.

        Raises:
            BadInput: fewer than two, or not all finite.
        """
        running = RunningStatistics(features.shape[1])
        running.add(features)
        return running.statistics()


class RunningStatistics:
    """Mean and covariance of features that come in batches; memory does not grow with them.

    Batches are merged by the pairwise formula of Chan, Golub, LeVeque 1983, in float64: squares
    are never taken of anything but distances from a mean.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "b d"]) -> None:
        """Take a batch.

        Raises:
            BadInput: of another width, or a feature that is not finite.
        """
        if features.shape[1] != len(self.mean):
            raise BadInput(f"{features.shape[1]} features where others have {len(self.mean)}")
        if not len(features):
            return
        x = features.to("cpu", torch.float64)
        if not x.isfinite().all():
            raise BadInput("a feature is not finite; compute the features in float32")
        mean = x.mean(dim=0)
        self._merge(len(x), mean, (x - mean).T @ (x - mean))

    def merge(self, other: "RunningStatistics") -> None:
        """Take what another one has seen, for instance in another process.

        Raises:
            BadInput: of another width.
        """
        if len(other.mean) != len(self.mean):
            raise BadInput(f"{len(other.mean)} features where others have {len(self.mean)}")
        if other.count:
            self._merge(other.count, other.mean, other.scatter)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        apart = mean - self.mean
        self.scatter += scatter
        self.scatter.addr_(apart, apart, alpha=self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def statistics(self, about: Mapping[str, str] | None = None) -> Statistics:
        """Of all that was taken.

        Raises:
            BadInput: fewer than two pictures, of which there is no covariance.
        """
        if self.count < 2:
            raise BadInput(
                f"{self.count} pictures; a covariance needs two, and a figure that means something "
                "thousands"
            )
        return Statistics(
            self.mean.clone(), self.scatter / (self.count - 1), self.count, dict(about or {})
        )


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), 0 or more; the published figure is this square.

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which
    is symmetric: no imaginary part can arise, and covariances without full rank need no care.
    Where the numbers are so large or small that it is not finite, `OFFSET` is added to the
    diagonals, as published.

    Raises:
        BadInput: statistics of different widths, or not finite.
    """
    if first.mean.shape != second.mean.shape:
        raise BadInput(
            f"statistics of {len(first.mean)} and of {len(second.mean)} features; they must come "
            "from one model"
        )
    one, other = first.covariance.double(), second.covariance.double()
    apart = first.mean.double() - second.mean.double()
    if not all(x.isfinite().all() for x in (apart, one, other)):
        raise BadInput("statistics that are not finite; make them again")
    root = _trace_of_root(one, other)
    if root is None:
        offset = OFFSET * torch.eye(len(one), dtype=torch.float64)
        root = _trace_of_root(one + offset, other + offset)
    if root is None:
        raise BadInput("the product of these covariances has no finite root; make them again")
    # Rounding may leave it a little below zero.
    return max(0.0, float(apart @ apart + one.trace() + other.trace() - 2 * root))


def _trace_of_root(one: Float[Tensor, "d d"], other: Float[Tensor, "d d"]) -> Tensor | None:
    """The trace of the root of a product of two covariances; None if it is not finite."""
    try:
        values, vectors = torch.linalg.eigh((one + one.T) / 2)
        half = vectors * _above_rounding(values).sqrt()  # half @ half.T is `one`
        product = half.T @ other @ half
        values = torch.linalg.eigvalsh((product + product.T) / 2)
    except RuntimeError:  # torch's LinAlgError is one
        return None
    total = _above_rounding(values).sqrt().sum()
    return total if total.isfinite() else None


def _above_rounding(values: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Eigenvalues, with zero for those that are nothing but rounding of the largest.

    Their roots would be no longer small: that of 1e-16 is 1e-8, and there may be thousands.
    """
    smallest = len(values) * torch.finfo(values.dtype).eps * values.abs().max()
    return torch.where(values > smallest, values, 0.0)


def write_statistics(statistics: Statistics, path: str | Path) -> None:
    """Keep statistics in a file: safetensors with all that is known, or .npz as pytorch-fid's.

    Raises:
        BadInput: another suffix, or the file cannot be written.
    """
    path = Path(path).expanduser()
    if suffix_of(path) == ".npz":
        with written_aside(path) as part, open(part, "wb") as file:
            np.savez_compressed(
                file, mu=statistics.mean.numpy(), sigma=statistics.covariance.numpy()
            )
        return
    tensors = {
        "mean": statistics.mean.contiguous(),
        "covariance": statistics.covariance.contiguous(),
    }
    told = {"format": _FORMAT, "about": json.dumps(dict(statistics.about), sort_keys=True)}
    if statistics.count is not None:
        told["count"] = str(statistics.count)
    with written_aside(path) as part:
        save_tensors(tensors, part, told)


def read_statistics(path: str | Path) -> Statistics:
    """Statistics from a file of either kind; a .npz does not tell how many pictures, and of what.

    Raises:
        BadInput: no such file, or one that holds no statistics.
    """
    path = Path(path).expanduser()
    reader = _from_npz if suffix_of(path) == ".npz" else _from_safetensors
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    try:
        return reader(path)
    except (OSError, ValueError, KeyError, SafetensorError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"{path} holds no statistics of features ({error}); expected mean and covariance in "
            "safetensors as this library writes them, or mu and sigma in .npz as pytorch-fid does"
        ) from error


def suffix_of(path: Path) -> str:
    """The suffix of a file of statistics.

    Raises:
        BadInput: it is another one.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"{path}: a file of statistics is called .safetensors or .npz")
    return path.suffix.lower()


def _from_npz(path: Path) -> Statistics:
    with np.load(path, allow_pickle=False) as held:
        mean, covariance = (np.asarray(held[name], np.float64) for name in ("mu", "sigma"))
    return _checked(torch.from_numpy(mean), torch.from_numpy(covariance))


def _from_safetensors(path: Path) -> Statistics:
    with safe_open(path, "pt") as held:
        told = held.metadata() or {}
        if told.get("format") != _FORMAT:
            raise ValueError(f"its format is {told.get('format')!r}")
        mean, covariance = held.get_tensor("mean"), held.get_tensor("covariance")
    count = int(told["count"]) if "count" in told else None
    return _checked(mean.double(), covariance.double(), count, json.loads(told["about"]))


def _checked(
    mean: Tensor, covariance: Tensor, count: int | None = None, about: Any = None
) -> Statistics:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise ValueError(f"shapes {shapes}; expected (d,) and (d, d)")
    return Statistics(mean, covariance, count, dict(about or {}))
