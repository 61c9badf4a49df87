"""What is done for a codebook in training beside its gradient: averages, revival, counting.

Codes as averages of what chooses them: van den Oord, Vinyals, Kavukcuoglu 2017, arXiv:1711.00937,
appendix A.1, and Razavi, van den Oord, Vinyals 2019, arXiv:1906.00446, Eq. 3. Dead codes begin
anew at one of the batch's own features, as in Dhariwal et al. 2020, arXiv:2005.00341, section 3.1.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

_NEVER = 1 << 40  # steps: not since the beginning
_LONG = 100  # steps without use after which a code counts as dead where none is revived
_TOKENS = 4  # for each code, over which codes are looked for before one is called unused
_FEW_STEPS = 10  # at least
_LEAST = 1e-5  # count below which a code is left where it is; only the decay moves so few


class Tending(nn.Module):
    """Counts how codes are used, moves them if they are averages, and revives the dead.

    `note` takes in every micro-batch; `settle` ends a step. Between steps all state is in buffers,
    equal in all processes.

    Attributes:
        idle: steps since each code was chosen.
        age: steps since each code was revived.
        counts: averaged number of features that choose a code in a step (N in the paper).
        sums: averaged sum of these features (m in the paper).
    """

    idle: Tensor
    age: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        codes: Float[Tensor, "s d"],
        *,
        average: bool,
        decay: float = 0.99,
        dead_after: int = _LONG,
        fresh: bool = True,
    ) -> None:
        """Begin at the codes as they are.

        Args:
            codes: the codebook.
            average: whether codes are averages; else something else moves them.
            decay: of the averages in each step.
            dead_after: steps without use after which a code is revived; 0: never.
            fresh: the codes are drawn and worth nothing yet: those that the first step does not
                use are revived at once.
        """
        super().__init__()
        self.average, self.decay, self.dead_after = average, decay, dead_after
        since = torch.full((len(codes),), _NEVER if fresh else 0)
        self.register_buffer("idle", since)
        self.register_buffer("age", since.clone())
        if average:
            self.register_buffer("counts", torch.ones(len(codes)))
            self.register_buffer("sums", codes.detach().float().clone())
        self._noted: Tensor | None = None
        self._told: dict[str, Tensor] = {}

    @torch.no_grad()
    def note(self, ids: Int[Tensor, "*b"], features: Float[Tensor, "*b d"]) -> None:
        """Count a micro-batch: which codes were chosen, by what."""
        ids = ids.flatten()
        width = 1 + (features.shape[-1] if self.average else 0)
        noted = torch.zeros(len(self.idle), width, device=ids.device)
        noted[:, 0] = torch.bincount(ids, minlength=len(self.idle))
        if self.average:
            noted[:, 1:].index_add_(0, ids, features.detach().float().reshape(len(ids), -1))
        self._noted = noted if self._noted is None else self._noted + noted

    @torch.no_grad()
    def settle(self, codes: Float[Tensor, "s d"], features: Float[Tensor, "*b d"]) -> None:
        """End a step, once for all its micro-batches; nothing if none was noted.

        Args:
            codes: the codebook, changed in place.
            features: some that the step quantised, for codes to be revived at.
        """
        if self._noted is None:
            return
        noted, self._noted = self._noted, None
        if _several():
            dist.all_reduce(noted)
        counts = noted[:, 0]
        self.idle += 1
        self.age += 1
        self.idle[counts > 0] = 0
        if self.average:
            self._move(codes, counts, noted[:, 1:])
        self._tell(counts)
        if self.dead_after:
            self._revive(codes, features.detach().float().reshape(-1, codes.shape[1]))

    def figures(self) -> dict[str, Tensor]:
        """What the last step has to tell, under the names that `train/health.py` watches."""
        return self._told

    def _move(self, codes: Tensor, counts: Tensor, sums: Tensor) -> None:
        """N = decay N + (1 - decay) n, m = decay m + (1 - decay) sum of features, e = m / N."""
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        there = (self.counts > _LEAST)[:, None]
        moved = self.sums / self.counts.clamp(min=_LEAST)[:, None]
        codes.copy_(torch.where(there, moved, codes))

    def _tell(self, counts: Tensor) -> None:
        tokens = counts.sum()
        # Of many codes one batch cannot use all: looked back is until each could have had its turn.
        span = (_TOKENS * len(counts) / tokens).clamp(min=_FEW_STEPS)
        share = counts / tokens
        self._told = {
            "codes_used": (self.idle < span).float().mean(),
            "dead_codes": (self.idle >= (self.dead_after or _LONG)).float().mean(),
            "code_perplexity": torch.exp(-torch.special.xlogy(share, share).sum()),
        }

    def _revive(self, codes: Tensor, features: Tensor) -> None:
        dead = (torch.minimum(self.idle, self.age) >= self.dead_after).nonzero()[:, 0]
        if not len(dead):
            return
        # Torch's own generator, which checkpoints keep; that of the CPU on all devices.
        drawn = torch.randperm(len(features))[: len(dead)].to(features.device)
        dead, found = dead[: len(drawn)], features[drawn]
        if _several():
            dist.broadcast(found, 0)
        codes[dead] = found.to(codes.dtype)
        self.age[dead] = 0
        if self.average:
            self.counts[dead] = 1.0
            self.sums[dead] = found


def from_white(features: Float[Tensor, "*b d"]) -> Float[Tensor, ""]:
    """How far the covariance of features is from that of white noise; 0 if it is the same.

    Codes are spent on what varies most. Features left to themselves come to vary in the mean colour
    of their patch and hardly in anything else, which codes then cannot tell. The mean squared
    difference of the covariance's rows from those of the identity, as in Bardes, Ponce, LeCun 2022,
    arXiv:2105.04906, Eq. 4, but for all elements.
    """
    flat = features.reshape(-1, features.shape[-1])
    flat = flat - flat.mean(0)
    covariance = flat.T @ flat / max(1, len(flat) - 1)
    white = torch.eye(flat.shape[1], device=flat.device, dtype=flat.dtype)
    return (covariance - white).square().sum() / flat.shape[1]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
