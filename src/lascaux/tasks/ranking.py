"""Putting pictures in order by how well they fit what was wished for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL.Image import Image

from lascaux.errors import BadInput, Unsupported
from lascaux.images.preprocess import normalise
from lascaux.models.clip import Clip
from lascaux.models.dalle import Dalle
from lascaux.models.dalle_clip import DalleClip
from lascaux.models.discrete_vae import DiscreteVae
from lascaux.tasks.features import Reading, TooLong, evaluating, image_features
from lascaux.tasks.wishes import Wish, embedding_of


class ClipRanker:
    """Scores by any CLIP: the cosine of a picture and a wish, -1 to 1."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    def scores(
        self, pictures: Sequence[Image], wish: Wish, *, reading: Reading, too_long: TooLong
    ) -> list[float]:
        """One score a picture.

        Raises:
            BadInput: as `embedding_of`.
        """
        asked = embedding_of(self.clip, wish, reading=reading, too_long=too_long)
        rows, _ = image_features(self.clip, pictures, "photo")
        return (rows @ asked).tolist()


class DalleClipRanker:
    """Scores by the small CLIP of DALLE-pytorch: its logit of a picture for a sentence."""

    def __init__(self, clip: DalleClip, dalle: Dalle) -> None:
        """Take a CLIP that reads the texts of a DALL-E as that one's tokeniser gives them.

        Raises:
            BadInput: it has not as many text tokens.
        """
        if clip.config.text_tokens < dalle.config.text_tokens:
            raise BadInput(
                f"the CLIP to order by has {clip.config.text_tokens} text tokens, and the DALL-E "
                f"{dalle.config.text_tokens}: they do not belong together"
            )
        self.clip, self.dalle = clip, dalle

    def scores(
        self, pictures: Sequence[Image], wish: Wish, *, reading: Reading, too_long: TooLong
    ) -> list[float]:
        """One score a picture.

        Raises:
            Unsupported: the wish is no sentence.
        """
        if not wish.sentence:
            raise Unsupported("DALLE-pytorch's CLIP reads sentences; order by another CLIP")
        weight = self.clip.image_positions.weight
        size, length = self.clip.config.image_size, self.clip.config.text_length
        ids = self.dalle.tokenizer.tokenize(wish.sentence, length, truncate=True)
        x = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        x = rearrange(x, "b y x c -> b c y x").to(weight.device).float() / 255
        if x.shape[-1] != size or x.shape[-2] != size:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        inner = self.dalle.tokeniser
        if isinstance(inner, DiscreteVae) and (how := inner.config.preprocessing) is not None:
            # As published it sees what the tokeniser gives: this one's pictures are normalised.
            x = normalise(x, how.mean, how.std)
        with evaluating(self.clip):
            rows = ids.to(weight.device).expand(len(x), -1)
            return self.clip.score(rows, x.to(weight.dtype)).float().tolist()


Ranker = ClipRanker | DalleClipRanker


def ranker(
    model: str | Path | Clip | DalleClip,
    writer: Any,
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
) -> Ranker:
    """What orders pictures by that model, given by name or as it is.

    Args:
        model: a CLIP, or the CLIP of DALLE-pytorch.
        writer: the model that writes the pictures.
        device: where to compute; for a model given by name.
        dtype: of its weights; for a model given by name.

    Raises:
        Unsupported: it is no CLIP, or DALLE-pytorch's beside another model than a DALL-E.
        WeightsError: it cannot be found or loaded.
    """
    found: Any = model
    if isinstance(model, str | Path):
        from lascaux.weights.load import load

        found = load(model, device=device, dtype=dtype)
    if isinstance(found, Clip):
        return ClipRanker(found)
    if isinstance(found, DalleClip):
        if not isinstance(writer, Dalle):
            raise Unsupported(
                "DALLE-pytorch's CLIP reads the text tokens of a DALL-E; order by another CLIP"
            )
        return DalleClipRanker(found, writer)
    raise Unsupported(f"{model} is a {type(found).__name__}; what is wanted here is a CLIP")
