"""Pictures from sentences, from pictures and from anything between them, code by code."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from lascaux.errors import BadInput, BadPicture, UnknownModel, Unsupported, WrongHash
from lascaux.images.labelled import read_label
from lascaux.images.preprocess import pixels
from lascaux.models.clip import Clip
from lascaux.models.clip_gen import ClipGen
from lascaux.models.dalle import Dalle
from lascaux.models.dalle_clip import DalleClip
from lascaux.tasks.features import load_clip
from lascaux.tasks.imagined import VERB, Kept, sampling_told
from lascaux.tasks.options import ImagineOptions
from lascaux.tasks.pictures import source_name
from lascaux.tasks.prototypes import Progress
from lascaux.tasks.ranking import Ranker, ranker
from lascaux.tasks.results import Picture
from lascaux.tasks.tokenisers import ImageTokeniser, image_tokeniser
from lascaux.tasks.wishes import Wish, between, wish_of
from lascaux.tasks.writers import (
    Begun,
    ClipGenWriter,
    Conditions,
    DalleWriter,
    Writer,
    prime_of,
)
from lascaux.weights.fingerprint import weights_hash

DEFAULT_MODEL = "ochre-imagine"
_SHOWN = 12  # digits of a hash in a message

Stop = Callable[[], bool]


class RedrawnOtherwise(UserWarning):
    """Drawn again, a picture's codes were others than those in its file."""


@dataclass(frozen=True)
class _Job:
    """Pictures of one wish."""

    wish: Wish
    conditions: Conditions
    begun: Begun
    primed_by: str | None
    ranked: bool
    options: ImagineOptions


