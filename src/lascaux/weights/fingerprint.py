"""One hash for one checkpoint, whatever its file, layout or the dtype it is loaded in."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lascaux.weights.kinds import decisive


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the weights (as bfloat16) and what else of the config changes an answer.

    Equal for one checkpoint in whichever dtype it is loaded, and from whichever publisher's layout.
    """
    current = _hash(model, model.state_dict())
    rounded, stored = getattr(model, "rounded_and_stored", ("", ""))
    # Weights that were changed since they were loaded are others than the stored ones.
    return stored if current == rounded else current


def remember_stored(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Note in a model what the hash was of the tensors that its own were rounded from."""
    hashes = _hash(model, model.state_dict()), _hash(model, stored)
    object.__setattr__(model, "rounded_and_stored", hashes)


def _hash(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    digest.update(decisive(model).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        # By way of float32, as a float64 tensor that was loaded in it.
        short = tensor.detach().to("cpu", torch.float32).to(torch.bfloat16).contiguous()
        digest.update(short.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
