"""Two kinds of features of the same records as one source: such as ids and embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Shaped

from lascaux.data.prepared import PreparedFeatures, PreparedRecord
from lascaux.data.records import Record, Source
from lascaux.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class PairedRecord(PreparedRecord):
    """A record with what two models answered about it.

    Attributes:
        others: what the second answered about the same views.
    """

    others: Shaped[np.ndarray, "views ..."] = field(repr=False, compare=False)


class PairedFeatures(Source):
    """Records that two folders of prepared features have in common, view by view.

    Cut-outs are drawn by seed, record and view alone, so that both models saw the same ones if both
    folders were prepared by the same settings.
    """

    kind = "prepared"

    def __init__(self, first: PreparedFeatures, second: PreparedFeatures) -> None:
        """Put two folders together.

        Raises:
            BadInput: they are of other records, views or cut-outs.
        """
        self.first, self.second, self.path = first, second, first.path
        self.classes, self.notes = first.classes, first.notes
        for what in ("fingerprint", "settings"):
            mine, theirs = (_told(each, what) for each in (first, second))
            if mine != theirs:
                raise BadInput(
                    f"{first.path} and {second.path} were not prepared alike ({what}: {mine} and "
                    f"{theirs}): prepare both of one source, with the same views, seed and cut-outs"
                )
        if len(first) != len(second):
            raise BadInput(
                f"{first.path} has {len(first)} records, {second.path} {len(second)}: some could "
                "not be read once; prepare both anew"
            )

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> PairedRecord:
        record = self.first[index]
        return PairedRecord(**vars(record), others=self.second[index].features)

    def key(self, index: int) -> str:
        """Of the record that they were prepared from."""
        return self.first.key(index)

    def picture(self, index: int) -> NoReturn:
        """Nothing.

        Raises:
            BadPicture: always.
        """
        self.first.picture(index)

    def captions(self, index: int) -> tuple[str, ...]:
        """From the first folder."""
        return self.first.captions(index)

    def label(self, index: int) -> int | None:
        """From the first folder."""
        return self.first.label(index)

    def told(self) -> Iterable[str | bytes]:
        """What both tell."""
        return (*self.first.told(), *self.second.told())


@dataclass(frozen=True)
class PairedSamples:
    """Makes a sample of a paired record: one view by chance, under two names.

    Attributes:
        names: of the first folder's features and of the second's.
    """

    names: tuple[str, str]

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """The sample; float32, or int64 for tokens."""
        if not isinstance(record, PairedRecord):
            raise BadInput(f"{record.key} has no two kinds of features")
        view = int(rng.integers(len(record.features)))
        both = (record.features[view], record.others[view])
        return dict(zip(self.names, map(_as_tensor, both), strict=True))


def _as_tensor(row: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(row.astype(np.int64 if row.dtype.kind == "u" else np.float32))


def _told(of: PreparedFeatures, what: str) -> Any:
    told = of.manifest[what]
    if what == "settings":
        return {k: told[k] for k in ("views", "seed")} | {"cut-outs": _cut(told["augmentation"])}
    return told


def _cut(augmentation: dict[str, Any] | None) -> dict[str, Any] | None:
    """What decides where a cut-out lies: all but its size and filter."""
    if augmentation is None:
        return None
    return {k: v for k, v in augmentation.items() if k not in ("size", "filter")}
