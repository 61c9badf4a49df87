"""The one place where a matrix product may take another way than torch's own.

oneDNN, which comes with torch, multiplies faster than torch's own way on some processors: twice as
fast in float32 on AMD's with full-width AVX-512, where MKL takes a narrow path, and wherever few
rows meet a weight that was laid out for it beforehand. Which way is faster is measured, once in a
process and for each dtype.

The environment decides instead of the measurement with LASCAUX_LINEAR=torch or =onednn.

Weights that are changed while they are in use are noticed, except where a few numbers of one are
changed by way of `.data` or of NumPy, which torch does not count: call `forget_layouts` then.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from lascaux.errors import BadInput
from lascaux.nn.inference import only_numbers

Way = Literal["torch", "onednn"]

_PAYS = 1.1  # how many times faster oneDNN must be
_FEWEST_ROWS = 8
# One row takes the time of reading the weights, by both ways alike. With two to seven torch's way
# is slower where weights do not stay in the processor's caches: 1.7 times with two, 3.5 with three
# (1024 x 4096, Zen 4).
_FEWEST_ROWS_OF_LARGE = 2
_LARGE = 1 << 20  # numbers of a weight
# A layout of its own is a second copy of a weight. Who embeds one picture need not pay for it.
_USES_BEFORE_LAYOUT = 4
_LOOKED_AT = 257  # numbers of a weight, to notice a change
_DTYPES = (torch.float32, torch.bfloat16)


class Linear(nn.Linear):
    """`torch.nn.Linear` by the faster of two ways where no gradient is needed."""

    def forward(self, input: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d2"]:
        """input @ weight.T + bias."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, as `torch.nn.functional.linear` but for the last bits.

    A weight that is used again and again is kept a second time, in oneDNN's own layout, for as
    long as it lives. Whatever happens where gradients are enabled, dtypes other than float32 and
    bfloat16, other devices than the CPU, autocast and compilation are left to torch.

    Raises:
        BadInput: LASCAUX_LINEAR is neither torch nor onednn.
    """
    if _may_choose(x, weight) and chosen_way(x.dtype) == "onednn":
        laid_out = _layout(weight)
        return torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
    if len(_LAID) and (weight.device.type != "cpu" or weight.dtype not in _DTYPES):
        _LAID.pop(weight, None)  # it has moved, and the copy would stay behind
    return F.linear(x, weight, bias)


def forget_layouts() -> None:
    """Give up every copy of a weight in another layout; they are made anew where they are used."""
    _LAID.clear()


def chosen_way(dtype: torch.dtype) -> Way:
    """What products on this CPU take: as LASCAUX_LINEAR says, else what is faster by far enough.

    Raises:
        BadInput: LASCAUX_LINEAR is neither torch nor onednn.
    """
    wish = os.environ.get("LASCAUX_LINEAR", "").strip().lower()
    if wish not in ("", "torch", "onednn"):
        raise BadInput(f"LASCAUX_LINEAR is {wish!r}; expected torch or onednn, or leave it unset")
    if dtype not in _DTYPES or wish == "torch" or not _onednn_is_there():
        return "torch"
    if wish == "onednn":
        return "onednn"
    if _SETTLED:
        return _SETTLED[-1]
    return "onednn" if onednn_gain(dtype) >= _PAYS else "torch"


_SETTLED: list[Way] = []


@contextmanager
def settled(way: Way) -> Iterator[None]:
    """Meanwhile products take this way, if it is there and the environment says no other.

    For work that is done in several goes and must give the same bits: two measurements of nearly
    equal ways may differ.
    """
    _SETTLED.append(way)
    try:
        yield
    finally:
        _SETTLED.pop()


@cache
def onednn_gain(dtype: torch.dtype) -> float:
    """How many times faster oneDNN multiplies than torch's own way, in one thread's time.

    Of 64 rows with four weights of 768 x 768 in turn. Takes some hundredths of a second, and is
    kept for the process; 1.0 where the question makes no sense.
    """
    if dtype not in _DTYPES or not _onednn_is_there():
        return 1.0
    x, bias = torch.ones(64, 768, dtype=dtype), torch.ones(768, dtype=dtype)
    weights = [torch.full((768, 768), 1 / 768, dtype=dtype) for _ in range(4)]
    laid_out = [torch.ops.mkldnn._reorder_linear_weight(weight) for weight in weights]

    def seconds(way: Way) -> float:
        started = time.thread_time()
        if way == "onednn":
            for weight in laid_out:
                torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        else:
            for weight in weights:
                F.linear(x, weight, bias)
        return time.thread_time() - started

    with torch.no_grad():
        pairs = [(seconds("torch"), seconds("onednn")) for _ in range(9)][1:]
    return min(plain for plain, _ in pairs) / max(min(fast for _, fast in pairs), 1e-9)


@dataclass
class _Laid:
    """A weight as it was when it was looked at, how often it was used, and its other layout."""

    state: tuple[int, int, torch.dtype]
    sample: Tensor
    uses: int = 0
    weight: Tensor | None = None


_LAID = WeakTensorKeyDictionary()


def _layout(weight: Tensor) -> Tensor:
    """The weight in oneDNN's layout if it has earned one, else as it is."""
    if weight.is_inference() or not isinstance(weight, nn.Parameter):
        return weight
    state = weight._version, weight.data_ptr(), weight.dtype
    # Changes by way of `.data` leave the version as it was, so some numbers of all rows and columns
    # are looked at, too.
    flat = weight.detach().flatten()
    sample = flat[:: _stride(len(flat), weight.shape[1])]
    laid = _LAID.get(weight)
    if laid is None or laid.state != state or not torch.equal(laid.sample, sample):
        laid = _LAID[weight] = _Laid(state, sample.clone())
    laid.uses += 1
    if laid.weight is None and laid.uses >= _USES_BEFORE_LAYOUT:
        laid.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return weight if laid.weight is None else laid.weight


def _stride(numbers: int, columns: int) -> int:
    """A stride that takes about `_LOOKED_AT` of the numbers, and does not stay in one column."""
    stride = max(1, numbers // _LOOKED_AT)
    while math.gcd(stride, columns) > 1:
        stride += 1
    return stride


def _may_choose(x: Tensor, weight: Tensor) -> bool:
    return (
        only_numbers(x, weight)
        and x.ndim >= 2
        and weight.ndim == 2
        and x.numel() >= _fewest_rows(weight) * max(1, x.shape[-1])
    )


def _fewest_rows(weight: Tensor) -> int:
    return _FEWEST_ROWS_OF_LARGE if weight.numel() >= _LARGE else _FEWEST_ROWS


@cache
def _onednn_is_there() -> bool:
    # Private operators: a torch that has not got them simply has one way less.
    wanted = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in wanted
    )
