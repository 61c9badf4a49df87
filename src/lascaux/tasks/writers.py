"""Models that write pictures as codes, behind one interface: CLIP-GEN and DALL-E."""

import base64
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from lascaux.errors import BadInput, BadPicture, BadText, Unsupported
from lascaux.generate.sampling import NearTie, Sampling, uniforms_of
from lascaux.generate.tokens import Beginning, Progress, TokenModel, begin, write
from lascaux.models.clip import Clip
from lascaux.models.clip_gen import ClipGen, ClipGenConfig
from lascaux.models.dalle import Dalle, DalleConfig
from lascaux.nn.grid import Grid
from lascaux.tasks.features import evaluating
from lascaux.tasks.options import ImagineOptions
from lascaux.tasks.tokenisers import ImageTokeniser
from lascaux.tasks.wishes import Wish, embedding_of

# As the published demonstrations draw: CLIP-GEN's demo.py, and generate.py of DALLE-pytorch.
_CLIP_GEN_TOP_K, _CLIP_GEN_TOP_P = 500, 0.95
_DALLE_THRESHOLD = 0.9


@dataclass(frozen=True)
class Conditions:
    """What a model is given before it draws a picture's first code."""

    given: Tensor  # an embedding `1 1 e`, or the ids `1 n` of a text
    record: Any  # the same as JSON values; `recalled` makes it again


@dataclass(frozen=True)
class Begun:
    """What a model has read before the first code it draws, for as many pictures as one likes."""

    beginning: Beginning
    prime: Int[Tensor, " p"]  # the codes with which all begin
    sampling: Sampling
    text: Int[Tensor, "1 n"] | None = None  # which the model goes on with, before it paints


@dataclass(frozen=True)
class Written:
    """The codes of several pictures, and what else there is to say of them."""

    ids: Int[Tensor, "b n"]
    near_ties: tuple[NearTie, ...]
    captions: tuple[str | None, ...]  # where the model has completed the text


class TextCut(UserWarning):
    """A text was longer than a model reads, and its end was left away."""


class Writer(Protocol):
    """A model that writes a picture's codes one after the other."""

    tokeniser: ImageTokeniser

    @property
    def model(self) -> Any:
        """The network."""
        ...

    @property
    def count(self) -> int:
        """Codes of a picture."""
        ...

    @property
    def grid(self) -> Grid | None:
        """How they lie; None where they have no places."""
        ...

    def sampling(self, options: ImagineOptions) -> Sampling:
        """How codes are drawn: as asked, and otherwise as published.

        Raises:
            BadInput: more codes are to be chosen among than there are.
            Unsupported: what this model does not know.
        """
        ...

    def conditions(self, wish: Wish, options: ImagineOptions) -> Conditions:
        """What the model is given for a wish.

        Raises:
            BadInput: a wish that this model does not understand.
        """
        ...

    def recalled(self, record: Any) -> Conditions:
        """The conditions that were recorded.

        Raises:
            BadPicture: it is no record of this model's conditions.
        """
        ...

    def begin(
        self,
        conditions: Conditions,
        prime: Int[Tensor, " p"],
        sampling: Sampling,
        *,
        complete_text: bool = False,
    ) -> Begun:
        """Let the model read what comes before the first code to be drawn.

        Args:
            conditions: of all pictures.
            prime: the codes with which all begin.
            sampling: how codes are drawn.
            complete_text: whether the model goes on with the text before it paints.
        """
        ...

    def write(
        self,
        begun: Begun,
        seeds: Sequence[int],
        *,
        report: Callable[[int], None] = lambda _: None,
        stop: Callable[[], bool] | None = None,
    ) -> Written | None:
        """The codes of one picture for each seed; None where it was stopped.

        Args:
            begun: as `begin` gives it.
            seeds: one a picture.
            report: told how many codes of each picture are there.
            stop: asked before each code.

        Raises:
            GenerationFailed: logits are no numbers.
        """
        ...


