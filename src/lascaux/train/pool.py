"""Scenes that come again, and what frozen models answer to them.

To read a scene (its codes, its embedding) takes as long as a small model's step of learning to
write it. So a run draws a number of different scenes, reads each once, and then has them in another
order every time it has been through them.

Many of them are portraits: one large thing in the middle. So looks what a sentence asks for that
says no more than what is to be seen; and since the codes of a thing depend on how it lies on their
grid, it is learnt many times sooner than in all sizes at all places. A portrait's thing fills six
by six codes of ochre-vq; others, on the grid too, three by three or four by four.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from lascaux.data.world.boxed import SIZE, stacked
from lascaux.data.world.sampling import Split, aligned, portrait, sample
from lascaux.data.world.scene import Scene
from lascaux.errors import BadInput
from lascaux.nn.linear import settled
from lascaux.tasks.answerers import Answerer
from lascaux.tasks.aside import written_aside
from lascaux.train.mixin import Beside
from lascaux.train.recipe import Share, setting

PAGE = 64  # scenes that are read together


@dataclass(frozen=True, kw_only=True)
class OfPool(Beside):
    """Settings of runs on scenes that come again."""

    different: int = setting(65_536, "scenes, until they come again in another order")
    portraits: float = setting(0.75, "share of scenes that show one large thing in the middle")
    loose: float = setting(0.0, "how much portraits vary in size and place, up to 1")
    on_grid: bool = setting(
        True, "things lie on the grid of codes, three, four or six of them long"
    )
    kept_in: str = setting("", "folder for what is read of scenes; empty: within the run")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.different < PAGE or self.different % PAGE:
            raise BadInput(f"--different is {self.different}; expected a multiple of {PAGE}")
        for name in ("portraits", "loose"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise BadInput(f"--{name} is {value}; expected 0 to 1")

    def pool(self, folder: Path) -> "Pool":
        """The scenes of this run.

        Args:
            folder: of the run.
        """
        folder = Path(self.kept_in).expanduser() if self.kept_in else folder / "scenes"
        how = (self.portraits, self.loose, self.on_grid)
        return Pool(self.seed, self.different, *how, folder)

    def scenes_of(self, rng: np.random.Generator, split: Split, count: int) -> list[Scene]:
        """Scenes of a split, as this run's are."""
        return mixed(rng, split, count, self.portraits, self.loose, on_grid=self.on_grid)


@dataclass(frozen=True)
class Pool:
    """Different scenes of the train split, by their numbers.

    Attributes:
        seed: of the run.
        different: how many there are.
        portraits: share of them.
        loose: how much portraits vary.
        on_grid: whether things lie on the grid of codes.
        folder: where answers to them are kept; it need not exist.
    """

    seed: int
    different: int
    portraits: float
    loose: float
    on_grid: bool
    folder: Path
    _scenes: dict[int, list[Scene]] = field(default_factory=dict, compare=False, repr=False)
    _answers: dict[tuple[str, int], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def numbers(self, share: Share) -> list[int]:
        """Which scenes a share has: all in their order, then all in one by chance, and so on."""
        first = share.number * share.size
        return [self._number(place) for place in range(first, first + share.size)]

    def scenes(self, numbers: Sequence[int]) -> list[Scene]:
        """The scenes of these numbers."""
        return [self._page(number // PAGE)[number % PAGE] for number in numbers]

    def answers(
        self, name: str, read: Callable[[list[Scene]], Tensor], numbers: Sequence[int]
    ) -> Shaped[Tensor, "b n"]:
        """What a model answers to the scenes of these numbers.

        Args:
            name: of the answers; another for other weights.
            read: answers (`b n`) of scenes, by them alone; asked once for each page.
            numbers: of the scenes.
        """
        pages = {number // PAGE for number in numbers}
        found = {page: self._answered(name, read, page) for page in sorted(pages)}
        return torch.stack([found[number // PAGE][number % PAGE] for number in numbers])

    def _number(self, place: int) -> int:
        turn, at = divmod(place, self.different)
        return int(_order(self.seed, turn, self.different)[at]) if turn else at

    def _page(self, page: int) -> list[Scene]:
        if page not in self._scenes:
            rng = np.random.Generator(np.random.PCG64([self.seed, page]))
            self._scenes[page] = mixed(
                rng, "train", PAGE, self.portraits, self.loose, on_grid=self.on_grid
            )
        return self._scenes[page]

    def _answered(self, name: str, read: Callable, page: int) -> Tensor:
        if (name, page) not in self._answers:
            how = f"{self.seed}-{self.portraits:g}-{self.loose:g}-{'grid' * self.on_grid}"
            folder = self.folder / f"{name}-{how}"
            path = folder / f"{page:06d}.npy"
            if path.is_file():
                answers = _loaded(path)
            else:
                answers = read(self._page(page))
                _write(path, answers)
            self._answers[name, page] = answers
        return self._answers[name, page]


def _loaded(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path} is damaged ({error}); delete it, and it is made again") from error


def _write(path: Path, answers: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"what is read of scenes cannot be kept in {path.parent}: {error.strerror or error}; "
            "name another folder by --kept-in"
        ) from error
    with written_aside(path) as part, part.open("wb") as file:
        np.save(file, answers.numpy())


def mixed(
    rng: np.random.Generator,
    split: Split,
    count: int,
    portraits: float,
    loose: float = 0.0,
    *,
    on_grid: bool = False,
) -> list[Scene]:
    """Scenes of a split, a share of them portraits, one after another by chance.

    Args:
        rng: drawn with.
        split: of the pairs.
        count: of the scenes.
        portraits: share of them.
        loose: how much portraits vary.
        on_grid: whether things are moved onto a grid of 8 by 8, three, four or six cells long.
    """
    alone = round(portraits * count)
    draws = [partial(portrait, rng, split, loose=loose, digits=True)] * alone
    draws += [partial(sample, rng, split, digits=True)] * (count - alone)
    drawn = [draws[place]() for place in rng.permutation(count)]
    return [aligned(scene) for scene in drawn] if on_grid else drawn


def read_by(pool: Pool, answerer: Answerer, numbers: Sequence[int]) -> Shaped[Tensor, "b n"]:
    """What a frozen model answers to the pictures of scenes.

    Raises:
        BadInput: it reads pictures of another size.
    """
    if (size := answerer.preprocessing.size) != SIZE:
        raise BadInput(f"{answerer.name} reads pictures of {size} pixels; scenes have {SIZE}")

    def read(scenes: list[Scene]) -> Tensor:
        # The same bits in every process: which way products take is measured in each of them.
        with settled("torch"), torch.autocast("cpu", enabled=False):
            answers = answerer.answers(stacked(scenes))
        return answers if answerer.kind == "embedding" else answers.int()

    return pool.answers(f"{answerer.kind}-{answerer.weights[:12]}", read, numbers)


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> np.ndarray:
    """The scenes' order when they come again; of the two turns that a batch may lie in."""
    return np.random.Generator(np.random.PCG64([seed, turn, count])).permutation(count)
