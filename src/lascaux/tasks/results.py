"""What the tasks answer: frozen objects with one JSON form, that of `as_json`."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Scores = Literal["softmax", "probability", "cosine"]
HitScores = Literal["cosine", "deviations"]


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


@dataclass(frozen=True)
class Hit:
    """A picture that was found."""

    path: str
    score: float
    # cosine: -1 to 1; deviations: standard deviations above the mean of all pictures searched
    scores: HitScores = "cosine"


@dataclass(frozen=True)
class Updated:
    """What bringing an index up to date did; counts are of pictures."""

    searchable: int  # all that can be found now
    added: int
    changed: int  # encoded again, since the file is another
    removed: int
    failed: tuple[Failed, ...]  # could not be read, now or at an earlier time and unchanged


@dataclass(frozen=True)
class Embedded:
    """A file of vectors that was written."""

    out: str
    rows: int
    width: int
    encoded: int  # of the rows; the others were there from an interrupted run, or repeat
    model: str
    weights: str  # the hash of the weights
    failed: tuple[Failed, ...]  # inputs that are not in the file


@dataclass(frozen=True)
class Spelling:
    """A picture as ids of an image tokeniser's codes."""

    source: str
    model: str  # what it was called
    weights: str  # the hash of its weights: ids mean something to these alone
    codes: int  # how many there are; ids are 0 to codes - 1
    grid: tuple[int, int] | None  # rows and columns; None where tokens have no places
    ids: tuple[int, ...]  # row by row

    @property
    def bits(self) -> float:
        """What the ids take, each at log2(codes) bits."""
        return len(self.ids) * math.log2(self.codes)


@dataclass(frozen=True)
class Picture:
    """A picture that was made, with all that it takes to make it again."""

    image: "Image"
    seed: int
    prompt: str  # the sentence; empty where there was none
    model: str  # what it was called
    settings: dict[str, Any]  # JSON values: how it was made
    score: float | None = None  # how well it fits what was asked for; None where nobody scored it
    weights: str = ""  # the hash of the model's weights
    caption: str | None = None  # the sentence as the model went on with it, where it was to
    # JSON values that repeating it needs besides, such as its codes; they go into its file alone.
    record: dict[str, Any] = field(default_factory=dict)


Result = Classified | Failed | Hit | Updated | Embedded | Spelling | Picture


def as_json(result: Result) -> dict[str, Any]:
    """The result's fields as plain JSON values; what failed is told by its `reason`.

    Of a picture that was made, the image and the record are left out: they are in its file.
    """
    if isinstance(result, Picture):
        left_out = {"image", "record"}
        told = (entry.name for entry in fields(result) if entry.name not in left_out)
        return {name: getattr(result, name) for name in told}
    found = asdict(result)
    if isinstance(result, Classified):
        found["labels"] = [
            {key: value for key, value in label.items() if value is not None}
            for label in found["labels"]
        ]
        found["answer"] = result.answer
    return found