class ClipGenWriter:
    """CLIP-GEN: codes from the embedding of a sentence, of a picture or of something between."""

    def __init__(
        self, model: ClipGen, tokeniser: ImageTokeniser, clip: Callable[[], Clip], name: str
    ) -> None:
        """Put the models together.

        Args:
            model: the transformer.
            tokeniser: whose codes it writes.
            clip: gives the CLIP whose embeddings it reads, when it is first needed.
            name: what messages call it.

        Raises:
            BadInput: they do not belong together.
        """
        self.model, self.tokeniser, self.clip, self.name = model, tokeniser, clip, name
        _require_codes(model.config.codes, tokeniser, name)
        self.count = model.config.length
        self.grid = _grid(self.count, tokeniser, name)
        self._last: tuple[tuple[bytes, bytes], Beginning] | None = None

    def sampling(self, options: ImagineOptions) -> Sampling:
        """See `Writer`."""
        guided = options.guidance not in (None, 1)
        if guided and not self.model.config.null_condition:
            raise Unsupported(
                f"guidance {options.guidance}; {self.name} is a CLIP-GEN that has learnt nothing "
                "of pictures without a condition: leave guidance away"
            )
        if options.complete_text:
            raise Unsupported(
                f"{self.name} is a CLIP-GEN: it reads the embedding of a sentence and can write no "
                "words, so that it cannot complete a text; leave that away"
            )
        top_k = options.top_k or min(_CLIP_GEN_TOP_K, self.model.codes)
        return _fitting(options, top_k, _CLIP_GEN_TOP_P, self.model.config)

    def conditions(self, wish: Wish, options: ImagineOptions) -> Conditions:
        """See `Writer`."""
        clip = self.clip()
        row = embedding_of(clip, wish, reading=options.reading, too_long=options.too_long)
        if row.shape[0] != (width := self.model.config.embedding_width):
            raise BadInput(
                f"embeddings of width {row.shape[0]}; {self.name} reads those of "
                f"{self.model.config.clip or 'another CLIP'}, of width {width}: name that CLIP"
            )
        packed = row.numpy().astype("<f4").tobytes()
        return Conditions(row[None, None], base64.b64encode(packed).decode())

    def recalled(self, record: Any) -> Conditions:
        """See `Writer`."""
        try:
            row = np.frombuffer(base64.b64decode(record, validate=True), "<f4")
        except (TypeError, ValueError) as error:
            raise BadPicture(f"the picture's embedding is damaged ({error})") from error
        if row.shape != (self.model.config.embedding_width,) or not np.isfinite(row).all():
            raise BadPicture(f"the picture's embedding has {len(row)} numbers, or is damaged")
        return Conditions(torch.from_numpy(row.astype(np.float32))[None, None], record)

    def begin(
        self,
        conditions: Conditions,
        prime: Int[Tensor, " p"],
        sampling: Sampling,
        *,
        complete_text: bool = False,
    ) -> Begun:
        """See `Writer`."""
        device = self.model.positions.device
        given = conditions.given.to(device)
        codes = [prime[None].to(device)] if len(prime) else []
        null = [torch.zeros_like(given), *codes] if sampling.guided else None
        with evaluating(self.model):
            return Begun(begin(self.model, given, *codes, null=null), prime, sampling)

    def write(
        self,
        begun: Begun,
        seeds: Sequence[int],
        *,
        report: Callable[[int], None] = lambda _: None,
        stop: Callable[[], bool] | None = None,
    ) -> Written | None:
        """See `Writer`."""
        uniforms = uniforms_of(seeds, self.count - len(begun.prime))
        with evaluating(self.model):
            done = _written(self.model, begun, uniforms, report, stop)
        return None if done is None else Written(*_whole(begun, done), (None,) * len(seeds))


