"""Contrastive losses between pictures and texts, also over several processes.

Where several processes train, each scores its own pictures and texts against those of all. The
embeddings of others carry gradients back to where they came from, so that the mean of the
processes' gradients is the gradient of one process with the whole batch.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def info_nce(
    pictures: Float[Tensor, "b e"],
    texts: Float[Tensor, "b e"],
    scale: Float[Tensor, ""],
    ids: Int[Tensor, "b n"] | None = None,
    *,
    together: bool = True,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE over the whole batch (Radford et al. 2021, Figure 3).

    Args:
        pictures: of this process, of unit length.
        texts: that belong to them, in the same order, of unit length.
        scale: what cosines are multiplied by.
        ids: of the texts; a text of the same ids is no wrong one, and is left out.
        together: False: one process asks by itself, as in a validation.
    """
    gather = gathered if together else _itself
    all_pictures, all_texts = gather(pictures), gather(texts)
    first = len(pictures) * _rank() if together else 0
    own = torch.arange(len(pictures), device=pictures.device) + first
    of_texts = scale * pictures @ all_texts.T
    of_pictures = scale * texts @ all_pictures.T
    if ids is not None:
        alike = (ids[:, None] == gather(ids)[None]).all(2)
        alike[torch.arange(len(own)), own] = False
        of_texts = of_texts.masked_fill(alike, float("-inf"))
        of_pictures = of_pictures.masked_fill(alike, float("-inf"))
    return (F.cross_entropy(of_texts, own) + F.cross_entropy(of_pictures, own)) / 2


def sigmoid_pairs(
    pictures: Float[Tensor, "b e"],
    texts: Float[Tensor, "b e"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    ids: Int[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Each pair by itself, right or wrong (SigLIP: Zhai et al. 2023, arXiv:2303.15343, Eq. 1).

    Arguments as of `info_nce`; `bias` is added to scaled cosines.
    """
    logits = scale * pictures @ gathered(texts).T + bias
    own = torch.arange(len(pictures), device=pictures.device)
    right = torch.full_like(logits, -1.0)
    right[own, own + len(pictures) * _rank()] = 1.0
    losses = -F.logsigmoid(right * logits)
    if ids is not None:
        alike = (ids[:, None] == gathered(ids)[None]).all(2) & (right < 0)
        losses = losses.masked_fill(alike, 0.0)
    return losses.sum() / len(pictures)


def matched_pairs(
    logits: Float[Tensor, "b b"],
    own_wrong: Float[Tensor, " b"],
    also_true: Bool[Tensor, "b b"],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE (Radford et al. 2021, Figure 3) that spares what is true by accident.

    Args:
        logits: of picture i and text j; i and i belong together.
        own_wrong: logit of picture i and a text made to be wrong about it; -inf for none.
        also_true: text j is true of picture i as well (i and j differ): left out of the sums.
    """
    masked = logits.masked_fill(also_true, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    of_texts = F.cross_entropy(torch.cat((masked, own_wrong[:, None]), dim=1), own)
    return (of_texts + F.cross_entropy(masked.T, own)) / 2


def one_of_bank(logits: Float[Tensor, "b s"], true: Bool[Tensor, "b s"]) -> Float[Tensor, ""]:
    """Cross entropy against a bank of texts, the true ones of a picture sharing its weight.

    Pictures without a true text in the bank do not count.
    """
    some = true.any(dim=1)
    if not some.any():
        return logits.sum() * 0
    target = true[some].float()
    target = target / target.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits[some], target)


@torch.no_grad()
def likeness(embeddings: Float[Tensor, "b e"]) -> Float[Tensor, ""]:
    """The mean cosine of different embeddings of unit length; near 1 they have collapsed."""
    count = len(embeddings)
    if count < 2:
        return embeddings.new_zeros(())
    total = embeddings.detach().float().sum(0).square().sum()
    return (total - count) / (count * (count - 1))


def gathered(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of ranks; gradients go back to each.

    All processes must give as many rows.
    """
    if _ranks() == 1:
        return x
    return _Gather.apply(x)  # pyright: ignore[reportReturnType]


def _itself(x: Tensor) -> Tensor:
    return x


class _Gather(torch.autograd.Function):
    """Rows of all; backward, every process gets what all of them have found for its rows."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(_ranks())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed.chunk(_ranks())[_rank()]


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if _ranks() > 1 else 0
