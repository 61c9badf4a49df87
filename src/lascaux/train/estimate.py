"""What a run would cost, before anything is spent: parameters, memory, disk and time.

Weights, gradients, optimiser and average are counted. What the forward pass keeps for the backward
one is measured on small micro-batches and scaled; time is measured on steps of full size where they
are short enough, and else scaled, too. Nothing is written.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.train import checkpoint
from lascaux.train.blocks import compiled, freeze, recompute, training_mode
from lascaux.train.loop import on_device
from lascaux.train.optimisers import build_optimiser
from lascaux.train.options import Running
from lascaux.train.processes import chosen_device
from lascaux.train.recipe import DTYPES, Moment, Part, Recipe

_SMALL = (2, 8)  # pictures of the first measurements; batch norm needs two
_LONGEST = 20.0  # seconds that a full step may take to be measured
_ROUNDS = 3


@dataclass(frozen=True)
class Estimate:
    """What a run would cost; bytes and seconds.

    Attributes:
        trained: parameters of each part that are trained.
        frozen: likewise of those that are not.
        memory: by what takes it, of each process.
        disk: of all checkpoints.
        done: steps that are done already.
        steps: of the whole run.
        batch_size: pictures of a step.
        records: of the data; None where they are drawn.
        step_seconds: of one step.
        prepare_seconds: of what is done once before.
        measured: whether a step of full size was taken; else its time is scaled.
        device: of the measurement.
    """

    trained: dict[str, int]
    frozen: dict[str, int]
    memory: dict[str, int]
    disk: int
    done: int
    steps: int
    batch_size: int
    records: int | None
    step_seconds: float
    prepare_seconds: float
    measured: bool
    device: str

    @property
    def seconds(self) -> float:
        """Until the run is finished."""
        return self.prepare_seconds + (self.steps - self.done) * self.step_seconds

    @property
    def epochs(self) -> float | None:
        """How often the data are seen."""
        return None if self.records is None else self.steps * self.batch_size / self.records


def estimate(recipe: Recipe, folder: Path, running: Running, processes: int = 1) -> Estimate:
    """What a run of `recipe` in `folder` would cost from where it stands.

    Raises:
        BadInput: as training would; also where the batch does not divide among the processes.
    """
    parts = processes * recipe.accumulation
    if recipe.batch_size % parts:
        raise BadInput(
            f"--batch-size {recipe.batch_size} does not divide among {processes} processes x "
            f"{recipe.accumulation} micro-batches; take a multiple of {parts}"
        )
    last = checkpoint.latest(folder)
    done = checkpoint.read(last, recipe.name, recipe.settings())["step"] if last else 0
    if running.threads:
        torch.set_num_threads(running.threads)
    with TemporaryDirectory() as aside:
        started = time.perf_counter()
        share = recipe.prepare(Path(aside), sample=True) if not done else 1.0
        spent = time.perf_counter() - started
        trial = _Trial(recipe, running, Path(aside), processes)
        micro = recipe.batch_size // parts
        activations, guess, records = trial.scaled(micro)
        measured = guess < _LONGEST and activations < _room(trial.device)
        if measured:
            activations, guess, records = trial.measured(micro, rounds=_ROUNDS)
    if records is not None:
        records = round(records / share)
    trained, frozen = trial.counts()
    memory = _memory(trial.model, recipe, running, processes) | {"activations": activations}
    sizes = _memory(trial.model, recipe, replace(running, shard=False), 1)
    file = sum(sizes[name] for name in ("weights", "optimiser", "average"))
    return Estimate(
        trained=trained,
        frozen=frozen,
        memory=memory,
        disk=file * (running.keep + (recipe.best is not None)),
        done=done,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        records=records,
        step_seconds=guess * recipe.accumulation,
        prepare_seconds=spent * (1 / share - 1) if share < 1 else 0.0,
        measured=measured,
        device=str(trial.device),
    )


class _Trial:
    """A model that is trained a little and thrown away."""

    def __init__(self, recipe: Recipe, running: Running, folder: Path, processes: int) -> None:
        self.recipe, self.running, self.folder = recipe, running, folder
        self.processes = processes
        self.device = chosen_device(running.device)
        torch.manual_seed(recipe.seed)
        self.model = recipe.build().to(self.device)
        training_mode(self.model, freeze(self.model, recipe.freeze))
        blocks = recipe.blocks(self.model)
        if running.recompute:
            recompute(blocks)
        if running.compile:
            compiled(blocks, self.device)
        self._optimisers = {
            turn: build_optimiser(optimiser, 0.0)
            for turn, optimiser in recipe.optimisers(self.model).items()
        }

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Parameters by part, trained and frozen."""
        trained: dict[str, int] = {}
        frozen: dict[str, int] = {}
        for name, parameter in self.model.named_parameters():
            part = _part(name)
            to = trained if parameter.requires_grad else frozen
            to[part] = to.get(part, 0) + parameter.numel()
        return trained, frozen

    def scaled(self, size: int) -> tuple[int, float, int | None]:
        """As `measured`, drawn as a line through two small sizes."""
        small, larger = (min(one, size) for one in _SMALL)
        kept, seconds, records = self.measured(small, rounds=1)
        if larger == small:
            return kept, seconds, records
        more, longer, _ = self.measured(larger, rounds=1)
        over = (size - larger) / (larger - small)
        return (
            more + round(max(0, more - kept) * over),
            longer + max(0.0, longer - seconds) * over,
            records,
        )

    def measured(self, size: int, rounds: int) -> tuple[int, float, int | None]:
        """Bytes kept for the backward pass, seconds of a micro-batch, and records of the data."""
        recipe = replace(self.recipe, batch_size=size * self.processes * self.recipe.accumulation)
        workers = self.running.workers if rounds > 1 else 0
        part = Part(0, ranks=self.processes, workers=workers, folder=self.folder)
        feed = recipe.feed(part)
        batches = iter(feed)
        seconds = []
        kept = 0
        try:
            for _ in range(rounds + 1):  # the first one warms up
                started = time.perf_counter()
                batch = on_device(next(batches), self.device)
                kept = max(kept, self._step(recipe, batch))
                seconds.append(time.perf_counter() - started)
        finally:
            if hasattr(batches, "close"):
                batches.close()  # pyright: ignore[reportAttributeAccessIssue]
        order = getattr(feed, "order", None)
        return kept, min(seconds[1:]), None if order is None else order.records

    def _step(self, recipe: Recipe, batch: Any) -> int:
        kept, left = 0, None
        for turn in recipe.turns:
            with _counting(self.model) as counted:
                precision = recipe.precision
                enabled = precision != "float32"
                with torch.autocast(self.device.type, DTYPES[precision], enabled=enabled):
                    # As at the end, when all that joins a training later takes part.
                    moment = Moment(recipe.steps - 1, turn, left)
                    loss = recipe.loss(self.model, batch, moment)
            loss.value.backward()
            # With a rate of 0: the same work, and weights that stay.
            self._optimisers[turn].step()
            self._optimisers[turn].zero_grad(set_to_none=True)
            kept, left = max(kept, counted[0]), loss.kept
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return kept


@contextmanager
def _counting(model: nn.Module) -> Iterator[list[int]]:
    """Bytes of what is kept for the backward pass within, weights apart; one number, at the end."""
    seen = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    total = [0]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total


def _memory(model: nn.Module, recipe: Recipe, running: Running, processes: int) -> dict[str, int]:
    share = processes if running.shard else 1
    weights = sum(t.nbytes for t in model.state_dict().values())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    moments = {o.kind for o in recipe.optimisers(model).values()}
    return {
        "weights": weights // share,
        "gradients": trained // share,
        "optimiser": trained * (1 if moments == {"sgd"} else 2) // share,
        "average": weights // share if recipe.averaging else 0,
    }


def _part(name: str) -> str:
    """The first two words of a weight's name, numbers left out."""
    words = [word for word in name.split(".")[:-1] if not word.isdigit()]
    return ".".join(words[:2]) or name


def _room(device: torch.device) -> int:
    """Bytes that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(line for line in told.splitlines() if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return 4 << 30