class DalleWriter:
    """DALL-E: codes behind a text, in one sequence with it."""

    def __init__(self, model: Dalle, tokeniser: ImageTokeniser, name: str) -> None:
        """Put the models together.

        Raises:
            BadInput: they do not belong together, or there is no text tokeniser.
        """
        self.model, self.tokeniser, self.name = model, tokeniser, name
        _require_codes(model.config.codes, tokeniser, name)
        self.count = model.config.image_length
        self.grid: Grid | None = (model.config.grid, model.config.grid)
        if tokeniser.factor is None:
            raise BadInput(f"{tokeniser.shown} has tokens without places; {name} lays them in rows")
        if model.tokenizer is None:
            raise BadInput(
                f"{name} has no text tokeniser; put its vocabulary beside the weights, or name one "
                "by load(..., tokenizer=...)"
            )

    def sampling(self, options: ImagineOptions) -> Sampling:
        """See `Writer`."""
        top_k = options.top_k or self.model.config.top_k(_DALLE_THRESHOLD)
        return _fitting(options, top_k, None, self.model.config)

    def conditions(self, wish: Wish, options: ImagineOptions) -> Conditions:
        """See `Writer`."""
        if wish.picture is not None or wish.ends is not None:
            raise Unsupported(
                f"{self.name} is a DALL-E: it reads sentences alone, and cannot be given a picture "
                "to imagine from, or go from one to another; take a CLIP-GEN, or begin with a "
                "picture's first rows (prime)"
            )
        length, tokenizer = self.model.config.text_length, self.model.tokenizer
        count = len(tokenizer.encoder.encode(wish.sentence))
        if count > length:
            said = f"the sentence has {count} tokens, and {self.name} reads {length}"
            if options.too_long != "truncate":
                raise BadText(f"{said}: shorten it, or have it cut (too_long 'truncate')")
            warnings.warn(f"{said}: what comes behind them is left away", TextCut, stacklevel=4)
        ids = tokenizer.tokenize(wish.sentence, length, truncate=True)[:, : min(count, length)]
        return Conditions(ids, ids[0].tolist())

    def recalled(self, record: Any) -> Conditions:
        """See `Writer`."""
        length = self.model.config.text_length
        if not is_ids(record, self.model.config.text_tokens) or not 0 < len(record) <= length:
            raise BadPicture(f"the picture's text is damaged; expected 1 to {length} ids of words")
        return Conditions(torch.tensor([record]), record)

    def begin(
        self,
        conditions: Conditions,
        prime: Int[Tensor, " p"],
        sampling: Sampling,
        *,
        complete_text: bool = False,
    ) -> Begun:
        """See `Writer`."""
        text = conditions.given.to(self.model.device)
        if not complete_text or text.shape[1] == self.model.config.text_length:
            return Begun(self._read(text, prime, sampling), prime, sampling)
        with evaluating(self.model):
            beginning = begin(self.model, self.model.prefix(text, whole=False))
        return Begun(beginning, prime, sampling, text)

    def write(
        self,
        begun: Begun,
        seeds: Sequence[int],
        *,
        report: Callable[[int], None] = lambda _: None,
        stop: Callable[[], bool] | None = None,
    ) -> Written | None:
        """See `Writer`. Where the text is completed, a picture's first chances are the text's."""
        missing = 0 if begun.text is None else self.model.config.text_length - begun.text.shape[1]
        uniforms = uniforms_of(seeds, missing + self.count - len(begun.prime))
        captions: tuple[str | None, ...] = (None,) * len(seeds)
        with evaluating(self.model):
            if begun.text is not None:
                texts = self._completed(begun, begun.text, uniforms[:, :missing], stop)
                if texts is None:
                    return None
                captions = tuple(self._said(row) for row in texts)
                beginning = self._read(texts, begun.prime, begun.sampling)
                begun = replace(begun, beginning=beginning, text=None)
            done = _written(self.model, begun, uniforms[:, missing:], report, stop)
        return None if done is None else Written(*_whole(begun, done), captions)

    def _read(
        self, texts: Int[Tensor, "b n"], prime: Int[Tensor, " p"], sampling: Sampling
    ) -> Beginning:
        """What the model has read of whole texts, and the codes behind them."""
        model = self.model
        codes = [prime.to(model.device).expand(len(texts), -1)] if len(prime) else []
        null = [model.prefix(torch.zeros_like(texts)), *codes] if sampling.guided else None
        with evaluating(model):
            return begin(model, model.prefix(texts), *codes, null=null)

    def _completed(
        self,
        begun: Begun,
        text: Int[Tensor, "1 n"],
        uniforms: Float64[Tensor, "b m"],
        stop: Callable[[], bool] | None,
    ) -> Int[Tensor, "b t"] | None:
        """The text with what the model writes behind it, for each picture."""
        classes = self.model.config.text_classes
        top_k = min(begun.sampling.top_k or classes, classes)
        begun = replace(begun, sampling=replace(begun.sampling, guidance=1.0, top_k=top_k))
        done = _written(self.model, begun, uniforms, lambda _: None, stop)
        if done is None:
            return None
        more = self.model.plain_text(done.ids)
        return torch.cat((text.expand(len(more), -1), more), dim=1)

    def _said(self, row: Int[Tensor, " n"]) -> str:
        return " ".join(self.model.tokenizer.decode(row.cpu()).split())


