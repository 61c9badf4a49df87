"""How good the pictures are that models write from sentences: all by the same sentences.

    lascaux evaluate imagine --model ochre-imagine ochre-dalle
    lascaux evaluate imagine --model clip-gen-coco --prompts sentences.txt --reference val2014/

Without sentences of one's own they are those of the emoji world's test split: one object before a
background, in pairs that were never trained on. There the judge, which no model has been guided
by, says whether the right object and the right background are seen.

CLIP score is a hundred times the cosine of picture and sentence, and not below 0 (Hessel et al.
2021, arXiv:2104.08718, Eq. 1, but for its factor of 2.5). How far the pictures as a set are from
true ones is FID where Inception's features are compared, and called by its name where others are
(lascaux.evaluate.fid). One picture of each sentence stands for the model; the best of several by
CLIP is told beside it.
"""

import io
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from lascaux.data.sources import open_source
from lascaux.data.world.language import caption
from lascaux.data.world.sampling import sample
from lascaux.data.world.scene import Scene, draw
from lascaux.errors import BadInput
from lascaux.evaluate.extractors import Extractor, extractor
from lascaux.evaluate.fid import statistics_of
from lascaux.evaluate.frechet import RunningStatistics, Statistics, frechet_distance
from lascaux.evaluate.judging import judged
from lascaux.evaluate.ochre_tokeniser import recognised
from lascaux.evaluate.options import EvaluateImagineOptions
from lascaux.evaluate.report import Figure, Report
from lascaux.models.judge import Judge
from lascaux.tasks.features import image_features, load_clip, text_features
from lascaux.tasks.imagine import Imaginer
from lascaux.tasks.imagined import sampling_told
from lascaux.tasks.options import ImagineOptions
from lascaux.tasks.prototypes import Progress
from lascaux.tasks.results import Picture
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.load import load

SEED = 0x1DEA  # of the emoji world's sentences
_REFERENCE_SEED = SEED + 1  # of true pictures of the same split
_AT_ONCE = 64  # pictures


@dataclass(frozen=True)
class Wanted:
    """Sentences, and the scenes they tell of; none where they are a user's own."""

    sentences: list[str]
    scenes: list[Scene]


@dataclass(frozen=True)
class Made:
    """What a model made of each sentence, in the order of the seeds.

    Attributes:
        pictures: of each sentence, as many as candidates.
        scores: the CLIP's cosine of each with its sentence.
        seconds: that making them took, for one picture.
        mebibytes: the most memory that was in use; None where the system does not tell.
    """

    pictures: list[list[Image.Image]]
    scores: list[list[float]]
    seconds: float
    mebibytes: float | None

    @property
    def first(self) -> list[Image.Image]:
        """One picture of each sentence, which nothing has chosen."""
        return [row[0] for row in self.pictures]

    @property
    def best(self) -> list[Image.Image]:
        """Of each sentence the picture that the CLIP prefers."""
        pairs = zip(self.pictures, self.scores, strict=True)
        return [row[max(range(len(row)), key=scores.__getitem__)] for row, scores in pairs]


