"""What a training run is made of: its settings, and what the engine asks of it.

A recipe is a frozen dataclass derived from `Recipe`, one file each in `train/recipes`. Every field
is a flag of `lascaux train`; what all runs have is declared here once, and a recipe states again
what it wants otherwise. The engine (`train/loop.py`) knows no model: it calls the methods below.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from lascaux.data.ahead import made_ahead
from lascaux.errors import BadInput
from lascaux.train.optimisers import Optimiser, decayed_and_plain
from lascaux.train.options import setting
from lascaux.train.schedules import Course, Schedule

Progress = Callable[[str, int, int], None]
Precision = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Loss(NamedTuple):
    """What one turn answers for one micro-batch."""

    value: Tensor  # to descend; a mean over the pictures
    figures: Mapping[str, Tensor | float] = {}  # what else to report; 0-d, detached
    kept: Any = None  # for the next turn on the same micro-batch


@dataclass(frozen=True)
class Moment:
    """When a loss is asked for.

    Attributes:
        step: counted from 0.
        turn: which optimiser is to step by it.
        kept: what the turn before left of the same micro-batch.
    """

    step: int
    turn: str = "model"
    kept: Any = None


@dataclass(frozen=True)
class Share:
    """What one process makes of one micro-batch.

    Attributes:
        step: counted from 0.
        number: of this share among all of the run; a seed for what is drawn.
        size: pictures.
    """

    step: int
    number: int
    size: int


@dataclass(frozen=True)
class Part:
    """Which micro-batches a process wants, and how many helpers make them."""

    first: int  # step to begin with
    rank: int = 0
    ranks: int = 1
    workers: int = 0
    place: Mapping[str, int] | None = None  # where the data stood, if the run goes on
    folder: Path = Path()  # of the run, for what is made once and used by every epoch

    def shares(self, recipe: "Recipe") -> Iterator[Share]:
        """The shares of this process in the order of steps, without end."""
        size = recipe.batch_size // (self.ranks * recipe.accumulation)
        step = self.first
        while True:
            for micro in range(recipe.accumulation):
                number = (step * recipe.accumulation + micro) * self.ranks + self.rank
                yield Share(step, number, size)
            step += 1

    def drawn(self, recipe: "Recipe", batch: Callable[[Share], Any]) -> Iterator[Any]:
        """What `batch` draws for each share, made ahead; by the seed and the share alone."""
        return made_ahead(batch, self.shares(recipe), self.workers, ahead=4)


class Sample(NamedTuple):
    """One picture of a sheet of samples."""

    picture: Image.Image
    title: str
    bars: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """Settings that all runs have; a recipe restates those it wants otherwise.

    Attributes:
        name: of the recipe: its file's name with dashes.
        best: the validation figure by which checkpoints are compared, with + where more is better
            and - where less is; None where there is none.

    Raises:
        BadInput: a setting out of its range.
    """

    name: ClassVar[str]
    best: ClassVar[str | None] = None

    seed: int = setting(0, "decides weights, order and chance")
    steps: int = setting(10_000, "of the whole run; may be changed until it cools down")
    batch_size: int = setting(64, "pictures of a step, over all processes")
    accumulation: int = setting(1, "micro-batches that a step is made of")
    precision: Precision = setting("float32", "number format of products; weights stay in float32")
    learning_rate: float = setting(1e-3, "at its peak")
    schedule: Schedule = setting("cooldown", "how the learning rate goes")
    warmup_steps: int = setting(100, "over which the learning rate rises")
    cooldown_steps: int = setting(1000, "at the end, over which `cooldown` falls")
    least_rate: float = setting(0.0, "where the learning rate ends, as a share of its peak")
    decay: float = setting(0.5, "factor of `exponential` and `plateau`")
    decay_steps: int = setting(1000, "after which `exponential` applies its factor")
    patience: int = setting(10, "validations without improvement that `plateau` bears")
    weight_decay: float = setting(0.0, "of matrices and kernels")
    clip_norm: float = setting(1.0, "largest norm of the gradient; 0 does not limit it")
    averaging: float = setting(0.999, "decay of the averaged weights; 0 keeps no average")
    freeze: tuple[str, ...] = setting((), "parts that are not trained, by the names of weights")
    exported: Literal["last", "best"] = setting("last", "which weights become the model")

    def __post_init__(self) -> None:
        require_least(
            self,
            seed=0,
            steps=1,
            batch_size=1,
            accumulation=1,
            learning_rate=0,
            warmup_steps=0,
            cooldown_steps=0,
            decay_steps=1,
            patience=0,
            weight_decay=0,
            clip_norm=0,
        )
        for name in ("least_rate", "averaging", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{_flag(name)} is {getattr(self, name)}; expected 0 to 1")
        if self.batch_size % self.accumulation:
            raise BadInput(
                f"--batch-size {self.batch_size} does not divide into {self.accumulation} "
                "micro-batches (--accumulation)"
            )
        if self.best is None and self.schedule == "plateau":
            raise BadInput(f"{self.name} compares no validations; take another --schedule")
        if self.best is None and self.exported == "best":
            raise BadInput(f"{self.name} compares no validations; take --exported last")

    # What a recipe must have.

    @abstractmethod
    def build(self) -> nn.Module:
        """The module to train, drawn from torch's generator, which stands at the seed."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, moment: Moment) -> Loss:
        """The loss of a micro-batch, under autocast where `precision` says so."""

    @abstractmethod
    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the finished model as a folder that `lascaux.load` reads."""

    @abstractmethod
    def feed(self, part: Part) -> Iterable[Any]:
        """Micro-batches of a process, in order, at least to the end of the run.

        A `Loader` of records, or `part.drawn(self, self.batch)` of what is drawn. Where it has
        `state_dict()`, that is where the data stand, and goes into checkpoints.
        """

    # What a recipe may have.

    def prepare(
        self, folder: Path, *, sample: bool = False, progress: Progress | None = None
    ) -> float:
        """Do what must be done once before the first step, or go on with it; by one process.

        Args:
            folder: of the run.
            sample: do a small part of it only, to see what it costs.
            progress: called with what is done, how much of it, and of how much.

        Returns:
            The share of it that was done.
        """
        return 1.0

    def begin(self, model: nn.Module, folder: Path) -> nn.Module:
        """A new model with what `prepare` learnt for it in the run's folder."""
        return model

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        """One for each turn; by default AdamW, with matrices and kernels decayed."""
        groups = decayed_and_plain(model.named_parameters(), self.weight_decay)
        return {"model": Optimiser("adamw", groups)}

    @property
    def turns(self) -> tuple[str, ...]:
        """The optimisers, in the order in which they step; a GAN has two."""
        return ("model",)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The parts that are computed again, compiled or sharded one by one.

        By default the elements of every `ModuleList` that is not within another's.
        """
        found: dict[str, nn.Module] = {}
        for name, part in model.named_modules():
            if isinstance(part, nn.ModuleList) and not any(name.startswith(f"{n}.") for n in found):
                found |= {f"{name}.{n}" if name else n: block for n, block in part.named_children()}
        return [block for block in found.values() if any(True for _ in block.parameters())]

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures on the validation split, of the averaged weights."""
        return {}

    def samples(self, model: nn.Module) -> list[Sample]:
        """Pictures for a sheet that shows how far the model is, of the averaged weights."""
        return []

    @property
    def course(self) -> Course:
        """What the schedule of the learning rate goes by."""
        return Course(**{field.name: getattr(self, field.name) for field in fields(Course)})

    def settings(self) -> dict[str, Any]:
        """What must not change between a run and its continuation, as JSON types."""
        # A run may be made longer before it cools down; everything else would change its past.
        lasting = (f.name for f in fields(self) if f.name not in ("steps", "cooldown_steps"))
        return {
            name: list(value) if isinstance(value := getattr(self, name), tuple) else value
            for name in lasting
        }


def restated(name: str, default: Any, of: type = Recipe) -> Any:
    """A field that all runs (or those of a kind) have, with another default and the same help."""
    known = {field.name: field for field in fields(of)}
    return field(default=default, metadata=known[name].metadata)


def precise(device: torch.device | str) -> AbstractContextManager[Any]:
    """A part of a loss that is computed in float32 whatever the precision."""
    return torch.autocast(torch.device(device).type, enabled=False)


def require_least(settings: Any, **least: int) -> None:
    """Refuse settings below their least, and such that are not finite.

    Raises:
        BadInput: with the flag's name.
    """
    for name, low in least.items():
        if not low <= getattr(settings, name) < math.inf:
            raise BadInput(f"{_flag(name)} is {getattr(settings, name)}; it must be at least {low}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


__all__ = [
    "DTYPES",
    "Loss",
    "Moment",
    "Part",
    "Precision",
    "Progress",
    "Recipe",
    "Sample",
    "Share",
    "precise",
    "require_least",
    "restated",
    "setting",
]
