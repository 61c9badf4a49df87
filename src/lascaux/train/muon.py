"""Muon: steps of matrices whose directions all count alike.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon: the momentum of a matrix is replaced
by the nearest matrix with orthogonal rows or columns, found by Newton and Schulz's iteration. For
the matrices within a transformer; everything else is AdamW's.
"""

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_MOMENTUM = 0.95
_ROUNDS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, as published


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `orthogonal`: of matrices, stacks of them, or kernels of maps."""

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        # The fused kernel skips a step by itself where float16 overflows; here the scaler must.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of all groups."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group["orthogonal"]]
        try:
            super().step()
        finally:
            self.param_groups = every
        for group in every:
            if group["orthogonal"]:
                self._turn(group)

    def _turn(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            momentum = state["momentum"].lerp_(weight.grad, 1 - _MOMENTUM)
            ahead = weight.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
            ahead = _matrices(ahead)
            rows, columns = ahead.shape[-2:]
            wide = ahead if rows <= columns else ahead.mT
            alike[(wide.shape[-2], wide.shape[-1])].append(
                (weight, wide.reshape(-1, *wide.shape[-2:]))
            )
        for found in alike.values():
            turned = orthogonal(torch.cat([matrices for _, matrices in found]))
            parts = turned.split([len(matrices) for _, matrices in found])
            for (weight, _), part in zip(found, parts, strict=True):
                rows, columns = _matrices(weight).shape[-2:]
                moved = part if rows <= columns else part.mT
                size = max(1.0, rows / columns) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(moved.reshape(weight.shape), alpha=-group["lr"] * size)


def _matrices(x: Tensor) -> Tensor:
    """A matrix or a stack of them as it is; a kernel of a convolution as one, a row an output."""
    return x.flatten(1) if x.ndim == 4 else x


def orthogonal(x: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    """About the nearest matrices with orthonormal rows (m at most n): singular values 0.7 to 1.2.

    In bfloat16, as published.
    """
    a, b, c = _COEFFICIENTS
    y = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(torch.bfloat16)
    for _ in range(_ROUNDS):
        square = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(square, square, square, beta=b, alpha=c), y, beta=a)
    return y.to(x.dtype)
