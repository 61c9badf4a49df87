"""The training engine beside a bare loop: `python benchmarks/training.py` prints a table.

A small CLIP (2.6 million weights, 64 pixels) learns from scenes of the emoji world. The bare loop
does what a page of PyTorch does: forward, backward, limit of the gradient's norm, AdamW in one
kernel, and a line of figures every five steps; both take the same batches, which lie in memory.
Ways take turns; given is the median of the ratios of processor time of a round, and their range.
`--jpeg` adds what the loader costs on JPEG files of 500 x 375, and `--processes` two processes on
this machine; both go by the clock.
"""

import argparse
import io
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from lascaux.cli.main import main as lascaux
from lascaux.train.estimate import _counting
from lascaux.train.loop import train
from lascaux.train.optimisers import build_optimiser
from lascaux.train.options import Running
from lascaux.train.recipe import DTYPES, Moment, Part
from lascaux.train.recipes.clip import ClipTraining

STEPS, BATCH, ROUNDS, FIRST = 20, 32, 5, 5
QUIET = Running(
    threads=1, workers=0, validate_every=10**9, save_every=1e9, device="cpu", log_every=FIRST
)


@dataclass(frozen=True, kw_only=True)
class Replayed(ClipTraining):
    """The recipe `clip` on a few batches that lie in memory, without validation."""

    def feed(self, part: Part) -> Iterator[Any]:
        """The same batches again and again."""
        return itertools.cycle(batches_of(self))

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Nothing."""
        return {}

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Nothing."""
        folder.mkdir()


KEPT: dict[str, list[Any]] = {}


def batches_of(recipe: ClipTraining) -> list[Any]:
    key = f"{recipe.data} {recipe.model}"
    if key not in KEPT:
        feed = ClipTraining.feed(recipe, Part(0))
        KEPT[key] = list(itertools.islice(iter(feed), 4))
    return KEPT[key]


def engine(recipe: Replayed, running: Running = QUIET) -> float:
    """Steps in a second of processor time after the first five, by the engine."""
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            recipe,
            Path(folder) / "run",
            running,
            report=lambda line: marks.append(time.process_time()) if "loss" in line else None,
        )
    return (STEPS - FIRST) / (marks[-1] - marks[0])


def bare(recipe: Replayed, fused: bool = True) -> float:
    """Likewise by a loop that knows nothing else."""
    torch.manual_seed(0)
    model = recipe.build().train()
    optimiser = build_optimiser(recipe.optimisers(model)["model"], recipe.learning_rate)
    if not fused:
        groups = [{"params": g["params"], "weight_decay": g["weight_decay"]}
                  for g in optimiser.param_groups]  # fmt: skip
        optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    batches = batches_of(recipe)
    weights = [p for p in model.parameters() if p.requires_grad]
    began = time.process_time()
    for step in range(STEPS):
        wide = recipe.precision == "float32"
        with nullcontext() if wide else torch.autocast("cpu", DTYPES[recipe.precision]):
            loss = recipe.loss(model, batches[step % len(batches)], Moment(step))
        optimiser.zero_grad()
        loss.value.backward()
        nn.utils.clip_grad_norm_(weights, recipe.clip_norm)
        optimiser.step()
        if (step + 1) % FIRST == 0:
            json.dumps({"step": step, "loss": loss.value.item()})
        if step + 1 == FIRST:
            began = time.process_time()
    return (STEPS - FIRST) / (time.process_time() - began)


def compared(way: Callable[[], float], other: Callable[[], float], rounds: int) -> list[float]:
    return [way() / other() for _ in range(rounds)]


def row(what: str, beside: str, ratios: list[float]) -> None:
    middle = statistics.median(ratios)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"| {what} | {beside} | {middle:.2f} | {spread} |", flush=True)


def activations(recipe: Replayed, running: Running) -> int:
    from lascaux.train.blocks import recompute

    model = recipe.build().train()
    if running.recompute:
        recompute(recipe.blocks(model))
    with _counting(model) as counted:
        recipe.loss(model, batches_of(recipe)[0], Moment(0))
    return counted[0]


def jpegs(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.Generator(np.random.PCG64([0]))
    with (folder / "captions.jsonl").open("w") as table:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (75, 100, 3), dtype=np.uint8))
            name = f"{number:04d}.jpg"
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / name, quality=90)
            table.write(json.dumps({"file_name": name, "caption": f"noise {number}"}) + "\n")


