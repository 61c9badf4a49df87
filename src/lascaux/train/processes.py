"""The processes that train together: one, plainly, or several by accelerate under torchrun.

`torchrun --nproc-per-node N -m lascaux.cli.main train ...`, or `lascaux train ... --processes N`,
starts N of them; each trains on its share of every batch, and gradients are averaged.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lascaux.errors import BadInput, MissingExtra, Unsupported
from lascaux.train.options import Compression
from lascaux.train.sharding import average_gradients, shard

# One process validates, exports or writes while the others wait for it.
_PATIENCE = timedelta(hours=6)


class Processes:
    """This process among those that train.

    Attributes:
        rank: of this process, from 0.
        ranks: how many there are.
        device: of this process.
    """

    def __init__(self, device: str = "auto") -> None:
        """Meet the others, if there are any.

        Raises:
            BadInput, Unsupported: there is no such device.
            MissingExtra: there are several processes, and accelerate is not installed.
        """
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._numbers: list[nn.Parameter] = []
        if self.ranks == 1:
            self.device = chosen_device(device)
            return
        self._kinds = _accelerate()
        self._ours = not dist.is_initialized()
        # Told outright: left to itself, accelerate starts no processes where there is no GPU.
        on_cpu = chosen_device(device).type == "cpu"
        handler = self._kinds.utils.InitProcessGroupKwargs(timeout=_PATIENCE)
        state = self._kinds.PartialState(cpu=on_cpu, **handler.to_kwargs())
        self.device = torch.device(state.device)
        if state.num_processes != self.ranks:
            raise Unsupported(
                f"{self.ranks} processes were started, and {state.num_processes} found each other "
                f"on {self.device}; take --device cpu, or one process for each GPU"
            )

    @property
    def main(self) -> bool:
        """Whether this is the one that validates, writes and reports."""
        return self.rank == 0

    def together(
        self, module: nn.Module, compress: Compression, blocks: list[nn.Module] | None
    ) -> nn.Module:
        """The module such that its gradients are averaged over the processes.

        Args:
            module: on this process's device.
            compress: the number format in which gradients are exchanged.
            blocks: to share weights among processes, block by block; None: each has a copy.

        Raises:
            Unsupported: sharding or compression that this device or number of processes cannot do.
        """
        if compress != "none" and (self.ranks == 1 or blocks is not None):
            what = "one process exchanges nothing" if self.ranks == 1 else "shards are not copies"
            raise Unsupported(f"--compress {compress}: {what}; leave it out")
        if compress == "bfloat16" and self.device.type == "cpu":
            raise Unsupported("--compress bfloat16 needs GPUs with NCCL: take float16 on CPUs")
        if self.ranks == 1:
            if blocks is not None:
                raise Unsupported("--shard needs several processes: add --processes N")
            return module
        if blocks is not None:
            self._numbers = shard(module, blocks, self.device, self.ranks)
            return module
        return self._copied(module, compress)

    def _copied(self, module: nn.Module, compress: Compression) -> nn.Module:
        utils = self._kinds.utils
        hooks = utils.DDPCommunicationHookType
        hook = {"none": hooks.NO, "float16": hooks.FP16, "bfloat16": hooks.BF16}[compress]
        # Without this search torch regroups its buffers of gradients after the first step. A run
        # that goes on would regroup one step later than one that was never stopped, and of three
        # processes or more the sums would differ in their last bits.
        settings = utils.DistributedDataParallelKwargs(
            find_unused_parameters=True, gradient_as_bucket_view=True, comm_hook=hook
        )
        on_cpu = self.device.type == "cpu"
        copied = self._kinds.Accelerator(cpu=on_cpu, kwargs_handlers=[settings]).prepare_model(
            module
        )
        assert isinstance(copied, nn.parallel.DistributedDataParallel)
        return copied

    def unsynchronised(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Gradients stay with this process, as in all micro-batches of a step but the last."""
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return module.no_sync()
        return nullcontext()

    def settle(self) -> None:
        """Average what backward has not: gradients of single numbers beside shards."""
        average_gradients(self._numbers)

    def mean(self, figures: Mapping[str, Tensor | float]) -> dict[str, float]:
        """The mean of each figure over the processes, all of which give the same names."""
        if not figures:
            return {}
        numbers = torch.stack([_number(value, self.device) for value in figures.values()])
        if self.ranks > 1:
            dist.all_reduce(numbers)
            numbers /= self.ranks
        return dict(zip(figures, numbers.tolist(), strict=True))

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """For each wish, whether some process has it: all get the same answer."""
        if self.ranks == 1:
            return wishes
        flags = torch.tensor(wishes, dtype=torch.int32, device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in flags.tolist())

    def listed(self, one: Any) -> list[Any]:
        """What each process gives, in the order of ranks."""
        if self.ranks == 1:
            return [one]
        found: list[Any] = [None] * self.ranks
        dist.all_gather_object(found, one)
        return found

    def wait(self) -> None:
        """Until all are here."""
        if self.ranks > 1:
            dist.barrier()

    def part(self) -> None:
        """Leave the others, if this object has met them."""
        if self.ranks > 1 and self._ours and dist.is_initialized():
            self._kinds.PartialState().destroy_process_group()
            self._kinds.state.AcceleratorState._reset_state(True)


def chosen_device(name: str) -> torch.device:
    """The device of a name; `auto` is the first GPU, Apple's, or the CPU.

    Raises:
        BadInput: there is no such name.
        Unsupported: this torch has no such device.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"{name!r} is no device; examples are auto, cpu, cuda, mps") from error
    if (device.type == "cuda" and not cuda) or (device.type == "mps" and not mps):
        raise Unsupported(f"device {device}: this torch sees none; take --device cpu")
    return device


def _number(value: Tensor | float, device: torch.device) -> Tensor:
    # float32, since Apple's GPUs have no wider numbers.
    return torch.as_tensor(value, dtype=torch.float32, device=device).detach()


def _accelerate() -> Any:
    try:
        import accelerate
    except ImportError as error:
        raise MissingExtra(
            "several processes need accelerate: pip install 'lascaux[train]'"
        ) from error
    return accelerate
