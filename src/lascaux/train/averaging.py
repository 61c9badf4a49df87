"""An exponential average of the weights, which is what is validated and exported.

After Polyak and Juditsky 1992 and, with a decay that grows over the first steps, Tarvainen and
Valpola 2017, arXiv:1703.01780.
"""

import torch
from torch import Tensor, nn

from lascaux.train.sharding import fill, local, whole


class Average:
    """Averaged parameters and buffers of a model, of which a process may hold a part only."""

    def __init__(self, model: nn.Module, decay: float, into: nn.Module | None = None) -> None:
        """Begin at the model's own weights.

        Args:
            model: whose weights are averaged.
            decay: from 0 to 1, of the average in each step.
            into: a copy of the model, whose weights shall be the average; None keeps it apart.
        """
        self.decay = decay
        theirs: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
        if into is None:
            self._ours = {name: tensor.detach().clone() for name, tensor in theirs.items()}
        else:
            copied = dict(into.state_dict(keep_vars=True))
            self._ours = {name: tensor.detach() for name, tensor in copied.items()}
        floating = [name for name, tensor in theirs.items() if tensor.is_floating_point()]
        self._pairs = (
            [local(self._ours[name]) for name in floating],
            [local(theirs[name].detach()) for name in floating],
        )
        counts = [name for name in theirs if name not in floating]
        self._counts = [(self._ours[name], theirs[name]) for name in counts]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights that a step, counted from 0, has left."""
        decay = min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(*self._pairs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for ours, theirs in self._counts:
            ours.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """The average by the names of the model's state, whole."""
        return {name: whole(tensor) for name, tensor in self._ours.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over an average that `state_dict` gave."""
        for name, tensor in self._ours.items():
            fill(tensor, state[name])
