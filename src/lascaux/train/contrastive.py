"""Contrastive losses between pictures and texts when some pairs outside the diagonal are true."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


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
