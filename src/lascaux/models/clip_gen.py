"""CLIP-GEN's transformer: codes of a picture, written after an embedding of it or of a sentence.

Wang, Liu, He, Wu, Yi: "CLIP-GEN: Language-Free Training of a Text-to-Image Generator with CLIP",
2022, arXiv:2203.00386. It learns from pictures without captions, each from its own embedding by
CLIP; afterwards it is given the embedding of a sentence, since both lie in one space. For pictures
from sentences, from pictures and from anything between them.

Published checkpoint: `gpt_coco` (COCO, of medium size), whose codes are those of clip-gen's VQGAN
and whose embeddings those of OpenAI's ViT-B/32.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.cache import Cache, Places
from lascaux.nn.causal import CausalSelfAttention, last_of
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.grid import Grid, require_ids
from lascaux.nn.linear import Linear
from lascaux.nn.quantise import straight_through
from lascaux.nn.transformer import LayerNorm


@dataclass(frozen=True, kw_only=True)
class ClipGenConfig:
    """What fixes the transformer's parameters, and whose embeddings and codes it deals with."""

    codes: int  # of the tokeniser
    length: int = 256  # positions: the embedding, and all but the last code of a picture
    layers: int = 24
    heads: int = 16
    width: int = 1024
    embedding_width: int = 512  # of the CLIP
    # Whether it has also learnt pictures without a condition, zeros in the embedding's place: what
    # guidance needs (Ho and Salimans 2022, arXiv:2207.12598). The published one has not.
    null_condition: bool = False
    guidance: float = 1.0  # where nothing else is asked for; 1: none
    temperature: float = 1.0  # likewise
    # Of the layers that bring embeddings to where those of pictures lie; 0: none, as published.
    denoiser: int = 0
    # Of the codes' vectors where they are read, which a matrix brings to the model's width (Lan et
    # al. 2020, arXiv:1909.11942, section 3.1); 0: as wide as the model, as published.
    code_width: int = 0
    dropout: float = 0.1  # probability, in training, wherever the published one has it
    clip: str | None = None  # name of the CLIP whose embeddings it reads, of unit length
    tokeniser: str | None = None  # name of the tokeniser whose codes it writes

    def __post_init__(self) -> None:
        least = min(self.codes, self.length, self.layers, self.heads, self.width)
        if min(least, self.embedding_width) < 1:
            raise BadInput("codes, length, layers, heads and widths must be at least one")
        if min(self.denoiser, self.code_width) < 0:
            raise BadInput("the widths of the denoiser and of codes cannot be negative")
        if not abs(self.guidance) < float("inf"):
            raise BadInput(f"guidance {self.guidance}; expected a finite number")
        if not 0 < self.temperature < float("inf"):
            raise BadInput(f"temperature {self.temperature}; expected a number above 0")
        if self.guidance != 1 and not self.null_condition:
            raise BadInput(f"guidance {self.guidance} of a model that knows no null condition")
        if self.width % self.heads:
            raise BadInput(f"width {self.width} does not divide into {self.heads} heads")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ClipGenConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "CLIP-GEN")


_MEDIUM = ClipGenConfig(codes=16384)
VARIANTS: dict[str, ClipGenConfig] = {
    "gpt2-medium": _MEDIUM,
    "gpt2-large": replace(_MEDIUM, layers=36, heads=20, width=1280),
    "coco": replace(_MEDIUM, clip="ViT-B/32", tokeniser="clip-gen-vqgan-coco"),
}


class Mlp(nn.Module):
    """Two layers with exact GELU between them; other than `nn.transformer`'s it drops out there."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.up = Linear(width, 4 * width)
        self.dropout = nn.Dropout(dropout)
        self.down = Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Every position changed by itself."""
        return self.down(self.dropout(F.gelu(self.up(x))))


class Block(nn.Module):
    """Pre-norm block, as torch's encoder layer."""

    def __init__(self, config: ClipGenConfig) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.width)
        self.attention = CausalSelfAttention(config.width, config.heads, config.dropout)
        self.mlp_norm = LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The residual stream after attention and MLP."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def step(self, x: Float[Tensor, "b m d"], layer: int, places: Places) -> Float[Tensor, "b m d"]:
        """The same for new positions behind those that are kept."""
        x = x + self.attention.step(self.attention_norm(x), layer, places)
        return x + self.mlp(self.mlp_norm(x))


class Denoiser(nn.Module):
    """Embeddings brought to where those of pictures lie.

    A sentence's embedding lies at some distance from those of all pictures. Who has learnt to find
    pictures' embeddings again from noise, takes it for one of them with noise. So works without
    sentences what a prior learns with them (Ramesh et al. 2022, arXiv:2204.06125, section 2.2).
    It begins by leaving embeddings as they are.
    """

    def __init__(self, embedding_width: int, width: int) -> None:
        super().__init__()
        self.up = Linear(embedding_width, width)
        self.between = Linear(width, width)
        self.down = Linear(width, embedding_width)
        for layer in (self.up, self.between):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
        for zero in (self.down.weight, self.down.bias, self.up.bias, self.between.bias):
            nn.init.zeros_(zero)

    def forward(self, embeddings: Float[Tensor, "*b e"]) -> Float[Tensor, "*b e"]:
        """Embeddings of unit length from others; zeros, which are no condition, remain zeros."""
        x = embeddings * embeddings.shape[-1] ** 0.5  # numbers about one
        x = self.down(F.gelu(self.between(F.gelu(self.up(x)))))
        moved = F.normalize(embeddings.float() + x.float(), dim=-1).to(embeddings.dtype)
        return moved * embeddings.any(dim=-1, keepdim=True)