def loader_shares(data: Path) -> None:
    """What share of its time the engine waits for JPEG files, as it prints itself."""
    for workers in (0, 1, 2):
        told: list[float] = []
        recipe = ClipTraining(
            data=str(data), steps=STEPS, batch_size=BATCH, vocabulary=600, aside=0.0, area=0.5
        )
        with tempfile.TemporaryDirectory() as folder:
            train(
                recipe,
                Path(folder) / "run",
                replace(QUIET, workers=workers),
                report=lambda line, told=told: told.append(line.get("loader_share", -1.0)),
            )
        share = statistics.mean([share for share in told if share >= 0][1:])
        print(f"| {workers} | {100 * share:.1f} % |", flush=True)


def two_processes(data: Path, compress: str) -> float:
    """Steps a second of two processes, of which each has one thread."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "lascaux.cli.main", "train", "clip", "--data", str(data)]
        words += ["--steps", str(STEPS), "--batch-size", str(BATCH), "--vocabulary", "600"]
        words += ["--processes", "2", "--threads", "1", "--workers", "0", "--device", "cpu"]
        words += ["--aside", "0", "--runs", folder, "--compress", compress, "--json"]
        words += ["--log-every", str(FIRST)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    paced = [line for line in lines if "steps_per_second" in line]
    first, last = paced[0], paced[-1]
    seconds = [line["step"] / line["steps_per_second"] for line in (first, last)]
    return (last["step"] - first["step"]) / (seconds[1] - seconds[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--jpeg", action="store_true")
    parser.add_argument("--processes", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, torch {torch.__version__}, one thread.\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "world"
        silently("world", "--out", str(data), "--n", "400", "--seed", "1")
        recipe = Replayed(
            data=str(data), steps=STEPS, batch_size=BATCH, vocabulary=600, learning_rate=1e-4
        )
        print("| steps a second of | over those of | ratio | range |\n|---|---|---:|---|")
        row("engine", "bare loop", compared(lambda: engine(recipe), lambda: bare(recipe),
            given.rounds))  # fmt: skip
        averaged = replace(recipe, averaging=0.999)
        row("engine with averaged weights", "bare loop without",
            compared(lambda: engine(averaged), lambda: bare(recipe), given.rounds))  # fmt: skip
        fewer = max(3, given.rounds // 2)
        row("bare loop, AdamW in one kernel", "AdamW as torch has it",
            compared(lambda: bare(recipe), lambda: bare(recipe, fused=False), fewer))  # fmt: skip
        half = replace(recipe, precision="bfloat16")
        row("engine, --precision bfloat16", "float32",
            compared(lambda: engine(half), lambda: engine(recipe), fewer))  # fmt: skip
        again = replace(QUIET, recompute=True)
        kept = activations(recipe, again) / activations(recipe, QUIET)
        row(f"engine, --recompute ({100 * kept:.0f} % of the activations)", "without",
            compared(lambda: engine(recipe, again), lambda: engine(recipe), fewer))  # fmt: skip
        fast = replace(QUIET, compile=True)
        row("engine, --compile", "without",
            compared(lambda: engine(recipe, fast), lambda: engine(recipe), fewer))  # fmt: skip
        locked = locked_recipes(data, Path(folder))
        row("engine, --lock: embeddings prepared once", "the same tower frozen, at every step",
            compared(lambda: engine(locked[0]), lambda: engine(locked[1]), fewer))  # fmt: skip
        if given.processes:
            row("two processes, --compress float16", "two processes",
                compared(lambda: two_processes(data, "float16"),
                         lambda: two_processes(data, "none"), fewer))  # fmt: skip
        if given.jpeg:
            print("\n| workers | share of the time spent waiting for JPEGs |\n|---:|---:|")
            jpegs(Path(folder) / "jpegs", 640)
            loader_shares(Path(folder) / "jpegs")


def locked_recipes(data: Path, folder: Path) -> tuple[Replayed, Replayed]:
    """Of ochre-clip, its text tower alone: on prepared embeddings, and on pictures."""
    prepared = folder / "prepared"
    silently("data", "prepare", str(data), str(prepared))
    settings = {"steps": STEPS, "batch_size": BATCH, "model": "ochre-clip", "learning_rate": 1e-4}
    once = Replayed(data=str(prepared), **settings)
    always = Replayed(data=str(data), freeze=("clip.image",), area=1.0, **settings)
    return once, always


def silently(*words: str) -> None:
    with redirect_stdout(io.StringIO()):
        assert lascaux(words) == 0


def processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
        return next(x for x in told.splitlines() if "model name" in x).partition(": ")[2]
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
