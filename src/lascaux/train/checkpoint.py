"""Checkpoints of a run: everything that decides how it goes on.

`checkpoints/step-00001200.pt` holds the weights, their average, every optimiser's state by the
names of weights, the gradient scaler, the random state of every process and where the data stand.
Each is written aside and renamed, so that one that is there is whole; the latest few are kept, and
`best.pt` is the one with the best validation. They are read without executing anything.
"""

import errno
import json
import os
import random
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lascaux.errors import BadInput, BrokenFile, TrainingStopped
from lascaux.train.sharding import fill, whole

FOLDER = "checkpoints"
BEST = "best.pt"
_NAME = re.compile(r"step-(\d{8})\.pt")
_KEPT = {"recipe", "settings", "step", "model", "optimisers", "random"}

State = dict[str, Any]


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run."""
    return max(_numbered(run), default=None)


def write(state: State, run: Path, *, keep: int, best: bool) -> Path:
    """Write a checkpoint, and remove all but the latest few.

    Args:
        state: what it holds; `state["step"]` names it.
        run: the run's folder.
        keep: how many of the latest stay.
        best: it is also the best so far.

    Raises:
        TrainingStopped: it cannot be written; those before it are untouched.
    """
    folder = run / FOLDER
    path = folder / f"step-{state['step']:08d}.pt"
    aside = folder / f".{path.name}.part"
    try:
        folder.mkdir(exist_ok=True)
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        if best:
            _link(path, folder / BEST)
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says
        _forget(aside)
        raise TrainingStopped(_unwritten(path, error, latest(run))) from error
    for old in sorted(_numbered(run))[:-keep]:
        _forget(old)
    return path


def read(path: Path, recipe: str, settings: State) -> State:
    """What `write` wrote, if it is of this recipe and of these settings.

    Raises:
        BrokenFile: it cannot be read, or is something else.
        BadInput: it is of another recipe or of other settings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as broken:
        before = [p for p in sorted(_numbered(path.parent.parent)) if p < path]
        goes_on = f"goes on from {before[-1].name}" if before else "begins anew"
        raise BrokenFile(
            f"{path}: cannot be read ({broken}); delete it, and the run {goes_on}"
        ) from broken
    if not isinstance(state, dict) or not state.keys() >= _KEPT:
        raise BrokenFile(f"{path} is no checkpoint of a training run; choose another folder")
    if state["recipe"] != recipe:
        raise BadInput(
            f"{path} is a checkpoint of recipe {state['recipe']!r}, not of {recipe!r}; give the "
            "run another name (--name)"
        )
    before, now = json.loads(state["settings"]), json.loads(json.dumps(settings))
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        told = ", ".join(f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in changed)
        raise BadInput(
            f"{path} was made with other settings: {told}; give the run another name (--name)"
        )
    return state


def optimiser_state(optimiser: torch.optim.Optimizer) -> State:
    """What an optimiser remembers of each weight, by the weight's name, whole."""
    found: State = {}
    for group in optimiser.param_groups:
        for name, parameter in zip(group["weights"], group["params"], strict=True):
            remembered = optimiser.state.get(parameter, {})
            found[name] = {key: _stored(value) for key, value in remembered.items()}
    return found


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: State) -> None:
    """Give an optimiser back what it remembered; weights may be sharded otherwise now.

    Raises:
        BadInput: it is of other weights.
    """
    for group in optimiser.param_groups:
        for name, parameter in zip(group["weights"], group["params"], strict=True):
            if name not in state:
                raise BadInput(f"the checkpoint's optimiser knows no weight {name!r}")
            optimiser.state[parameter] = {
                key: _like(value, parameter) for key, value in state[name].items()
            }


def load_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Fill a model's weights and buffers in place, whether they are sharded or not."""
    own = model.state_dict()
    if own.keys() != state.keys():
        raise BadInput("the checkpoint's weights have other names than the recipe's model has now")
    for name, tensor in own.items():
        fill(tensor, state[name])


def random_state(device: torch.device) -> State:
    """The state of every generator that a process draws from."""
    # The numbers of a Mersenne twister; safe files hold no arrays of numpy.
    kind, keys, *rest = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state())
    state: State = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": random.getstate(),
    }
    if device.type in ("cuda", "mps"):
        state["device"] = getattr(torch, device.type).get_rng_state()
    return state


def set_random_state(state: State, device: torch.device) -> None:
    """Put every generator back where it stood."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "device" in state and device.type in ("cuda", "mps"):
        getattr(torch, device.type).set_rng_state(state["device"])


def _numbered(run: Path) -> list[Path]:
    folder = run / FOLDER
    return [p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)]


def _stored(value: Any) -> Any:
    return whole(value) if isinstance(value, Tensor) else value


def _like(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:  # a count of steps
        return value.clone().to(parameter.device) if value.numel() == 1 else value.clone()
    made = torch.empty_like(parameter, dtype=value.dtype)
    fill(made, value)
    return made


def _link(path: Path, best: Path) -> None:
    """Make `best` a second name of the file; a copy where the disk knows no such thing."""
    aside = best.with_name(f".{best.name}.part")
    _forget(aside)
    try:
        os.link(path, aside)
    except OSError:
        aside.write_bytes(path.read_bytes())
    aside.replace(best)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _unwritten(path: Path, error: Exception, last: Path | None) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC
    for inner in (error.__cause__, error.__context__):
        full = full or getattr(inner, "errno", None) == errno.ENOSPC
    reason = "the disk is full" if full else str(error).splitlines()[0]
    stands = f"{last.name} is whole" if last else "there is none before it"
    return (
        f"the checkpoint {path} cannot be written: {reason}; {stands}. Make room and give the "
        "same command: it goes on from there"
    )


__all__ = [
    "BEST",
    "FOLDER",
    "latest",
    "load_model_state",
    "load_optimiser_state",
    "optimiser_state",
    "random_state",
    "read",
    "set_random_state",
    "whole",
    "write",
]
