"""`lascaux train RECIPE --dry-run`: what a run would cost."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any


def dry_run(recipe: Any, running: Any, folder: Path, processes: int, *, as_json: bool) -> int:
    """Print an estimate; 0."""
    from lascaux.train.estimate import estimate

    found = estimate(recipe, folder, running, processes)
    if as_json:
        print(json.dumps({**asdict(found), "seconds": found.seconds, "epochs": found.epochs}))
        return 0
    total = sum(found.memory.values())
    print(f"{folder}, on {found.device}" + (f", {processes} processes" if processes > 1 else ""))
    print("parameters")
    for part, count in found.trained.items():
        print(f"  {part:<28}{count:>16,}")
    for part, count in found.frozen.items():
        print(f"  {part:<28}{count:>16,}  frozen")
    print(f"  {'trained in all':<28}{sum(found.trained.values()):>16,}")
    print("memory" + (" of each process" if processes > 1 else "") + ", besides torch itself")
    for what, size in found.memory.items():
        print(f"  {what:<28}{_bytes(size):>16}")
    print(f"  {'in all':<28}{_bytes(total):>16}")
    print("disk")
    print(f"  {'checkpoints, at most':<28}{_bytes(found.disk):>16}")
    print("time")
    seen = f", {found.epochs:,.1f} epochs of {found.records:,}" if found.epochs is not None else ""
    done = f", {found.done:,} are done" if found.done else ""
    print(f"  {found.steps:,} steps of {found.batch_size}{seen}{done}")
    how = "measured on steps of full size" if found.measured else "scaled from a small step"
    print(f"  {found.step_seconds:.3g} s a step, {how}")
    if found.prepare_seconds:
        print(f"  {_duration(found.prepare_seconds)} before, for what is prepared once")
    print(f"  {_duration(found.seconds)} left, validations apart")
    return 0


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
