"""The engine: trains what a recipe says, can be stopped at any step, and goes on to the same bits.

What a step learns from depends on the seed and the step alone, and a checkpoint holds everything
else that decides what comes next. A killed run that is started again ends with the weights of one
that was never killed, in one process or in several.
"""

import copy
import json
import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lascaux.errors import BadInput, TrainingStopped, Unsupported
from lascaux.train import checkpoint
from lascaux.train.averaging import Average
from lascaux.train.blocks import compiled, freeze, recompute, training_mode
from lascaux.train.optimisers import build_optimiser, rates, set_rates
from lascaux.train.options import Running
from lascaux.train.processes import Processes
from lascaux.train.recipe import DTYPES, Loss, Moment, Part, Recipe
from lascaux.train.schedules import Course, Plateau, rate_factor
from lascaux.train.sharding import limit_gradients
from lascaux.train.watch import Line, Report, Watch

log = logging.getLogger(__name__)

MODEL = "model"  # the folder of what is exported


def train(
    recipe: Recipe,
    folder: Path,
    running: Running | None = None,
    *,
    stop_after: int | None = None,
    report: Report | None = None,
) -> bool:
    """Run `recipe` in `folder`, from its latest checkpoint if there is one; True when finished.

    SIGTERM and Ctrl-C save and stop; the same call goes on. When the last step is done the averaged
    model (or the plain one, if there is no average) is exported to `folder/model`.

    Args:
        recipe: what to train.
        folder: of this run; made if absent.
        running: how.
        stop_after: save and stop before this step, as if interrupted.
        report: called with every line of metrics.jsonl, in the process that writes it.

    Raises:
        BadInput: the folder holds a run of another recipe or of other settings, or cannot be made;
            or the recipe's data cannot be used.
        BrokenFile: the checkpoint cannot be read.
        TrainingStopped: the loss or the gradient is no number any more, or the disk is full.
        Unsupported, MissingExtra: something is asked for that this machine has not.
    """
    running = running or Running()
    if running.threads:
        torch.set_num_threads(running.threads)
    processes = Processes(running.device)
    try:
        run = Run(recipe, folder, running, processes, report)
        return run.go(min(recipe.steps, recipe.steps if stop_after is None else stop_after))
    except Exception as error:
        if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            told = str(error).strip().splitlines()[0]
            raise Unsupported(
                f"torch.compile cannot compile this model here: {told}; leave --compile out"
            ) from error
        raise
    finally:
        processes.part()


