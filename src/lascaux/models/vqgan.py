"""VQGAN: pictures, maps of classes and depth maps as a grid of codes, and back.

Esser, Rombach, Ommer: "Taming Transformers for High-Resolution Image Synthesis", 2020,
arXiv:2012.09841. For what reads and writes pictures as sequences: transformers predict the codes,
searches by CLIP move the vectors behind them.

Published checkpoints: CompVis's ImageNet f16 with 1024 and 16384 codes, Gumbel f8 (OpenImages), the
first stages and condition stages of its transformers (faces, depth, S-FLCKR, COCO, ADE20K, scenes);
latent-diffusion's vq-f8 and vq-f8-n256; clip-gen's VQGAN of COCO (Wang, Liu, He, Wu, Yi 2022,
arXiv:2203.00386), which differs in an epsilon and a weight of the loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.attention import attention
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.grid import as_map, as_tokens, grid_of, require_ids
from lascaux.nn.group_norm import GroupNorm
from lascaux.nn.inference import added, channels_last
from lascaux.nn.linear import Linear
from lascaux.nn.quantise import (
    Term,
    divergence_from_uniform,
    gumbel_choice,
    gumbel_noise,
    likeliest,
    nearest,
    perplexity,
    quantisation_loss,
    straight_through,
)
from lascaux.nn.upsample import DoublingConvolution

if TYPE_CHECKING:
    from lascaux.images.preprocess import Preprocessing


@dataclass(frozen=True, kw_only=True)
class VqGanConfig:
    """Everything that fixes the parameters of a VQGAN and the numbers it answers with."""

    codes: int  # rows of the codebook
    code_width: int = 256  # channels of a code
    quantiser: Literal["nearest", "gumbel"] = "nearest"
    in_channels: int = 3  # of pictures; 1 of depth, one for each class of a map
    out_channels: int = 3
    image_size: int = 256  # pixels, square: what it was trained at; any multiple of factor is read
    width: int = 128  # channels at full size
    multiples: tuple[int, ...] = (1, 1, 2, 2, 4)  # of the width, level by level, each half the size
    blocks: int = 2  # residual blocks of a level; the decoder has one more
    attention_sizes: tuple[int, ...] = (16,)  # sides of the levels that attend, at image_size
    middles: int = 1  # of the decoder, one after another; as published, one
    latent_width: int = 256  # channels before the codes' width
    double_latent: bool = False  # the encoder gives twice as many, as for a mean and a variance
    resampling_convolutions: bool = True  # False: halved by averages, doubled by repetition alone
    encoder: Literal["convolutions", "patches"] = "convolutions"  # patches: each by itself
    groups: int = 32  # of every group norm
    norm_epsilon: float = 1e-6
    dropout: float = 0.0  # probability, in residual blocks
    beta: float = 0.25  # of the quantisation loss; see nn.quantise.quantisation_loss
    weighs: Term = "codebook"  # what beta weighs; the paper says "commitment"
    kl_weight: float = 1e-8  # of a Gumbel quantiser's loss
    straight_through: bool = True  # a Gumbel quantiser's choices are one-hot in training, too
    used_codes: int | None = None  # ids count only these codes; which ones comes with the weights
    unknown: Literal["random", "extra"] | int = "random"  # the id of a code that is not used
    labels: int | None = None  # classes, where it has colours for a map of them
    mean: float = 0.5  # of pictures in [0, 1], subtracted
    std: float = 0.5  # and divided by

    def __post_init__(self) -> None:
        if self.quantiser not in ("nearest", "gumbel"):
            raise BadInput(f"quantiser {self.quantiser!r} is neither 'nearest' nor 'gumbel'")
        if self.encoder not in ("convolutions", "patches"):
            raise BadInput(f"encoder {self.encoder!r} is neither 'convolutions' nor 'patches'")
        if self.weighs not in ("codebook", "commitment"):
            raise BadInput(f"weighs {self.weighs!r} is neither 'codebook' nor 'commitment'")
        if self.quantiser == "gumbel" and self.latent_width != self.code_width:
            raise BadInput(
                f"a Gumbel quantiser reads codes of latent_width {self.latent_width}; they have "
                f"code_width {self.code_width}; make both equal"
            )
        for multiple in self.multiples:
            if self.width * multiple % self.groups:
                raise BadInput(
                    f"{self.width} x {multiple} channels do not divide into {self.groups} groups"
                )
        if not self.multiples or min(self.blocks, self.codes, self.middles) < 1:
            raise BadInput("multiples, blocks, codes and middles must be at least one")
        known = isinstance(self.unknown, int) or self.unknown in ("random", "extra")
        if not known:
            raise BadInput(f"unknown {self.unknown!r}; expected 'random', 'extra' or an id")
        if self.used_codes is not None and not 0 < self.used_codes <= self.codes:
            raise BadInput(f"used_codes {self.used_codes} of {self.codes} codes")

    @property
    def factor(self) -> int:
        """Pixels of a picture per code, along one side."""
        return 2 ** (len(self.multiples) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.width * multiple for multiple in self.multiples)

    @property
    def preprocessing(self) -> "Preprocessing | None":
        """What a picture goes through, as in the reconstruction notebook; None if it is not RGB.

        The notebook rounds the longer side where this cuts it: up to a pixel before the crop.
        """
        if self.in_channels != 3 or self.labels is not None:
            return None
        from lascaux.images.preprocess import Preprocessing

        return Preprocessing(
            size=self.image_size,
            filter="lanczos",
            mean=(self.mean, self.mean, self.mean),
            std=(self.std, self.std, self.std),
        )

    def attends(self, *, encoder: bool) -> tuple[bool, ...]:
        """Which levels attend.

        As published, the encoder halves the size on its way and the decoder doubles what is left,
        which differs where the size is odd on the way.
        """
        levels = len(self.multiples)
        last = self.image_size // self.factor
        sizes = (
            self.image_size // 2**level if encoder else last * 2 ** (levels - 1 - level)
            for level in range(levels)
        )
        return tuple(size in self.attention_sizes for size in sizes)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "VqGanConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "VQGAN")


_F16 = VqGanConfig(codes=1024)
_F8 = replace(_F16, multiples=(1, 2, 2, 4), attention_sizes=(32,), latent_width=4, code_width=4)


def _of_labels(labels: int) -> VqGanConfig:
    channels = {"in_channels": labels, "out_channels": labels}
    return replace(_F16, **channels, labels=labels, mean=0.0, std=1.0)


VARIANTS: dict[str, VqGanConfig] = {
    # CompVis/taming-transformers.
    "imagenet-f16-1024": _F16,
    "imagenet-f16-16384": replace(_F16, codes=16384),
    "gumbel-f8": replace(
        _F16,
        codes=8192,
        quantiser="gumbel",
        multiples=(1, 1, 2, 4),
        attention_sizes=(32,),
    ),
    "faceshq": _F16,
    "depth": replace(_F16, in_channels=1, out_channels=1),
    "ade20k": replace(_F16, codes=4096),
    "coco-8k": replace(_F16, codes=8192),
    "sflckr-labels": _of_labels(182),
    "coco-labels": _of_labels(183),
    "ade20k-labels": _of_labels(151),
    # CompVis/latent-diffusion.
    "vq-f8": replace(_F8, codes=16384),
    "vq-f8-n256": replace(_F8, codes=256),
    # HFAiLab/clip-gen: GroupNorm with torch's own epsilon, and its own weight of the loss.
    "clip-gen-coco": replace(_F16, codes=16384, norm_epsilon=1e-5, beta=0.2),
}


class Quantised(NamedTuple):
    """What quantisation gives in training."""

    ids: Int[Tensor, "b n"]
    features: Float[Tensor, "b n d"]  # of the codes, with gradients to what was quantised
    loss: Float[Tensor, ""]
    perplexity: Float[Tensor, ""]  # how many codes this batch uses


class Reconstruction(NamedTuple):
    """What a picture becomes by way of its codes, for training."""

    x: Float[Tensor, "b c y x"]  # in the model's range, not clamped
    ids: Int[Tensor, "b n"]
    loss: Float[Tensor, ""]  # of the quantisation
    perplexity: Float[Tensor, ""]


def _convolution(width: int, out_width: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, out_width, size, stride, padding=size // 2 if stride == 1 else 0)


def _norm(width: int, config: VqGanConfig) -> GroupNorm:
    return GroupNorm(config.groups, width, eps=config.norm_epsilon)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int, out_width: int, config: VqGanConfig) -> None:
        super().__init__()
        self.norm1 = _norm(width, config)
        self.conv1 = _convolution(width, out_width)
        self.norm2 = _norm(out_width, config)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = _convolution(out_width, out_width)
        same = width == out_width
        self.shortcut = nn.Identity() if same else _convolution(width, out_width, 1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2 y x"]:
        """The map, changed where it must be."""
        h = self.conv1(self.norm1.silu(x))
        h = self.conv2(self.dropout(self.norm2.silu(h)))
        return added(h, self.shortcut(x))


class Attention(nn.Module):
    """One head of attention of all positions of a map to each other."""

    def __init__(self, width: int, config: VqGanConfig) -> None:
        super().__init__()
        self.norm = _norm(width, config)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The map with what its positions told each other."""
        flat = rearrange(self.norm(x), "b c y x -> b (y x) c")
        q, k, v = self.qkv(flat)[:, None].chunk(3, dim=-1)
        mixed = self.out(attention(q, k, v)[:, 0])
        return x + rearrange(mixed, "b (y x) c -> b c y x", y=x.shape[2])


