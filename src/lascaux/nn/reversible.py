"""Blocks that are undone in the backward pass, so that memory does not grow with their number.

Gomez, Ren, Urtasun, Grosse 2017, "The Reversible Residual Network", arXiv:1707.04585; for
transformers Kitaev, Kaiser, Levskaya 2020, arXiv:2001.04451.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Half:
    """A function of one stream, and the weights in it."""

    function: Callable[[Tensor], Tensor]
    weights: tuple[Tensor, ...]


def reversible(
    x: Float[Tensor, "b n d"], pairs: Sequence[tuple[Half, Half]], *, random: bool = False
) -> Float[Tensor, "b n d"]:
    """The mean of two streams that both begin as x, one pair of functions after the other.

    Eq. 8 of the first paper: y1 = x1 + f(x2), y2 = x2 + g(y1). Where gradients are wanted, only the
    last y1 and y2 are kept, and every function is computed a second time in the backward pass.

    Args:
        x: what both streams begin as.
        pairs: f and g of every block.
        random: the functions draw from torch's own generators (dropout), which are set back for
            their second time.
    """
    if not torch.is_grad_enabled():
        y1 = y2 = x
        for f, g in pairs:
            y1 = y1 + f.function(y2)
            y2 = y2 + g.function(y1)
        return (y1 + y2) / 2
    weights = {
        id(each): each
        for pair in pairs
        for half in pair
        for each in half.weights
        if each.requires_grad
    }
    y1, y2 = _Reversible.apply(list(pairs), random, x, *weights.values())  # pyright: ignore
    return (y1 + y2) / 2


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pairs: list[tuple[Half, Half]], random: bool, x: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.pairs, ctx.states, ctx.count = pairs, [], len(weights)
        kind = x.device.type
        ctx.autocast = kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        y1 = y2 = x
        for f, g in pairs:
            ctx.states.append(_state(x) if random else None)
            y1 = y1 + f.function(y2)
            ctx.states.append(_state(x) if random else None)
            y2 = y2 + g.function(y1)
        ctx.weights = weights
        ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        y1, y2 = (each.detach() for each in ctx.saved_tensors)
        d1, d2 = gradients
        found: dict[int, Tensor] = {}
        states = list(ctx.states)
        for f, g in reversed(ctx.pairs):
            with _again(ctx.autocast, states.pop()):
                moved, gradient = _undo(g, y1, d2, found)
            y2, d1 = y2 - moved, d1 + gradient
            with _again(ctx.autocast, states.pop()):
                moved, gradient = _undo(f, y2, d1, found)
            y1, d2 = y1 - moved, d2 + gradient
        return None, None, d1 + d2, *(found.get(id(each)) for each in ctx.weights)


def _undo(
    half: Half, x: Tensor, gradient: Tensor, found: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """What a function gave, and the gradient of what it got; those of its weights are added up."""
    weights = [each for each in half.weights if each.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = half.function(x)
        first, *others = torch.autograd.grad(y, [x, *weights], gradient, allow_unused=True)
    for weight, each in zip(weights, others, strict=True):
        if each is not None:
            found[id(weight)] = found[id(weight)] + each if id(weight) in found else each
    return y.detach(), torch.zeros_like(x) if first is None else first


def _state(x: Tensor) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if x.is_cuda else None


@contextmanager
def _again(
    autocast: tuple[str, bool, torch.dtype], state: tuple[Tensor, Tensor | None] | None
) -> Iterator[None]:
    kind, enabled, dtype = autocast
    devices = [torch.cuda.current_device()] if state and state[1] is not None else []
    with (
        torch.random.fork_rng(devices, enabled=state is not None),
        torch.autocast(kind, dtype, enabled=enabled),
    ):
        if state is not None:
            torch.set_rng_state(state[0])
            if state[1] is not None:
                torch.cuda.set_rng_state(state[1])
        yield
