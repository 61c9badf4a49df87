"""A plain training loop that can be stopped and goes on where it was.

A recipe says what a step is (`Recipe`); the loop does the steps, keeps an average of the weights,
writes `metrics.jsonl` and, aside and then renamed, `checkpoint.pt`. Batches are a function of the
seed and the step's number alone, so a resumed run sees what an uninterrupted one sees.
"""

import copy
import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lascaux.data.ahead import made_ahead
from lascaux.errors import BadInput, BrokenFile

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
_KEPT = {"recipe", "settings", "step", "model", "averaged", "optimiser", "torch_rng"}


def setting(default: Any, help: str) -> Any:
    """A field of a recipe, with what the command line says of its flag."""
    return field(default=default, metadata={"help": help})


@runtime_checkable
class Recipe(Protocol):
    """What a training run is made of; recipes are flat frozen dataclasses with these methods."""

    name: str  # of the recipe: its file name with dashes
    seed: int
    steps: int
    warmup_steps: int
    cooldown_steps: int  # at the end, over which the learning rate falls to zero
    learning_rate: float
    weight_decay: float
    clip_norm: float
    averaging: float  # decay of the exponential average of the weights, per step

    def build(self) -> nn.Module:
        """The module to train, drawn from the recipe's seed."""
        ...

    def batch(self, step: int) -> Any:
        """What step `step` learns from; depends on the seed and the step alone."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss to descend, and what else to report."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures on the validation split, of the averaged weights."""
        ...

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the finished model as a folder that `lascaux.load` reads."""
        ...


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm up linearly, hold, then fall linearly to zero over the last `cooldown_steps`."""
    rise = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    left = recipe.steps - step
    return recipe.learning_rate * rise * min(1.0, left / max(1, recipe.cooldown_steps))