class Run:
    """One run, ready to take its next step.

    Attributes:
        step: how many steps are done.
        model: with its weights, without what several processes put around it.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        running: Running,
        processes: Processes,
        report: Report | None = None,
    ) -> None:
        self.recipe, self.folder, self.running, self.processes = recipe, folder, running, processes
        self._report, self._quiet = report, 0.0
        if processes.ranks * recipe.accumulation > 1:
            _require_even(recipe, processes.ranks)
        _make(folder)
        path = checkpoint.latest(folder)
        state = checkpoint.read(path, recipe.name, recipe.settings()) if path else None
        if processes.main and state is None:
            recipe.prepare(folder, progress=self._prepared)
        processes.wait()
        self._build(state)
        self.step = 0
        self._plateau, self._best = Plateau(), None
        self._place: Mapping[str, int] | None = None
        self._figures: dict[str, float] = {}
        if state is not None:
            self._resume(state, path)

    def _prepared(self, what: str, done: int, of: int) -> None:
        """Tell how far what is done before the first step is; at most twice a second."""
        if self._report is not None and (time.monotonic() > self._quiet or done == of):
            self._quiet = time.monotonic() + 0.5
            self._report({"step": 0, "preparing": what, "done": done, "of": of})

    def _build(self, state: checkpoint.State | None) -> None:
        recipe, running, processes = self.recipe, self.running, self.processes
        torch.manual_seed(recipe.seed)
        self.model = recipe.build().to(processes.device)
        if state is None:
            self.model = recipe.begin(self.model, self.folder)
        else:
            checkpoint.load_model_state(self.model, state["model"])
        # For looking at the average: a copy that is neither sharded, compiled nor recomputed.
        apart = recipe.averaging > 0 or running.shard
        self._shown = self.model
        if apart and processes.main:
            self._shown = copy.deepcopy(self.model).eval().requires_grad_(False)
        self._frozen = freeze(self.model, recipe.freeze)
        blocks = recipe.blocks(self.model)
        if running.recompute:
            recompute(blocks)
        if running.compile:
            compiled(blocks, processes.device)
        turned = _Turned(recipe, self.model, processes.device)
        self._turned = processes.together(
            turned, running.compress, blocks if running.shard else None
        )
        if running.shard and len(recipe.turns) > 1:
            raise BadInput(f"--shard: {recipe.name} has several optimisers; leave it out")
        self._average = None
        if recipe.averaging and (processes.main or running.shard):
            into = None if running.shard else self._shown
            self._average = Average(self.model, recipe.averaging, into)
        self._optimisers = {
            turn: build_optimiser(optimiser, recipe.learning_rate)
            for turn, optimiser in recipe.optimisers(self.model).items()
        }
        self._scaler = torch.amp.GradScaler(  # pyright: ignore[reportPrivateImportUsage]
            processes.device.type, enabled=recipe.precision == "float16"
        )
        # The same weights everywhere, and chance of its own for each process.
        torch.manual_seed(recipe.seed * 65_537 + processes.rank)

    def go(self, last: int) -> bool:
        """Take steps until `last` or an interruption; True when the run is finished."""
        if self.step >= self.recipe.steps and (self.folder / MODEL).exists():
            return True
        watch = None
        if self.processes.main:
            board, report = self.running.tensorboard, self._report
            watch = Watch(self.folder, self.step, tensorboard=board, report=report)
        try:
            with _Interruption() as stop:
                if not self._steps(last, stop, watch):
                    return False
            if self.step < self.recipe.steps:
                return False
            self._export(watch)
            return True
        finally:
            if watch is not None:
                watch.close()

    def _steps(self, last: int, stop: "_Interruption", watch: Watch | None) -> bool:
        """False when interrupted."""
        running, processes = self.running, self.processes
        clock = _Clock(self.step)
        training_mode(self.model, self._frozen)
        for micro_batches in self._batches(last, clock):
            clock.begin("step")
            told = self._step(micro_batches)
            clock.end()
            self.step += 1
            if self.step % running.log_every == 0:
                self._progress(told, clock, watch)
            improved = False
            if self.step % running.validate_every == 0 or self.step == self.recipe.steps:
                improved = self._validate(watch)
            if running.sample_every and self.step % running.sample_every == 0:
                self._sample(watch)
            due = processes.main and clock.since_saved() > running.save_every
            stopping, due = processes.any(stop.wanted, due)
            if stopping or due or improved or self.step == last:
                self._require_numbers(told)
                self._save(improved)
                clock.saved()
            if stopping:
                return False
        return True

    def _step(self, micro_batches: list[Any]) -> "_Told":
        """One step of every optimiser."""
        recipe = self.recipe
        told = _Told()
        kept: list[Any] = [None] * len(micro_batches)
        rate = recipe.learning_rate * rate_factor(recipe.course, self.step) * self._plateau.factor
        for turn in recipe.turns:
            optimiser = self._optimisers[turn]
            set_rates(optimiser, rate)
            with _only(optimiser, self._optimisers):
                optimiser.zero_grad(set_to_none=True)
                for number, batch in enumerate(micro_batches):
                    moment = Moment(self.step, turn, kept[number])
                    kept[number] = self._backward(batch, moment, number, told)
                self._scaler.unscale_(optimiser)
                told.add_norm(turn, self._limited(optimiser))
                if self.processes.device.type == "cpu":
                    self._require_numbers(told)
                self._scaler.step(optimiser)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self.step)
        return told

    def _backward(self, batch: Any, moment: Moment, number: int, told: "_Told") -> Any:
        """Add the gradient of a micro-batch; gives what is kept for the next turn."""
        accumulation, module = self.recipe.accumulation, self._turned
        early = number < accumulation - 1
        with self.processes.unsynchronised(module) if early else nullcontext():
            loss = Loss(*module(batch, moment))
            self._scaler.scale(loss.value / accumulation).backward()
        told.add(moment.turn, loss, 1 / accumulation, len(self.recipe.turns))
        return loss.kept

    def _limited(self, optimiser: torch.optim.Optimizer) -> Tensor:
        """The gradient's norm before it was limited."""
        self.processes.settle()
        trained = [p for group in optimiser.param_groups for p in group["params"]]
        return limit_gradients(trained, self.recipe.clip_norm or math.inf)

    def _require_numbers(self, told: "_Told") -> None:
        """Stop before anything that is no number is kept.

        Raises:
            TrainingStopped: the loss or a gradient is not finite.
        """
        loss, norm = float(told.loss), float(told.norm)
        scaled = self._scaler.is_enabled()  # float16: an infinite gradient lowers the scale
        if math.isfinite(loss) and (scaled or math.isfinite(norm)):
            return
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"its gradient is {norm}"
        last = checkpoint.latest(self.folder)
        stands = f"{last.name} is whole, from before" if last else "no checkpoint is there yet"
        raise TrainingStopped(
            f"step {self.step}: {what}; {stands}. Lower --learning-rate, lengthen --warmup-steps "
            f"or take --precision {'bfloat16' if scaled else 'float32'}, under another --name"
        )

    def _batches(self, last: int, clock: "_Clock") -> Iterator[list[Any]]:
        """The micro-batches of each step, on this process's device."""
        if self.step >= last:
            return
        processes = self.processes
        part = Part(
            first=self.step,
            rank=processes.rank,
            ranks=processes.ranks,
            workers=self.running.workers,
            place=self._place,
            folder=self.folder,
        )
        self._feed: Iterable[Any] = self.recipe.feed(part)
        batches = iter(self._feed)
        try:
            for _ in range(self.step, last):
                clock.begin("data")
                found = [next(batches) for _ in range(self.recipe.accumulation)]
                yield [on_device(batch, processes.device) for batch in found]
        finally:
            if hasattr(batches, "close"):
                batches.close()  # pyright: ignore[reportAttributeAccessIssue]

    def _progress(self, told: "_Told", clock: "_Clock", watch: Watch | None) -> None:
        figures = self.processes.mean({"loss": told.loss, **told.figures})
        self._require_numbers(told)
        if watch is None:
            return
        line: Line = {
            "step": self.step,
            "loss": figures.pop("loss"),
            "gradient_norm": float(told.norm),
            **{f"gradient_norm/{t}": float(n) for t, n in told.norms.items() if t != "model"},
            **rates(self._optimisers),
            **figures,
            **clock.told(self.step, self.recipe.steps),
        }
        if skipped := len(getattr(self._feed, "skipped", ())):
            line["skipped"] = skipped
        if self._scaler.is_enabled():
            line["gradient_scale"] = self._scaler.get_scale()
        watch.progress(line)

    def _validate(self, watch: Watch | None) -> bool:
        """Whether it is the best so far, by what the recipe compares."""
        figures: dict[str, float] = {}
        with self._looking() as model:
            if model is not None:
                figures = self.recipe.validate(model)
        figures = self.processes.listed(figures)[0]
        if not figures:
            return False
        self._figures = {"step": self.step, **figures}
        if watch is not None:
            watch.note(self._figures)
        return self._compare(figures)

    def _compare(self, figures: dict[str, float]) -> bool:
        if self.recipe.best is None:
            return False
        more, name = self.recipe.best[0] == "+", self.recipe.best[1:]
        value = figures[name]
        if self.recipe.schedule == "plateau":
            self._plateau.note(self.recipe.course, value, more_is_better=more)
        before = self._best
        if before is None or (value > before if more else value < before):
            self._best = value
            return True
        return False

    def _sample(self, watch: Watch | None) -> None:
        with self._looking() as model:
            if model is not None and watch is not None:
                watch.sheet(self.step, self.recipe.samples(model))

    @contextmanager
    def _looking(self) -> Iterator[nn.Module | None]:
        """The weights that are validated, in the process that looks at them; chance stays put."""
        chance = checkpoint.random_state(self.processes.device)
        if self.running.shard:
            whole = self._whole_state()
            if self.processes.main:
                checkpoint.load_model_state(self._shown, whole)
        if self.processes.main:
            self._shown.eval()
            with torch.no_grad():
                yield self._shown
        else:
            yield None
        training_mode(self.model, self._frozen)
        self.processes.wait()
        checkpoint.set_random_state(chance, self.processes.device)

    def _whole_state(self) -> dict[str, Tensor]:
        if self._average is not None:
            return self._average.state_dict()
        return {name: checkpoint.whole(t) for name, t in self.model.state_dict().items()}

    def _save(self, best: bool) -> None:
        """Everything that decides how the run goes on; all processes take part, one writes."""
        processes = self.processes
        model = {name: checkpoint.whole(t) for name, t in self.model.state_dict().items()}
        optimisers = {t: checkpoint.optimiser_state(o) for t, o in self._optimisers.items()}
        # Other processes keep no average where they have copies of everything.
        average = self._average.state_dict() if self._average is not None else None
        chance = processes.listed(checkpoint.random_state(processes.device))
        if processes.main:
            state = {
                "recipe": self.recipe.name,
                "settings": json.dumps(self.recipe.settings()),
                "running": self._how(),
                "course": asdict(self.recipe.course),
                "step": self.step,
                "model": model,
                "average": average,
                "optimisers": optimisers,
                "scaler": self._scaler.state_dict(),
                "plateau": [self._plateau.factor, self._plateau.best, self._plateau.since],
                "best": self._best,
                "random": chance,
                "place": _place(self._feed),
            }
            checkpoint.write(state, self.folder, keep=self.running.keep, best=best)
        processes.wait()

    def _resume(self, state: checkpoint.State, path: Path | None) -> None:
        self.step, self._best, self._place = state["step"], state["best"], state["place"]
        self._require_same_past(Course(**state["course"]))
        for turn, optimiser in self._optimisers.items():
            checkpoint.load_optimiser_state(optimiser, state["optimisers"][turn])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._scaler.load_state_dict(state["scaler"])
        self._plateau = Plateau(*state["plateau"])
        if self.processes.rank < len(state["random"]):
            chance = state["random"][self.processes.rank]
            checkpoint.set_random_state(chance, self.processes.device)
        before, now = state["running"], self._how()
        changed = [f"{name} {before.get(name)}, now {now[name]}" for name in now
                   if before.get(name) != now[name]]  # fmt: skip
        if changed and self.processes.main:
            log.warning(
                "%s was made with %s: the run goes on, but not to the same bits",
                path,
                "; ".join(changed),
            )
        log.info("resumed %s at step %d", path, self.step)

    def _require_same_past(self, before: Course) -> None:
        """Refuse a length by which the steps that are done would have had other learning rates.

        Raises:
            BadInput: the run was made longer or shorter after its learning rate had begun to fall.
        """
        now, last = self.recipe.course, self.step - 1
        if last >= 0 and rate_factor(before, last) != rate_factor(now, last):
            raise BadInput(
                f"--steps was {before.steps} and is {now.steps} (--cooldown-steps "
                f"{before.cooldown_steps}, {now.cooldown_steps}): by the schedule "
                f"`{now.schedule}` step {self.step} would have had another learning rate. "
                "Give the former numbers, or the run another name (--name)"
            )

    def _how(self) -> dict[str, Any]:
        """What decides the last bits of sums."""
        return {
            "threads": torch.get_num_threads(),
            "processes": self.processes.ranks,
            "device": self.processes.device.type,
            "shard": self.running.shard,
            "compress": self.running.compress,
            "compile": self.running.compile,
        }

    def _export(self, watch: Watch | None) -> None:
        recipe = self.recipe
        best = self.folder / checkpoint.FOLDER / checkpoint.BEST
        with self._looking() as model:
            if model is None:
                return
            if recipe.exported == "best" and best.exists():
                state = checkpoint.read(best, recipe.name, recipe.settings())
                checkpoint.load_model_state(model, state["average"] or state["model"])
                figures = recipe.validate(model)
            elif self._figures.get("step") == self.step:
                figures = {k: v for k, v in self._figures.items() if k != "step"}
            else:
                figures = recipe.validate(model)
            recipe.export(model, self.folder / MODEL, figures)