class Imaginer:
    """Makes pictures with a CLIP-GEN or a DALL-E.

        imaginer = Imaginer()  # ochre-imagine; or Imaginer("clip-gen-coco")
        for picture in imaginer.imagine("a red apple on a blue table"):
            picture.image.save("apple.png")

    A picture depends on its seed, and not on how many are made with it.

    Attributes:
        writer: the model that writes codes, behind the interface that both kinds share.
        name: what it was asked for by; nothing where it was given itself.
        weights: the hash of its weights.
    """

    def __init__(
        self,
        model: str | Path | nn.Module = DEFAULT_MODEL,
        *,
        tokeniser: str | Path | nn.Module | None = None,
        clip: str | Path | Clip | None = None,
        rerank: str | Path | Clip | DalleClip | None = None,
        options: ImagineOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
    ) -> None:
        """Load the model and its tokeniser; CLIPs are loaded when they are first needed.

        Args:
            model: a name, folder or hub id, or a model.
            tokeniser: whose codes it writes. By default what is in the model or in a folder
                `tokeniser` inside its own, else what its config names.
            clip: whose embeddings a CLIP-GEN reads; likewise.
            rerank: the CLIP by which pictures are ordered; by default the one a CLIP-GEN reads.
            options: how pictures are made where a call does not say otherwise.
            device: where to compute; for models given by name.
            dtype: of the weights; for models given by name.

        Raises:
            BadInput: parts that do not belong together, or one that nobody names.
            Unsupported: it is neither a CLIP-GEN nor a DALL-E.
            WeightsError: something cannot be found or loaded.
        """
        self.options = options or ImagineOptions()
        self._device, self._dtype = device, dtype
        given = isinstance(model, nn.Module)
        self.name = "" if given else str(model)
        self._folder = None if given else Path(cast(Any, model)).expanduser()
        found = model if given else _load(cast(Any, model), device, dtype)
        shown = self.name or f"this {type(found).__name__}"
        if not isinstance(found, ClipGen | Dalle):
            raise Unsupported(
                f"{shown} is a {type(found).__name__}; what is wanted here is a CLIP-GEN or a "
                "DALL-E"
            )
        self._clip, self._rerank = clip, rerank
        self._ranker: Ranker | None = None
        self._named = {
            "tokeniser": str(tokeniser) if isinstance(tokeniser, str | Path) else None,
            "clip": str(clip) if isinstance(clip, str | Path) else None,
        }
        spelt = self._tokeniser(found, tokeniser, shown)
        self.writer: Writer
        if isinstance(found, ClipGen):
            self.writer = ClipGenWriter(found, spelt, self._loaded_clip, shown)
        else:
            self.writer = DalleWriter(found, spelt, shown)
        self.weights = weights_hash(found)

    @classmethod
    def from_options(cls, options: ImagineOptions) -> "Imaginer":
        """The imaginer that options describe.

        Raises:
            BadInput, Unsupported, WeightsError: as the constructor.
        """
        return cls(
            options.model or DEFAULT_MODEL,
            tokeniser=options.tokeniser,
            clip=options.clip,
            rerank=options.rerank,
            options=options,
            device=options.device,
            dtype=options.dtype,
        )

    def imagine(
        self,
        sentence: str | None = None,
        *,
        image: Any = None,
        prime: Any = None,
        options: ImagineOptions | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> Iterator[Picture]:
        """Pictures of a sentence or of a picture, as soon as each batch is done.

        In the order of their seeds; or, where they are scored, best first, when all are done.

        Args:
            sentence: what is to be seen.
            image: instead, a picture whose embedding a CLIP-GEN paints from: anything that
                `read_picture` takes.
            prime: a picture whose first codes all begin with, `options.prime_share` of them.
            options: how they are made; what names models, device and dtype is not looked at.
            progress: called with what is made, how many codes are done, and of how many.
            stop: asked before each code; where it says yes, pictures that are not whole are given
                up, and no more follow.

        Raises:
            BadInput: an empty sentence, a picture that is none, more codes to choose among than
                there are, or scores asked for without a CLIP. Nothing has been drawn then.
            Unsupported: what the model does not know.
            GenerationFailed: logits are no numbers; the message names the step.
        """
        wish = wish_of(sentence, image, reading=(options or self.options).reading)
        return self._imagined([wish], prime, options, progress, stop)

    def between(
        self,
        first: Wish,
        last: Wish,
        *,
        prime: Any = None,
        options: ImagineOptions | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> Iterator[Picture]:
        """Pictures on the way from one sentence or picture to another, over the unit sphere.

        `options.n` of each of `options.steps` steps, with the same seeds at each, so that
        neighbours are alike; the first and the last are those of the ends alone. Other arguments,
        errors and order as `imagine`.
        """
        steps = (options or self.options).steps
        return self._imagined(between(first, last, steps), prime, options, progress, stop)

    def repeat(self, path: str | Path, label: dict[str, Any] | None = None) -> Picture:
        """The picture in a file that this verb wrote, drawn again.

        Its codes are drawn as they were. Should a draw have gone another way, as may happen within
        rounding on another machine, a `RedrawnOtherwise` warning tells where, and the picture is
        decoded from the codes that its file holds.

        Args:
            path: of the PNG.
            label: what `read_label` gave of it, if it was read already.

        Raises:
            BadPicture: it is no such file, or damaged.
            WrongHash: it was made with other weights.
        """
        kept = Kept.of(label if label is not None else read_label(path, VERB), path)
        self._require_same(kept, path)
        kept.require_ids(self.writer.tokeniser.codes, self.writer.count, path)
        begun = self.writer.begin(
            self.writer.recalled(kept.conditions),
            torch.tensor(kept.ids[: kept.primed], dtype=torch.int64),
            kept.sampling,
            complete_text=kept.complete_text,
        )
        written = self.writer.write(begun, [kept.picture["seed"]])
        assert written is not None, "nothing stops it"
        ids = torch.tensor(kept.ids)
        if (other := (written.ids[0] != ids).nonzero().flatten()).numel():
            warnings.warn(
                f"{path}: drawn again, code {int(other[0])} and what follows are others (a draw "
                "lay within rounding, or this machine or number format rounds otherwise); decoded "
                "are the codes that the file holds",
                RedrawnOtherwise,
                stacklevel=2,
            )
        return Picture(image=self._decoded(ids), **kept.picture, record=kept.record)

    def _require_same(self, kept: Kept, path: str | Path) -> None:
        """Refuse to repeat a picture by other weights than made it."""
        tokeniser = self.writer.tokeniser
        for what, made, here, shown in (
            ("", kept.picture["weights"], self.weights, self.name or "this model"),
            ("a tokeniser of ", kept.tokeniser, tokeniser.weights, tokeniser.shown),
        ):
            if made != here:
                raise WrongHash(
                    f"{path} was made by {kept.picture['model'] or 'a model'} with {what}weights "
                    f"{made[:_SHOWN]}; {shown} has {here[:_SHOWN]}: name the one that made it"
                )

    def _imagined(
        self,
        wishes: list[Wish],
        prime: Any,
        options: ImagineOptions | None,
        progress: Progress | None,
        stop: Stop | None,
    ) -> Iterator[Picture]:
        """Everything that can be refused is refused now, and not when the first is asked for."""
        options = options or self.options
        sampling = self.writer.sampling(options)
        ranked = options.keep is not None or self._rerank is not None
        if ranked:
            self._require_ranker()
        codes = self._prime(prime, options)
        jobs: list[_Job] = []
        for wish in wishes:
            conditions = self.writer.conditions(wish, options)
            begun = self.writer.begin(
                conditions, codes, sampling, complete_text=options.complete_text
            )
            primed_by = None if prime is None else source_name(prime, 1)
            jobs.append(_Job(wish, conditions, begun, primed_by, ranked, options))
        return self._drawn(jobs, progress, stop)

    def _drawn(
        self, jobs: list[_Job], progress: Progress | None, stop: Stop | None
    ) -> Iterator[Picture]:
        options = jobs[0].options
        each = self.writer.count - len(jobs[0].begun.prime)
        total, before = each * options.n * len(jobs), 0
        for job in jobs:
            best: list[Picture] = []
            for start in range(0, options.n, options.batch_size):
                count = min(options.batch_size, options.n - start)

                def report(done: int, before: int = before, count: int = count) -> None:
                    if progress is not None:
                        progress("codes", before + done * count, total)

                seeds = [options.seed + start + place for place in range(count)]
                pictures = self._batch(job, seeds, report, stop)
                if pictures is None:
                    yield from best
                    return
                before += each * count
                if not job.ranked:
                    yield from pictures
                else:
                    best = self._best([*best, *self._scored(pictures, job)], options)
            yield from best

    def _batch(
        self, job: _Job, seeds: list[int], report: Callable[[int], None], stop: Stop | None
    ) -> list[Picture] | None:
        """The pictures of these seeds; None where it was stopped."""
        written = self.writer.write(job.begun, seeds, report=report, stop=stop)
        if written is None:
            return None
        settings = {
            **sampling_told(job.begun.sampling),
            "complete_text": job.options.complete_text,
            **job.wish.told(),
            "prime": job.primed_by,
            "tokeniser": self._named["tokeniser"],
            "clip": self._named["clip"],
            "dtype": str(_dtype_of(self.writer.model)).removeprefix("torch."),
            "device": str(self._device),
        }
        record = {
            "tokeniser": self.writer.tokeniser.weights,
            "conditions": job.conditions.record,
            "primed": len(job.begun.prime),
        }
        return [
            Picture(
                image=self._decoded(ids),
                seed=seed,
                prompt=job.wish.sentence,
                model=self.name,
                settings=settings,
                weights=self.weights,
                caption=written.captions[row],
                record={
                    **record,
                    "near_ties": [tie.place for tie in written.near_ties if tie.row == row],
                    "ids": ids.tolist(),
                },
            )
            for row, (seed, ids) in enumerate(zip(seeds, written.ids, strict=True))
        ]

    def _decoded(self, ids: Int[Tensor, " n"]) -> Image.Image:
        """The picture of codes; one at a time, so that no pixel depends on the others."""
        x = self.writer.tokeniser.decode(ids[None], self.writer.grid)[0]
        values = rearrange((x * 255).round().to(torch.uint8), "c y x -> y x c")
        return Image.fromarray(values.contiguous().numpy())

    def _scored(self, pictures: list[Picture], job: _Job) -> list[Picture]:
        assert self._ranker is not None
        found = self._ranker.scores(
            [picture.image for picture in pictures],
            job.wish,
            reading=job.options.reading,
            too_long=job.options.too_long,
        )
        rerank = self._rerank
        by = rerank if isinstance(rerank, str | Path) else type(rerank).__name__
        if rerank is None:
            by = self._named["clip"] or self.writer.model.config.clip or "its own"
        return [
            replace(picture, score=score, settings={**picture.settings, "scored_by": str(by)})
            for picture, score in zip(pictures, found, strict=True)
        ]

    @staticmethod
    def _best(pictures: list[Picture], options: ImagineOptions) -> list[Picture]:
        ordered = sorted(pictures, key=lambda picture: (-(picture.score or 0.0), picture.seed))
        return ordered[: options.keep or options.n]

    def _prime(self, picture: Any, options: ImagineOptions) -> Int[Tensor, " p"]:
        """The codes to begin with."""
        if picture is None:
            return torch.zeros(0, dtype=torch.int64)
        tokeniser, grid = self.writer.tokeniser, self.writer.grid
        if grid is None or tokeniser.factor is None:
            raise Unsupported(
                f"tokens of {tokeniser.shown} have no places, so that there are no first rows to "
                "begin with"
            )
        how = replace(tokeniser.sized(grid[0] * tokeniser.factor), reading=options.reading)
        x, failures = pixels([picture], how)
        if failures:
            raise BadPicture(f"{source_name(picture, 1)}: {failures[0][1]}") from failures[0][1]
        return prime_of(x, tokeniser, self.writer.count, options.prime_share)

    def _require_ranker(self) -> None:
        """Load what orders pictures.

        Raises:
            BadInput: nobody names it.
        """
        if self._ranker is not None:
            return
        model = self.writer.model
        chosen = self._rerank
        if chosen is None and isinstance(model, ClipGen):
            chosen = self._loaded_clip()
        if chosen is None:
            raise BadInput(
                f"pictures of {self.name or 'this DALL-E'} can be ordered by any CLIP; name one "
                "(rerank, or --rerank)"
            )
        self._ranker = ranker(chosen, model, device=self._device, dtype=self._dtype)

    def _tokeniser(
        self, model: ClipGen | Dalle, given: str | Path | nn.Module | None, shown: str
    ) -> ImageTokeniser:
        chosen: Any = given
        if chosen is None and isinstance(model, Dalle):
            chosen = model.tokeniser
        if chosen is None:
            chosen = self._part("tokeniser", getattr(model.config, "tokeniser", None), shown)
        return image_tokeniser(chosen, device=self._device, dtype=self._dtype)

    def _loaded_clip(self) -> Clip:
        """The CLIP whose embeddings a CLIP-GEN reads."""
        if not isinstance(self._clip, Clip):
            named = self._clip or self._part(
                "clip", self.writer.model.config.clip, self.name or "this CLIP-GEN"
            )
            self._clip = load_clip(named, self._device, self._dtype)
        return self._clip

    def _part(self, part: str, named: str | None, shown: str) -> str | Path:
        """Where a part of the model is: in its folder, or what its config names."""
        if self._folder is not None and (self._folder / part).is_dir():
            return self._folder / part
        if named is None:
            raise BadInput(
                f"{shown} does not say which {part} it was trained with; name it ({part}, or "
                f"--{part})"
            )
        return named


def repeated(
    path: str | Path,
    *,
    model: str | Path | None = None,
    tokeniser: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Picture:
    """The picture in a file that this verb wrote, drawn again by the models that it names.

    Args:
        path: of the PNG.
        model: where the model is, if it is no longer where the file says.
        tokeniser: likewise.
        device: where to compute.

    Raises:
        BadPicture: it is no such file, or damaged.
        WrongHash: what is found there has other weights than made it.
        WeightsError: a model cannot be found or loaded.
    """
    label = read_label(path, VERB)
    made = Kept.of(label, path).picture
    settings = made["settings"]
    if not (chosen := model or made["model"]):
        raise BadInput(f"{path} does not name its model; name it (model, or --model)")
    try:
        imaginer = Imaginer(
            chosen,
            tokeniser=tokeniser or settings.get("tokeniser"),
            device=device,
            dtype=settings.get("dtype", "float32"),
        )
    except UnknownModel as error:
        if model is not None:
            raise
        raise UnknownModel(
            f"{error}; {path} says that it was made by this: name where it is (model, or --model)"
        ) from error
    return imaginer.repeat(path, label)


def _load(model: str | Path, device: str | torch.device, dtype: str | torch.dtype) -> Any:
    from lascaux.weights.load import load

    return load(model, device=device, dtype=dtype)


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