def train(
    recipe: Recipe,
    folder: Path,
    *,
    threads: int | None = None,
    save_every_seconds: float = 120.0,
    validate_every: int = 1000,
    stop_after: int | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> bool:
    """Run `recipe` in `folder`, from its checkpoint if there is one; True when it is finished.

    SIGTERM and Ctrl-C save and stop; the same call goes on. When the last step is done the
    averaged model is exported to `folder/model`.

    Args:
        recipe: what to train.
        folder: of this run; made if absent.
        threads: of torch; None leaves its choice.
        save_every_seconds: time between checkpoints.
        validate_every: steps between validations.
        stop_after: save and stop before this step, as if interrupted.
        report: called with the figures of every tenth step.

    Raises:
        BadInput: the folder holds a checkpoint of another recipe or of other settings, or cannot
            be made.
        BrokenFile: the checkpoint cannot be read.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: no folder can be made there: {error.strerror}") from error
    torch.manual_seed(recipe.seed)
    model = recipe.build()
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = _optimiser(recipe, model)
    first = _resume(recipe, folder, model, averaged, optimiser)
    _forget_after(first, folder / METRICS)
    stop = _Interruption()
    last_save = time.monotonic()
    last = min(recipe.steps, stop_after if stop_after is not None else recipe.steps)
    with stop, (folder / METRICS).open("a", encoding="utf-8") as metrics:
        started, start_step = time.monotonic(), first
        step = first
        for step, batch in _batches(recipe, first, last):
            model.train()
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, step)
            loss, figures = recipe.loss(model, batch)
            if not math.isfinite(loss.item()):
                raise BadInput(f"step {step}: the loss is {loss.item()}; lower learning_rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimiser.step()
            _average(averaged, model, min(recipe.averaging, (step + 1) / (step + 10)))
            done = step + 1
            if done % 10 == 0:
                pace = (done - start_step) / (time.monotonic() - started)
                line = {
                    "step": done,
                    "loss": loss.item(),
                    "gradient_norm": norm.item(),
                    "learning_rate": learning_rate(recipe, step),
                    "minutes_left": (recipe.steps - done) / pace / 60,
                    **figures,
                }
                metrics.write(json.dumps(line) + "\n")
                metrics.flush()
                if report:
                    report(line)
            if done % validate_every == 0 or done == recipe.steps:
                figures = {"step": done, **recipe.validate(averaged)}
                metrics.write(json.dumps(figures) + "\n")
                metrics.flush()
                if report:
                    report(figures)
            if stop.wanted or time.monotonic() - last_save > save_every_seconds:
                _save(recipe, folder, done, model, averaged, optimiser)
                last_save = time.monotonic()
                if stop.wanted:
                    return False
        done = last if last > first else first
        _save(recipe, folder, done, model, averaged, optimiser)
        if done < recipe.steps:
            return False
    recipe.export(averaged, folder / "model", recipe.validate(averaged))
    return True


def _batches(recipe: Recipe, first: int, last: int) -> Iterator[tuple[int, Any]]:
    """Batches of steps `first` to `last`, made ahead by one process beside the training."""
    steps = range(first, last)
    yield from zip(steps, made_ahead(recipe.batch, steps, 1, ahead=4), strict=True)


class _Interruption:
    """Turns SIGTERM and Ctrl-C into a wish that the loop grants after the current step."""

    wanted = False

    def _want(self, number: int, frame: object) -> None:
        self.wanted = True

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._want) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *reason: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _forget_after(step: int, path: Path) -> None:
    """Leave out what a killed run noted after its last checkpoint: it will be done again."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # cut off when the run was killed
    aside = path.with_name(f"{path.name}.part")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def _optimiser(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    for ours, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
        ours.lerp_(theirs, 1 - decay)
    for ours, theirs in zip(averaged.buffers(), model.buffers(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, 1 - decay)
        else:
            ours.copy_(theirs)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What must not change between a run and its continuation."""
    fields = asdict(recipe)  # pyright: ignore[reportArgumentType]
    # A run may be made longer before it cools down; everything else would change its past.
    return {k: v for k, v in fields.items() if k not in ("steps", "cooldown_steps")}


def _save(
    recipe: Recipe,
    folder: Path,
    step: int,
    model: nn.Module,
    averaged: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> None:
    state = {
        "recipe": recipe.name,
        "settings": json.dumps(_settings(recipe)),
        "step": step,
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "optimiser": optimiser.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "threads": torch.get_num_threads(),
    }
    aside = folder / f"{CHECKPOINT}.part"
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / CHECKPOINT)


def _resume(
    recipe: Recipe,
    folder: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> int:
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as broken:
        raise BrokenFile(
            f"{path}: cannot be read ({broken}); delete it to start this run anew"
        ) from broken
    if not isinstance(state, dict) or not state.keys() >= _KEPT:
        raise BrokenFile(f"{path} is no checkpoint of a training run; choose another folder")
    if state["recipe"] != recipe.name:
        raise BadInput(
            f"{path} is a checkpoint of recipe {state['recipe']!r}, not of {recipe.name!r}; "
            "choose another folder"
        )
    before, now = json.loads(state["settings"]), json.loads(json.dumps(_settings(recipe)))
    changed = [k for k in now if before.get(k) != now[k]]
    if changed:
        told = ", ".join(f"{k} was {before.get(k)!r}, is {now[k]!r}" for k in changed)
        raise BadInput(f"{path} was made with other settings: {told}; choose another folder")
    model.load_state_dict(state["model"])
    averaged.load_state_dict(state["averaged"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["torch_rng"])
    if (threads := state.get("threads", torch.get_num_threads())) != torch.get_num_threads():
        # Sums are split among threads, so their number decides the last bits.
        log.warning(
            "%s was made with %d threads, this run has %d: it goes on, but not to the same bits",
            path,
            threads,
            torch.get_num_threads(),
        )
    log.info("resumed %s at step %d", path, state["step"])
    return state["step"]
