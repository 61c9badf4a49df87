"""How the learning rate goes: factors of its peak as functions of the step alone.

The published trainings that this library replaces used these: cosine after a warm-up (CLIP,
clip-gen, AR-LDM, RAM), constant (taming transformers), exponential (DALLE-pytorch's discrete VAE),
one cycle (Styled VAE-VQ) and plateau (DALLE-pytorch). `cooldown` holds the peak and then falls
linearly to zero over the last steps (Zhai et al. 2022, arXiv:2106.04560, section 3.3), so that a
run can be made longer while it holds.
"""

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["cooldown", "cosine", "constant", "exponential", "one-cycle", "plateau"]


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a schedule goes by.

    Attributes:
        schedule: its name.
        steps: of the whole run.
        warmup_steps: over which the rate rises linearly.
        cooldown_steps: over which `cooldown` falls.
        least_rate: where falling rates end, as a share of the peak.
        decay: factor of `exponential`, for each `decay_steps`; of `plateau`, for each time.
        decay_steps: of `exponential`.
        patience: validations without improvement that `plateau` bears.
    """

    schedule: Schedule
    steps: int
    warmup_steps: int = 0
    cooldown_steps: int = 0
    least_rate: float = 0.0
    decay: float = 0.5
    decay_steps: int = 1000
    patience: int = 10


def rate_factor(course: Course, step: int) -> float:
    """The learning rate of a step, counted from 0, as a share of its peak.

    `plateau` is 1 here after the warm-up; `Plateau` lowers it by what validations say.
    """
    if course.schedule == "one-cycle":
        return _one_cycle(course, step)
    rise = min(1.0, (step + 1) / max(1, course.warmup_steps))
    return rise * _after_warmup(course, step)


def _after_warmup(course: Course, step: int) -> float:
    least = course.least_rate
    if course.schedule == "cooldown":
        left = (course.steps - step) / max(1, course.cooldown_steps)
        return least + (1 - least) * min(1.0, max(0.0, left))
    if course.schedule == "cosine":
        # Loshchilov and Hutter 2016, arXiv:1608.03983, Eq. 5, without restarts.
        past = max(0, step - course.warmup_steps) / max(1, course.steps - course.warmup_steps)
        return least + (1 - least) * (1 + math.cos(math.pi * min(1.0, past))) / 2
    if course.schedule == "exponential":
        past = max(0, step - course.warmup_steps)
        return max(least, course.decay ** (past // max(1, course.decay_steps)))
    return 1.0


def _one_cycle(course: Course, step: int) -> float:
    """From 1/25 up to 1 over the warm-up, then down to 1/250,000 of it, both as cosines.

    Smith and Topin 2017, arXiv:1708.07120; the ends are those of torch's OneCycleLR.
    """
    first, last = 1 / 25, 1 / 25 / 1e4
    top = max(1, course.warmup_steps)
    if step < top:
        return _between(first, 1.0, step / top)
    return _between(1.0, last, min(1.0, (step - top) / max(1, course.steps - 1 - top)))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@dataclass
class Plateau:
    """What `plateau` remembers: the best validation so far, and how long ago it was."""

    factor: float = 1.0
    best: float | None = None
    since: int = 0

    def note(self, course: Course, value: float, *, more_is_better: bool) -> None:
        """Hear of a validation; after more than `patience` without improvement the rate falls."""
        improved = self.best is None or (value > self.best if more_is_better else value < self.best)
        if improved:
            self.best, self.since = value, 0
            return
        self.since += 1
        if self.since > course.patience:
            self.factor = max(course.least_rate, self.factor * course.decay)
            self.since = 0
