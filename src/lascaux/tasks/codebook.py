"""Stage two of Styled VAE-VQ: a codebook by k-means from the features of a corpus.

The features lie in one file, which is mapped and never read as a whole. After every round the
centres are written aside and renamed, so that a run that was killed goes on to the same bits.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import torch
from jaxtyping import Float
from torch import Tensor

from lascaux.errors import BadInput, BrokenFile
from lascaux.nn.kmeans import (
    Distance,
    Start,
    Way,
    assign,
    faster_way,
    one_round,
    starting_centres,
)
from lascaux.tasks.aside import written_aside
from lascaux.weights.save import save_tensors

STATE = "kmeans.safetensors"
REPORT = "codebook.json"
_LOOKED_AT = 4096  # numbers of the features by which a resumed run knows them again


@dataclass(frozen=True, kw_only=True)
class CodebookOptions:
    """How a codebook is made.

    Attributes:
        codes: how many.
        rounds: at most, of each start.
        restarts: starts, each with another seed; the one of least distortion is kept.
        start: rows drawn all alike, or by k-means++ (up to 16,384 codes).
        distance: as the model's config has it; cosine compares directions.
        tolerance: a start ends when a round improves the distortion by a smaller part than this.
        seed: of the first start; the others follow it.
    """

    codes: int
    rounds: int = 50
    restarts: int = 1
    start: Start = "sample"
    distance: Distance = "cosine"
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.codes, self.rounds, self.restarts) < 1:
            raise BadInput("codes, rounds and restarts must each be at least 1")
        if self.tolerance < 0:
            raise BadInput(f"tolerance={self.tolerance}; 0 or a small part, such as 0.0001")
        for name, allowed in (("start", Start), ("distance", Distance)):
            if getattr(self, name) not in get_args(allowed):
                choices = " or ".join(get_args(allowed))
                raise BadInput(f"{name}={getattr(self, name)!r}; expected {choices}")


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """A codebook, and how well it fits what it was made from.

    Attributes:
        centres: one row a code.
        distortion: mean squared distance of the features to their codes; of unit vectors for the
            cosine distance.
        used: codes that at least one feature has.
        perplexity: codes in use, weighed by how often: 1 to `codes`.
        rounds: of the start that was kept.
        start: which one that was, from 0.
        features: rows it was made from.
    """

    centres: Float[Tensor, "s d"]
    distortion: float
    used: int
    perplexity: float
    rounds: int
    start: int
    features: int

    def to_json(self) -> dict[str, Any]:
        """All but the centres."""
        kept = {k: v for k, v in self.__dict__.items() if k != "centres"}
        return {"codes": len(self.centres), **kept}


@torch.no_grad()
def write_features(
    features: Callable[[Tensor], Tensor],
    batches: Iterable[Float[Tensor, "b c y x"]],
    count: int,
    path: Path,
) -> Path:
    """Write the features of pictures to a .npy file, float16 `count n d`.

    Args:
        features: of normalised pictures, as a model's method of that name gives them.
        batches: of pictures.
        count: of all pictures.
        path: the file.

    Raises:
        BadInput: there are more or fewer pictures, or the file cannot be written.
    """
    with written_aside(path) as part:
        rows: np.ndarray | None = None
        done = 0
        for x in batches:
            found = features(x).to("cpu", torch.float16).numpy()
            if rows is None:
                shape = (count, *found.shape[1:])
                rows = np.lib.format.open_memmap(part, "w+", np.float16, shape)
            if done + len(found) > count:
                raise BadInput(f"more pictures than the {count} that were announced")
            rows[done : done + len(found)] = found
            done += len(found)
        if rows is None or done < count:
            raise BadInput(f"{done} pictures came, {count} were announced")
        rows.flush()
    return path


def read_features(path: Path) -> Float[Tensor, "p n d"]:
    """The features of a file of `write_features`, mapped.

    Raises:
        BrokenFile: it is no such file.
    """
    try:
        # Mapped privately: nothing is written, but torch asks for memory that could be.
        rows = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BrokenFile(f"{path} is no file of features: {error}") from error
    if rows.ndim != 3 or rows.dtype not in (np.float16, np.float32):
        raise BrokenFile(
            f"{path} holds {rows.dtype} of shape {rows.shape}; expected float16 pictures x "
            "attributes x width"
        )
    return torch.from_numpy(rows)


def mean_features(features: Float[Tensor, "p n d"]) -> Float[Tensor, "n d"]:
    """The mean feature of each attribute, what stands in for one that is left out."""
    sums = torch.zeros(features.shape[1:], dtype=torch.float64)
    for part in features.split(1024):
        sums += part.double().sum(dim=0)
    return (sums / max(1, len(features))).float()


def make_codebook(
    features: Float[Tensor, "*p d"],
    folder: Path,
    options: CodebookOptions,
    *,
    device: str | torch.device = "cpu",
    report: Callable[[dict[str, float | int]], None] | None = None,
    stop_after: int | None = None,
) -> Codebook | None:
    """A codebook of the features, by k-means in `folder`, going on from where it was.

    Empty codes are given new places in every round, in coarse regions.

    Args:
        features: of a corpus; the last axis is a feature.
        folder: of this run; made if absent. It holds the state, and at the end `codebook.json`.
        options: how.
        device: where the centres are, and distances are computed.
        report: called with the figures of every round.
        stop_after: stop after so many rounds in all, as if interrupted; None is given then.

    Raises:
        BadInput: fewer features than codes, features that are not finite, or the folder holds a
            run of other options or other features.
        BrokenFile: the state cannot be read.
    """
    rows = features.reshape(-1, features.shape[-1])
    run = _Run(rows, Path(folder), options, torch.device(device))
    while run.begin():
        while not run.finished():
            if stop_after is not None and run.rounds_done >= stop_after:
                return None
            figures = run.advance()
            if report is not None:
                report(figures)
        run.conclude()
    return run.result()


class _Run:
    """The state of one making of a codebook."""

    def __init__(
        self, rows: Tensor, folder: Path, options: CodebookOptions, device: torch.device
    ) -> None:
        if len(rows) < options.codes:
            raise BadInput(
                f"{options.codes} codes from {len(rows)} features: take fewer codes or more "
                "pictures"
            )
        self.rows, self.folder, self.options, self.device = rows, folder, options, device
        self.identity = {"options": asdict(options), "features": _identity(rows)}
        self.start = 0  # the one that is under way
        self.distortions: list[float] = []  # of its rounds
        self.rounds_done = 0  # of all starts
        self.way: Way | None = None
        self.centres: Tensor | None = None
        self.best: Tensor | None = None
        self.best_figures: dict[str, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{folder}: no folder can be made there: {error.strerror}") from error
        self._resume()

    def begin(self) -> bool:
        """Draw the centres of the next start unless one is under way; False: all are done."""
        if self.start >= self.options.restarts:
            return False
        if self.centres is None:
            self.distortions = []
            self.centres = starting_centres(
                self.rows,
                self.options.codes,
                distance=self.options.distance,
                start=self.options.start,
                device=self.device,
                generator=self._generator(0),
            )
        return True

    def finished(self) -> bool:
        """Whether the start under way has come to its end."""
        done = self.distortions
        if len(done) >= self.options.rounds:
            return True
        return len(done) > 1 and done[-2] - done[-1] <= self.options.tolerance * done[-2]

    def advance(self) -> dict[str, float | int]:
        """One round, and its figures."""
        assert self.centres is not None
        options = self.options
        if self.way is None:
            self.way = faster_way(self.rows, self.centres, options.distance)
        began = time.monotonic()
        number = len(self.distortions)
        found = one_round(
            self.rows,
            self.centres,
            distance=options.distance,
            way=self.way,
            generator=self._generator(1 + number),
        )
        self.centres = found.centres
        self.distortions.append(found.distortion)
        self.rounds_done += 1
        self._save()
        return {
            "start": self.start,
            "round": number + 1,
            "distortion": found.distortion,
            "used": found.used,
            "seconds": time.monotonic() - began,
        }

    def conclude(self) -> None:
        """Keep the start's centres if they are the best so far, and turn to the next."""
        assert self.centres is not None
        found = assign(
            self.rows, self.centres, distance=self.options.distance, way=self.way or "torch"
        )
        distortion = float(found.distances.double().mean())
        if self.best is None or distortion < self.best_figures["distortion"]:
            counts = torch.bincount(found.ids, minlength=len(self.centres)).double()
            share = counts[counts > 0] / counts.sum()
            self.best = self.centres
            self.best_figures = {
                "distortion": distortion,
                "used": len(share),
                "perplexity": float(torch.exp(-(share * share.log()).sum())),
                "rounds": len(self.distortions),
                "start": self.start,
            }
        self.start += 1
        self.centres = None
        self._save()

    def result(self) -> Codebook:
        """The best of all starts; its figures are written beside the state."""
        assert self.best is not None
        made = Codebook(centres=self.best.cpu(), features=len(self.rows), **self.best_figures)
        text = json.dumps({**made.to_json(), **self.identity, "way": self.way}, indent=2)
        with written_aside(self.folder / REPORT) as part:
            part.write_text(text + "\n", encoding="utf-8")
        return made

    def _generator(self, number: int) -> torch.Generator:
        """Chance of one round of one start; the same whenever that round is made."""
        seed = np.random.SeedSequence([self.options.seed + self.start, number])
        return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))

    def _save(self) -> None:
        named = {"centres": self.centres, "best": self.best}
        tensors = {k: v.cpu().contiguous() for k, v in named.items() if v is not None}
        state = {
            "identity": self.identity,
            "start": self.start,
            "distortions": self.distortions,
            "rounds_done": self.rounds_done,
            "way": self.way,
            "best_figures": self.best_figures,
        }
        with written_aside(self.folder / STATE) as part:
            save_tensors(tensors, part, {"state": json.dumps(state)})

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.is_file():
            return
        try:
            with safetensors.safe_open(path, framework="pt") as stored:
                state = json.loads((stored.metadata() or {})["state"])
                tensors = {key: stored.get_tensor(key) for key in list(stored.keys())}
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise BrokenFile(f"{path} cannot be read ({error}); remove it to begin anew") from error
        if state["identity"] != self.identity:
            raise BadInput(
                f"{self.folder} holds a codebook of other options or other features; name another "
                "folder, or remove it"
            )
        self.start, self.rounds_done = state["start"], state["rounds_done"]
        self.distortions, self.way = state["distortions"], state["way"]
        self.best_figures = state["best_figures"]
        placed = {key: tensor.to(self.device) for key, tensor in tensors.items()}
        self.centres, self.best = placed.get("centres"), placed.get("best")


def _identity(rows: Tensor) -> dict[str, Any]:
    """By what features are known again: their shape, and some numbers of all of them."""
    flat = rows.reshape(-1)
    some = flat[:: max(1, len(flat) // _LOOKED_AT)].double()
    return {
        "rows": len(rows),
        "width": rows.shape[1],
        "dtype": str(rows.dtype).removeprefix("torch."),
        "sum": float(some.sum()),
        "squares": float(some.square().sum()),
    }