class ClipGen(nn.Module):
    """Logits of a picture's codes, from an embedding and the codes before each."""

    def __init__(self, config: ClipGenConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.codes, config.code_width or config.width)
        self.positions = nn.Parameter(torch.zeros(config.length, config.width))
        self.condition = Linear(config.embedding_width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.last_norm = LayerNorm(config.width)
        self.head = Linear(config.width, config.codes)
        # The official code leaves what torch draws; small tokens, as in GPT, learn faster.
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.condition.weight, std=config.embedding_width**-0.5)
        self.widened: nn.Module = nn.Identity()
        if config.code_width:
            self.widened = Linear(config.code_width, config.width, bias=False)
            nn.init.normal_(self.widened.weight, std=config.code_width**-0.5)
        self.denoiser: nn.Module = nn.Identity()
        if config.denoiser:
            self.denoiser = Denoiser(config.embedding_width, config.denoiser)

    @property
    def codes(self) -> int:
        """How many tokens there are."""
        return self.config.codes

    def forward(
        self, ids: Int[Tensor, "b n"], embeddings: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b n2 v"]:
        """Logits of the first code and of the one after each that is given.

        Args:
            ids: the codes of pictures, row by row, without the last.
            embeddings: of unit length, one a picture.

        Raises:
            BadInput: there are more codes than positions, or no such code.
        """
        x = torch.cat((self._conditions(embeddings[:, None]), self._embedded(ids)), dim=1)
        self._require_room(x.shape[1])
        x = self.dropout(x + self.positions[: x.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.head(self.last_norm(x))

    def loss(self, ids: Int[Tensor, "b n"], embeddings: Float[Tensor, "b e"]) -> Float[Tensor, ""]:
        """Mean cross entropy of all codes of pictures, from their embeddings.

        Args:
            ids: all codes of pictures.
            embeddings: of unit length, one a picture.
        """
        logits = self(ids[:, :-1], embeddings)
        return F.cross_entropy(rearrange(logits, "b n v -> (b n) v").float(), ids.flatten())

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache for an embedding and codes, `length` together.

        Raises:
            BadInput: that is more than there are positions.
        """
        self._require_room(length)
        return Cache(
            layers=self.config.layers,
            batch=batch,
            heads=self.config.heads,
            length=length,
            head_width=self.config.width // self.config.heads,
            dtype=dtype or self.positions.dtype,
            device=self.positions.device,
        )

    def step(
        self,
        new_ids: Int[Tensor, "b m"] | Float[Tensor, "b 1 e"],
        cache: Cache,
        *,
        rows: slice | Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v"]:
        """The logits, in float32, of the code after new ones, which are kept.

        Args:
            new_ids: first the embeddings, one a picture, then codes.
            cache: what was read before.
            rows: of the cache, to which they belong; all.
            counts: how many of each row's are no padding; all.

        Raises:
            BadInput: there is no room for them, or no such code.
        """
        first = new_ids.is_floating_point()
        x = self._conditions(new_ids) if first else self._embedded(new_ids)
        places = cache.places(x.shape[1], rows=rows, counts=counts)
        if first != (max(places.starts) == 0):
            raise BadInput("a picture begins with its embedding, and goes on with codes")
        x = x + self.positions[places.positions]
        for layer, block in enumerate(self.blocks):
            x = cast(Block, block).step(x, layer, places)
        places.done()
        return self.head(self.last_norm(last_of(x, places))).float()

    def _conditions(self, embeddings: Tensor) -> Tensor:
        if embeddings.shape[-1] != (width := self.config.embedding_width):
            raise BadInput(
                f"embeddings of width {embeddings.shape[-1]}; this model reads those of "
                f"{self.config.clip or 'a CLIP'}, of width {width}"
            )
        return self.condition(self.denoiser(embeddings.to(self.condition.weight.dtype)))

    def _embedded(self, ids: Tensor) -> Tensor:
        require_ids(ids, self.codes)
        return self.widened(self.tokens(ids))

    def _require_room(self, length: int) -> None:
        if length > self.config.length:
            raise BadInput(
                f"an embedding and {length - 1} codes; this model has {self.config.length} "
                "positions for both"
            )


def chosen_features(
    logits: Float[Tensor, "b n v"], codebook: Float[Tensor, "v d"]
) -> Float[Tensor, "b n d"]:
    """The vectors of the likeliest codes, with the gradients of a mixture by probability."""
    chances = logits.softmax(dim=-1)
    hard = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(chances.dtype)
    return straight_through(hard, chances) @ codebook


def embedding_loss(
    logits: Float[Tensor, "b n v"],
    embeddings: Float[Tensor, "b e"],
    *,
    codebook: Float[Tensor, "v d"],
    grid: Grid,
    decode: Callable[[Tensor, Grid], Tensor],
    embed: Callable[[Tensor], Tensor],
    size: int = 224,
) -> Float[Tensor, ""]:
    """How far the embeddings of what would be drawn are from those it is drawn from, squared.

    The paper's reconstruction term (section 3.3); in the published training its weight is 0.

    Args:
        logits: of all codes of pictures.
        embeddings: from which they are drawn.
        codebook: of the tokeniser.
        grid: rows and columns of codes.
        decode: pictures from features `b n d` of a grid, as the tokeniser's `decode`.
        embed: embeddings of pictures, which it brings into the CLIP's range.
        size: pixels, square, that the CLIP takes. As published by bilinear interpolation.
    """
    pictures = decode(chosen_features(logits, codebook), grid)
    resized = F.interpolate(pictures, size=(size, size), mode="bilinear")
    return F.mse_loss(embed(resized), embeddings)
