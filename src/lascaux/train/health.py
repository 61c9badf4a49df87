"""Signs that a training goes wrong, in words, with what to do.

A recipe reports figures under the names below, and what they say is watched; other figures are left
alone. An alarm is raised once, and again only after it has been quiet.

    gradient_norm            of the whole model, before it is limited
    codes_used               share of a codebook that the last pictures used, 0 to 1
    code_perplexity          of the codes used, 1 to their number
    dead_codes               share of a codebook not used for long, 0 to 1
    real_score, fake_score   what a discriminator says of real and generated pictures, means
    discriminator_loss       of the hinge or logistic form
    likeness                 mean cosine of the embeddings of different pictures, -1 to 1
    loader_share             share of the time spent waiting for data, 0 to 1
    skipped                  records that could not be used so far
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_REMEMBERED = 200  # figures, for what is usual
_ENOUGH = 20  # figures before anything is called unusual
_PERSISTENCE = 5  # figures in a row, for signs that a single one does not make


class Alarm(NamedTuple):
    """One sign."""

    step: int
    sign: str
    words: str
    advice: str


@dataclass
class Health:
    """Watches the figures of one run."""

    _norms: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _lasting: dict[str, int] = field(default_factory=dict)
    _raised: set[str] = field(default_factory=set)

    def look(self, step: int, figures: Mapping[str, float]) -> list[Alarm]:
        """The alarms that these figures of a step raise."""
        found = []
        for sign, look in _SIGNS.items():
            said = look(self, figures)
            if said is None:
                self._raised.discard(sign)
            elif sign not in self._raised:
                self._raised.add(sign)
                found.append(Alarm(step, sign, *said))
        self._norms.append(figures.get("gradient_norm", math.nan))
        self._losses.append(figures.get("loss", math.nan))
        return found

    def lasts(self, sign: str, there: bool) -> bool:
        """Whether a sign is there for the fifth time in a row."""
        self._lasting[sign] = self._lasting.get(sign, 0) + 1 if there else 0
        return self._lasting[sign] >= _PERSISTENCE

    def usual(self, values: deque[float]) -> float | None:
        """The median of the values so far, if they are enough."""
        known = [value for value in values if math.isfinite(value)]
        return statistics.median(known) if len(known) >= _ENOUGH else None


Said = tuple[str, str] | None


def _exploding(health: Health, figures: Mapping[str, float]) -> Said:
    norm, usual = figures.get("gradient_norm"), health.usual(health._norms)
    if norm is None or usual is None or not norm > 20 * usual > 0:
        return None
    return (
        f"the gradient's norm is {norm:.3g}, {norm / usual:.0f} times what is usual ({usual:.3g})",
        "once is harmless where --clip-norm limits it; if it comes again, lower --learning-rate "
        "or lengthen --warmup-steps",
    )


def _vanishing(health: Health, figures: Mapping[str, float]) -> Said:
    norm = figures.get("gradient_norm")
    if not health.lasts("vanishing", norm is not None and norm < 1e-7):
        return None
    return (
        "the gradient is zero: nothing is learnt",
        "look for parts that are frozen or saturated, a loss that is constant, or --precision "
        "float16 without range: take bfloat16",
    )


def _rising(health: Health, figures: Mapping[str, float]) -> Said:
    loss, usual = figures.get("loss"), health.usual(health._losses)
    worse = loss is not None and usual is not None and usual > 0 and loss > 3 * usual
    if not health.lasts("rising", worse):
        return None
    return (
        f"the loss is {loss:.3g}, and was usually {usual:.3g}",
        "it diverges: lower --learning-rate; best.pt and the checkpoints before are kept",
    )


def _few_codes(health: Health, figures: Mapping[str, float]) -> Said:
    used = figures.get("codes_used")
    if not health.lasts("codes", used is not None and used < 0.1):
        return None
    return (
        f"only {100 * (used or 0):.1f} % of the codebook is used: it collapses",
        "revive dead codes, begin the codebook from the encoder's own features, take fewer codes "
        "or a smaller width of codes, or lower --learning-rate",
    )


def _dead_codes(health: Health, figures: Mapping[str, float]) -> Said:
    dead = figures.get("dead_codes")
    if not health.lasts("dead", dead is not None and dead > 0.5):
        return None
    return (
        f"{100 * (dead or 0):.0f} % of the codes have been dead for long",
        "turn their revival on, or take fewer codes",
    )


def _low_perplexity(health: Health, figures: Mapping[str, float]) -> Said:
    perplexity = figures.get("code_perplexity")
    if not health.lasts("perplexity", perplexity is not None and perplexity < 4):
        return None
    return (
        f"the codes say next to nothing: their perplexity is {perplexity:.1f}",
        "a few codes stand for everything; revive codes, or weigh the commitment less",
    )


def _discriminator_wins(health: Health, figures: Mapping[str, float]) -> Said:
    loss = figures.get("discriminator_loss")
    if not health.lasts("wins", loss is not None and loss < 0.02):
        return None
    return (
        f"the discriminator is always right (its loss is {loss:.3g}): it teaches nothing more",
        "begin it later, lower its learning rate or its weight, or make it smaller",
    )


def _discriminator_blind(health: Health, figures: Mapping[str, float]) -> Said:
    real, fake = figures.get("real_score"), figures.get("fake_score")
    blind = real is not None and fake is not None and abs(real - fake) < 1e-3
    if not health.lasts("blind", blind):
        return None
    return (
        "the discriminator says the same of real and generated pictures: it has collapsed",
        "raise its learning rate, or look whether it receives both",
    )


def _alike(health: Health, figures: Mapping[str, float]) -> Said:
    likeness = figures.get("likeness")
    if not health.lasts("alike", likeness is not None and likeness > 0.98):
        return None
    return (
        f"all pictures have nearly the same embedding (mean cosine {likeness:.3f})",
        "lower --learning-rate, lengthen --warmup-steps, or take larger batches",
    )


def _hungry(health: Health, figures: Mapping[str, float]) -> Said:
    share = figures.get("loader_share")
    if not health.lasts("hungry", share is not None and share > 0.25):
        return None
    return (
        f"{100 * (share or 0):.0f} % of the time is spent waiting for data",
        "take more --workers, smaller pictures (`lascaux data pack --size`), or features that are "
        "prepared once (`lascaux data prepare`)",
    )


def _skipping(health: Health, figures: Mapping[str, float]) -> Said:
    skipped = figures.get("skipped", 0)
    if not skipped:
        return None
    return (
        f"{skipped:.0f} records could not be used; others took their places",
        "`lascaux data check` lists all that are broken",
    )


_SIGNS: dict[str, Callable[[Health, Mapping[str, float]], Said]] = {
    "gradient explodes": _exploding,
    "gradient vanishes": _vanishing,
    "loss rises": _rising,
    "codebook collapses": _few_codes,
    "codes are dead": _dead_codes,
    "codes say nothing": _low_perplexity,
    "discriminator wins": _discriminator_wins,
    "discriminator is blind": _discriminator_blind,
    "embeddings are alike": _alike,
    "waiting for data": _hungry,
    "records skipped": _skipping,
}
