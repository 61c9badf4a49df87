"""Vector quantisation: the nearest code of a codebook in bounded memory, and how it is trained.

van den Oord, Vinyals, Kavukcuoglu: "Neural Discrete Representation Learning", 2017,
arXiv:1711.00937 (nearest code, straight-through gradients); Jang, Gu, Poole: "Categorical
Reparameterization with Gumbel-Softmax", 2017, arXiv:1611.01144; Mentzer, Minnen, Agustsson,
Tschannen: "Finite Scalar Quantization: VQ-VAE Made Simple", 2023, arXiv:2309.15505 (codes without
a codebook: a few numbers, each rounded to one of a few levels).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# A table of 16 MiB of float32 at a time, whatever the sizes of pictures and codebook.
_POSITIONS = 1024
_CODES = 4096
_WITHIN = 1 - 1e-3  # part of the range of levels that a bounded number may reach, as published

Term = Literal["codebook", "commitment"]


@torch.no_grad()
def nearest(
    x: Float[Tensor, "*b d"],
    codebook: Float[Tensor, "s d"],
    *,
    positions: int = _POSITIONS,
    codes: int = _CODES,
) -> Int[Tensor, "*b"]:
    """The code nearest to each vector by squared Euclidean distance; the first of equals.

    Args:
        x: vectors, of any dtype; distances are computed in float32 or wider.
        codebook: one row a code.
        positions: vectors that are compared at a time.
        codes: codes that are compared at a time.
    """
    codebook = _wide(codebook)
    lengths = codebook.square().sum(dim=1)

    def scores(part: Tensor, first: int, last: int) -> Tensor:
        # As published, |x|^2 + |e|^2 - 2 x e: rounding decides between codes that are near twins.
        far = part.square().sum(dim=1, keepdim=True) + lengths[first:last]
        return -torch.addmm(far, part, codebook[first:last].t(), alpha=-2)

    return _best(x, len(codebook), scores, positions, codes)


@torch.no_grad()
def likeliest(
    x: Float[Tensor, "*b d"],
    weight: Float[Tensor, "s d"],
    bias: Float[Tensor, " s"],
    *,
    positions: int = _POSITIONS,
    codes: int = _CODES,
) -> Int[Tensor, "*b"]:
    """The code with the largest logit, x @ weight.T + bias, for each vector; the first of equals.

    Arguments as for `nearest`.
    """
    weight, bias = _wide(weight), _wide(bias)

    def scores(part: Tensor, first: int, last: int) -> Tensor:
        return torch.addmm(bias[first:last], part, weight[first:last].t())

    return _best(x, len(weight), scores, positions, codes)


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def _best(
    x: Tensor,
    count: int,
    scores: Callable[[Tensor, int, int], Tensor],
    positions: int,
    codes: int,
) -> Tensor:
    found = []
    for part in _wide(x).reshape(-1, x.shape[-1]).split(positions):
        best, ids = None, None
        for first in range(0, count, codes):
            some = scores(part, first, min(first + codes, count))
            here = some.argmax(dim=1)
            score = some.gather(1, here[:, None])[:, 0]
            here += first
            if best is None or ids is None:
                best, ids = score, here
            else:
                better = score > best  # of equals the earlier stays
                best, ids = torch.where(better, score, best), torch.where(better, here, ids)
        assert ids is not None, "a codebook has at least one code"
        found.append(ids)
    ids = torch.cat(found) if found else x.new_zeros(0, dtype=torch.int64)
    return ids.reshape(x.shape[:-1])


def straight_through(hard: Float[Tensor, "*b"], soft: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Exactly the values of `hard`, with all gradients going to `soft`."""
    return hard.detach() + (soft - soft.detach())


def rotated_through(
    hard: Float[Tensor, "*b d"], soft: Float[Tensor, "*b d"]
) -> Float[Tensor, "*b d"]:
    """The value of `hard`; gradients reach `soft` turned and scaled as it was turned and scaled.

    Fifty et al.: "Restructuring Vector Quantization with the Rotation Trick", 2024,
    arXiv:2410.06424, section 4: of vectors in the same region, gradients differ by where they lie.
    """
    with torch.no_grad():
        lengths = [each.norm(dim=-1, keepdim=True).clamp(min=1e-8) for each in (soft, hard)]
        q, e = soft / lengths[0], hard / lengths[1]
        middle = F.normalize(q + e, dim=-1)
        scale = lengths[1] / lengths[0]
    along = (soft * middle).sum(dim=-1, keepdim=True) * middle
    ahead = (soft * q).sum(dim=-1, keepdim=True) * e
    return scale * (soft - 2 * along + 2 * ahead)


