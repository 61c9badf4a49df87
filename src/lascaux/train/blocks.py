"""What can be done to the blocks of a model before it is trained, without changing its numbers."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lascaux.errors import BadInput, Unsupported

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def recompute(blocks: Sequence[nn.Module]) -> None:
    """Keep each block's input alone, and compute the block again for its gradients.

    Chen et al. 2016, arXiv:1604.06174. The numbers stay the same to the bit, chance and running
    statistics included.
    """
    for block in blocks:
        block.forward = partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            context_fn=partial(_contexts, block),
        )


def compiled(blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Have each block compiled when it is first used.

    Raises:
        Unsupported: on a CPU without a C++ compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        raise Unsupported("--compile on a CPU needs a C++ compiler, such as g++; install one")
    for block in blocks:
        # Blocks of one class differ in their sizes; not all kernels are compiled for symbolic ones.
        block.compile(dynamic=False)


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Train no weights whose names begin with these; gives the modules that are wholly frozen.

    Raises:
        BadInput: no weight has such a name.
    """
    for name in names:
        found = [p for key, p in model.named_parameters() if _within(key, name)]
        if not found:
            parts = sorted({key.partition(".")[0] for key, _ in model.named_parameters()})
            raise BadInput(f"--freeze {name}: no weight of that name; parts: {', '.join(parts)}")
        for parameter in found:
            parameter.requires_grad_(False)
    if not names:
        return []
    return [
        part
        for part in model.modules()
        if (own := list(part.parameters())) and not any(p.requires_grad for p in own)
    ]


def training_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Dropout and statistics as in training, but not in what is frozen."""
    model.train()
    for part in frozen:
        part.eval()


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _quiet(block)


@contextmanager
def _quiet(block: nn.Module) -> Iterator[None]:
    """Running statistics do not hear of the second computation."""
    norms = [part for part in block.modules() if isinstance(part, _NORMS)]
    kept = [(b, b.clone()) for norm in norms for b in norm.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
