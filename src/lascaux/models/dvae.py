"""dVAE: OpenAI's discrete picture codes, 32 x 32 of 8192 for 256 x 256 pixels.

Ramesh, Pavlov, Goh, Gray, Voss, Radford, Chen, Sutskever: "Zero-Shot Text-to-Image Generation",
2021, arXiv:2102.12092, section 2.1 and appendix A. The tokeniser of DALL-E; BEiT learns to predict
its codes. It was trained with a Gumbel-softmax relaxation and a logit-Laplace likelihood; the code
of that training was not published.

Published checkpoint: `openai-dvae` (encoder.pkl and decoder.pkl).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.grid import Grid, as_map, as_tokens, grid_of, require_count, require_ids

if TYPE_CHECKING:
    from lascaux.images.preprocess import Preprocessing

_STEM_SIZE = 7  # pixels


@dataclass(frozen=True, kw_only=True)
class DvaeConfig:
    """Everything that fixes the parameters of a dVAE and the numbers it answers with."""

    codes: int  # published as vocab_size
    encoder_width: int  # channels of the first group; each later group has twice as many (n_hid)
    encoder_blocks: int  # in each group (n_blk_per_group)
    decoder_width: int  # channels of the last group; each earlier group has twice as many (n_hid)
    decoder_blocks: int
    first_width: int  # channels of the decoder's first map (n_init)
    groups: int = 4  # all but one halve or double the sides (group_count)
    in_channels: int = 3
    out_channels: int = 3
    margin: float = 0.1  # of [0, 1] that mapped pixels leave free at both ends
    image_size: int = 256  # pixels, square: what it was trained at; any multiple of factor is read

    def __post_init__(self) -> None:
        for name, least in (
            *(("codes", 1), ("groups", 1), ("encoder_blocks", 1), ("decoder_blocks", 1)),
            *(("in_channels", 1), ("out_channels", 1), ("first_width", 1)),
            # A block's inner width is a quarter of its outer one.
            *(("encoder_width", 4), ("decoder_width", 4), ("image_size", 1)),
        ):
            if getattr(self, name) < least:
                raise BadInput(f"{name} {getattr(self, name)}; at least {least} is expected")
        if not 0 <= self.margin < 0.5:
            raise BadInput(f"margin {self.margin}; from 0 to below 0.5 is expected")

    @property
    def factor(self) -> int:
        """Pixels per code, along one side."""
        return 2 ** (self.groups - 1)

    @property
    def preprocessing(self) -> "Preprocessing":
        """What a picture goes through; its mean and std map the pixels.

        OpenAI's notebook rounds the longer side where this cuts it: up to a pixel before the crop.
        """
        from lascaux.images.preprocess import Preprocessing

        reach = 1 - 2 * self.margin
        mean, std = -self.margin / reach, 1 / reach
        return Preprocessing(
            size=self.image_size,
            filter="lanczos",
            mean=(mean, mean, mean),
            std=(std, std, std),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "DvaeConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "dVAE")


VARIANTS: dict[str, DvaeConfig] = {
    "openai-dvae": DvaeConfig(
        codes=8192,
        encoder_width=256,
        encoder_blocks=2,
        decoder_width=256,
        decoder_blocks=2,
        first_width=128,
    ),
}


def map_pixels(x: Float[Tensor, "*b y x"], margin: float = 0.1) -> Float[Tensor, "*b y x"]:
    """Values in [0, 1] as the encoder takes them: in [margin, 1 - margin]."""
    return (1 - 2 * margin) * x + margin


def unmap_pixels(x: Float[Tensor, "*b y x"], margin: float = 0.1) -> Float[Tensor, "*b y x"]:
    """What the decoder gives as values in [0, 1], clamped as published."""
    return ((x - margin) / (1 - 2 * margin)).clamp(0, 1)


def _conv(in_width: int, width: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(in_width, width, size, padding=size // 2)


class Block(nn.Module):
    """Four convolutions, each after a ReLU, added to their input with a small gain."""

    def __init__(self, in_width: int, width: int, sizes: tuple[int, ...], layers: int) -> None:
        super().__init__()
        inner = width // 4
        widths = (in_width, inner, inner, inner, width)
        self.gain = 1 / layers**2
        self.shortcut = nn.Identity() if in_width == width else _conv(in_width, width, 1)
        self.convs = nn.ModuleList(
            _conv(i, o, size) for i, o, size in zip(widths[:-1], widths[1:], sizes, strict=True)
        )

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """The map, with what the convolutions add."""
        added = x
        for conv in self.convs:
            added = conv(F.relu(added))
        return self.shortcut(x) + self.gain * added


def _groups(widths: list[int], blocks: int, sizes: tuple[int, ...]) -> nn.ModuleList:
    layers = (len(widths) - 1) * blocks
    return nn.ModuleList(
        nn.ModuleList(Block(o if b else i, o, sizes, layers) for b in range(blocks))
        for i, o in pairwise(widths)
    )


class Encoder(nn.Module):
    """From mapped pixels to a logit of every code at every place."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        width = config.encoder_width
        widths = [width, *(width * 2**group for group in range(config.groups))]
        self.stem = _conv(config.in_channels, width, _STEM_SIZE)
        self.groups = _groups(widths, config.encoder_blocks, (3, 3, 3, 1))
        self.out = _conv(widths[-1], config.codes, 1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b s r q"]:
        """Logits of the codes, one place for each patch of `factor` pixels."""
        x = self.stem(x)
        for number, group in enumerate(self.groups):
            x = F.max_pool2d(x, 2) if number else x
            for block in group:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
        return self.out(F.relu(x))


class Decoder(nn.Module):
    """From the first map, one place for each code, to the parameters of every pixel."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        widths = [config.decoder_width * 2**group for group in reversed(range(config.groups))]
        self.groups = _groups([config.first_width, *widths], config.decoder_blocks, (1, 3, 3, 3))
        self.out = _conv(config.decoder_width, 2 * config.out_channels, 1)

    def forward(self, x: Float[Tensor, "b d r q"]) -> Float[Tensor, "b c y x"]:
        """Mean logits of the channels, then the logarithms of their scales."""
        for number, group in enumerate(self.groups):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") if number else x
            for block in group:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
        return self.out(F.relu(x))


class Codebook(nn.Module):
    """A vector for each code.

    Published as a 1 x 1 convolution of one-hot maps, of which each output is one column of the
    weight and the bias.
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(codes, width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The vectors of ids."""
        return F.embedding(ids.long(), self.weight) + self.bias

    def blend(self, shares: Float[Tensor, "b n s"]) -> Float[Tensor, "b n d"]:
        """Mixtures of the vectors; each place has a share of every code."""
        return shares @ self.weight + self.bias


class Dvae(nn.Module):
    """A picture as a grid of codes and back.

    Pictures go in and come out mapped to [0.1, 0.9] (`normalise`, `denormalise`).
    """

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.codebook = Codebook(config.codes, config.first_width)
        self.decoder = Decoder(config)
        self.initialise()

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does: variance 1 / inputs, no bias."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                inputs = module.weight[0].numel()
                nn.init.normal_(module.weight, std=1 / math.sqrt(inputs))
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.codebook.weight, std=1 / math.sqrt(self.codes))
        nn.init.zeros_(self.codebook.bias)

    @property
    def codes(self) -> int:
        """How many there are."""
        return self.config.codes

    @property
    def factor(self) -> int:
        """Pixels of a picture per code, along one side."""
        return self.config.factor

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.codebook.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return self.codebook.weight.dtype

    def normalise(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Pictures in [0, 1] as the other methods take them."""
        return map_pixels(x, self.config.margin)

    def denormalise(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """What the other methods give as pictures around [0, 1], not clamped."""
        return (x - self.config.margin) / (1 - 2 * self.config.margin)

    def grid(self, x: Float[Tensor, "b c y x"]) -> Grid:
        """Rows and columns of a picture's codes.

        Raises:
            BadInput: other channels, or a side that is not a multiple of `factor`.
        """
        return grid_of(x, self.factor, self.config.in_channels)

    def features(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b n s"]:
        """A logit of every code at every place, places in reading order.

        Raises:
            BadInput: as `grid`.
        """
        self.grid(x)
        return as_tokens(self.encoder(x.to(self.dtype)))

    def quantise(
        self, f: Float[Tensor, "b n s"]
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n d"]]:
        """The likeliest code of every place, and its vector."""
        ids = f.argmax(dim=-1)
        return ids, self.codebook(ids)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The codes' vectors.

        Raises:
            BadInput: an id is not of this codebook.
        """
        require_ids(ids, self.codes)
        return self.codebook(ids)

    def blend(self, shares: Float[Tensor, "b n s"]) -> Float[Tensor, "b n d"]:
        """Mixtures of the codes' vectors, for gradients through the choice of a code."""
        return self.codebook.blend(shares)

    def encode(self, x: Float[Tensor, "b c y x"]) -> Int[Tensor, "b n"]:
        """The codes of mapped pictures in reading order, int64.

        Raises:
            BadInput: as `grid`.
        """
        return self.features(x).argmax(dim=-1)

    def statistics(self, f: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b c y x"]:
        """Mean and logarithm of scale of every pixel's logit-Laplace distribution (appendix A.3).

        The first half of the channels are the means, before the sigmoid.

        Raises:
            BadInput: there are not as many vectors as the grid has places.
        """
        return self.decoder(as_map(f, grid).to(self.dtype))

    def decode(self, f: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b c y x"]:
        """Mapped pictures of the codes' vectors, laid out on `grid` = (rows, columns).

        Raises:
            BadInput: as `statistics`.
        """
        return self.statistics(f, grid)[:, : self.config.out_channels].sigmoid()

    def decode_ids(self, ids: Int[Tensor, "b n"], grid: Grid) -> Float[Tensor, "b c y x"]:
        """Mapped pictures of codes.

        Raises:
            BadInput: as `lookup` and `statistics`.
        """
        require_count(ids.shape[1], grid)
        return self.decode(self.lookup(ids), grid)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b o y x"]:
        """Mapped pictures as their codes give them back.

        Raises:
            BadInput: as `grid`.
        """
        return self.decode(self.quantise(self.features(x))[1], self.grid(x))
