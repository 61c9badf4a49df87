"""Shares of right answers, over all and by class, and which classes are taken for which."""

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROWS = 4096  # pictures compared at once


@dataclass(frozen=True)
class Ranking:
    """Where the true class of every picture came among all classes.

    Attributes:
        ranks: 0 where it came first.
        answers: the class that came first.
        truth: the class it is.
        classes: how many there are.
    """

    ranks: Int[Tensor, " b"]
    answers: Int[Tensor, " b"]
    truth: Int[Tensor, " b"]
    classes: int

    def top(self, k: int) -> float:
        """The share of pictures whose class is among the first `k`."""
        return (self.ranks < k).double().mean().item()

    def shown(self) -> Int[Tensor, " m"]:
        """How many pictures each class has."""
        return torch.bincount(self.truth, minlength=self.classes)

    def right(self) -> Int[Tensor, " m"]:
        """How many of each class were named right."""
        return torch.bincount(self.truth[self.ranks == 0], minlength=self.classes)

    def by_class(self) -> list[float | None]:
        """The share of each class that was named right; None where it has no pictures."""
        pairs = zip(self.right().tolist(), self.shown().tolist(), strict=True)
        return [right / shown if shown else None for right, shown in pairs]

    def mean_per_class(self) -> float:
        """The mean of `by_class` over the classes that have pictures."""
        shares = [share for share in self.by_class() if share is not None]
        return sum(shares) / len(shares)

    def confusions(self, count: int) -> list[tuple[int, int, int]]:
        """(true class, class it was taken for, how often), the most frequent first."""
        wrong = self.ranks > 0
        pairs = Counter(zip(self.truth[wrong].tolist(), self.answers[wrong].tolist(), strict=True))
        ordered = sorted(pairs.items(), key=lambda each: (-each[1], each[0]))
        return [(true, taken, often) for (true, taken), often in ordered[:count]]


def ranking(
    features: Float[Tensor, "b e"], prototypes: Float[Tensor, "m e"], truth: Int[Tensor, " b"]
) -> Ranking:
    """How every picture's class ranks by cosine; of equal ones the lower index comes first.

    Args:
        features: unit embeddings of pictures.
        prototypes: unit vectors of the classes. Equal ones tie exactly.
        truth: each picture's class.
    """
    first: dict[bytes, int] = {}
    # A product may round equal columns differently.
    alike = [first.setdefault(row.numpy().tobytes(), place) for place, row in enumerate(prototypes)]
    ranks, answers = [], []
    indices = torch.arange(len(prototypes))
    for rows, labels in zip(features.split(_ROWS), truth.split(_ROWS), strict=True):
        cosines = (rows @ prototypes.T)[:, alike]
        own = cosines.gather(1, labels[:, None])
        before = (cosines == own) & (indices < labels[:, None])
        ranks.append(((cosines > own) | before).sum(dim=1))
        answers.append(cosines.argmax(dim=1))  # the first of equal ones
    empty = torch.zeros(0, dtype=torch.int64)
    return Ranking(
        torch.cat(ranks) if ranks else empty,
        torch.cat(answers) if answers else empty,
        truth,
        len(prototypes),
    )
