"""Inception v3, whose features the Fréchet inception distance compares.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: "Rethinking the Inception Architecture for Computer
Vision", 2015, arXiv:1512.00567. Published checkpoints: `inception-fid`, TensorFlow's graph of
2015-12-05 with which FID is measured (Heusel et al. 2017, arXiv:1706.08500) as mseitzer/pytorch-fid
ported it, and `inception-imagenet`, torchvision's.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput, Unsupported

Pool = Literal["average", "max"]
Colour = tuple[float, float, float]
Kernel = tuple[int, int, int]  # width, rows and columns of a convolution
Step = tuple[Kernel, ...]  # convolutions of one map side by side; nearly always it is one

SMALLEST = 75  # pixels; of a smaller picture nothing is left for the last maps


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """What fixes the numbers an Inception v3 answers with.

    Raises:
        BadInput: a value that no Inception has.
    """

    classes: int | None = 1008  # None: features alone
    size: int | None = 299  # pixels that pictures are brought to, square; None: as they come
    mean: Colour = (0.5, 0.5, 0.5)  # of RGB in [0, 1]
    std: Colour = (0.5, 0.5, 0.5)
    # Whether average pools count the zeros around a map. TensorFlow's do not, torchvision's do.
    counts_padding: bool = False
    # The pool of the last block. TensorFlow's graph of 2015 has a maximum there, and FID with it.
    last_pool: Pool = "max"
    norm_epsilon: float = 1e-3
    shrink: int = 1  # what every width is divided by; 1 in the published ones

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 1:
            raise BadInput(f"classes {self.classes}; expected 1 or more, or None")
        if self.size is not None and self.size < SMALLEST:
            raise BadInput(f"size {self.size}; expected {SMALLEST} pixels or more, or None")
        if self.last_pool not in get_args(Pool):
            raise BadInput(f"last_pool {self.last_pool!r} is neither 'average' nor 'max'")
        if self.shrink not in (1, 2, 4, 8, 16):
            raise BadInput(f"shrink {self.shrink}; the widths can be divided by 1, 2, 4, 8 or 16")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise BadInput(f"mean {self.mean}, std {self.std}; expected three each, std above 0")

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """How many features each output block gives: 64, 192, 768 and 2048 in the published."""
        first, second, third, last = (width // self.shrink for width in (64, 192, 768, 2048))
        return first, second, third, last

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "InceptionConfig":
        """The config that `to_json` wrote."""
        colours = {name: tuple(fields[name]) for name in ("mean", "std") if name in fields}
        return cls(**{**fields, **colours})


_FID = InceptionConfig()
VARIANTS: dict[str, InceptionConfig] = {
    "inception-fid": _FID,
    "inception-imagenet": replace(_FID, classes=1000, counts_padding=True, last_pool="average"),
}


class Inception(nn.Module):
    """Features of pictures at four depths, and logits of classes.

    Batch normalisation always has its stored statistics, in `train()` mode, too.
    """

    def __init__(self, config: InceptionConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or InceptionConfig()
        shrink, epsilon = config.shrink, config.norm_epsilon
        before, stem = 3, []
        for width, size, stride, padding in _STEM:
            stem.append(Convolution(before, width // shrink, size, epsilon, stride, padding))
            before = width // shrink
        self.stem = nn.ModuleList(stem)
        before, mixed = 192, []
        for number, layout in enumerate(MIXED):
            last = number == len(MIXED) - 1
            pool = config.last_pool if last else "average"
            mixed.append(Mixed(before, layout, pool, config))
            before = layout.width(before)
        self.mixed = nn.ModuleList(mixed)
        self.classify = None
        if config.classes is not None:
            self.classify = nn.Linear(before // shrink, config.classes)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return next(self.parameters()).dtype

    def resize(self, x: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b 3 y2 x2"]:
        """Pictures of the config's size: bilinear without antialiasing, as pytorch-fid has it."""
        if self.config.size is None or x.shape[2:] == (self.config.size, self.config.size):
            return x
        return F.interpolate(x, (self.config.size,) * 2, mode="bilinear", align_corners=False)

    def normalise(self, x: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b 3 y2 x2"]:
        """From RGB in [0, 1], of any size, to what the model takes: resized, (x - mean) / std."""
        mean, std = (x.new_tensor(c).view(3, 1, 1) for c in (self.config.mean, self.config.std))
        return (self.resize(x) - mean) / std

    def maps(self, x: Float[Tensor, "b 3 y x"]) -> Iterator[Float[Tensor, "b c y2 x2"]]:
        """The maps of the four output blocks, each computed when it is asked for.

        They lie behind the first and the second maximum, before the auxiliary classifier, and
        before the last average; `config.widths` has their channels.

        Raises:
            BadInput: not RGB, or fewer pixels than the convolutions need.
        """
        if x.shape[1] != 3 or min(x.shape[2:]) < SMALLEST:
            raise BadInput(
                f"pictures of shape {tuple(x.shape)}; expected b x 3 x y x x of {SMALLEST} pixels "
                "or more, as normalise() gives them"
            )
        for stage in (self.stem[:3], self.stem[3:]):
            for convolution in stage:
                x = convolution(x)
            x = F.max_pool2d(x, 3, stride=2)
            yield x
        for blocks in (self.mixed[:_AUXILIARY], self.mixed[_AUXILIARY:]):
            for block in blocks:
                x = block(x)
            yield x

    def encode_image(self, x: Float[Tensor, "b 3 y x"], block: int = 3) -> Float[Tensor, "b d"]:
        """The mean over all places of an output block, 0 to 3; block 3 is what FID compares.

        Raises:
            BadInput: as `maps`, or there is no such block.
        """
        if not 0 <= block < len(self.config.widths):
            raise BadInput(f"block {block}; there are 0 to 3, of {self.config.widths} features")
        for number, found in enumerate(self.maps(x)):
            if number == block:
                return found.mean((2, 3))
        raise AssertionError("there are four blocks")

    def forward(self, x: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b v"]:
        """Logits of the classes, for pictures as `normalise` gives them.

        Raises:
            BadInput: as `maps`.
            Unsupported: the checkpoint came without a classifier.
        """
        if self.classify is None:
            raise Unsupported("this Inception has no classes, only features: use encode_image")
        return self.classify(self.encode_image(x))


class StoredNorm(nn.Module):
    """Batch normalisation by statistics that never change; torch's names, but for its counter."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The same in `train()` and in `eval()` mode."""
        stored = self.running_mean, self.running_var, self.weight, self.bias
        return F.batch_norm(x, *stored, eps=self.epsilon)


class Convolution(nn.Module):
    """A convolution, normalisation by stored statistics, and ReLU."""

    def __init__(
        self,
        before: int,
        width: int,
        size: int | tuple[int, int],
        epsilon: float,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, size, stride, padding, bias=False)
        self.norm = StoredNorm(width, epsilon)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y2 x2"]:
        """Maps of 0 and more."""
        return F.relu(self.norm(self.conv(x)))


class Mixed(nn.Module):
    """Branches of convolutions and a pool over one map, their channels one after the other."""

    def __init__(self, before: int, layout: "Layout", pool: Pool, config: InceptionConfig) -> None:
        super().__init__()
        self.halves, self.counts_padding = layout.halves, config.counts_padding
        self.kind: Pool = "max" if layout.halves else pool
        self.branches = nn.ModuleList(
            _branch(before, steps, layout.halves, config) for steps in layout.branches
        )
        self.pool = None
        if layout.pool_width:
            widths = before // config.shrink, layout.pool_width // config.shrink
            self.pool = Convolution(*widths, 1, config.norm_epsilon)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y2 x2"]:
        """What the branches and the pool see."""
        found = [branch(x) for branch in self.branches]
        pooled = self._pooled(x)
        return torch.cat([*found, pooled if self.pool is None else self.pool(pooled)], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.halves:
            return F.max_pool2d(x, 3, stride=2)
        if self.kind == "max":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=self.counts_padding)


class SideBySide(nn.ModuleList):
    """Convolutions of one map, their channels one after the other."""

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y2 x2"]:
        """What each sees; they all keep the map's size, or one is alone."""
        found = [convolution(x) for convolution in self]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _branch(
    before: int, steps: tuple[Step, ...], halves: bool, config: InceptionConfig
) -> nn.Sequential:
    """Steps in a row; where the block halves its map, the last one does it, without padding."""
    layers: list[SideBySide] = []
    for place, step in enumerate(steps):
        stride = 2 if halves and place == len(steps) - 1 else 1
        layers.append(
            SideBySide(
                Convolution(
                    before // config.shrink,
                    width // config.shrink,
                    (rows, columns),
                    config.norm_epsilon,
                    stride,
                    (0, 0) if stride > 1 else (rows // 2, columns // 2),
                )
                for width, rows, columns in step
            )
        )
        before = _width(step)
    return nn.Sequential(*layers)


def _width(step: Step) -> int:
    return sum(width for width, _, _ in step)


@dataclass(frozen=True)
class Layout:
    """What a mixed block consists of, in the published widths."""

    branches: tuple[tuple[Step, ...], ...]
    pool_width: int = 0  # channels that the pool is brought to; 0: it stays as it is
    halves: bool = False

    def width(self, before: int) -> int:
        """Channels of what comes out, of the channels that go in."""
        return sum(_width(branch[-1]) for branch in self.branches) + (self.pool_width or before)


def _one(width: int) -> Step:
    return ((width, 1, 1),)


def _three(width: int) -> Step:
    return ((width, 3, 3),)


def _across(width: int) -> Step:
    return ((width, 1, 7),)


def _down(width: int) -> Step:
    return ((width, 7, 1),)


def _with_five(pool_width: int) -> Layout:
    """Figure 5 of the paper, with a 5 x 5 that was not factored."""
    five: Step = ((64, 5, 5),)
    thrice = (_one(64), _three(96), _three(96))
    return Layout(((_one(64),), (_one(48), five), thrice), pool_width)


def _with_seven(width: int) -> Layout:
    """Figure 6, n = 7."""
    once = (_one(width), _across(width), _down(192))
    twice = (_one(width), _down(width), _across(width), _down(width), _across(192))
    return Layout(((_one(192),), once, twice), 192)


def _forked() -> Layout:
    """Figure 7."""
    fork: Step = ((384, 1, 3), (384, 3, 1))
    return Layout(((_one(320),), (_one(384), fork), (_one(448), _three(384), fork)), 192)


_STEM = (  # width, size, stride, padding
    (32, 3, 2, 0),
    (32, 3, 1, 0),
    (64, 3, 1, 1),
    (80, 1, 1, 0),
    (192, 3, 1, 0),
)
_HALF = Layout(((_three(384),), (_one(64), _three(96), _three(96))), halves=True)
_QUARTER = Layout(
    ((_one(192), _three(320)), (_one(192), _across(192), _down(192), _three(192))), halves=True
)
# As published, Mixed_5b to Mixed_7c.
MIXED = (
    *(_with_five(width) for width in (32, 64, 64)),
    _HALF,
    *(_with_seven(width) for width in (128, 160, 160, 192)),
    _QUARTER,
    _forked(),
    _forked(),
)
_AUXILIARY = 8  # blocks before the auxiliary classifier
