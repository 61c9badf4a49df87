"""Tensors of which each process holds a part (torch's DTensor), and tensors that are whole.

All functions take either; only those that are sharded need the other processes, which must then
call the same function at the same point.
"""

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What this process holds, sharing its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore


def whole(tensor: Tensor) -> Tensor:
    """All of it, detached; of a sharded tensor a copy on the CPU."""
    tensor = tensor.detach()
    return tensor.full_tensor().cpu() if is_sharded(tensor) else tensor  # pyright: ignore


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Write a whole tensor into one that may be sharded."""
    if is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = tensor.device_mesh, tensor.placements  # pyright: ignore
        value = distribute_tensor(value.to(local(tensor).device), mesh, placements)
    local(tensor.detach()).copy_(local(value))


def shard(
    module: nn.Module, blocks: list[nn.Module], device: torch.device, ranks: int
) -> list[nn.Parameter]:
    """Share the weights of a module among the processes, block by block (FSDP, second version).

    Zhao et al. 2023, arXiv:2304.11277. This is what accelerate calls, too; it is called here since
    accelerate does so on GPUs alone, and this way it is tested wherever there are two cores.

    Returns:
        The single numbers, which cannot be shared: each process keeps them, and the caller has to
        average their gradients (`average_gradients`).
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks,))
    numbers = [parameter for parameter in module.parameters() if parameter.ndim == 0]
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=set(numbers))
    fully_shard(module, mesh=mesh, ignored_params=set(numbers))
    return numbers


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace the gradients of weights that every process has by their mean."""
    import torch.distributed as dist

    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def limit_gradients(parameters: list[nn.Parameter], most: float) -> Tensor:
    """Scale gradients down to a largest norm over all; gives the norm that they had."""
    kinds = [[p for p in parameters if is_sharded(p) is sharded] for sharded in (True, False)]
    norms = [
        nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])
        for kind in kinds
        if kind
    ]
    norm = torch.stack([whole(one).to(parameters[0].device) for one in norms]).norm()
    if most != float("inf"):
        for kind in kinds:
            nn.utils.clip_grads_with_norm_(kind, most, norm)
    return norm
