"""Frozen models as those see them who only want their answers to pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor, nn

from lascaux.data.prepared import FeatureKind
from lascaux.errors import Unsupported
from lascaux.images.preprocess import Preprocessing
from lascaux.models.clip import Clip
from lascaux.tasks.features import Reading, encode_pixels
from lascaux.tasks.tokenisers import image_tokeniser
from lascaux.weights.fingerprint import weights_hash


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A frozen model that answers pictures with embeddings or with tokens.

    Attributes:
        name: what the model is called; may be empty.
        weights: the fingerprint of its weights.
        kind: "embedding" or "tokens".
        preprocessing: how pictures become the squares that it takes.
        answers: of squares (uint8) to rows (`b n`, on the CPU): float32, or whole numbers.
        codes: how many different tokens there are; None for embeddings.
        grid: rows and columns of the tokens, where they lie on a grid.
        dtype: that the model works in.
        device: likewise.
    """

    name: str
    weights: str
    kind: FeatureKind
    preprocessing: Preprocessing
    answers: Callable[[UInt8[Tensor, "b 3 y x"]], Shaped[Tensor, "b n"]]
    codes: int | None = None
    grid: tuple[int, int] | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


def clip_embeddings(model: Clip, name: str = "", reading: Reading = "photo") -> Answerer:
    """A CLIP that answers with embeddings of unit length."""
    how = replace(model.config.preprocessing, reading=reading)

    def answers(pixels: Tensor) -> Tensor:
        return encode_pixels(model, pixels.to(model.device).float() / 255, how)

    return Answerer(
        name=name,
        weights=weights_hash(model),
        kind="embedding",
        preprocessing=how,
        answers=answers,
        dtype=model.dtype,
        device=model.device.type,
    )


def token_ids(tokeniser: nn.Module, name: str = "", reading: Reading = "photo") -> Answerer:
    """An image tokeniser that answers with the ids of its codes.

    Raises:
        Unsupported: it is no image tokeniser (`lascaux.tasks.tokenisers`).
    """
    found = image_tokeniser(tokeniser)
    how = replace(found.preprocessing, reading=reading)
    weight = next(tokeniser.parameters(), torch.zeros(0))

    def answers(pixels: Tensor) -> Tensor:
        return found.encode(pixels.float() / 255)

    return Answerer(
        name=name,
        weights=found.weights,
        kind="tokens",
        preprocessing=how,
        answers=answers,
        codes=found.codes,
        grid=found.grid(how.size, how.size),
        dtype=weight.dtype,
        device=weight.device.type,
    )


def answerer_of(
    model: str | Path | nn.Module,
    *,
    reading: Reading = "photo",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
) -> Answerer:
    """What a model answers: a CLIP embeddings, an image tokeniser tokens.

    Args:
        model: a name, folder or hub id, or a model.
        reading: how picture files are read.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.

    Raises:
        Unsupported: a model that answers with neither.
        WeightsError: it cannot be found or loaded.
    """
    if isinstance(model, nn.Module):
        name, found = "", model
    else:
        from lascaux.weights.load import load

        name, found = str(model), load(model, device=device, dtype=dtype)
    if isinstance(found, Clip):
        return clip_embeddings(found, name, reading)
    try:
        return token_ids(found, name, reading)
    except Unsupported as error:
        raise Unsupported(
            f"{name or 'this model'} is a {type(found).__name__}; what is wanted here is a CLIP or "
            "an image tokeniser"
        ) from error
