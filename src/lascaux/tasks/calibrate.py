"""Learning from a handful of labelled pictures what a cosine means.

`fit_calibration` turns cosines into probabilities (Platt 1999, Probabilistic outputs for support
vector machines); `fit_threshold` finds the cosine under which a picture is none of the classes.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lascaux.errors import BadInput


@dataclass(frozen=True)
class Calibration:
    """The probability that a class is present: sigmoid(scale * cosine + bias)."""

    scale: float
    bias: float

    def __call__(self, cosines: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Probabilities, 0 to 1."""
        return torch.sigmoid(self.scale * cosines.float() + self.bias)


def fit_calibration(cosines: Float[Tensor, " n"], present: Bool[Tensor, " n"]) -> Calibration:
    """The logistic curve that best tells present classes from absent ones.

    Present and absent ones weigh the same in total, so the answer for one class does not depend on
    how many others there are: a probability of one half is where a class is as likely seen when it
    is present as when it is absent.

    Raises:
        BadInput: all are present or all are absent.
    """
    positives, negatives = int(present.sum()), int((~present).sum())
    if not positives or not negatives:
        raise BadInput(
            f"{positives} present and {negatives} absent classes; a calibration needs both: "
            "pictures of different classes, or some with none of them"
        )
    x = cosines.double()
    centre, spread = x.mean(), x.std().clamp_min(1e-6)
    z = torch.stack([(x - centre) / spread, torch.ones_like(x)], dim=1)
    # Platt's targets keep the curve finite where the two kinds do not overlap. Here both follow
    # the present ones, since the absent ones grow with the number of classes.
    soft = 1 / (positives + 2)
    target = torch.where(present, 1 - soft, soft).double()
    weight = torch.where(present, 0.5 / positives, 0.5 / negatives).double()
    curve = torch.zeros(2, dtype=torch.float64)
    ridge = 1e-6 * torch.eye(2, dtype=torch.float64)

    def loss(at: Tensor) -> float:
        logits = z @ at
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target, weight, reduction="sum"
        )
        return float(losses + 0.5 * at @ ridge @ at)

    for _ in range(100):
        p = torch.sigmoid(z @ curve)
        gradient = z.T @ (weight * (p - target)) + ridge @ curve
        curvature = (z * (weight * p * (1 - p))[:, None]).T @ z + ridge
        step = torch.linalg.solve(curvature, gradient)
        size = 1.0
        while loss(curve - size * step) > loss(curve) and size > 1e-8:
            size /= 2
        curve = curve - size * step
        if float(step.abs().max()) < 1e-9:
            break
    scale = float(curve[0] / spread)
    if scale <= 0:
        raise BadInput(
            "the labelled pictures do not lie nearer to their own classes than to the others, "
            "so nothing can be calibrated; check the labels, or give better names or descriptions"
        )
    return Calibration(scale, float(curve[1] - curve[0] * centre / spread))


def fit_threshold(best: Float[Tensor, " n"], known: Bool[Tensor, " n"]) -> float:
    """The cosine that best parts known pictures (at or above it) from those of no class.

    Known and unknown ones weigh the same in total. Among equally good places, the middle of the
    widest gap is taken.

    Args:
        best: each picture's highest cosine.
        known: whether the picture is of one of the classes.

    Raises:
        BadInput: all are known or all are unknown.
    """
    high, low = best[known].tolist(), best[~known].tolist()
    if not high or not low:
        raise BadInput(
            f"{len(high)} pictures of the classes and {len(low)} of none; a threshold needs both: "
            "label pictures of none of the classes with None"
        )
    cuts = sorted(set(high + low))
    best_right, widest, threshold = -1.0, -1.0, math.nan
    for below, above in pairwise(cuts):
        cut = (below + above) / 2
        right = sum(c >= cut for c in high) / len(high) + sum(c < cut for c in low) / len(low)
        if (right, above - below) > (best_right, widest):
            best_right, widest, threshold = right, above - below, cut
    if best_right <= 1:
        raise BadInput(
            "pictures of the classes and pictures of none look alike to this classifier, so no "
            "threshold can be learnt; check the labels, or give better names or descriptions"
        )
    return threshold