class Down(nn.Module):
    """A map of half the size."""

    def __init__(self, width: int, config: VqGanConfig) -> None:
        super().__init__()
        self.conv = _convolution(width, width, stride=2) if config.resampling_convolutions else None

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y2 x2"]:
        """Every second position, rounded down."""
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        # As published: one zero to the right and below, none to the left and above.
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """A map of twice the size."""

    def __init__(self, width: int, config: VqGanConfig) -> None:
        super().__init__()
        self.conv = DoublingConvolution(width, width) if config.resampling_convolutions else None

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y2 x2"]:
        """Every position four times, and smoothed."""
        if self.conv is None:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x)


class Level(nn.Module):
    """The blocks of one size, each followed by attention where the level attends."""

    def __init__(self, widths: list[int], attends: bool, config: VqGanConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(width, out_width, config) for width, out_width in pairwise(widths)
        )
        self.attention = nn.ModuleList(Attention(width, config) for width in widths[1:] if attends)
        self.resample: nn.Module = nn.Identity()

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2 y2 x2"]:
        """The map after the level, at the size of the next one."""
        for number, block in enumerate(self.blocks):
            x = block(x)
            if self.attention:
                x = self.attention[number](x)
        return self.resample(x)


class Middle(nn.Module):
    """Attention between two blocks, at the smallest size."""

    def __init__(self, width: int, config: VqGanConfig) -> None:
        super().__init__()
        self.first = ResidualBlock(width, width, config)
        self.attention = Attention(width, config)
        self.second = ResidualBlock(width, width, config)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The map with a view of the whole picture."""
        return self.second(self.attention(self.first(x)))

    @torch.no_grad()
    def to_identity(self) -> "Middle":
        """Make it give back what comes, until it is trained on."""
        for last in (self.first.conv2, self.attention.out, self.second.conv2):
            for each in last.parameters():
                each.zero_()
        return self


class Encoder(nn.Module):
    """From a picture to a map that is smaller by the factor."""

    def __init__(self, config: VqGanConfig) -> None:
        super().__init__()
        widths, attends = config.widths, config.attends(encoder=True)
        before = (config.width, *widths)
        self.first = _convolution(config.in_channels, config.width)
        self.levels = nn.ModuleList(
            Level([before[level]] + config.blocks * [widths[level]], attends[level], config)
            for level in range(len(widths))
        )
        for level, width in zip(self.levels, widths[:-1], strict=False):
            level.resample = Down(width, config)
        self.middle = Middle(widths[-1], config)
        self.last_norm = _norm(widths[-1], config)
        self.last = _convolution(widths[-1], config.latent_width * (1 + config.double_latent))

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y2 x2"]:
        """The map."""
        x = channels_last(self.first(channels_last(x)))
        for level in self.levels:
            x = level(x)
        return self.last(self.last_norm.silu(self.middle(x)))


class PatchEncoder(nn.Module):
    """From a picture to a map that is smaller by the factor, every patch by itself: linearly.

    Equal patches have equal codes wherever they are and whatever is around them, so that who learns
    to write codes has less to learn; what a patch's neighbours say of it is left to the decoder.
    Not so in the paper. It is the first layer alone of the encoder in Yu et al.: "Vector-quantized
    Image Modeling with Improved VQGAN", 2021, arXiv:2110.04627, section 3.1.
    """

    def __init__(self, config: VqGanConfig) -> None:
        super().__init__()
        width = config.latent_width * (1 + config.double_latent)
        self.first = _convolution(config.in_channels, width, config.factor, config.factor)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y2 x2"]:
        """The map."""
        return self.first(x)


class Decoder(nn.Module):
    """From a small map back to a picture; its levels are counted from full size."""

    def __init__(self, config: VqGanConfig) -> None:
        super().__init__()
        widths, attends = config.widths, config.attends(encoder=False)
        before = (*widths[1:], widths[-1])
        self.first = _convolution(config.latent_width, widths[-1])
        self.middle = Middle(widths[-1], config)
        self.more = nn.Sequential(*(Middle(widths[-1], config) for _ in range(1, config.middles)))
        self.levels = nn.ModuleList(
            Level([before[level]] + (config.blocks + 1) * [widths[level]], attends[level], config)
            for level in range(len(widths))
        )
        for level, width in list(zip(self.levels, widths, strict=True))[1:]:
            level.resample = Up(width, config)
        self.last_norm = _norm(widths[0], config)
        self.last = _convolution(widths[0], config.out_channels)

    def forward(self, x: Float[Tensor, "b d y x"]) -> Float[Tensor, "b c y2 x2"]:
        """The picture, not clamped."""
        x = self.more(self.middle(channels_last(self.first(channels_last(x)))))
        for level in reversed(self.levels):
            x = level(x)
        return self.last(self.last_norm.silu(x))


class VqGan(nn.Module):
    """Encoder, codebook and decoder.

    Pictures go in and come out in the published range, [-1, 1] (`normalise`, `denormalise`); maps
    of classes go in as ones and zeros, one channel a class, and come out as logits.
    """

    used: Tensor
    colours: Tensor

    def __init__(self, config: VqGanConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = (PatchEncoder if config.encoder == "patches" else Encoder)(config)
        encoded = config.latent_width * (1 + config.double_latent)
        self.to_code = _convolution(encoded, config.code_width, 1)
        self.codebook = nn.Embedding(config.codes, config.code_width)
        if config.quantiser == "gumbel":
            self.choice = Linear(config.code_width, config.codes)
        else:
            nn.init.uniform_(self.codebook.weight, -1 / config.codes, 1 / config.codes)
        self.from_code = _convolution(config.code_width, config.latent_width, 1)
        self.decoder = Decoder(config)
        if config.used_codes is not None:
            self.register_buffer("used", torch.arange(config.used_codes))
        if config.labels is not None:
            self.register_buffer("colours", torch.randn(3, config.labels))

    @property
    def codes(self) -> int:
        """How many ids there are."""
        if self.config.used_codes is None:
            return self.config.codes
        return self.config.used_codes + (self.config.unknown == "extra")

    @property
    def factor(self) -> int:
        """Pixels of a picture per code, along one side."""
        return self.config.factor

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights by whose gradients an adversarial loss is weighed."""
        return cast(nn.Parameter, self.decoder.last.weight)

    def normalise(self, pictures: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Values in [0, 1] as the model takes them."""
        return (pictures - self.config.mean) / self.config.std

    def denormalise(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """What the model gives as values in [0, 1], a little outside too: not clamped."""
        return x * self.config.std + self.config.mean

    def grid(self, x: Float[Tensor, "b c y x"]) -> tuple[int, int]:
        """Rows and columns of a picture's codes.

        Raises:
            BadInput: the picture's sides are no multiples of the factor, or it has other channels.
        """
        return grid_of(x, self.factor, self.config.in_channels)

    def features(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b n d"]:
        """What is quantised, position by position in rows, for pictures in the model's range.

        Raises:
            BadInput: as `grid`.
        """
        self.grid(x)
        return as_tokens(self.to_code(self.encoder(x.to(self.to_code.weight.dtype))))

    def quantise(
        self, features: Float[Tensor, "b n d"]
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n d"]]:
        """Ids, and the codes' vectors; where gradients are asked for, they go to the features."""
        codes = self._chosen(features)
        found = self.codebook(codes)
        if torch.is_grad_enabled() and features.requires_grad:
            found = straight_through(found, features)
        return self._ids(codes), found

    def encode(self, x: Float[Tensor, "b c y x"]) -> Int[Tensor, "b n"]:
        """The ids of pictures in the model's range, row by row.

        The same for a picture every time: a Gumbel quantiser takes its likeliest code, where the
        official one draws.

        Raises:
            BadInput: as `grid`.
        """
        return self._ids(self._chosen(self.features(x)))

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The vectors of ids.

        Raises:
            BadInput: there is no such id.
        """
        require_ids(ids, self.codes)
        ids = ids.long()
        if self.config.used_codes is not None:
            # As published: the extra id is decoded as the first of the used codes.
            ids = self.used[torch.where(ids >= self.config.used_codes, 0, ids)]
        return self.codebook(ids)

    def decode(
        self, features: Float[Tensor, "b n d"], grid: tuple[int, int]
    ) -> Float[Tensor, "b c y x"]:
        """Pictures in the model's range, not clamped, from vectors of a grid of (rows, columns).

        Raises:
            BadInput: the grid has not as many places as there are vectors.
        """
        latent = as_map(features, grid)
        return self.decoder(self.from_code(latent.to(self.from_code.weight.dtype)))

    def decode_ids(
        self, ids: Int[Tensor, "b n"], grid: tuple[int, int]
    ) -> Float[Tensor, "b c y x"]:
        """Pictures in the model's range, not clamped, from ids of a grid of (rows, columns).

        Raises:
            BadInput: as `lookup` and `decode`.
        """
        return self.decode(self.lookup(ids), grid)

    def to_rgb(self, x: Float[Tensor, "b l y x"]) -> Float[Tensor, "b 3 y x"]:
        """A map of classes in the model's own colours, in [-1, 1].

        As published, the range is that of the whole batch.

        Raises:
            BadInput: this model has no colours.
        """
        if self.config.labels is None:
            raise BadInput("this model has no colours: it is none of maps of classes")
        mixed = torch.einsum("blyx,cl->bcyx", x.to(self.colours.dtype), self.colours)
        low, high = mixed.min(), mixed.max()
        return 2 * (mixed - low) / (high - low) - 1

    # Training

    def forward(
        self,
        x: Float[Tensor, "b c y x"],
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """Pictures by way of their codes, with what training needs.

        Args:
            x: pictures in the model's range.
            temperature: of a Gumbel quantiser.
            generator: of its noise, in `train()` mode.
        """
        quantised = self.train_quantise(
            self.features(x), temperature=temperature, generator=generator
        )
        back = self.decode(quantised.features, self.grid(x))
        return Reconstruction(back, quantised.ids, quantised.loss, quantised.perplexity)

    def train_quantise(
        self,
        features: Float[Tensor, "b n d"],
        *,
        temperature: float = 1.0,
        noise: Float[Tensor, "b n s"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Quantised:
        """Codes with gradients, and the loss that moves them and the encoder together.

        A Gumbel quantiser adds noise in `train()` mode, and chooses without in `eval()` mode, where
        the official one adds it all the same.

        Args:
            features: as `features` gives them.
            temperature: of a Gumbel quantiser; the lower, the closer a soft choice is to a hard.
            noise: instead of drawn noise, for the codes that are in use.
            generator: of the noise.
        """
        if self.config.quantiser == "gumbel":
            return self._train_gumbel(features, temperature, noise, generator)
        codes = self._chosen(features)
        found = self.codebook(codes)
        return Quantised(
            ids=self._ids(codes),
            features=straight_through(found, features),
            loss=quantisation_loss(
                features, found, beta=self.config.beta, weighs=self.config.weighs
            ),
            perplexity=perplexity(codes, self.config.codes),
        )

    def _train_gumbel(
        self,
        features: Tensor,
        temperature: float,
        noise: Tensor | None,
        generator: torch.Generator | None,
    ) -> Quantised:
        weight = self.codebook.weight
        logits = self.choice(features)
        if self.config.used_codes is not None:
            logits, weight = logits[..., self.used], weight[self.used]
        if noise is None:
            noise = gumbel_noise(logits, generator) if self.training else torch.zeros_like(logits)
        hard = self.config.straight_through or not self.training
        chosen = gumbel_choice(logits, noise, temperature=temperature, hard=hard)
        ids = chosen.argmax(dim=-1)
        divergence = divergence_from_uniform(logits, self.config.codes)
        return Quantised(
            ids=ids,
            features=chosen @ weight,
            loss=self.config.kl_weight * divergence,
            perplexity=perplexity(ids, self.codes),
        )

    def _chosen(self, features: Tensor) -> Tensor:
        """Rows of the codebook, before only those in use are counted."""
        if self.config.quantiser == "nearest":
            return nearest(features, self.codebook.weight)
        weight, bias = self.choice.weight, self.choice.bias
        if self.config.used_codes is None:
            return likeliest(features, weight, bias)
        return self.used[likeliest(features, weight[self.used], bias[self.used])]

    def _ids(self, codes: Tensor) -> Tensor:
        """Ids of rows of the codebook."""
        if self.config.used_codes is None:
            return codes
        table = self._unknown_ids(codes.device)
        table[self.used] = torch.arange(len(self.used), device=codes.device)
        return table[codes]

    def _unknown_ids(self, device: torch.device) -> Tensor:
        """An id for every code, as if none were in use."""
        config = self.config
        assert config.used_codes is not None
        if config.unknown == "random":
            # The official code draws anew each time; here a code has one id for good.
            chance = torch.Generator().manual_seed(0)
            return torch.randint(config.used_codes, (config.codes,), generator=chance).to(device)
        value = config.used_codes if config.unknown == "extra" else config.unknown
        return torch.full((config.codes,), cast(int, value), device=device)


def deepened(vqgan: VqGan, middles: int) -> VqGan:
    """A VQGAN whose decoder has so many middles and computes the same, until it is trained on.

    Raises:
        BadInput: it has more.
    """
    had = vqgan.config.middles
    if middles < had:
        raise BadInput(f"{middles} middles; the decoder has {had} already")
    if middles == had:
        return vqgan
    deeper = VqGan(replace(vqgan.config, middles=middles))
    deeper.load_state_dict(deeper.state_dict() | vqgan.state_dict())
    for middle in list(deeper.decoder.more.children())[had - 1 :]:
        cast(Middle, middle).to_identity()
    return deeper
