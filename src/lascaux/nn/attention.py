"""Attention by torch's kernels, but for gradients that they are slow at."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_LONGEST = 1024  # positions up to which the table of weights is no burden


def attention(
    q: Float[Tensor, "*b n k"],
    k: Float[Tensor, "*b m k"],
    v: Float[Tensor, "*b m k2"],
    *,
    seen: Bool[Tensor, "*b2 #n m"] | None = None,
) -> Float[Tensor, "*b n k2"]:
    """What every position takes from the others: softmax(q k / sqrt(width)) v.

    Vaswani et al. 2017, arXiv:1706.03762, Eq. 1. On a CPU torch's kernel takes four to nine times
    as long as the plain formula, in bfloat16 and with gradients (`benchmarks/training.py`).

    Args:
        q: of the positions that ask.
        k: of those that are asked.
        v: what they give.
        seen: which may be asked by which, at least one by each; None: all by all.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    slow = (
        q.requires_grad
        and dtype == torch.bfloat16
        and q.device.type == "cpu"
        and max(q.shape[-2], k.shape[-2]) <= _LONGEST
    )
    if not slow:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if seen is not None:
        weights = weights.masked_fill(~seen, -torch.inf)
    return weights.softmax(dim=-1).to(v.dtype) @ v
