"""Zero-shot accuracy of a CLIP on labelled pictures, as it is published, and of further evidence.

    lascaux evaluate classify imagenet/val --model ViT-B/32
    lascaux evaluate classify cifar-100-python.tar.gz --published
    lascaux evaluate classify birds/ --describe birds.json --examples birds-to-learn-from/

Every picture is encoded once; names, descriptions, examples and their mixtures are compared on the
same embeddings. Nothing is learnt from the pictures.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lascaux.data.labelled import Labelled, shown
from lascaux.errors import BadClasses, BadInput, Unsupported
from lascaux.evaluate.accuracy import Ranking, ranking
from lascaux.evaluate.feature_file import picture_features
from lascaux.evaluate.protocols import TEMPLATES, WHOLE, among, evidence_for, open_labelled
from lascaux.evaluate.published import published_of
from lascaux.evaluate.report import Figure, Report
from lascaux.models.clip import Clip
from lascaux.nn.linear import chosen_way
from lascaux.tasks.evidence import (
    Classes,
    ClassEvidence,
    EvidenceWeights,
    class_evidence,
    descriptions_file,
    examples_folder,
)
from lascaux.tasks.features import Reading, load_clip
from lascaux.tasks.prototypes import EvidenceMeans, Progress, evidence_means
from lascaux.tasks.templates import read_templates
from lascaux.weights.fingerprint import weights_hash

MIXTURES = {
    "names": EvidenceWeights(names=1.0, descriptions=0.0, pictures=0.0),
    "descriptions": EvidenceWeights(names=0.0, descriptions=1.0, pictures=0.0),
    "examples": EvidenceWeights(names=0.0, descriptions=0.0, pictures=1.0),
    "names+descriptions": EvidenceWeights(names=1.0, descriptions=1.0, pictures=0.0),
    "names+examples": EvidenceWeights(names=1.0, descriptions=0.0, pictures=1.0),
    "all": EvidenceWeights(names=1.0, descriptions=1.0, pictures=1.0),
}
_CAUTION = (
    "Choosing a mixture by these figures, for all classes or for each, would be choosing on the "
    "test set; choose on other pictures."
)
_CONFUSIONS = 20  # kept in a report
_MOVED = 5  # classes that gain most and that lose most, kept in a report


def evaluate(
    data: str | Path | Labelled,
    model: str | Path | Clip = "ochre-clip",
    *,
    classes: Classes | Path | None = None,
    templates: str | Path | Sequence[str] | None = None,
    describe: str | Path | Classes | None = None,
    examples: str | Path | Classes | None = None,
    mixtures: Sequence[str] | None = None,
    reading: Reading = "official",
    limit: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 32,
    features: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Top-1, top-5 and mean per class, by class, the worst confusions, and what evidence changes.

    The figures are those of names alone, which is what is published. Of equal cosines the class
    that comes first in order is the answer. Pictures that cannot be read are left out and listed.

    Args:
        data: labelled pictures, or where they lie (`open_labelled` finds the protocol).
        model: a name, folder or hub id, or a CLIP that has a tokenizer.
        classes: other names or further candidates; see `among`.
        templates: a set's name, a file or a list; by default the data set's published ones, or
            else the model's own.
        describe: a file of descriptions, or classes with descriptions, named by key or name.
        examples: a folder of examples, or classes with pictures, named by key or name.
        mixtures: of `MIXTURES`; by default all that the evidence allows.
        reading: how files are read; published figures rest on "official".
        limit: pictures at most, drawn by the seed.
        seed: of that draw.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.
        batch_size: pictures encoded at once.
        features: a file that keeps the embeddings; the same call goes on where it was stopped.
        progress: called with what is encoded, how many are done, and of how many.

    Raises:
        BadInput: data, classes or options that cannot be used, or no picture that can be read.
        Unsupported: the model is no CLIP, or its embeddings are not finite.
        WeightsError: the model cannot be found or loaded.
    """
    if batch_size < 1 or (limit is not None and limit < 1) or seed < 0:
        raise BadInput(
            f"batch_size {batch_size}, limit {limit}, seed {seed}; expected 1 or more, 1 or more, "
            "and 0 or more"
        )
    if not isinstance(data, Labelled):
        data = open_labelled(data)
    whole = data
    if classes is not None:
        data = among(data, classes)
    chosen = data.some(limit, seed)
    entries = _evidence(data, describe, examples)
    clip = load_clip(model, device, dtype)
    used = _Templates.of(templates, whole.protocol, clip)
    how = replace(clip.config.preprocessing, reading=reading)
    settings: dict[str, Any] = {
        "data": {
            "name": data.name,
            "protocol": data.protocol,
            "split": data.split,
            "pictures": len(data.pictures),
            "classes": len(data.classes),
            "fingerprint": whole.fingerprint,
        },
        "classes_sha256": _hash_of(data.classes),
        "templates": asdict(used) | {"texts": len(used.texts)},
        "preprocessing": asdict(how),
        "limit": limit,
        "seed": seed,
        "device": str(clip.device),
        "dtype": str(clip.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "products": chosen_way(clip.dtype) if clip.device.type == "cpu" else "torch",
    }
    # Classes come first: what is wrong with them shows before hours are spent on pictures.
    wanted = _wanted(mixtures, entries)
    means = evidence_means(
        clip, entries, used.texts, reading=reading, batch_size=batch_size, progress=progress
    )
    rows, failures = picture_features(
        clip,
        [data.pictures[index] for index in chosen],
        reading,
        batch_size=batch_size,
        keep=None if features is None else Path(features),
        about=_about(clip, settings) if features is not None else None,
        progress=(lambda done, total: progress("pictures", done, total)) if progress else None,
    )
    seen = [place for place in range(len(chosen)) if place not in failures]
    if not seen:
        first = f"; the first: {failures[0]}" if failures else ""
        raise BadInput(f"none of the {len(chosen)} pictures of {data.name} can be read{first}")
    truth = torch.tensor([data.labels[chosen[place]] for place in seen])
    found, left_out = _compared(means, rows[seen], truth, wanted, data)
    names = found["names"]
    standard = classes is None and templates is None and reading == "official"
    details = {
        "per_class": _per_class(data, names),
        "confusions": _confusions(data, names),
        "mixtures": _mixtures(data, found) if len(found) > 1 else [],
        "mixtures_left_out": left_out,
        "caution": _CAUTION if len(found) > 1 else "",
        "failures": [
            {"source": data.sources[chosen[place]], "reason": reason}
            for place, reason in sorted(failures.items())
        ],
        "published": _beside(data, str(model), names)
        if standard and not isinstance(model, Clip) and _is_whole(data, len(seen))
        else [],
    }
    called = f"a {type(model).__name__}" if isinstance(model, Clip) else str(model)
    return Report(
        "classify",
        called,
        weights_hash(clip),
        settings,
        tuple(_figures(names)),
        details=details,
    )


@dataclass(frozen=True)
class _Templates:
    name: str
    sha256: str
    texts: tuple[str, ...]

    @classmethod
    def of(
        cls, given: str | Path | Sequence[str] | None, protocol: str, clip: Clip
    ) -> "_Templates":
        which = TEMPLATES.get(protocol, clip.config.templates) if given is None else given
        texts = read_templates(which)
        name = str(which) if isinstance(which, str | Path) else "given"
        return cls(name, _hash_of(texts), texts)


def _evidence(
    data: Labelled,
    describe: str | Path | Classes | None,
    examples: str | Path | Classes | None,
) -> tuple[ClassEvidence, ...]:
    """All that is known of each class, in the order of the data."""
    told = _of(describe, descriptions_file)
    pictured = _of(examples, examples_folder)
    descriptions = evidence_for(data, told, "descriptions")
    examples_of = evidence_for(data, pictured, "examples")
    found = tuple(
        ClassEvidence(
            each[0],
            names=each,
            descriptions=descriptions[place].descriptions if place in descriptions else (),
            pictures=examples_of[place].pictures if place in examples_of else (),
        )
        for place, each in enumerate(data.classes)
    )
    _refuse_test_pictures(data, found)
    return found


def _of(
    given: str | Path | Classes | None, read: Callable[[str | Path], tuple[ClassEvidence, ...]]
) -> tuple[ClassEvidence, ...]:
    if given is None:
        return ()
    return read(given) if isinstance(given, str | Path) else class_evidence(given)


def _refuse_test_pictures(data: Labelled, entries: Sequence[ClassEvidence]) -> None:
    examples = {
        os.path.realpath(picture)
        for entry in entries
        for picture in entry.pictures
        if isinstance(picture, str | Path)
    }
    tested = {os.path.realpath(each) for each in data.pictures if isinstance(each, Path)}
    if both := sorted(examples & tested if examples else ()):
        raise BadInput(
            f"{len(both)} of the examples are pictures to be classified ({shown(both)}); take "
            "examples from elsewhere"
        )


def _about(clip: Clip, settings: dict[str, Any]) -> dict[str, str]:
    """What embeddings depend on, as a file of features tells it."""
    chosen = {key: settings[key] for key in ("limit", "seed")}
    return {
        "weights": weights_hash(clip),
        "preprocessing": json.dumps(settings["preprocessing"], sort_keys=True),
        "data": settings["data"]["fingerprint"],
        "pictures": json.dumps(chosen) if settings["limit"] else "all",
        "dtype": settings["dtype"],
        "device": torch.device(settings["device"]).type,
    }


def _wanted(mixtures: Sequence[str] | None, entries: Sequence[ClassEvidence]) -> list[str]:
    """The mixtures that there is evidence for, names first."""
    described = any(entry.descriptions for entry in entries)
    pictured = any(entry.pictures for entry in entries)
    there = {
        "descriptions": described,
        "examples": pictured,
        "names+descriptions": described,
        "names+examples": pictured,
        "all": described and pictured,
    }
    possible = ["names", *(name for name, possible in there.items() if possible)]
    for name in mixtures or ():
        if name not in possible:
            raise BadInput(
                f"no mixture {name!r} of what is given; there are: {', '.join(possible)}"
            )
    return [name for name in possible if not mixtures or name in ("names", *mixtures)]


def _compared(
    means: EvidenceMeans,
    rows: Float[Tensor, "b e"],
    truth: Int[Tensor, " b"],
    wanted: Sequence[str],
    data: Labelled,
) -> tuple[dict[str, Ranking], list[dict[str, str]]]:
    """Every mixture's ranking, and which mixtures could not be measured, and why."""
    found: dict[str, Ranking] = {}
    left_out: list[dict[str, str]] = []
    for name in wanted:
        weights = MIXTURES[name]
        lacking = means.lacking(weights)
        if lacking:
            reason = (
                f"{len(lacking)} of {len(data.classes)} classes have none: "
                f"{shown([data.classes[place][0] for place in lacking])}"
            )
            if name == "names":
                raise BadClasses(f"names: {reason}; give each class a name")
            left_out.append({"mixture": name, "reason": reason})
        else:
            prototypes = means.mixed(weights)
            if not prototypes.isfinite().all():
                raise Unsupported("embeddings of classes are not finite numbers; use float32")
            found[name] = ranking(rows, prototypes, truth)
    return found, left_out


def _figures(found: Ranking) -> list[Figure]:
    pictures = len(found.truth)
    figures = [Figure("top-1", found.top(1), pictures)]
    if found.classes > 5:
        figures.append(Figure("top-5", found.top(5), pictures))
    represented = sum(share is not None for share in found.by_class())
    note = f"mean over {represented} classes"
    return [*figures, Figure("mean per class", found.mean_per_class(), pictures, note=note)]


def _per_class(data: Labelled, found: Ranking) -> list[dict[str, Any]]:
    counts = zip(found.shown().tolist(), found.right().tolist(), found.by_class(), strict=True)
    return [
        _named(data, place) | {"pictures": pictures, "right": right, "top-1": share}
        for place, (pictures, right, share) in enumerate(counts)
    ]


def _confusions(data: Labelled, found: Ranking) -> list[dict[str, Any]]:
    """Pairs of classes; the share is of the true class's pictures."""
    shown_of = found.shown().tolist()
    return [
        {
            "true": _named(data, true),
            "predicted": _named(data, taken),
            "count": often,
            "share": often / shown_of[true],
        }
        for true, taken, often in found.confusions(_CONFUSIONS)
    ]


def _mixtures(data: Labelled, found: dict[str, Ranking]) -> list[dict[str, Any]]:
    """Every mixture's figures, and which classes it moves most against names alone."""
    alone = found["names"].by_class()
    told: list[dict[str, Any]] = []
    for name, each in found.items():
        shares = each.by_class()
        moved = [
            _named(data, place) | {"names": before, "mixture": after, "change": after - before}
            for place, (before, after) in enumerate(zip(alone, shares, strict=True))
            if before is not None and after is not None and after != before
        ]
        ordered = sorted(moved, key=lambda one: (one["change"], one["index"]))
        told.append(
            {
                "mixture": name,
                "figures": [asdict(figure) for figure in _figures(each)],
                "per_class": shares,
                "gain": [one for one in reversed(ordered) if one["change"] > 0][:_MOVED],
                "lose": [one for one in ordered if one["change"] < 0][:_MOVED],
            }
        )
    return told


def _beside(data: Labelled, model: str, found: Ranking) -> list[dict[str, Any]]:
    """Published figures of the same model on the same data, and how far ours are above them."""
    measured = {"top-1": found.top(1), "top-5": found.top(5)}
    return [
        {
            "metric": each.metric,
            "published": each.value,
            "difference": round(100 * measured[each.metric] - each.value, 4),
            "unit": "percent",
            "source": each.source,
        }
        for each in published_of(data.protocol, model)
    ]


def _is_whole(data: Labelled, seen: int) -> bool:
    """Whether these are all pictures and classes of the published test set."""
    return data.split != "train" and WHOLE.get(data.protocol) == (seen, len(data.classes))


def _named(data: Labelled, place: int) -> dict[str, Any]:
    return {"index": place, "key": data.keys[place], "name": data.classes[place][0]}


def _hash_of(texts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()
