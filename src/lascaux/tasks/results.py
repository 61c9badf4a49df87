"""What the tasks answer: frozen objects with one JSON form, that of `as_json`."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Scores = Literal["softmax", "probability", "cosine"]


@dataclass(frozen=True)
class Label:
    """One class with its score."""

    name: str
    score: float  # as `Classified.scores` says
    index: int | None = None  # place in the classifier's list: tells classes of one name apart


@dataclass(frozen=True)
class Failed:
    """An input that could not be used, in the place of its result."""

    source: str
    reason: str


@dataclass(frozen=True)
class Classified:
    """The ranking of the classes for one picture, best first."""

    source: str
    labels: tuple[Label, ...]
    # softmax: sums to 1 over all classes; probability: of each class apart; cosine: -1 to 1
    scores: Scores
    none_of_these: bool = False  # the best class lies below the learnt threshold

    @property
    def answer(self) -> str | None:
        """The name of the best class, or None where it is none of these."""
        return None if self.none_of_these else self.labels[0].name


def as_json(result: Classified | Failed) -> dict[str, Any]:
    """The result's fields as plain JSON values; what failed is told by its `reason`."""
    fields = asdict(result)
    if isinstance(result, Classified):
        fields["labels"] = [
            {key: value for key, value in label.items() if value is not None}
            for label in fields["labels"]
        ]
        fields["answer"] = result.answer
    return fields
