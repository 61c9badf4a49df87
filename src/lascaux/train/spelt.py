"""What all recipes share that learn to write people's own pictures as codes of a tokeniser.

What frozen models answer about the pictures, such as their codes, is prepared once, in the run's
folder, before the first step; a run that is killed while it prepares goes on, too.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from lascaux.data.loading import Loader
from lascaux.data.records import Part as Some
from lascaux.data.records import Source
from lascaux.errors import BadInput
from lascaux.tasks.answerers import Answerer
from lascaux.tasks.options import PrepareOptions
from lascaux.tasks.prepare import prepare
from lascaux.train.aside import trained_on
from lascaux.train.mixin import Beside
from lascaux.train.recipe import Part, Progress, restated, setting
from lascaux.train.records import loaded, source_of
from lascaux.train.schedules import Schedule

log = logging.getLogger(__name__)

TOKENS = "tokens"  # folder of the codes, within the run


@dataclass(frozen=True, kw_only=True)
class Spelt(Beside):
    """Settings of what is written; and how it is prepared and fed.

    Attributes:
        architectures: what `architecture` may name.
    """

    architectures: ClassVar[Mapping[str, Any]]

    data: str = setting("", "pictures: a folder, table, COCO, tars, Parquet")
    validation: float = setting(0.05, "share of the records that is kept aside, at most 1000")
    tokeniser: str = setting("", "whose codes are written: a name, folder or hub id")
    model: str = setting("", "begin with these weights: a name, folder or hub id")
    architecture: str = setting("small", "what to begin from nothing: small, or a published name")
    views: int = setting(1, "of each picture: itself, and cut-outs")
    area: float = setting(0.8, "smallest share of a picture that a cut-out has")
    flip: float = setting(0.0, "chance of mirroring a cut-out")
    steps: int = restated("steps", 50_000)
    batch_size: int = restated("batch_size", 64)
    schedule: Schedule = restated("schedule", "cosine")
    warmup_steps: int = restated("warmup_steps", 1000)
    averaging: float = restated("averaging", 0.0)
    exported: Literal["last", "best"] = restated("exported", "best")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data or not self.tokeniser:
            missing = "--data" if not self.data else "--tokeniser"
            raise BadInput(
                f"{missing} is missing: a folder, table or archive with pictures, and an image "
                "tokeniser, such as `lascaux train vqgan` makes"
            )
        for name, low, high in (("validation", 0, 0.5), ("area", 1e-3, 1), ("flip", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"--{name} is {getattr(self, name)}; expected {low} to {high}")
        if self.views < 1:
            raise BadInput(f"--views is {self.views}; it must be at least 1")
        if not self.model and self.architecture not in self.architectures:
            known = ", ".join(self.architectures)
            raise BadInput(f"--architecture {self.architecture}: expected one of {known}")

    @property
    def source(self) -> Source:
        """The records.

        Raises:
            BadInput: there are none of this kind.
        """
        return source_of(self.data)

    @abstractmethod
    def answered(self, source: Source) -> Iterator[tuple[str, Source, Answerer]]:
        """What is prepared: a folder's name, the records and who answers about them.

        The first is `TOKENS`, of the pictures themselves.
        """

    @abstractmethod
    def prepared(self, folder: Path) -> tuple[Source, Callable[..., Any]]:
        """What was prepared in a run's folder, and what makes samples of it."""

    def settings(self) -> dict[str, Any]:
        """The fields, and what tells the records apart from others at the same path."""
        return {**super().settings(), "records": self.source.fingerprint[:16]}

    def prepare(
        self, folder: Path, *, sample: bool = False, progress: Progress | None = None
    ) -> float:
        """Everything that is answered about the pictures."""
        source = self.source
        few = min(len(source), 2 * self.batch_size) if sample else len(source)
        chosen = Some(source, range(few)) if sample else source
        options = PrepareOptions(
            views=self.views,
            seed=self.seed,
            augment_area=(self.area, 1.0),
            augment_flip=self.flip,
        )
        for name, records, answerer in self.answered(chosen):
            done = prepare(records, folder / name, answerer, options, progress)
            for one in done.skipped if name == TOKENS else ():
                log.warning("left out %s: %s", one.source, one.reason)
        return few / len(source)

    def feed(self, part: Part) -> Loader:
        """Batches of what was prepared, without what is kept aside."""
        source, samples = self.prepared(part.folder)
        return loaded(self, part, trained_on(source, self.validation), samples)
