"""Pictures as attributes by linear maps alone: their principal coordinates, and back.

How they are learnt is told in `lascaux.train.principal_codes`.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput


class PrincipalEncoder(nn.Module):
    """Coordinates in learnt directions, a few for each attribute; and back.

    Args:
        coordinates: how many each attribute has.
        latent_width: numbers of an attribute; those behind its coordinates are zeros.
        image_size: pixels of a picture's side.
        shrunk_size: pixels of the side that it is shrunk to first.
        meanings: attributes, the first ones, whose coordinates are of an embedding.
        meaning_width: numbers of that embedding.

    Attributes:
        directions: of pictures; orthonormal rows, those of the first attribute first.
        centre: the mean picture, shrunk.
        meaning_directions: of embeddings, likewise; where there are meanings.
        meaning_centre: the mean embedding.
        scales: of each attribute's coordinates, which make them numbers about one.
    """

    def __init__(
        self,
        coordinates: tuple[int, ...],
        latent_width: int,
        *,
        image_size: int,
        shrunk_size: int,
        meanings: int = 0,
        meaning_width: int = 0,
    ) -> None:
        super().__init__()
        self.coordinates, self.latent_width = coordinates, latent_width
        self.image_size, self.shrunk_size, self.meanings = image_size, shrunk_size, meanings
        size = 3 * shrunk_size**2
        self.directions = nn.Parameter(torch.zeros(sum(coordinates[meanings:]), size))
        self.centre = nn.Parameter(torch.zeros(size))
        if meanings:
            read = sum(coordinates[:meanings])
            self.meaning_directions = nn.Parameter(torch.zeros(read, meaning_width))
            self.meaning_centre = nn.Parameter(torch.zeros(meaning_width))
        self.scales = nn.Parameter(torch.ones(len(coordinates)))

    def forward(
        self, x: Float[Tensor, "b c y x"], meaning: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b n l"]:
        """The latents of normalised pictures and what they mean: coordinates, then zeros."""
        require_size(x, self.image_size)
        with torch.autocast(x.device.type, enabled=False):
            found = (self.shrunk(x) - self.centre) @ self.directions.T
            if self.meanings:
                assert meaning is not None
                apart = meaning.to(self.meaning_centre) - self.meaning_centre
                found = torch.cat((apart @ self.meaning_directions.T, found), dim=1)
            latents = found.new_zeros(len(x), len(self.coordinates), self.latent_width)
            latents[:, *self._places()] = found
            return latents * self.scales[:, None]

    def shrunk(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d"]:
        """Normalised pictures as rows of the size that directions have."""
        small = F.avg_pool2d(x, self.image_size // self.shrunk_size)
        return small.to(self.directions.dtype).flatten(1)

    def sketch(self, latents: Float[Tensor, "b n l"]) -> Float[Tensor, "b c y x"]:
        """Normalised pictures of latents, whose meanings it leaves aside."""
        side = self.shrunk_size
        with torch.autocast(latents.device.type, enabled=False):
            found = (latents.to(self.scales.dtype) / self.scales[:, None])[:, *self._places()]
            found = found[:, -len(self.directions) :]
            rows = found @ self.directions + self.centre
        small = rearrange(rows, "b (c y x) -> b c y x", y=side, x=side)
        return F.interpolate(small, (self.image_size,) * 2, mode="bicubic")

    def _places(self) -> tuple[Tensor, Tensor]:
        """Attribute and place within it of each coordinate."""
        counts = self.coordinates
        attributes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        return attributes, torch.cat([torch.arange(count) for count in counts])


def require_size(x: Tensor, size: int) -> None:
    """Refuse what is no batch of RGB pictures of a size.

    Raises:
        BadInput: it is none.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != (3, size, size):
        raise BadInput(
            f"pictures of shape {tuple(x.shape)}; this model takes b x 3 x {size} x {size}: "
            "prepare them with lascaux.images and the model's config.preprocessing"
        )