def quantisation_loss(
    x: Float[Tensor, "*b d"],
    codes: Float[Tensor, "*b d"],
    *,
    beta: float,
    weighs: Term,
) -> Float[Tensor, ""]:
    """How far vectors and their codes are apart, as two terms with gradients to one of them each.

    The codebook term moves the codes, the commitment term the vectors; both are mean squares.

    Args:
        x: what the encoder gives.
        codes: rows of the codebook, not straight-through.
        beta: weight of one of the terms; the other has weight 1.
        weighs: which one. The paper (Eq. 3) weighs the commitment; taming-transformers, by a
            mistake it keeps for its checkpoints, the codebook.
    """
    codebook, commitment = F.mse_loss(codes, x.detach()), F.mse_loss(x, codes.detach())
    if weighs == "codebook":
        return commitment + beta * codebook
    return codebook + beta * commitment


def perplexity(ids: Int[Tensor, "*b"], count: int) -> Float[Tensor, ""]:
    """How many of `count` codes are in use, weighed by how often: 1 to `count`."""
    share = torch.bincount(ids.flatten(), minlength=count).float() / max(1, ids.numel())
    return torch.exp(-(share * torch.log(share + 1e-10)).sum())


def gumbel_noise(
    like: Float[Tensor, "*b"], generator: torch.Generator | None = None
) -> Float[Tensor, "*b"]:
    """Noise under which the largest of logits is a draw from their softmax."""
    drawn = torch.empty_like(like, memory_format=torch.contiguous_format)
    return -drawn.exponential_(generator=generator).log()


def gumbel_choice(
    logits: Float[Tensor, "*b s"],
    noise: Float[Tensor, "*b s"],
    *,
    temperature: float,
    hard: bool,
) -> Float[Tensor, "*b s"]:
    """Soft choices among codes, or one-hot ones with the gradients of the soft ones."""
    soft = F.softmax((logits + noise) / temperature, dim=-1)
    if not hard:
        return soft
    return straight_through(F.one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft.dtype), soft)


def divergence_from_uniform(logits: Float[Tensor, "*b s"], count: int) -> Float[Tensor, ""]:
    """Mean KL divergence of the softmax from equal chances for each of `count` codes."""
    chances = F.softmax(logits, dim=-1)
    return (chances * torch.log(chances * count + 1e-10)).sum(dim=-1).mean()


def bounded(x: Float[Tensor, "*b k"], levels: Sequence[int]) -> Float[Tensor, "*b k"]:
    """Each number brought smoothly into the range of its levels, so that rounding gives one.

    As the paper's appendix A.1 has it, in float32 or wider. Levels are a whole number of steps from
    0 and given as parts of L // 2 steps: L of them from -1 to 1, or to just below 1 for an even L.

    Args:
        x: any numbers, k a vector.
        levels: how many each of the k has, at least 2.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    counts = torch.tensor(levels, device=x.device, dtype=wide.dtype)
    half = (counts - 1) * _WITHIN / 2
    # An even number of levels lies half a step aside; without the shift 0 would stay no level.
    aside = torch.where(counts % 2 == 1, 0.0, 0.5)
    return (torch.tanh(wide + torch.tan(aside / half)) * half - aside) / (counts // 2)


def at_levels(x: Float[Tensor, "*b k"], levels: Sequence[int]) -> Float[Tensor, "*b k"]:
    """The nearest levels of bounded numbers; gradients go straight through."""
    steps = _half(levels, x)
    return straight_through((x * steps).round() / steps, x)


def ids_of_levels(x: Float[Tensor, "*b k"], levels: Sequence[int]) -> Int[Tensor, "*b"]:
    """The code that nearest levels stand for: their places, the first the smallest digit."""
    steps = _half(levels, x)
    places = ((x * steps).round() + steps).long()
    return (places * _digits(levels, x.device)).sum(dim=-1)


def levels_of_ids(ids: Int[Tensor, "*b"], levels: Sequence[int]) -> Float[Tensor, "*b k"]:
    """The levels that codes stand for, as `at_levels` gives them."""
    counts = torch.tensor(levels, device=ids.device)
    places = ids[..., None] // _digits(levels, ids.device) % counts
    return (places - counts // 2) / (counts // 2)


def _half(levels: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor([count // 2 for count in levels], device=like.device, dtype=like.dtype)


def _digits(levels: Sequence[int], device: torch.device) -> Tensor:
    sizes = [math.prod(levels[:number]) for number in range(len(levels))]
    return torch.tensor(sizes, device=device)
