"""Sequences written token by token, by any model that keeps what it has read.

Every picture has its own chance, so it is the same in whichever batch it is written, but for draws
that lie within rounding of going another way: those are recorded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.generate.sampling import NEAR, Drawn, NearTie, Sampling, draw, guided, uniforms_of


@runtime_checkable
class Kept(Protocol):
    """What a model keeps of the sequences it has read."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        ...

    def select(self, rows: Sequence[int]) -> "Kept":
        """Of these rows."""
        ...

    def repeat(self, times: int, *, length: int | None = None) -> "Kept":
        """With every row several times, one beside the other, and room for so many positions."""
        ...


@runtime_checkable
class TokenModel(Protocol):
    """A model that reads on from where it was."""

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Any:
        """An empty `Kept` for sequences of up to `length` tokens."""
        ...

    def step(self, new_ids: Tensor, cache: Any) -> Float[Tensor, "b v"]:
        """The logits, in float32, of the token that follows these `b m` and what was read."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far the pictures of a batch are."""

    ids: Int[Tensor, "b n"]  # all that were drawn so far
    total: int  # tokens of a picture, when it is finished
    near_ties: tuple[NearTie, ...]  # draws so far that rounding might have turned
    cache_bytes: int

    @property
    def done(self) -> int:
        """Tokens drawn so far."""
        return self.ids.shape[1]

    @property
    def finished(self) -> bool:
        """Whether all tokens are there; where not, more follow or it was stopped."""
        return self.done == self.total


@dataclass(frozen=True)
class Beginning:
    """What a model has read of the beginning of sequences, ready to be continued many times."""

    cache: Any  # a Kept; behind the rows of the conditions those of the null conditions
    logits: Float[Tensor, "r v"]  # of the first token to draw
    conditions: int  # rows with the condition
    length: int  # tokens read

    @property
    def guided(self) -> bool:
        """Whether there are rows of null conditions."""
        return len(self.logits) > self.conditions


@torch.no_grad()
def begin(
    model: TokenModel,
    *parts: Tensor,
    null: Tensor | Sequence[Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> Beginning:
    """Let a model read what comes before the first token to be drawn.

    Args:
        model: the model.
        parts: one after the other, with as many rows each: ids `b n`, or vectors `b n d` where the
            model takes them in the place of ids.
        null: the same without the condition, for guidance: of as many tokens.
        dtype: of what is kept; the model's own.

    Raises:
        BadInput: nothing is to be read, or parts do not fit each other.
    """
    if not parts or any(not part.shape[1] or len(part) != len(parts[0]) for part in parts):
        shapes = [tuple(part.shape) for part in parts]
        raise BadInput(f"a beginning of parts {shapes}; each must have a token, and as many rows")
    rows = conditions = len(parts[0])
    if null is not None:
        nulls = (null,) if isinstance(null, Tensor) else tuple(null)
        if [part.shape for part in nulls] != [part.shape for part in parts]:
            raise BadInput(
                f"a null condition of {[tuple(p.shape) for p in nulls]} for one of "
                f"{[tuple(p.shape) for p in parts]}; both must have the same shape"
            )
        parts = tuple(torch.cat(both) for both in zip(parts, nulls, strict=True))
        rows *= 2
    length = sum(part.shape[1] for part in parts)
    cache = model.new_cache(rows, length, dtype)
    logits = None
    for part in parts:
        logits = model.step(part, cache)
    assert logits is not None
    return Beginning(cache, logits, conditions, length)


def write(
    model: TokenModel,
    beginning: Beginning,
    count: int,
    *,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    candidates: int = 1,
    uniforms: Float64[Tensor, "b n"] | None = None,
    stop: Callable[[], bool] | None = None,
    every: int = 1,
) -> Iterator[Progress]:
    """Draw tokens one by one; the last thing that is given has them all, unless it was stopped.

    Args:
        model: the model that has read the beginning.
        beginning: as `begin` gives it; it is left as it is, and may be continued again.
        count: tokens of each picture.
        sampling: how they are drawn; as the model says.
        seeds: one a picture; not needed where the likeliest is taken.
        candidates: pictures of each beginning, one beside the other.
        uniforms: numbers to draw with, instead of those of the seeds.
        stop: asked before every token; where it says yes, nothing more is drawn.
        every: tokens between two reports.

    Raises:
        GenerationFailed: logits are no numbers; the message names the step.
        BadInput: numbers of rows, seeds or tokens that do not fit each other.
    """
    sampling = sampling or Sampling()
    pictures = beginning.conditions * candidates
    if candidates < 1 or count < 1 or every < 1:
        raise BadInput(f"{candidates} candidates of {count} tokens, told every {every}: from 1 on")
    if sampling.guided != beginning.guided:
        wanted = "needs" if sampling.guided else "does not take"
        raise BadInput(f"guidance {sampling.guidance} {wanted} a beginning with a null condition")
    given = chances(pictures, count, sampling, seeds, uniforms)
    cache = beginning.cache.repeat(candidates, length=beginning.length + count - 1)
    logits = beginning.logits.repeat_interleave(candidates, dim=0)
    ids = torch.empty(pictures, count, dtype=torch.int64, device=logits.device)
    ties: list[NearTie] = []

    def progress(done: int) -> Progress:
        return Progress(ids[:, :done].clone(), count, tuple(ties), cache.nbytes)

    for place in range(count):
        if stop is not None and stop():
            yield progress(place)
            return
        with torch.no_grad():  # around no yield, where it would reach into the caller
            if place:
                last = ids[:, place - 1 : place]
                logits = model.step(torch.cat((last, last)) if sampling.guided else last, cache)
            if sampling.guided:
                logits = guided(*logits.chunk(2), sampling.guidance)
            u = None if given is None else given[:, place]
            drawn = draw(logits, sampling, u, step=place)
        ids[:, place] = drawn.ids
        ties += near_ties(drawn, place)
        if (place + 1) % every == 0 or place + 1 == count:
            yield progress(place + 1)


def chances(
    pictures: int,
    count: int,
    sampling: Sampling,
    seeds: Sequence[int] | None,
    uniforms: Float64[Tensor, "b n"] | None,
) -> Float64[Tensor, "b n"] | None:
    """The uniform numbers of each picture; None where none are needed.

    Raises:
        BadInput: there are none, or not for every picture and token.
    """
    if sampling.greedy:
        return None
    if uniforms is not None:
        if uniforms.shape != (pictures, count):
            raise BadInput(
                f"uniform numbers of shape {tuple(uniforms.shape)} for {pictures} pictures of "
                f"{count} tokens"
            )
        return uniforms
    if seeds is None or len(seeds) != pictures:
        given = "no seeds" if seeds is None else f"{len(seeds)} seeds"
        raise BadInput(f"{given} for {pictures} pictures; give one for each, or say greedy")
    return uniforms_of(seeds, count)


def near_ties(drawn: Drawn, place: int) -> list[NearTie]:
    """The draws that rounding might have turned."""
    near = (drawn.margins < NEAR).nonzero().flatten().tolist()
    return [NearTie(row, place, float(drawn.margins[row])) for row in near]
