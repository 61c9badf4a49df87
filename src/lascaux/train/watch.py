"""What a run tells: metrics.jsonl always, TensorBoard by choice, sheets of samples, alarms."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lascaux.errors import MissingExtra, TrainingStopped
from lascaux.images.sheet import SheetEntry, contact_sheet
from lascaux.train.health import Alarm, Health
from lascaux.train.recipe import Sample

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
SAMPLES = "samples"
BOARD = "tensorboard"

Line = dict[str, Any]
Report = Callable[[Line], None]


class Watch:
    """Writes what happens in a run's folder, and tells it to whoever asked."""

    def __init__(
        self, folder: Path, step: int, *, tensorboard: bool = False, report: Report | None = None
    ) -> None:
        """Go on after a step; what a killed run noted after it is forgotten, as it is done again.

        Raises:
            MissingExtra: TensorBoard is asked for, and not installed.
        """
        self._folder, self._report = folder, report
        self._health = Health()
        self._board = _board(folder / BOARD, step) if tensorboard else None
        _forget_after(step, folder / METRICS)
        self._metrics = (folder / METRICS).open("a", encoding="utf-8")

    def progress(self, line: Line) -> None:
        """Figures of a step of training, and what alarms they raise."""
        self.note(line)
        figures = {name: float(value) for name, value in line.items()}
        for alarm in self._health.look(line["step"], figures):
            self.alarm(alarm)

    def alarm(self, alarm: Alarm) -> None:
        """Say that something goes wrong."""
        log.warning("step %d: %s: %s", alarm.step, alarm.words, alarm.advice)
        self.note(alarm._asdict())

    def note(self, line: Line) -> None:
        """Write a line; its numbers go to TensorBoard, too.

        Raises:
            TrainingStopped: the disk is full or gone.
        """
        try:
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise TrainingStopped(
                f"{self._folder / METRICS} cannot be written: {error.strerror}; make room and "
                "give the same command: the run goes on from its last checkpoint"
            ) from error
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, line["step"])
        if self._report is not None:
            self._report(line)

    def sheet(self, step: int, samples: Sequence[Sample]) -> None:
        """Write a sheet of samples as PNG."""
        if not samples:
            return
        folder = self._folder / SAMPLES
        path = folder / f"step-{step:08d}.png"
        page = contact_sheet([SheetEntry(s.picture, s.title, list(s.bars)) for s in samples])
        try:
            folder.mkdir(exist_ok=True)
            aside = folder / f".{path.name}.part"
            page.save(aside, "PNG")
            aside.replace(path)
        except OSError as error:
            log.warning("the samples of step %d cannot be written: %s", step, error)
            return
        if self._board is not None:
            import numpy as np

            self._board.add_image("samples", np.asarray(page), step, dataformats="HWC")
        self.note({"step": step, "samples": str(path)})

    def close(self) -> None:
        """Write what is still held back."""
        with suppress(OSError):  # a full disk has been told of already
            self._metrics.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra(
            "--tensorboard needs tensorboard: pip install 'lascaux[train]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=step)


def _forget_after(step: int, path: Path) -> None:
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
