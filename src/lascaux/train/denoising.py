"""Denoisers of embeddings, learnt from those of pictures alone before anything else is.

A sentence's embedding is to a model of pictures like a picture's with much noise. What the noise
hides is found again best if the denoiser learns by itself: within a model that writes pictures it
would be read before it is learnt, in steps of few pictures.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lascaux.models.clip_gen import Denoiser
from lascaux.train.recipe import Progress

_AT_ONCE = 512  # embeddings of a step
_RATE = 3e-3
_DECAY = 0.01


def noisy(embeddings: Float[Tensor, "b e"], noise: float) -> Float[Tensor, "b e"]:
    """Embeddings of unit length again, turned by chance.

    Args:
        embeddings: of unit length.
        noise: how long what is added is, where they have length 1.
    """
    # The CPU's generator, which checkpoints keep.
    chance = F.normalize(torch.randn(embeddings.shape), dim=-1).to(embeddings)
    return F.normalize(embeddings + noise * chance, dim=-1)


def learn_denoiser(
    denoiser: Denoiser,
    embeddings: Float[Tensor, "n e"],
    *,
    noise: float,
    steps: int,
    seed: int,
    progress: Progress | None = None,
) -> float:
    """Teach it to find pictures' embeddings again.

    Args:
        denoiser: changed in place.
        embeddings: of pictures, of unit length.
        noise: on them, as `noisy` takes it.
        steps: of 512 embeddings each.
        seed: of the embeddings' order and of the noise.
        progress: called with what is done, how much of it, and of how much.

    Returns:
        The mean cosine between what is found and what it was, in the last step.
    """
    optimiser = torch.optim.AdamW(denoiser.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, max(steps, 2))
    alike = torch.zeros(())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            x = embeddings[torch.randint(len(embeddings), (_AT_ONCE,))]
            alike = (denoiser(noisy(x, noise)) * x).sum(dim=-1).mean()
            optimiser.zero_grad()
            (1 - alike).backward()
            optimiser.step()
            schedule.step()
            if progress is not None:
                progress("denoiser", step + 1, steps)
    return alike.item()
