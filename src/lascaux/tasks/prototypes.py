"""One direction for each class in a CLIP's space, from all that is known of the class."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lascaux.errors import BadClasses, BadPicture
from lascaux.models.clip import Clip
from lascaux.tasks.evidence import Classes, ClassEvidence, EvidenceWeights, class_evidence
from lascaux.tasks.features import (
    TEXT_BATCH,
    Reading,
    TooLong,
    image_features,
    stream_features,
    text_features,
)
from lascaux.tasks.pictures import source_name
from lascaux.tasks.templates import read_templates

Progress = Callable[[str, int, int], None]  # what is done, how many so far, of how many


def prototypes(
    model: Clip,
    classes: Classes,
    templates: str | Sequence[str] | None = None,
    *,
    weights: EvidenceWeights | None = None,
    reading: Reading = "photo",
    too_long: TooLong = "truncate",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Float[Tensor, "m e"]:
    """Unit vectors, one per class, to compare normalised image embeddings with.

    Every kind of evidence gives the normalised mean of its normalised embeddings (Radford et al.
    2021, section 3.1.4); a class is the normalised weighted sum of the kinds it has. Embeddings of
    pictures lie nearer to each other than to any text. So where some classes have example
    pictures and others have none (or some have texts and others none), the pictures are first
    moved by the difference between the mean of texts and the mean of pictures; else whoever had
    pictures would always win. Classes of the same evidence are encoded once.

    Raises:
        BadClasses: a class has no evidence of positive weight, or no example that can be read.
        BadText: a text is too long and `too_long` is "error".
    """
    weights = weights or EvidenceWeights()
    weighed = [_weighed(entry, weights) for entry in class_evidence(classes)]
    means = evidence_means(
        model,
        weighed,
        templates,
        reading=reading,
        too_long=too_long,
        batch_size=batch_size,
        progress=progress,
    )
    return means.mixed(weights)


class EvidenceMeans:
    """What each kind of evidence says of each class: unit vectors, to be mixed by any weights."""

    def __init__(
        self,
        model: Clip,
        names: Float[Tensor, "m e"],
        descriptions: Float[Tensor, "m e"],
        pictures: Float[Tensor, "m e"],
        places: Sequence[int],
    ) -> None:
        """Rows of zeros stand for a kind that is missing; `places` tells each class's row."""
        self._model = model
        self._kinds = names, descriptions, pictures
        self._places = list(places)

    def lacking(self, weights: EvidenceWeights) -> list[int]:
        """The indices of the classes of which nothing with a weight is known."""
        given = (weights.names, weights.descriptions, weights.pictures)
        known = torch.zeros(len(self._kinds[0]), dtype=torch.bool)
        for rows, weight in zip(self._kinds, given, strict=True):
            known |= _present(rows) & bool(weight)
        return torch.nonzero(~known[self._places])[:, 0].tolist()

    def mixed(self, weights: EvidenceWeights) -> Float[Tensor, "m e"]:
        """Prototypes: the normalised weighted sum of the kinds; see `prototypes`."""
        names, described, shown = self._kinds
        shown = shown if weights.pictures else torch.zeros_like(shown)
        texts = F.normalize(weights.names * names + weights.descriptions * described, dim=-1)
        if (has_text := _present(texts)).any() and (has_picture := _present(shown)).any():
            uniform = bool(has_text.all()) and bool(has_picture.all())
            if not uniform:
                generic = image_features(self._model, list(_generic()), "photo")[0].mean(dim=0)
                shown = close_gap(shown, texts, generic)
        total = weights.names * names + weights.descriptions * described + weights.pictures * shown
        return F.normalize(total, dim=-1)[self._places]


