"""The small CLIP of DALLE-pytorch, which orders what its DALL-E painted by how well it fits.

Wang and contributors: https://github.com/lucidrains/DALLE-pytorch, 2021, `CLIP`; after Radford et
al. 2021, arXiv:2103.00020, from which it differs in all but the idea: both towers are means over
the positions of its own transformer's blocks.

No checkpoint is published with it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.attention import attention
from lascaux.nn.branch import Block, GegluMlp, HeadProjections
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.linear import Linear

_HEAD_WIDTH = 64  # as published, whatever the width


@dataclass(frozen=True, kw_only=True)
class DalleClipConfig:
    """Everything that fixes the parameters; the defaults are those of the published constructor."""

    text_width: int = 512  # dim_text
    image_width: int = 512  # dim_image
    embed_width: int = 512  # dim_latent
    text_tokens: int = 10000  # num_text_tokens; id 0 fills
    text_length: int = 256  # text_seq_len
    text_layers: int = 6  # text_enc_depth
    text_heads: int = 8
    image_layers: int = 6  # visual_enc_depth
    image_heads: int = 8  # visual_heads
    image_size: int = 256  # visual_image_size, pixels
    patch_size: int = 32  # visual_patch_size, pixels
    channels: int = 3

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if value < 1:
                raise BadInput(f"{name} {value}; at least 1 is expected")
        if self.image_size % self.patch_size:
            raise BadInput(f"{self.image_size} pixels do not divide into {self.patch_size}")

    @property
    def patches(self) -> int:
        """How many a picture has."""
        return (self.image_size // self.patch_size) ** 2

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "DalleClipConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "DALLE-pytorch CLIP")


class Tower(nn.Module):
    """Blocks in which every position sees every other."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, layer + 1) for layer in range(layers))
        self.attentions = nn.ModuleList(
            HeadProjections(width, heads, _HEAD_WIDTH) for _ in range(layers)
        )
        self.mlps = nn.ModuleList(GegluMlp(width) for _ in range(layers))

    def forward(
        self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """What the positions become; those that the mask leaves out are seen by none."""
        if mask is not None:
            mask = mask[:, None, None].expand(-1, -1, x.shape[1], -1)
        layers = zip(self.blocks, self.attentions, self.mlps, strict=True)
        for block, heads, mlp in cast(Iterable[tuple[Block, HeadProjections, GegluMlp]], layers):
            q, k, v = heads.project(block.attention.before(x))
            x = x + block.attention.after(heads.merge(attention(q, k, v, mask=mask)))
            x = x + block.mlp.after(mlp(block.mlp.before(x)))
        return x


class DalleClip(nn.Module):
    """How well texts and pictures go together, by one vector of each."""

    def __init__(self, config: DalleClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_embedding = nn.Embedding(config.text_tokens, config.text_width)
        self.text_positions = nn.Embedding(config.text_length, config.text_width)
        self.text = Tower(config.text_width, config.text_layers, config.text_heads)
        self.text_project = Linear(config.text_width, config.embed_width, bias=False)
        self.patches = Linear(config.channels * config.patch_size**2, config.image_width)
        self.image_positions = nn.Embedding(config.patches, config.image_width)
        self.image = Tower(config.image_width, config.image_layers, config.image_heads)
        self.image_project = Linear(config.image_width, config.embed_width, bias=False)
        self.logit_scale = nn.Parameter(torch.ones(()))  # kept as a log; published as temperature

    def encode_text(
        self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b d"]:
        """Unit vectors of texts.

        Args:
            ids: of the text tokeniser, filled with 0.
            mask: which ids are text; None: all, what fills as well, as published for reranking.

        Raises:
            BadInput: too many ids.
        """
        if ids.shape[1] > self.config.text_length:
            raise BadInput(f"{ids.shape[1]} text ids; this model reads {self.config.text_length}")
        x = self.text_embedding(ids) + self.text_positions.weight[: ids.shape[1]]
        x = self.text(x, mask)
        if mask is None:
            mean = x.mean(dim=1)
        else:
            mean = (x * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return F.normalize(self.text_project(mean), dim=-1)

    def encode_image(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d"]:
        """Unit vectors of pictures, as the picture tokeniser gives them.

        Raises:
            BadInput: another size or other channels.
        """
        config = self.config
        if tuple(x.shape[1:]) != (config.channels, config.image_size, config.image_size):
            raise BadInput(
                f"pictures of shape {tuple(x.shape[1:])}; this model reads {config.channels} x "
                f"{config.image_size} x {config.image_size}"
            )
        size = config.patch_size
        patches = rearrange(x, "b c (y p) (x q) -> b (y x) (p q c)", p=size, q=size)
        x = self.image(self.patches(patches) + self.image_positions.weight)
        return F.normalize(self.image_project(x.mean(dim=1)), dim=-1)

    def forward(
        self,
        ids: Int[Tensor, "b n"],
        x: Float[Tensor, "b c y x"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b b"]:
        """The logit of every picture (columns) for every text (rows)."""
        return self.logit_scale.exp() * self.encode_text(ids, mask) @ self.encode_image(x).t()

    def score(
        self,
        ids: Int[Tensor, "b n"],
        x: Float[Tensor, "b c y x"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The logit of each picture for the text of the same row."""
        pairs = self.encode_text(ids, mask) * self.encode_image(x)
        return self.logit_scale.exp() * pairs.sum(dim=-1)

    def loss(
        self,
        ids: Int[Tensor, "b n"],
        x: Float[Tensor, "b c y x"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, ""]:
        """Cross entropy of finding the text of each picture and the picture of each text."""
        logits = self(ids, x, mask)
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2


def side_of(patches: int) -> int:
    """Patches along each side of a picture that has so many.

    Raises:
        BadInput: no square has.
    """
    if math.isqrt(patches) ** 2 != patches:
        raise BadInput(f"{patches} patches make no square")
    return math.isqrt(patches)