def _written(
    model: TokenModel,
    begun: Begun,
    uniforms: Float64[Tensor, "b n"],
    report: Callable[[int], None],
    stop: Callable[[], bool] | None,
) -> Progress | None:
    """All tokens that follow a beginning; None where it was stopped."""
    pictures, count = uniforms.shape
    found: Progress | None = None
    for found in write(
        model,
        begun.beginning,
        count,
        sampling=begun.sampling,
        uniforms=uniforms,
        candidates=pictures // begun.beginning.conditions,
        stop=stop,
    ):
        report(found.done)
    return found if found is not None and found.finished else None


def _whole(begun: Begun, done: Progress) -> tuple[Int[Tensor, "b n"], tuple[NearTie, ...]]:
    """The codes of whole pictures, and which draws rounding might have turned."""
    ids = torch.cat((begun.prime.expand(len(done.ids), -1), done.ids.cpu()), dim=1)
    ties = (NearTie(t.row, t.place + len(begun.prime), t.margin) for t in done.near_ties)
    return ids, tuple(ties)


def _fitting(
    options: ImagineOptions, top_k: int, top_p: float | None, config: ClipGenConfig | DalleConfig
) -> Sampling:
    sampling = Sampling(
        guidance=options.guidance if options.guidance is not None else config.guidance,
        temperature=(
            options.temperature if options.temperature is not None else config.temperature
        ),
        top_k=top_k,
        top_p=options.top_p if options.top_p is not None else top_p,
    )
    sampling.require_fit(config.codes)
    return sampling


def _require_codes(codes: int, tokeniser: ImageTokeniser, name: str) -> None:
    if tokeniser.codes != codes:
        raise BadInput(
            f"{name} writes {codes} codes, and {tokeniser.shown} has {tokeniser.codes}: they do "
            "not belong together; name the tokeniser that it was trained with"
        )


def _grid(count: int, tokeniser: ImageTokeniser, name: str) -> Grid | None:
    """How the codes of a picture lie."""
    if tokeniser.factor is None:
        if tokeniser.length != count:
            raise BadInput(
                f"{name} writes {count} codes, and {tokeniser.shown} has {tokeniser.length} for a "
                "picture: they do not belong together"
            )
        return None
    side = math.isqrt(count)
    if side * side != count:
        raise BadInput(f"{name} writes {count} codes, of which no square can be made")
    return side, side


def is_ids(found: Any, codes: int) -> bool:
    """Whether this is a list of ids of so many codes, as JSON has it."""
    return isinstance(found, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and 0 <= each < codes for each in found
    )


def prime_of(
    x: Float[Tensor, "1 3 y x"], tokeniser: ImageTokeniser, count: int, share: float
) -> Int[Tensor, " p"]:
    """The first codes of a picture, in reading order: that share of them, as published cut down.

    Args:
        x: the picture, as large as those that are to be made.
        tokeniser: that spells it.
        count: codes of a picture.
        share: from 0, and below 1.
    """
    return tokeniser.encode(x)[0, : int(share * count)]
