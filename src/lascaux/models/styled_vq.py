"""Styled VAE-VQ: a picture as 36 attribute tokens, from general to particular.

Li De Hu: "Styled_vae_vq", 2024, https://github.com/hamigualisingl/Styled_vae_vq (no paper). A ViT
reads the picture together with one query an attribute; in its last blocks every attribute has an
MLP of its own. The decoder takes two attributes a block, the first ones first. Stage one learns it
without a codebook; stage two makes the codebook by k-means. For language models that read and
write pictures as a short sequence without places.

What is quantised. Between encoder and decoder lies the cosine layer: the latent of an attribute
weighs a learnt matrix' rows by its cosines with them, so that an error in it matters less. The
author's README quantises what goes into that layer, by its direction; his code (modelv2.py)
quantises what comes out of it, by squared distance. `StyledVqConfig.quantised` says which a model
does, and `features`, `quantise`, `lookup` and `decode` all follow it: the bottleneck by default,
the mixture for files in the author's layout.

With `coordinates` the encoder is linear: attributes are the principal coordinates of pictures, the
first ones of largest variance, and every attribute has codes of its own. What the codes say of the
picture linearly, the sketch, is where the decoder begins: a U-Net that betters it. The first
attributes may be coordinates of what a CLIP, the `reader`, sees in the picture (`meanings`): the
sketch tells where and how large, and they tell what.

Two of the author's alternatives are options here. With `levels` the codes are those of finite
scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505) and there is no codebook. With
`drawn_codes` the decoder names codes of another tokeniser that lies in a grid, in place of pixels,
and that tokeniser, `drawer`, makes the picture of them.

Published checkpoints: the author's, of which the first version cannot be read: its model file was
never published.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from lascaux.errors import BadInput, Unsupported
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.group_norm import GroupNorm
from lascaux.nn.linear import Linear
from lascaux.nn.principal_encoder import PrincipalEncoder, require_size
from lascaux.nn.quantise import (
    at_levels,
    bounded,
    ids_of_levels,
    levels_of_ids,
    nearest,
    straight_through,
)
from lascaux.nn.retoucher import Retoucher, require_widths
from lascaux.nn.transformer import Block, LayerNorm, SelfAttention

if TYPE_CHECKING:
    from lascaux.images.preprocess import Preprocessing

Quantised = Literal["bottleneck", "mixture"]
Distance = Literal["cosine", "euclidean"]

_ADAPTIVE_EPSILON = 1e-6  # of the decoder's conditioned blocks and group norms, as published
_COSINE_EPSILON = 1e-8  # shortest length that a cosine divides by


@dataclass(frozen=True, kw_only=True)
class StyledVqConfig:
    """Everything that fixes the parameters of a Styled VAE-VQ and the numbers it answers with."""

    image_size: int = 256  # pixels, square
    patch_size: int = 16  # pixels
    attributes: int = 36  # tokens of a picture; the decoder has a block for every two
    width: int = 1024  # of the encoder
    heads: int = 16
    mlp_width: int | None = None  # None: four times the width
    plain_layers: int = 18
    expert_layers: int = 6  # the encoder's last blocks, with an MLP for each attribute
    latent_width: int = 128
    mixture_rows: int | None = None  # of the cosine layer's matrix; None: as many as it has columns
    codes: int = 194560  # 0: stage one, without a codebook
    decoder_width: int = 768
    decoder_heads: int | None = None  # None: one for 64 channels
    decoder_mlp_width: int | None = None  # None: four times the width
    decoder_layers: int = 6  # plain blocks after those that take attributes
    pixel_width: int = 32  # channels of the convolutions behind the decoder
    pixel_kernel: int = 17  # pixels; of the first of them
    pixel_groups: int = 8
    quantised: Quantised = "bottleneck"  # or what the cosine layer gives, as in the author's code
    distance: Distance = "cosine"
    levels: tuple[int, ...] = ()  # of the numbers that are rounded in place of choosing codes
    drawn_codes: int = 0  # of the tokeniser whose codes the decoder names; 0: it gives pixels
    # Of each attribute, where the encoder is linear; () : it is a transformer, as published.
    coordinates: tuple[int, ...] = ()
    shrunk_size: int = 32  # pixels; a linear encoder takes pictures of this side
    meanings: int = 0  # first attributes, whose coordinates are of a CLIP's embedding
    meaning_width: int = 0  # numbers of that embedding
    # Of the U-Net that follows a linear encoder: channels at a half of the side, a quarter and so
    # on, and of what its blocks are told.
    retouching_widths: tuple[int, ...] = (64, 112, 160)
    condition_width: int = 128
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: Literal["crop", "squash", "pad"] = "crop"
    filter: Literal["bicubic", "bilinear", "opencv-bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise BadInput(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.attributes < 2 or self.attributes % 2:
            raise BadInput(f"attributes={self.attributes}: the decoder takes two a block; even")
        for what, width, heads in (
            ("encoder", self.width, self.heads),
            ("decoder", self.decoder_width, self.heads_of_decoder),
        ):
            if heads < 1 or width % heads:
                raise BadInput(f"{what} width {width} does not divide into {heads} heads")
        if self.pixel_kernel % 2 == 0:
            raise BadInput(f"pixel_kernel {self.pixel_kernel} is even; it has no middle")
        if self.pixel_width % self.pixel_groups:
            raise BadInput(
                f"pixel_width {self.pixel_width} does not divide into {self.pixel_groups} groups"
            )
        if self.quantised not in ("bottleneck", "mixture"):
            raise BadInput(f"quantised {self.quantised!r} is neither 'bottleneck' nor 'mixture'")
        if self.distance not in ("cosine", "euclidean"):
            raise BadInput(f"distance {self.distance!r} is neither 'cosine' nor 'euclidean'")
        if self.codes < 0:
            raise BadInput(f"codes={self.codes}; 0 for none, or a number of them")
        if self.levels and min(self.levels) < 2:
            raise BadInput(f"levels {self.levels}: every number needs at least two")
        if self.levels and self.codes != math.prod(self.levels):
            raise BadInput(
                f"codes={self.codes}; levels {self.levels} make {math.prod(self.levels)}"
            )
        if self.drawn_codes < 0:
            raise BadInput(f"drawn_codes={self.drawn_codes}; 0 for pixels, or a number of codes")
        if self.meanings and not self.coordinates:
            raise BadInput("meanings are coordinates; a transformer has none")
        if self.coordinates:
            self._require_linear()

    def _require_linear(self) -> None:
        counts, most = self.coordinates, self.latent_width
        if len(counts) != self.attributes or min(counts) < 1 or max(counts) > most:
            raise BadInput(
                f"coordinates {counts}; expected {self.attributes} numbers from 1 to {most}"
            )
        if self.shrunk_size < 1 or self.image_size % self.shrunk_size:
            raise BadInput(f"image_size {self.image_size} is no multiple of {self.shrunk_size}")
        if (self.quantised, self.distance) != ("bottleneck", "euclidean"):
            raise BadInput("coordinates are quantised as they are, by euclidean distance")
        if self.levels or self.drawn_codes:
            raise BadInput("coordinates go with neither levels nor drawn_codes")
        if not 0 <= self.meanings < self.attributes or (self.meanings > 0) != (
            self.meaning_width > 0
        ):
            raise BadInput(
                f"meanings={self.meanings} of {self.attributes} attributes and "
                f"meaning_width={self.meaning_width}; both 0, or fewer than all and a width"
            )
        require_widths(self.retouching_widths, self.image_size)

    @property
    def heads_of_decoder(self) -> int:
        """Attention heads of the decoder."""
        return self.decoder_heads or self.decoder_width // 64

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def feature_width(self) -> int:
        """Numbers of an attribute that are quantised."""
        return len(self.levels) or self.latent_width

    @property
    def preprocessing(self) -> "Preprocessing":
        """What a picture goes through before the encoder.

        The author halves a large picture by box before he resizes it; here it is resized at once.
        """
        from lascaux.images.preprocess import Preprocessing

        return Preprocessing(
            size=self.image_size,
            resize=self.resize,
            filter=self.filter,
            mean=self.mean,
            std=self.std,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "StyledVqConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "Styled VAE-VQ")


_FULL = StyledVqConfig(quantised="mixture", distance="euclidean")

VARIANTS: dict[str, StyledVqConfig] = {
    # modelv2.py; the README names these widths of decoder and latents.
    "styled-vq-768-128": _FULL,
    "styled-vq-768-64": replace(_FULL, latent_width=64),
    "styled-vq-512-128": replace(_FULL, decoder_width=512),
    "styled-vq-512-64": replace(_FULL, decoder_width=512, latent_width=64),
}


class Experts(nn.Module):
    """An MLP for each attribute, all of them computed in two batched products.

    The weights lie input first, so that neither products nor gradients are laid out anew.
    """

    def __init__(self, experts: int, width: int, hidden_width: int) -> None:
        super().__init__()
        self.up_weight = nn.Parameter(torch.empty(experts, width, hidden_width))
        self.up_bias = nn.Parameter(torch.empty(experts, hidden_width))
        self.down_weight = nn.Parameter(torch.empty(experts, hidden_width, width))
        self.down_bias = nn.Parameter(torch.empty(experts, width))

    def initialise(self) -> None:
        """Draw the weights anew, each expert's as `torch.nn.Linear` does."""
        for weight, bias in (
            (self.up_weight, self.up_bias),
            (self.down_weight, self.down_bias),
        ):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Attribute i changed by expert i."""
        x = rearrange(x, "b n d -> n b d")
        x = F.gelu(torch.baddbmm(self.up_bias[:, None], x, self.up_weight))
        x = torch.baddbmm(self.down_bias[:, None], x, self.down_weight)
        return rearrange(x, "n b d -> b n d")


class ExpertBlock(nn.Module):
    """Pre-norm block in which all share the attention, and each attribute has its own MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int, attributes: int) -> None:
        super().__init__()
        self.attributes = attributes
        self.plain = Block(width, heads, mlp_width)
        self.experts = Experts(attributes, width, mlp_width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The residual stream; the attributes are its last positions."""
        x = x + self.plain.attention(self.plain.attention_norm(x))
        normed = self.plain.mlp_norm(x)
        others, own = normed[:, : -self.attributes], normed[:, -self.attributes :]
        return x + torch.cat((self.plain.mlp(others), self.experts(own)), dim=1)

    def last(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """What `forward` gives for the attributes; the others' MLP is not computed."""
        x = x + self.plain.attention(self.plain.attention_norm(x))
        x = x[:, -self.attributes :]
        return x + self.experts(self.plain.mlp_norm(x))


class Encoder(nn.Module):
    """From a picture to a latent for each attribute."""

    def __init__(self, config: StyledVqConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        mlp_width = config.mlp_width or 4 * width
        self.patches = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + config.patches, width))
        self.queries = nn.Parameter(torch.empty(config.attributes, width))
        self.first_norm = LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, mlp_width) for _ in range(config.plain_layers)
        )
        self.expert_blocks = nn.ModuleList(
            ExpertBlock(width, config.heads, mlp_width, config.attributes)
            for _ in range(config.expert_layers)
        )
        self.last_norm = LayerNorm(width)
        self.project = Linear(width, config.latent_width)

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does."""
        self.patches.reset_parameters()
        self.project.reset_parameters()
        for weight in (self.class_token, self.positions, self.queries):
            nn.init.normal_(weight, std=self.config.width**-0.5)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b n l"]:
        """The bottleneck: a latent for each attribute of normalised pictures."""
        short = not torch.is_grad_enabled() and len(self.expert_blocks) > 0
        x = self._through(x, short)[:, -self.config.attributes :]
        return self.project(self.last_norm(x))

    def tokens(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b m d"]:
        """Class token, patches and attributes after the last norm."""
        return self.last_norm(self._through(x, False))

    def _through(self, x: Tensor, short: bool) -> Tensor:
        require_size(x, self.config.image_size)
        x = rearrange(self.patches(x.to(self.patches.weight.dtype)), "b d y x -> b (y x) d")
        first = self.class_token.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat((first, x), dim=1) + self.positions
        x = torch.cat((x, self.queries.to(x.dtype).expand(len(x), -1, -1)), dim=1)
        x = self.first_norm(x)
        for block in self.blocks:
            x = block(x)
        for block in self.expert_blocks:
            if short and block is self.expert_blocks[-1]:
                assert isinstance(block, ExpertBlock)
                return block.last(x)
            x = block(x)
        return x


class AdaptiveNorm(nn.Module):
    """Layer norm whose result a condition scales and shifts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width, eps=_ADAPTIVE_EPSILON)
        self.change = Linear(width, 2 * width)

    def forward(
        self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b n d"]:
        """The normalised sequence, times a scale and plus a shift of the whole of it."""
        # As published: the scale is not one plus what is learnt, but that itself.
        scale, shift = self.change(F.silu(condition))[:, None].chunk(2, dim=-1)
        return scale * self.norm(x) + shift


class ConditionedBlock(nn.Module):
    """Block that takes two attributes: by its norms, and as two more positions."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.first_norm = LayerNorm(width, eps=_ADAPTIVE_EPSILON)
        self.second_norm = LayerNorm(width, eps=_ADAPTIVE_EPSILON)
        self.first_token_norm = LayerNorm(width, eps=_ADAPTIVE_EPSILON)
        self.second_token_norm = LayerNorm(width, eps=_ADAPTIVE_EPSILON)
        self.attention_norm = AdaptiveNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = AdaptiveNorm(width)
        self.up = Linear(width, mlp_width)
        self.down = Linear(mlp_width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        first: Float[Tensor, "b d"],
        second: Float[Tensor, "b d"],
    ) -> Float[Tensor, "b n2 d"]:
        """The residual stream with two positions more in front."""
        told = torch.stack((self.first_token_norm(first), self.second_token_norm(second)), dim=1)
        normed = self.attention_norm(x, self.first_norm(first))
        x = F.pad(x, (0, 0, 2, 0)) + self.attention(torch.cat((told, normed), dim=1))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x, self.second_norm(second)))))


class Pixels(nn.Module):
    """Convolutions that smooth what the patches say."""

    def __init__(self, config: StyledVqConfig) -> None:
        super().__init__()
        width, groups, size = config.pixel_width, config.pixel_groups, config.pixel_kernel
        self.first = nn.Conv2d(3, width, size, padding=size // 2)
        self.first_norm = GroupNorm(groups, width, eps=_ADAPTIVE_EPSILON)
        self.norm1 = GroupNorm(groups, width, eps=_ADAPTIVE_EPSILON)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = GroupNorm(groups, width, eps=_ADAPTIVE_EPSILON)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.last_norm = GroupNorm(groups, width, eps=_ADAPTIVE_EPSILON)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The picture, smoothed."""
        x = self.first_norm(self.first(x))
        changed = self.conv1(F.silu(self.norm1(x)))
        x = x + self.conv2(F.silu(self.norm2(changed)))
        return self.last(F.silu(self.last_norm(x)))


class Decoder(nn.Module):
    """From mixtures of all attributes to a picture."""

    def __init__(self, config: StyledVqConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.decoder_width, config.heads_of_decoder
        mlp_width = config.decoder_mlp_width or 4 * width
        self.widen = Linear(config.latent_width, width)
        self.positions = nn.Parameter(torch.empty(config.patches, width))
        self.first_norm = LayerNorm(width)
        self.conditioned_blocks = nn.ModuleList(
            ConditionedBlock(width, heads, mlp_width) for _ in range(config.attributes // 2)
        )
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_width) for _ in range(config.decoder_layers)
        )
        self.last_norm = LayerNorm(width)
        if config.drawn_codes:
            self.logits = Linear(width, config.drawn_codes)
        else:
            self.patches = Linear(width, 3 * config.patch_size**2)
            self.pixels = Pixels(config)

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does."""
        self.widen.reset_parameters()
        (self.logits if self.config.drawn_codes else self.patches).reset_parameters()
        nn.init.normal_(self.positions, std=self.config.decoder_width**-0.5)

    def forward(self, mixtures: Float[Tensor, "b n l"]) -> Float[Tensor, "b c y x"]:
        """Normalised pictures, unclamped; with `drawn_codes` a code's logits for each patch."""
        conditions = self.widen(mixtures.to(self.widen.weight.dtype))
        x = self.first_norm(self.positions).to(conditions.dtype)
        x = x.expand(len(conditions), -1, -1)
        for number, block in enumerate(self.conditioned_blocks):
            x = block(x, conditions[:, 2 * number], conditions[:, 2 * number + 1])
        for block in self.blocks:
            x = block(x)
        # What was put in front is left out again.
        x = self.last_norm(x[:, -self.config.patches :])
        size, rows = self.config.patch_size, math.isqrt(self.config.patches)
        if self.config.drawn_codes:
            return rearrange(self.logits(x), "b (y x) s -> b s y x", y=rows)
        x = rearrange(self.patches(x), "b (y x) (c p q) -> b c (y p) (x q)", y=rows, c=3, p=size)
        return self.pixels(x)


class Scalars(nn.Module):
    """Latents as a few bounded numbers, and back: what finite scalar quantisation rounds.

    The way back has a bias, so that the cosine layer, which takes directions alone, tells vectors
    of one direction apart.
    """

    def __init__(self, width: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.down = Linear(width, len(levels))
        self.up = Linear(len(levels), width)

    def initialise(self) -> None:
        """Draw the weights anew, large enough that the numbers of first latents fill their range.

        Pictures differ in a small part of fresh latents alone; of less all would have one code.
        """
        nn.init.orthogonal_(self.down.weight, gain=2.0)
        nn.init.zeros_(self.down.bias)
        self.up.reset_parameters()

    def forward(self, latents: Float[Tensor, "b n l"]) -> Float[Tensor, "b n k"]:
        """The numbers, not rounded yet, from -1 to 1."""
        return bounded(self.down(latents), self.levels).to(latents.dtype)


class StyledVq(nn.Module):
    """A picture as a short sequence of attributes, and back.

    Attributes:
        encoder: gives the bottleneck, a latent for each attribute.
        mixture: the cosine layer's matrix; none where attributes are coordinates.
        codebook: `codes latent_width`, and of coordinates `attributes codes latent_width`; a
            buffer, because k-means makes it and no gradient. It has no row where numbers are
            rounded.
        scalars: what makes those numbers, where they are rounded; else None.
        mean: the mean feature of each attribute over a corpus, which stands in for attributes that
            are left out; zeros where none was ever set.
        decoder: takes what the cosine layer gives.
        drawer: of a model with `drawn_codes`, a tokeniser in a grid that makes pictures of them;
            None where it is missing.
        reader: of a model with `meanings`, the CLIP that tells them; None where it is missing.
    """

    def __init__(
        self,
        config: StyledVqConfig,
        drawer: nn.Module | None = None,
        reader: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        drawn = 0 if drawer is None else cast(Any, drawer).codes
        if drawer is not None and drawn != config.drawn_codes:
            raise BadInput(
                f"drawn_codes={config.drawn_codes}; the tokeniser that draws them has {drawn}"
            )
        if reader is not None:
            _require_reader(config, cast(Any, reader).config)
        width = config.latent_width
        if config.coordinates:
            self.encoder = PrincipalEncoder(
                config.coordinates,
                width,
                image_size=config.image_size,
                shrunk_size=config.shrunk_size,
                meanings=config.meanings,
                meaning_width=config.meaning_width,
            )
            self.decoder = Retoucher(
                config.attributes * width, config.condition_width, config.retouching_widths
            )
        else:
            self.encoder = Encoder(config)
            self.mixture = nn.Parameter(torch.empty(config.mixture_rows or width, width))
            self.mixture_norm = LayerNorm(width)
            self.decoder = Decoder(config)
        self.scalars = Scalars(width, config.levels) if config.levels else None
        self.drawer = drawer
        self.reader = reader
        self.codebook: Tensor
        self.mean: Tensor
        rows = 0 if config.levels else config.codes
        books = (config.attributes,) if config.coordinates else ()
        self.register_buffer("codebook", torch.zeros(*books, rows, width))
        self.register_buffer("mean", torch.zeros(config.attributes, config.feature_width))
        self.initialise()

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does.

        Codebook, means, drawer and reader stay.
        """
        for part in (self.encoder, self.decoder, self.scalars):
            for module in part.modules() if part is not None else ():
                if isinstance(module, SelfAttention | Experts | Scalars):
                    module.initialise()
        if isinstance(self.encoder, Encoder):
            self.encoder.initialise()
        self.decoder.initialise()
        if isinstance(self.encoder, Encoder):
            nn.init.normal_(self.mixture, std=self.config.width**-0.5)

    def train(self, mode: bool = True) -> "StyledVq":
        """Whether what is learnt here is being trained; the reader never is."""
        super().train(mode)
        if self.reader is not None:
            self.reader.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.widen.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return self.decoder.widen.weight.dtype

    @property
    def codes(self) -> int:
        """How many codes there are; 0: there are none yet."""
        return self.config.codes

    @property
    def own_codes(self) -> bool:
        """Whether a code means something else at every attribute."""
        return bool(self.config.coordinates)

    @property
    def length(self) -> int:
        """Tokens of a picture."""
        return self.config.attributes

    def normalise(self, pictures: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Pictures in [0, 1] in the range the model takes: [-1, 1] as published."""
        return (pictures - self._colour(self.config.mean)) / self._colour(self.config.std)

    def denormalise(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """What `decode` gives as pictures in [0, 1], not clamped."""
        return x * self._colour(self.config.std) + self._colour(self.config.mean)

    def forward(
        self,
        x: Float[Tensor, "b c y x"],
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c y x"]:
        """Normalised pictures through the continuous features and back: what stage one trains.

        Args:
            x: normalised pictures.
            noise: tolerance noise on the features, as `features` takes it.
            generator: of the noise.
        """
        return self.decode(self.features(x, noise=noise, generator=generator))

    def features(
        self,
        x: Float[Tensor, "b c y x"],
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b n d"]:
        """What is quantised: the bottleneck, or what the cosine layer gives, as the config says.

        Args:
            x: normalised pictures.
            noise: standard deviation of Gaussian noise on the bottleneck, as a part of the root
                mean square of each latent, so that longer latents do not drown it. 0.1 is a tenth.
            generator: of the noise, on the weights' device.

        Raises:
            BadInput: the pictures are not RGB or not of the config's size.
            Unsupported: what reads their meaning is missing.
        """
        if isinstance(self.encoder, PrincipalEncoder):
            bottleneck = self.encoder(x, self.meaning(x) if self.config.meanings else None)
        else:
            bottleneck = self.encoder(x)
        found = self.with_noise(bottleneck, noise, generator)
        if self.config.quantised == "mixture":
            found = self.mix(found)
        return found if self.scalars is None else self.scalars(found)

    def meaning(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b e"]:
        """The reader's embeddings of normalised pictures, of unit length; in float32.

        Raises:
            BadInput: the pictures are not RGB or not of the config's size.
            Unsupported: there is no reader.
        """
        if self.reader is None:
            raise Unsupported(
                "this Styled VAE-VQ spells what a CLIP sees and came without it: give it one as "
                "`reader`"
            )
        require_size(x, self.config.image_size)
        reader: Any = self.reader
        with torch.autocast(x.device.type, enabled=False):
            mean, std = (self._colour(each) for each in (reader.config.mean, reader.config.std))
            seen = (self.denormalise(x.float()) - mean) / std
            return F.normalize(reader.encode_image(seen).float(), dim=-1)

    @staticmethod
    def with_noise(
        bottleneck: Float[Tensor, "b n d"], noise: float, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b n d"]:
        """The bottleneck with tolerance noise, as `features` says."""
        return bottleneck + noise * _noise(bottleneck, generator) if noise else bottleneck

    def mix(self, bottleneck: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The cosine layer, in float32: its matrix' rows weighed by cosine + 1, then normalised.

        A latent's length changes nothing; one of zeros weighs all rows alike.
        """
        wide = torch.promote_types(bottleneck.dtype, torch.float32)
        with torch.autocast(device_type=bottleneck.device.type, enabled=False):
            rows = self.mixture.to(wide)
            weights = 1 + _unit(bottleneck.to(wide)) @ _unit(rows).T
            mixed = weights / weights.sum(dim=-1, keepdim=True) @ rows
            return self.mixture_norm(mixed).to(bottleneck.dtype)

    def quantise(
        self, features: Float[Tensor, "b n d"]
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n d"]]:
        """The nearest codes of features, and the features that these codes stand for.

        Gradients go straight through to the features.

        Raises:
            BadInput: there is no codebook yet, or the features are of another width.
        """
        ids = self._chosen(features)
        if self.config.levels:
            return ids, at_levels(features, self.config.levels)
        found = self._rows(ids).to(features.dtype)
        if torch.is_grad_enabled() and features.requires_grad:
            found = straight_through(found, features)
        return ids, found

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The features that codes stand for, of any number of attributes.

        Raises:
            BadInput: there is no codebook yet, or an id is none of its codes.
        """
        self._require_codebook()
        if ids.is_floating_point() or ids.dtype == torch.bool or ids.ndim != 2:
            raise BadInput(
                f"ids of {ids.dtype} and shape {tuple(ids.shape)}; whole numbers b n are expected"
            )
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.codes):
            raise BadInput(
                f"ids from {int(ids.min())} to {int(ids.max())}; this codebook has 0 to "
                f"{self.codes - 1}: take ids that this very model gave"
            )
        if self.config.levels:
            return levels_of_ids(ids.long(), self.config.levels).to(self.dtype)
        if ids.shape[1] > self.length and self.own_codes:
            raise BadInput(f"{ids.shape[1]} ids; this model has {self.length} attributes")
        return self._rows(ids.long())

    def encode(self, x: Float[Tensor, "b c y x"]) -> Int[Tensor, "b n"]:
        """The codes of normalised pictures, from general to particular.

        Raises:
            BadInput: as `features` and `quantise`.
        """
        self._require_codebook()
        return self._chosen(self.features(x))

    def decode(
        self, features: Float[Tensor, "b n d"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c y x"]:
        """Normalised pictures of features, unclamped and differentiable.

        Args:
            features: of all attributes; `complete` stands in for those that are left out.
            grid: None; attributes have no places.

        Raises:
            BadInput: another number of attributes, another width, or a grid.
            Unsupported: the decoder names codes, and what draws them is missing.
        """
        if grid is not None:
            raise BadInput(f"grid {grid}: attributes lie in no grid; leave it None")
        x = self.named(features)
        return self.drawn(x) if self.config.drawn_codes else x

    def named(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b c y x"]:
        """What the decoder gives: normalised pictures, or logits of the drawer's codes.

        Raises:
            BadInput: another number of attributes, or another width.
        """
        self._require_width(features)
        if features.shape[1] != self.length:
            raise BadInput(
                f"{features.shape[1]} attributes; this model decodes {self.length}: let "
                "`complete` stand in for those that are left out"
            )
        if self.scalars is not None:
            features = self.scalars.up(features)
        if isinstance(self.encoder, PrincipalEncoder):
            return self.decoder(features.flatten(1), self.encoder.sketch(features))
        mixed = features if self.config.quantised == "mixture" else self.mix(features)
        return self.decoder(mixed)

    def drawn(self, logits: Float[Tensor, "b s y x"]) -> Float[Tensor, "b c y2 x2"]:
        """Normalised pictures of the drawer's codes, mixed as the logits say.

        Raises:
            Unsupported: there is no drawer.
        """
        if self.drawer is None:
            raise Unsupported(
                "this Styled VAE-VQ names codes of another tokeniser (`named`) and came without "
                "it: give it one as `drawer`"
            )
        drawer: Any = self.drawer
        grid = (logits.shape[2], logits.shape[3])
        codes = drawer.lookup(torch.arange(drawer.codes, device=logits.device)[None])[0]
        shares = rearrange(logits, "b s y x -> b (y x) s").float().softmax(dim=-1)
        back = drawer.decode(shares.to(codes.dtype) @ codes, grid)
        return self.normalise(drawer.denormalise(back))

    def decode_ids(
        self, ids: Int[Tensor, "b n"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c y x"]:
        """Normalised pictures of codes, unclamped; arguments and errors as `lookup`, `decode`."""
        return self.decode(self.lookup(ids), grid)

    def complete(self, features: Float[Tensor, "b k d"]) -> Float[Tensor, "b n d"]:
        """The first k attributes, with what stands in for the rest behind them.

        That is the mean feature of each over a corpus (`mean`), where one was set; else what says
        nothing: all rows of the cosine layer alike.

        Raises:
            BadInput: there are more attributes than the model has, or of another width.
        """
        self._require_width(features)
        count = features.shape[1]
        if count > self.length:
            raise BadInput(f"{count} attributes; this model has {self.length}")
        rest = self.standing_in()[count:].to(features.dtype)
        return torch.cat((features, rest.expand(len(features), -1, -1)), dim=1)

    def standing_in(self) -> Float[Tensor, "n d"]:
        """What stands in for attributes that are left out; `complete` says what it is."""
        bare = self.config.quantised == "bottleneck" or self.scalars is not None
        if bare or bool(self.mean.any()):
            return self.mean
        return self.mix(self.mean[None])[0]

    @torch.no_grad()
    def adopt(
        self,
        codebook: Float[Tensor, "s d"],
        *,
        mean: Float[Tensor, "n d"] | None = None,
    ) -> None:
        """Take a codebook, as stage two makes it, and the corpus' mean features.

        Raises:
            BadInput: it is empty, of another width, or not finite; or numbers are rounded here, or
                attributes are coordinates, whose codes are learnt together with them.
        """
        if self.config.levels:
            raise BadInput("this model rounds numbers to levels: it takes no codebook")
        if self.own_codes:
            raise BadInput("attributes are coordinates here, with codes of their own each")
        if codebook.ndim != 2 or not len(codebook) or codebook.shape[1] != self.config.latent_width:
            raise BadInput(
                f"a codebook of shape {tuple(codebook.shape)}; expected codes x "
                f"{self.config.latent_width}"
            )
        if mean is not None and mean.shape != self.mean.shape:
            raise BadInput(
                f"mean features of shape {tuple(mean.shape)}; expected {tuple(self.mean.shape)}"
            )
        for what, tensor in (("codebook", codebook), ("mean", mean)):
            if tensor is not None and not bool(tensor.isfinite().all()):
                raise BadInput(f"the {what} holds numbers that are not finite")
        self.config = replace(self.config, codes=len(codebook))
        self.codebook = codebook.to(self.device, self.dtype).clone()
        if mean is not None:
            self.mean = mean.to(self.device, self.dtype).clone()

    def _colour(self, values: tuple[float, float, float]) -> Tensor:
        return torch.tensor(values, device=self.device)[:, None, None]

    def _rows(self, ids: Tensor) -> Tensor:
        """The codebook's rows of ids; of the first attributes where each has its own."""
        if not self.own_codes:
            return self.codebook[ids]
        return self.codebook[torch.arange(ids.shape[1], device=ids.device), ids]

    def _chosen(self, features: Tensor) -> Tensor:
        self._require_codebook()
        self._require_width(features)
        if self.config.levels:
            return ids_of_levels(features, self.config.levels)
        if self.own_codes:
            # Of attributes that are left out behind there is nothing to choose.
            books = zip(features.unbind(1), self.codebook, strict=False)
            return torch.stack([nearest(each, book) for each, book in books], dim=1)
        if self.config.distance == "euclidean":
            return nearest(features, self.codebook)
        # Of vectors of one length the nearest is the one of the largest cosine.
        return nearest(_unit(features.float()), _unit(self.codebook.float()))

    def _require_codebook(self) -> None:
        if not self.codes:
            raise BadInput(
                "this model has no codebook yet: make one by k-means from the features of a corpus "
                "(lascaux.tasks.codebook), and give it to `adopt`"
            )

    def _require_width(self, features: Tensor) -> None:
        width = self.config.feature_width
        if features.ndim != 3 or features.shape[2] != width:
            raise BadInput(f"features of shape {tuple(features.shape)}; expected b n {width}")


def exchange(
    first: Shaped[Tensor, "b n *d"], second: Shaped[Tensor, "b n *d"], attributes: Sequence[int]
) -> tuple[Shaped[Tensor, "b n *d"], Shaped[Tensor, "b n *d"]]:
    """Two pictures' codes or features, with some attributes of each in the other's place.

    Args:
        first: ids `b n` or features `b n d`.
        second: likewise.
        attributes: which of the n, counted from 0.

    Raises:
        BadInput: the two are of different shapes, or there is no such attribute.
    """
    if first.shape != second.shape:
        raise BadInput(f"{tuple(first.shape)} and {tuple(second.shape)} cannot be exchanged")
    count = first.shape[1]
    if strange := [number for number in attributes if not 0 <= number < count]:
        raise BadInput(f"there is no attribute {strange[0]}; there are 0 to {count - 1}")
    chosen = torch.zeros(count, dtype=torch.bool, device=first.device)
    chosen[list(attributes)] = True
    chosen = chosen.reshape(1, count, *[1] * (first.ndim - 2))
    return torch.where(chosen, second, first), torch.where(chosen, first, second)


def _require_reader(config: StyledVqConfig, seen: Any) -> None:
    if seen.embed_width != config.meaning_width or seen.image_size != config.image_size:
        raise BadInput(
            f"a reader of {seen.image_size} pixels and {seen.embed_width} numbers; this model "
            f"needs one of {config.image_size} and {config.meaning_width}"
        )


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gaussian noise of the root mean square of every latent."""
    size = like.detach().square().mean(dim=-1, keepdim=True).sqrt()
    drawn = torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float32)
    return size * drawn.to(like.dtype)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=_COSINE_EPSILON)