class _Turned(nn.Module):
    """A recipe's loss as a module, so that what wraps modules can wrap it."""

    def __init__(self, recipe: Recipe, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.recipe, self.model, self._device = recipe, model, device

    def forward(self, batch: Any, moment: Moment) -> Loss:
        """The loss, computed in the recipe's precision."""
        precision = self.recipe.precision
        if precision == "float32":
            return self.recipe.loss(self.model, batch, moment)
        with torch.autocast(self._device.type, DTYPES[precision]):
            return self.recipe.loss(self.model, batch, moment)


class _Told:
    """What one step has to tell, gathered over turns and micro-batches without waiting for it."""

    def __init__(self) -> None:
        self.figures: dict[str, Tensor | float] = {}
        self.norms: dict[str, Tensor] = {}
        self.loss: Tensor | float = 0.0

    @property
    def norm(self) -> Tensor | float:
        """Over all optimisers."""
        total = sum((norm.float() ** 2 for norm in self.norms.values()), torch.zeros(()))
        return total**0.5

    def add(self, turn: str, loss: Loss, weight: float, turns: int) -> None:
        """One micro-batch of a turn; `loss` of a run is that of its first turn."""
        value = loss.value.detach() * weight
        if turns > 1:
            name = f"loss/{turn}"
            self.figures[name] = self.figures.get(name, 0.0) + value
        if not self.norms:
            self.loss = self.loss + value
        for name, figure in loss.figures.items():
            told = figure.detach() if isinstance(figure, Tensor) else figure
            self.figures[name] = self.figures.get(name, 0.0) + told * weight

    def add_norm(self, turn: str, norm: Tensor) -> None:
        """The gradient's norm of a turn."""
        self.norms[turn] = norm.detach()


class _Clock:
    """Where the time goes; the parts of a step are told apart by what begins when."""

    def __init__(self, step: int) -> None:
        self._started = self._saved = time.monotonic()
        self._first = step
        self._spent: dict[str, float] = {}
        self._now: tuple[str, float] | None = None

    def begin(self, what: str) -> None:
        """What went on before ends."""
        self.end()
        self._now = what, time.perf_counter()

    def end(self) -> None:
        """Nothing that counts goes on."""
        if self._now is not None:
            what, since = self._now
            self._spent[what] = self._spent.get(what, 0.0) + time.perf_counter() - since
            self._now = None

    def told(self, step: int, steps: int) -> dict[str, float]:
        """Pace, time left, and what share of the time was spent in waiting for data and so on."""
        pace = (step - self._first) / max(time.monotonic() - self._started, 1e-9)
        total = sum(self._spent.values()) or 1.0
        shares = {name: spent / total for name, spent in self._spent.items()}
        self._spent.clear()
        return {
            "steps_per_second": pace,
            "minutes_left": (steps - step) / max(pace, 1e-9) / 60,
            "loader_share": shares.get("data", 0.0),
        }

    def since_saved(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self._saved

    def saved(self) -> None:
        """A checkpoint was written."""
        self._saved = time.monotonic()


class _Interruption:
    """Turns SIGTERM and Ctrl-C into a wish that the loop grants after the current step."""

    wanted = False

    def _want(self, number: int, frame: object) -> None:
        self.wanted = True

    def __enter__(self) -> "_Interruption":
        self.before = {s: signal.signal(s, self._want) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *reason: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@contextmanager
def _only(
    optimiser: torch.optim.Optimizer, optimisers: dict[str, torch.optim.Optimizer]
) -> Iterator[None]:
    """Gradients are computed for the weights of one optimiser alone."""
    others = [
        parameter
        for other in optimisers.values()
        if other is not optimiser
        for group in other.param_groups
        for parameter in group["params"]
    ]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def on_device(batch: Any, device: torch.device) -> Any:
    """A batch with all its tensors on a device, whatever holds them."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: on_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(on_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(on_device(value, device) for value in batch)
    return batch


def _place(feed: Any) -> dict[str, int] | None:
    return feed.state_dict() if hasattr(feed, "state_dict") else None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: no folder can be made there: {error.strerror}") from error


def _require_even(recipe: Recipe, ranks: int) -> None:
    parts = ranks * recipe.accumulation
    if recipe.batch_size % parts:
        raise BadInput(
            f"--batch-size {recipe.batch_size} does not divide among {ranks} processes x "
            f"{recipe.accumulation} micro-batches; take a multiple of {parts}"
        )