def evidence_means(
    model: Clip,
    classes: Classes,
    templates: str | Sequence[str] | None = None,
    *,
    reading: Reading = "photo",
    too_long: TooLong = "truncate",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> EvidenceMeans:
    """All evidence of all classes, encoded once; classes of the same evidence share it.

    Raises:
        BadClasses: a class without texts has no example that can be read.
        BadText: a text is too long and `too_long` is "error".
    """
    alike: dict[Any, int] = {}
    found: list[ClassEvidence] = []
    places: list[int] = []
    for entry in class_evidence(classes):
        places.append(alike.setdefault(_identity(entry), len(found)))
        if places[-1] == len(found):
            found.append(entry)
    chosen = read_templates(model.config.templates if templates is None else templates)
    names = _text_means(
        model,
        [[t.replace("{}", n) for n in entry.prompted for t in chosen] for entry in found],
        too_long,
        _stage(progress, "names"),
    )
    described = _text_means(
        model,
        [list(entry.descriptions) for entry in found],
        too_long,
        _stage(progress, "descriptions"),
    )
    shown = _picture_means(model, found, reading, batch_size, _stage(progress, "examples"))
    return EvidenceMeans(model, names, described, shown, places)


def close_gap(
    pictures: Float[Tensor, "m e"], texts: Float[Tensor, "m e"], generic: Float[Tensor, " e"]
) -> Float[Tensor, "m e"]:
    """Picture prototypes moved to where texts are (Liang et al. 2022, Mind the gap).

    Rows of zeros stand for classes without that kind and stay zeros. The middle of all pictures is
    estimated from the classes' own and from `generic`, the mean embedding of pictures of nothing,
    which counts as four classes: with one or two classes their own mean would be the class itself.
    """
    has_picture, has_text = _present(pictures), _present(texts)
    middle = (pictures.sum(dim=0) + 4 * generic) / (int(has_picture.sum()) + 4)
    moved = F.normalize(pictures - middle + texts[has_text].mean(dim=0), dim=-1)
    return torch.where(has_picture[:, None], moved, torch.zeros_like(moved))


def _text_means(
    model: Clip, texts: list[list[str]], too_long: TooLong, progress: Callable[[int, int], None]
) -> Float[Tensor, "m e"]:
    """The normalised mean of each class's texts; zeros where it has none."""
    sums = torch.zeros(len(texts), model.config.embed_width)
    total, done = sum(len(group) for group in texts), 0
    queue = ((place, text) for place, group in enumerate(texts) for text in group)
    while batch := list(islice(queue, TEXT_BATCH)):
        places, these = zip(*batch, strict=True)
        sums.index_add_(0, torch.tensor(places), text_features(model, these, too_long))
        done += len(batch)
        progress(done, total)
    return F.normalize(sums, dim=-1)


def _picture_means(
    model: Clip,
    classes: Sequence[ClassEvidence],
    reading: Reading,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Float[Tensor, "m e"]:
    """The normalised mean of each class's example pictures; zeros where it has none."""
    sums = torch.zeros(len(classes), model.config.embed_width)
    owners = [place for place, entry in enumerate(classes) for _ in entry.pictures]
    shown = (picture for entry in classes for picture in entry.pictures)
    found = stream_features(model, shown, reading, batch_size=batch_size)
    for at, (picture, row) in enumerate(found):
        if isinstance(row, BadPicture):
            name, source = classes[owners[at]].name, source_name(picture, at)
            warnings.warn(f"an example of {name!r} is left out: {source}: {row}", stacklevel=3)
        else:
            sums[owners[at]] += row
        progress(at + 1, len(owners))
    for entry, present in zip(classes, _present(sums).tolist(), strict=True):
        if entry.pictures and not (present or entry.prompted or entry.descriptions):
            raise BadClasses(f"no example picture of class {entry.name!r} can be read")
    return F.normalize(sums, dim=-1)


def _weighed(entry: ClassEvidence, weights: EvidenceWeights) -> ClassEvidence:
    """The class without the kinds that do not count."""
    kept = replace(
        entry,
        names=entry.prompted if weights.names else (),
        descriptions=entry.descriptions if weights.descriptions else (),
        pictures=entry.pictures if weights.pictures else (),
    )
    if not (kept.prompted or kept.descriptions or kept.pictures):
        raise BadClasses(
            f"class {entry.name!r} has no evidence of positive weight; raise a weight or add some"
        )
    return kept


def _identity(entry: ClassEvidence) -> tuple[Any, ...]:
    """Equal for classes of the same evidence; pictures in memory must be the same object."""
    shown = (p if isinstance(p, str | Path | bytes) else id(p) for p in entry.pictures)
    return entry.prompted, entry.descriptions, *shown


def _present(rows: Float[Tensor, "m e"]) -> Tensor:
    return rows.abs().sum(dim=-1) > 0


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None]:
    return (lambda done, total: progress(name, done, total)) if progress else (lambda *_: None)


def _generic() -> Iterable[Tensor]:
    """Pictures of nothing: eight plain colours and eight soft runs between two of them."""
    corners = [torch.tensor([r, g, b]).float() for r in (0, 1) for g in (0, 1) for b in (0, 1)]
    ramp = torch.linspace(0, 1, 64)
    for place, colour in enumerate(corners):
        soft = 0.15 + 0.7 * colour
        other = 0.15 + 0.7 * corners[(place + 3) % 8]
        run = ramp.expand(64, 64) if place % 2 else ramp.expand(64, 64).T
        yield soft[:, None, None].expand(3, 64, 64).contiguous()
        yield torch.lerp(soft[:, None, None], other[:, None, None], run[None])
