"""How one token is drawn from logits: temperature, top-k, top-p, and one uniform number.

Holtzman et al.: "The Curious Case of Neural Text Degeneration", 2019, arXiv:1904.09751 (top-p);
Ho, Salimans: "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from lascaux.errors import BadInput, GenerationFailed

# Two ways to the same logits differ by rounding, and a draw so near to where one token's share ends
# may go either way. Of logits where the likeliest token is taken, of shares where one is drawn.
NEAR = 1e-5


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What is made of a model's logits before a token is drawn, in the order of the fields."""

    guidance: float = 1.0  # logits = null + guidance * (conditional - null); 1: no null is asked
    temperature: float = 1.0  # logits are divided by it; the lower, the surer
    top_k: int | None = None  # only so many of the likeliest; those equal to the last stay, too
    top_p: float | None = None  # only the likeliest that together have this share; the last crosses
    greedy: bool = False  # the likeliest token, always; the first of equals

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise BadInput(
                f"temperature {self.temperature}; expected a positive number. For the likeliest "
                "token every time say greedy"
            )
        if self.top_k is not None and self.top_k < 1:
            raise BadInput(
                f"top_k {self.top_k}; expected a whole number from 1, or nothing for all tokens"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInput(f"top_p {self.top_p}; expected a share above 0 and up to 1")
        if not abs(self.guidance) < float("inf"):
            raise BadInput(f"guidance {self.guidance}; expected a finite number")

    @property
    def guided(self) -> bool:
        """Whether a second row without the condition is asked for."""
        return self.guidance != 1

    def require_fit(self, tokens: int) -> None:
        """Check that there are as many tokens to choose among as are asked for.

        Raises:
            BadInput: top_k is larger.
        """
        if self.top_k is not None and self.top_k > tokens:
            raise BadInput(
                f"top_k {self.top_k} of {tokens} tokens; expected 1 to {tokens}, or nothing"
            )


class Drawn(NamedTuple):
    """One token a row."""

    ids: Int[Tensor, " b"]
    margins: Float64[Tensor, " b"]  # how far the draw was from going another way; see `NEAR`


@dataclass(frozen=True)
class NearTie:
    """A draw that rounding might have turned."""

    row: int  # of the batch
    place: int  # of the token, counted from the first that was drawn
    margin: float


def guided(
    conditional: Float[Tensor, "b v"], null: Float[Tensor, "b v"], scale: float
) -> Float[Tensor, "b v"]:
    """Logits moved away from what they are without the condition."""
    # Where both are masked the difference is no number, and the mask must stay.
    moved = null + scale * (conditional - null)
    return torch.where(conditional == float("-inf"), conditional, moved)


def kept(logits: Float[Tensor, "b v"], sampling: Sampling) -> Bool[Tensor, "b v"]:
    """Which tokens top-k and then top-p leave; the temperature is not applied here.

    Raises:
        BadInput: top_k is larger than there are tokens.
    """
    sampling.require_fit(logits.shape[-1])
    keep = torch.ones_like(logits, dtype=torch.bool)
    if sampling.top_k is not None:
        last = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        keep = logits >= last  # ties with the last stay, as published
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = logits.masked_fill(~keep, float("-inf")).sort(
            dim=-1, descending=True, stable=True
        )
        shares = ordered.softmax(dim=-1)
        before = shares.cumsum(dim=-1).roll(1, dims=-1)
        before[:, 0] = 0  # at least one stays
        keep = keep & torch.empty_like(keep).scatter_(-1, order, before <= sampling.top_p)
    return keep


def shares(logits: Float[Tensor, "b v"], sampling: Sampling) -> Float64[Tensor, "b v"]:
    """The probability of every token.

    Raises:
        BadInput: top_k is larger than there are tokens.
    """
    scaled = logits / sampling.temperature
    if sampling.top_k is not None or sampling.top_p is not None:
        scaled = scaled.masked_fill(~kept(scaled, sampling), float("-inf"))
    return scaled.softmax(dim=-1).double()


def draw(
    logits: Float[Tensor, "b v"],
    sampling: Sampling,
    uniforms: Float64[Tensor, " b"] | None,
    *,
    step: int = 0,
) -> Drawn:
    """One token a row, by the inverse of the cumulative distribution at one uniform number.

    Args:
        logits: after guidance.
        sampling: what is made of them.
        uniforms: from [0, 1), one a row; not looked at where the likeliest is taken.
        step: for messages.

    Raises:
        GenerationFailed: logits are not numbers.
        BadInput: top_k is larger than there are tokens, or there is no uniform number.
    """
    highest = logits.amax(dim=-1)
    if not highest.isfinite().all():
        bad = (~highest.isfinite()).nonzero().flatten().tolist()
        raise GenerationFailed(
            f"the logits of step {step} are no numbers in row {', '.join(map(str, bad))} of the "
            "batch: the weights are broken, or a 16-bit dtype is too narrow for them; check the "
            "file, or load the model in float32"
        )
    if sampling.greedy:
        sampling.require_fit(logits.shape[-1])
        if logits.shape[-1] == 1:
            return Drawn(logits.argmax(-1), torch.full_like(highest, torch.inf).double())
        first, second = logits.topk(2, dim=-1).values.double().unbind(-1)
        return Drawn(logits.argmax(-1), first - second)
    if uniforms is None:
        raise BadInput("no uniform numbers to draw with; give seeds, or say greedy")
    chances = shares(logits, sampling)
    ends = chances.cumsum(dim=-1)
    u = uniforms.to(ends.device)[:, None]
    # The last token with any share also has what rounding left of the whole.
    last = (chances > 0).int().cumsum(-1).argmax(-1)
    ids = torch.minimum((ends <= u).sum(dim=-1), last)
    inner = torch.arange(ends.shape[-1], device=ends.device) < last[:, None]
    margins = (ends - u).abs().where(inner, torch.inf).amin(-1)
    return Drawn(ids, margins)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One source of chance a picture, which knows nothing of the others."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniforms_of(seeds: Sequence[int], count: int) -> Float64[Tensor, "b n"]:
    """The first so many uniform numbers of every picture; more of them begin with the same."""
    drawn = [torch.rand(count, generator=each, dtype=torch.float64) for each in generators(seeds)]
    return torch.stack(drawn)
