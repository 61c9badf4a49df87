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
    mask: Bool[Tensor, "*c n m"] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "*b n k2"]:
    """What every position takes from the others: softmax(q k / sqrt(width)) v.

    Vaswani et al. 2017, arXiv:1706.03762, Eq. 1. On a CPU torch's kernel takes four to nine times
    as long as the plain formula, in bfloat16 and with gradients (`benchmarks/training.py`).

    Args:
        q: what each position asks.
        k: what each offers.
        v: what it gives.
        mask: what each may see; everything.
        causal: each sees itself and those before it; in the place of a mask.
        dropout: probability with which a weight is left out.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    slow = (
        q.requires_grad
        and dtype == torch.bfloat16
        and q.device.type == "cpu"
        and max(q.shape[-2], k.shape[-2]) <= _LONGEST
    )
    if not slow:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout
        )
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        weights = weights.masked_fill(~mask, float("-inf"))
    return F.dropout(weights.softmax(dim=-1).to(v.dtype), dropout) @ v