class Comparison:
    """The same sentences, true pictures, CLIP and judge for all models that are compared."""

    def __init__(
        self, options: EvaluateImagineOptions | None = None, progress: Progress | None = None
    ) -> None:
        """Read the sentences, and take the features of true pictures.

        Raises:
            BadInput: no sentences, or true pictures that are none.
            MissingExtra: scikit-learn, which brings the digits, is not installed.
            WeightsError: a model cannot be found or loaded.
        """
        self.options = options = options or EvaluateImagineOptions()
        self._progress = progress
        self.wanted = wanted(options)
        self.clip = load_clip(options.clip, options.device, torch.float32)
        self._sentences = text_features(self.clip, self.wanted.sentences)
        self._extractor: Extractor | None = None
        self._true: Statistics | None = None
        self.unread: dict[str, str] = {}  # of the true pictures, and why
        if self.wanted.scenes or options.reference is not None:
            features = options.features or ("ochre-clip" if self.wanted.scenes else "inception-fid")
            self._extractor = extractor(features, device=options.device)
            self._true = self._of_true(self._extractor)

    def evaluate(self, model: str | Path | nn.Module) -> tuple[Report, Made]:
        """All figures of one model, and its pictures.

        Args:
            model: a CLIP-GEN or a DALL-E, or its name, folder or hub id.

        Raises:
            GenerationFailed: its logits are no numbers.
            Unsupported: it is neither.
            WeightsError: it cannot be found or loaded.
        """
        options = self.options
        imaginer = Imaginer(model, device=options.device, dtype=options.dtype)
        made = self._made(imaginer)
        name = imaginer.name or type(imaginer.writer.model).__name__
        figures = tuple(self._figures(made))
        failures = [{"source": key, "reason": reason} for key, reason in self.unread.items()]
        report = Report(
            "imagine",
            name,
            imaginer.weights,
            self._settings() | sampling_told(imaginer.writer.sampling(_imagining(options, 0))),
            figures,
            details={"failures": failures},
        )
        return report, made

    def _made(self, imaginer: Imaginer) -> Made:
        options, count = self.options, len(self.wanted.sentences)
        each = options.candidates
        pictures: list[list[Image.Image]] = []
        scores: list[list[float]] = []
        taken = 0.0
        for place, sentence in enumerate(self.wanted.sentences):
            how = _imagining(options, seed=options.seed + place * each)
            start = time.perf_counter()
            found: list[Picture] = list(imaginer.imagine(sentence, options=how))
            taken += time.perf_counter() - start
            pictures.append([picture.image for picture in found])
            rows, _ = image_features(self.clip, pictures[-1], "photo")
            scores.append((rows @ self._sentences[place]).tolist())
            if self._progress is not None:
                self._progress(imaginer.name or "pictures", place + 1, count)
        return Made(pictures, scores, taken / (count * each), _most_memory(options.device))

    def _figures(self, made: Made) -> Iterator[Figure]:
        count, each = len(made.pictures), self.options.candidates
        several = [("one", made.first)] + ([(f"best of {each}", made.best)] if each > 1 else [])
        for shown, pictures in several if self.wanted.scenes else ():
            for what, right in self._judged(pictures).items():
                yield Figure(f"{shown}: judge sees the {what}", sum(right) / count, count)
        note = f"by {self.options.clip}"
        chosen = [("one", [row[0] for row in made.scores])]
        chosen += [(f"best of {each}", [max(row) for row in made.scores])] if each > 1 else []
        for shown, values in chosen:
            score = 100 * float(np.mean([max(0.0, value) for value in values]))
            yield Figure(f"{shown}: CLIP score", score, count, "of 100", note)
        if self._true is not None and self._extractor is not None:
            found = _statistics(made.first, self._extractor)
            distance = frechet_distance(self._true, found)
            called = self._extractor.about["called"]
            note = f"from {self._true.count} true ones"
            if count <= (width := self._extractor.width):
                note += f"; no more pictures than the {width} features, so it says little"
            yield Figure(f"one: {called}", distance, count, "", note)
        yield Figure("seconds for a picture", made.seconds, count * each, "s", f"{each} at once")
        if made.mebibytes is not None:
            yield Figure("most memory of the process", made.mebibytes, 1, "MiB")

    def _judged(self, pictures: Sequence[Image.Image]) -> dict[str, list[bool]]:
        judge = load("ochre-judge")
        assert isinstance(judge, Judge)
        return recognised(self.wanted.scenes, list(judged(judge, pictures)))

    def _of_true(self, how: Extractor) -> Statistics:
        if self.options.reference is not None:
            source = open_source(self.options.reference)
            say = self._progress
            told = None if say is None else lambda done, total: say("true pictures", done, total)
            found, self.unread = statistics_of(source, how, progress=told)
            return found
        rng = np.random.Generator(np.random.PCG64([_REFERENCE_SEED]))
        count = max(len(self.wanted.sentences), 2 * how.width)
        split = self.options.split
        scenes = (sample(rng, split, "single", digits=True) for _ in range(count))
        return _statistics([draw(scene) for scene in scenes], how)

    def _settings(self) -> dict[str, object]:
        options = self.options
        told: dict[str, object] = {
            "sentences": options.prompts or f"the emoji world's {options.split} split",
            "candidates": options.candidates,
            "seed": options.seed,
            "clip": options.clip,
            "clip_weights": weights_hash(self.clip),
            "device": options.device,
            "dtype": options.dtype,
        }
        if self.wanted.scenes:
            told |= {"judge": "ochre-judge", "sentences_seed": SEED}
        if self._extractor is not None:
            told |= {
                "true_pictures": options.reference or f"scenes of the {options.split} split",
                "features": self._extractor.about["model"],
            }
        return told


_SAMPLING = ("temperature", "top_k", "top_p", "guidance")


def wanted(options: EvaluateImagineOptions) -> Wanted:
    """The sentences that are asked for.

    Raises:
        BadInput: a file that cannot be read, or holds no sentence.
    """
    if options.prompts is None:
        rng = np.random.Generator(np.random.PCG64([SEED]))
        count = options.limit or 500
        scenes = [sample(rng, options.split, "single", digits=True) for _ in range(count)]
        return Wanted([caption(scene, rng) for scene in scenes], scenes)
    try:
        text = Path(options.prompts).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--prompts {options.prompts}: {error}; expected a text file, a sentence on each line"
        ) from error
    sentences = [line.strip() for line in text.splitlines() if line.strip()]
    if not sentences:
        raise BadInput(f"{options.prompts} holds no sentence; write one on each line")
    return Wanted(sentences[: options.limit], [])


def _imagining(options: EvaluateImagineOptions, seed: int) -> ImagineOptions:
    same: dict[str, Any] = {name: getattr(options, name) for name in _SAMPLING}
    return replace(
        ImagineOptions(), n=options.candidates, seed=seed, batch_size=options.candidates, **same
    )


def _statistics(pictures: Sequence[Image.Image], how: Extractor) -> Statistics:
    running = RunningStatistics(how.width)
    for start in range(0, len(pictures), _AT_ONCE):
        prepared = [how.prepare(_encoded(each)) for each in pictures[start : start + _AT_ONCE]]
        running.add(how.features(torch.stack(prepared)))
    return running.statistics(how.about)


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _most_memory(device: str) -> float | None:
    """MiB: of a GPU what torch has allocated at most, else what the process has had at most."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
