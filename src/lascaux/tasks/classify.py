"""Naming what a picture shows among any classes: zero-shot and few-shot classification."""

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor

from lascaux.errors import BadClasses, BadInput, BadPicture, BrokenFile, WrongHash
from lascaux.models.clip import Clip
from lascaux.tasks.aside import written_aside
from lascaux.tasks.calibrate import Calibration, fit_calibration, fit_threshold
from lascaux.tasks.evidence import Classes, EvidenceWeights, class_evidence
from lascaux.tasks.features import (
    Reading,
    TooLong,
    image_features,
    load_clip,
    model_name,
    stream_features,
)
from lascaux.tasks.options import ClassifyOptions
from lascaux.tasks.pictures import expanded, is_folder, several, source_name
from lascaux.tasks.prototypes import Progress, prototypes
from lascaux.tasks.results import Classified, Failed, Label, Scores
from lascaux.tasks.templates import read_templates
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.save import save_tensors

_FORMAT = "lascaux-classes-1"

Truth = str | int | None | Sequence[str | int]  # a class by name or index, none, or several


class Classifier:
    """Classifies pictures into classes given by names, descriptions, examples or any mixture.

    The classes are encoded once, when the classifier is made; `save` and `load` keep them.

        classifier = Classifier(["cat", "dog", "fire truck"])
        classifier.classify("photo.jpg").answer

    Attributes:
        names: of the classes, in order; a name may occur twice.
        calibration: turns a cosine into a probability; None where nothing is calibrated.
        threshold: a best cosine below it means none of these; None where it was not learnt.
    """

    def __init__(
        self,
        classes: Classes,
        model: str | Path | Clip = "ochre-clip",
        *,
        templates: str | Path | Sequence[str] | None = None,
        weights: EvidenceWeights | None = None,
        reading: Reading = "photo",
        too_long: TooLong = "truncate",
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> None:
        """Load the model and encode the classes.

        Args:
            classes: see `class_evidence`: names, or a mapping from name to descriptions, or any
                mixture with `ClassEvidence`; or the name of a published list such as "imagenet".
            model: a name, folder or hub id, or a CLIP that has a tokenizer.
            templates: a set's name, a file or a list; by default the set of the model's config.
            weights: of the kinds of evidence.
            reading: how picture files are read.
            too_long: what is done with texts longer than the model reads.
            device: where to compute; for a model given by name.
            dtype: of the weights; for a model given by name.
            batch_size: pictures encoded at once.
            progress: called with what is encoded, how many are done, and of how many.

        Raises:
            BadClasses: no class, or one without usable evidence.
            BadInput: templates or options that cannot be used.
            WeightsError: the model cannot be found or loaded.
        """
        evidence = class_evidence(classes)
        self._open(model, device, dtype, reading, batch_size)
        self.templates = read_templates(
            self.model.config.templates if templates is None else templates
        )
        self.names = tuple(entry.name for entry in evidence)
        self._warn_of_repeated_names()
        self.prototypes = prototypes(
            self.model,
            evidence,
            self.templates,
            weights=weights,
            reading=reading,
            too_long=too_long,
            batch_size=batch_size,
            progress=progress,
        )
        self.threshold: float | None = None
        self.calibration: Calibration | None = None
        published = self.model.config.calibration
        # The model's own calibration is of texts; pictures lie nearer to pictures.
        if published and not any(entry.pictures for entry in evidence):
            self.calibration = Calibration(*published)

    @classmethod
    def from_options(
        cls, classes: Classes, options: ClassifyOptions, progress: Progress | None = None
    ) -> "Classifier":
        """The classifier that options describe."""
        return cls(
            classes,
            options.model,
            templates=options.templates,
            weights=EvidenceWeights(
                names=options.name_weight,
                descriptions=options.description_weight,
                pictures=options.picture_weight,
            ),
            reading=options.reading,
            too_long=options.too_long,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
            progress=progress,
        )

    def classify(
        self,
        picture: Any,
        *,
        top_k: int = 5,
        scores: Literal["softmax", "independent"] = "softmax",
    ) -> Classified:
        """The best `top_k` classes of one picture.

        Args:
            picture: path, bytes, open file, data URI, PIL image, array (y x, or y x c) or tensor
                (c y x).
            top_k: how many classes are listed; all of them where it is larger.
            scores: softmax: shares of 1 among the classes. independent: the probability that each
                class is present whatever the others are, or the cosine where nothing is
                calibrated; the result says which.

        Raises:
            BadPicture: the picture cannot be read.
            BadInput: several pictures, or a `top_k` below 1.
        """
        if several(picture):
            raise BadInput("several pictures were given; use classify_many, which yields results")
        features, failures = image_features(self.model, [picture], self.reading)
        if failures:
            raise failures[0][1]
        return self._result(source_name(picture, 0), self._compared(features), top_k, scores)

    def classify_many(
        self,
        pictures: Any,
        *,
        top_k: int = 5,
        scores: Literal["softmax", "independent"] = "softmax",
        recursive: bool = False,
    ) -> Iterator[Classified | Failed]:
        """Results in the order of the pictures, as soon as each batch is done.

        Folders and patterns (`shots/*.png`) stand for the pictures in them. A picture that cannot
        be read, or a folder without any, gives `Failed` in its place and the rest go on.

        Args:
            pictures: an iterable, read as it is needed; or one picture, folder, pattern, or array
                or tensor of several.
            top_k: see `classify`.
            scores: see `classify`.
            recursive: whether folders are searched with their subfolders.

        Raises:
            BadInput: a `top_k` below 1, or `pictures` is neither a picture nor a collection.
        """
        self._require(top_k, scores)
        each = pictures if several(pictures) else [pictures]
        queue = (p for given in each for p in expanded(given, recursive=recursive))
        return self._stream(queue, top_k, scores)

    def cosines(self, pictures: Iterable[Any]) -> Float[Tensor, "b m"]:
        """The cosine of every picture with every class.

        Raises:
            BadPicture: one of the pictures cannot be read.
        """
        rows: list[Tensor] = []
        found = stream_features(self.model, pictures, self.reading, batch_size=self.batch_size)
        for position, (picture, row) in enumerate(found):
            if isinstance(row, BadPicture):
                raise BadPicture(f"{source_name(picture, position)}: {row}") from row
            rows.append(row)
        features = torch.stack(rows) if rows else torch.zeros(0, self.prototypes.shape[1])
        return self._compared(features)

    def calibrate(self, pictures: Sequence[Any], labels: Sequence[Truth]) -> Calibration:
        """Learn from labelled pictures what probability a cosine means, and keep it.

        A handful is enough: two numbers are learnt.

        Args:
            pictures: of some of the classes, or of none.
            labels: for each picture its class, None, or all the classes it shows.

        Raises:
            BadInput: labels that are no classes, or nothing to learn from.
            BadPicture: one of the pictures cannot be read.
        """
        truth = self._truth(pictures, labels)
        cosines = self.cosines(pictures)
        present = torch.zeros_like(cosines, dtype=torch.bool)
        for row, shown in enumerate(truth):
            present[row, sorted(shown)] = True
        self.calibration = fit_calibration(cosines.flatten(), present.flatten())
        return self.calibration

    def learn_threshold(self, pictures: Sequence[Any], labels: Sequence[Truth]) -> float:
        """Learn from labelled pictures when the answer is none of these, and keep it.

        Args:
            pictures: a handful of the classes, and a handful of none of them.
            labels: for each picture its class, or None.

        Returns:
            The cosine below which a picture is none of the classes.

        Raises:
            BadInput: labels that are no classes, or only one of the two sorts.
            BadPicture: one of the pictures cannot be read.
        """
        truth = self._truth(pictures, labels)
        best = self.cosines(pictures).amax(dim=1)
        self.threshold = fit_threshold(best, torch.tensor([bool(shown) for shown in truth]))
        return self.threshold

    def save(self, path: str | Path) -> None:
        """Write the encoded classes, and what was learnt, to a small safetensors file.

        Raises:
            BadInput: the file cannot be written.
        """
        about = {
            "names": self.names,
            "templates": self.templates,
            "model": self.model_name,
            "weights": weights_hash(self.model),
            "calibration": asdict(self.calibration) if self.calibration else None,
            "threshold": self.threshold,
        }
        metadata = {"format": _FORMAT, "classes": json.dumps(about, ensure_ascii=False)}
        with written_aside(path) as part:
            save_tensors({"prototypes": self.prototypes.contiguous()}, part, metadata)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: str | Path | Clip | None = None,
        *,
        reading: Reading = "photo",
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        batch_size: int = 32,
    ) -> "Classifier":
        """A classifier with the classes that `save` wrote; nothing is encoded again.

        Args:
            path: the file.
            model: the model it was made with; by default looked up by the name in the file.
            reading: see the constructor, as for the following.
            device: where to compute.
            dtype: of the weights.
            batch_size: pictures encoded at once.

        Raises:
            BrokenFile: not a file of classes.
            WrongHash: the model's weights are not those the classes were encoded with.
        """
        rows, about = _read_classes(Path(path))
        if model is None and not about["model"]:
            raise BadInput(f"{path} does not name its model; give it: Classifier.load(path, model)")
        self = cls.__new__(cls)
        self._open(model or about["model"], device, dtype, reading, batch_size)
        if weights_hash(self.model) != about["weights"]:
            raise WrongHash(
                f"{path} was made with other weights ({about['model'] or 'unnamed'}, "
                f"{about['weights'][:12]}) than those of {self.model_name or 'the given model'} "
                f"({weights_hash(self.model)[:12]}); load that model, or encode the classes again"
            )
        self.names = tuple(about["names"])
        self.templates = tuple(about["templates"])
        self.prototypes = rows
        self.calibration = Calibration(**about["calibration"]) if about["calibration"] else None
        self.threshold = about["threshold"]
        return self

    def _open(
        self,
        model: str | Path | Clip,
        device: str | torch.device,
        dtype: str | torch.dtype,
        reading: Reading,
        batch_size: int,
    ) -> None:
        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; it must be at least 1")
        if reading not in ("photo", "official"):
            raise BadInput(f"reading is {reading!r}; expected 'photo' or 'official'")
        self.model_name = model_name(model)
        self.model = load_clip(model, device, dtype)
        self.reading: Reading = reading
        self.batch_size = batch_size

    @property
    def prototypes(self) -> Float[Tensor, "m e"]:
        """Unit vectors, one row per class."""
        return self._prototypes

    @prototypes.setter
    def prototypes(self, rows: Float[Tensor, "m e"]) -> None:
        self._prototypes = rows
        first: dict[bytes, int] = {}
        self._first_alike = [
            first.setdefault(row.tobytes(), place) for place, row in enumerate(rows.numpy())
        ]

    def _compared(self, features: Float[Tensor, "b e"]) -> Float[Tensor, "b m"]:
        """The cosine of every picture with every class."""
        # A product may round equal columns differently, and equal classes must tie.
        return (features @ self.prototypes.T)[:, self._first_alike]

    def _warn_of_repeated_names(self) -> None:
        if repeated := [name for name, n in Counter(self.names).items() if n > 1]:
            shown = ", ".join(map(repr, repeated[:5])) + (", ..." if repeated[5:] else "")
            warnings.warn(
                f"more than one class is named {shown}; they are kept apart by their index",
                stacklevel=3,
            )

    def _stream(
        self, queue: Iterator[Any], top_k: int, scores: str
    ) -> Iterator[Classified | Failed]:
        found = stream_features(self.model, queue, self.reading, batch_size=self.batch_size)
        for position, (picture, row) in enumerate(found):
            name = source_name(picture, position)
            if isinstance(row, BadPicture):
                empty = "no pictures in this folder; recursive searches its subfolders too"
                yield Failed(name, empty if is_folder(picture) else str(row))
            else:
                yield self._result(name, self._compared(row[None]), top_k, scores)

    def _require(self, top_k: int, scores: str) -> None:
        if not isinstance(top_k, Integral) or top_k < 1:
            raise BadInput(f"top_k is {top_k!r}; it must be a whole number, at least 1")
        if scores not in ("softmax", "independent"):
            raise BadInput(f"scores is {scores!r}; expected 'softmax' or 'independent'")

    def _result(self, source: str, cosines: Tensor, top_k: int, scores: str) -> Classified:
        self._require(top_k, scores)
        row = cosines[0]
        values, kind = self._scored(row, scores)
        order = torch.sort(row, descending=True, stable=True).indices[:top_k].tolist()
        labels = tuple(Label(self.names[i], float(values[i]), i) for i in order)
        none = self.threshold is not None and float(row.max()) < self.threshold
        return Classified(source, labels, kind, none)

    def _scored(self, cosines: Float[Tensor, " m"], scores: str) -> tuple[Tensor, Scores]:
        if scores == "softmax":
            scale = self.model.logit_scale.detach().float().exp().cpu()
            return torch.softmax(scale * cosines, dim=-1), "softmax"
        if self.calibration:
            return self.calibration(cosines), "probability"
        return cosines, "cosine"

    def _truth(self, pictures: Sequence[Any], labels: Sequence[Truth]) -> list[set[int]]:
        """For each picture the indices of its classes."""
        if len(pictures) != len(labels):
            raise BadInput(f"{len(pictures)} pictures and {len(labels)} labels; expected as many")
        places: dict[str | int, set[int]] = {i: {i} for i in range(len(self.names))}
        for place, name in enumerate(self.names):
            places.setdefault(name, set()).add(place)
        found: list[set[int]] = []
        for label in labels:
            each = [] if label is None else [label] if isinstance(label, str | int) else label
            if unknown := [one for one in each if one not in places]:
                raise BadInput(
                    f"label {unknown[0]!r} is no class of this classifier; expected one of its "
                    "names or indices, or None for none of them"
                )
            found.append({place for one in each for place in places[one]})
        return found


def _read_classes(path: Path) -> tuple[Float[Tensor, "m e"], dict[str, Any]]:
    if not path.is_file():
        raise BadClasses(f"there is no file {path}; expected one that Classifier.save wrote")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise BrokenFile(f"{path} holds tensors, but is no file that Classifier.save wrote")
            # A copy, since where in memory numbers lie may decide the last bits of a product.
            rows = file.get_tensor("prototypes").clone()
    except (OSError, safetensors.SafetensorError) as error:
        raise BrokenFile(f"{path} is not a readable file of classes: {error}") from error
    try:
        about = json.loads(metadata["classes"])
        wanted = ("names", "templates", "model", "weights", "calibration", "threshold")
        about = {key: about[key] for key in wanted}
    except (KeyError, ValueError, TypeError) as error:
        raise BrokenFile(f"{path} has damaged metadata: {error}") from error
    if rows.ndim != 2 or len(rows) != len(about["names"]):
        raise BrokenFile(
            f"{path} has prototypes of shape {tuple(rows.shape)} for {len(about['names'])} names"
        )
    return rows.float(), about
