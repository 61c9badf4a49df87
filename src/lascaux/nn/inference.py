"""When a layer may take a faster way that gives the same numbers and nothing besides."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad


def only_numbers(*tensors: Tensor) -> bool:
    """Whether these tensors lie on a CPU, and nothing but numbers of one dtype is asked for.

    Not so where gradients are enabled, derivatives are taken forward, torch.func makes batches,
    autocast chooses dtypes, or the work is compiled or recorded instead of done.
    """
    first = tensors[0]
    return (
        not torch.is_grad_enabled()
        and type(first) is Tensor
        and all(
            each.layout is torch.strided and each.device.type == "cpu" and each.dtype == first.dtype
            for each in tensors
        )
        and forward_ad._current_level < 0
        and torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    )


def channels_last(x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
    """The map with the channels of a position side by side, if only numbers are asked for.

    Convolutions on a CPU are faster in that order, and what follows one keeps it.
    """
    return x.contiguous(memory_format=torch.channels_last) if only_numbers(x) else x


def added(x: Tensor, other: Tensor) -> Tensor:
    """x + other; in the memory of x if only numbers are asked for: x must not be used again.

    New memory costs seven times what adding does: 16 instead of 2 ms at 128 channels of 256 x 256.
    """
    return x.add_(other) if only_numbers(x, other) else x + other
