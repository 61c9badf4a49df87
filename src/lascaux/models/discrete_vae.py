"""DiscreteVAE: the trainable picture codes of DALLE-pytorch.

Wang and contributors: https://github.com/lucidrains/DALLE-pytorch, 2021, `DiscreteVAE`; after
Ramesh et al. 2021, arXiv:2102.12092, section 2.1. Codes are drawn by the Gumbel-softmax relaxation
(Jang, Gu, Poole 2017, arXiv:1611.01144), optionally with ReinMax gradients (Liu, Dong, Liu, Yu, Gao
2023, arXiv:2304.08612).

No checkpoint is published with it: users train their own with its train_vae.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.grid import Grid, as_map, as_tokens, grid_of, require_count, require_ids
from lascaux.nn.quantise import gumbel_choice, gumbel_noise, straight_through

if TYPE_CHECKING:
    from lascaux.images.preprocess import Colour, Preprocessing

Error = Literal["mse", "smooth_l1"]


@dataclass(frozen=True, kw_only=True)
class DiscreteVaeConfig:
    """Everything that fixes the parameters of a DiscreteVAE, its answers and its loss.

    The defaults are those of the published constructor.
    """

    image_size: int = 256  # pixels, square: what it was trained at; any multiple of factor is read
    codes: int = 512  # published as num_tokens
    code_width: int = 512  # codebook_dim
    layers: int = 3  # each halves the sides
    blocks: int = 0  # residual blocks on either side of the codes (num_resnet_blocks)
    width: int = 64  # channels of all maps (hidden_dim)
    channels: int = 3
    error: Error = "mse"
    temperature: float = 0.9  # of the relaxation
    straight_through: bool = False  # forward one code, backward the relaxation
    reinmax: bool = False  # gradients of second order, with straight_through alone
    kl_weight: float = 0.0  # kl_div_loss_weight
    mean: tuple[float, ...] | None = (0.5, 0.5, 0.5)  # by channel; None: pictures as they are
    std: tuple[float, ...] | None = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        for name in ("image_size", "codes", "code_width", "layers", "width", "channels"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} {getattr(self, name)}; at least 1 is expected")
        if self.blocks < 0:
            raise BadInput(f"blocks {self.blocks}; 0 or more are expected")
        if self.error not in ("mse", "smooth_l1"):
            raise BadInput(f"error {self.error!r} is neither 'mse' nor 'smooth_l1'")
        if self.temperature <= 0:
            raise BadInput(f"temperature {self.temperature}; above 0 is expected")
        if (self.mean is None) != (self.std is None):
            raise BadInput("mean and std are given together, or both are None")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise BadInput(f"{name} {values}; expected one number for each of {self.channels}")
        if self.std is not None and min(self.std) <= 0:
            raise BadInput(f"std {self.std}; above 0 is expected")

    @property
    def factor(self) -> int:
        """Pixels per code, along one side."""
        return 2**self.layers

    @property
    def preprocessing(self) -> "Preprocessing | None":
        """What a picture goes through, as in train_vae.py; None if it is not RGB."""
        if self.channels != 3:
            return None
        from lascaux.images.preprocess import Preprocessing

        return Preprocessing(
            size=self.image_size,
            filter="bilinear",
            mean=cast("Colour", self.mean or (0.0, 0.0, 0.0)),
            std=cast("Colour", self.std or (1.0, 1.0, 1.0)),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "DiscreteVaeConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "DiscreteVAE")


class Reconstruction(NamedTuple):
    """Pictures by way of codes that were drawn, and what training minimises."""

    pictures: Float[Tensor, "b c y x"]  # normalised
    loss: Float[Tensor, ""]  # error + kl_weight * divergence
    error: Float[Tensor, ""]  # of the pictures, mean over all values
    divergence: Float[Tensor, ""]  # of the codes from uniform ones, nats, summed over all places


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a 1 x 1 one, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The map, with what the convolutions add."""
        return x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class Encoder(nn.Module):
    """From normalised pixels to a logit of every code at every place."""

    def __init__(self, config: DiscreteVaeConfig) -> None:
        super().__init__()
        width = config.width
        self.down = nn.ModuleList(
            nn.Conv2d(width if layer else config.channels, width, 4, stride=2, padding=1)
            for layer in range(config.layers)
        )
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(config.blocks))
        self.out = nn.Conv2d(width, config.codes, 1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b s r q"]:
        """Logits of the codes."""
        for conv in self.down:
            x = F.relu(conv(x))
        for block in self.blocks:
            x = block(x)
        return self.out(x)


class Decoder(nn.Module):
    """From the codes' vectors, one place for each code, to normalised pixels."""

    def __init__(self, config: DiscreteVaeConfig) -> None:
        super().__init__()
        width = config.width
        # As published: without blocks, the codes' vectors go into the first layer as they are.
        self.first = nn.Conv2d(config.code_width, width, 1) if config.blocks else None
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(config.blocks))
        first_width = width if config.blocks else config.code_width
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width if layer else first_width, width, 4, stride=2, padding=1)
            for layer in range(config.layers)
        )
        self.out = nn.Conv2d(width, config.channels, 1)

    def forward(self, x: Float[Tensor, "b d r q"]) -> Float[Tensor, "b c y x"]:
        """Normalised pixels, not clamped."""
        if self.first is not None:
            x = self.first(x)
        for block in self.blocks:
            x = block(x)
        for conv in self.up:
            x = F.relu(conv(x))
        return self.out(x)


class DiscreteVae(nn.Module):
    """A picture as a grid of codes and back, trainable end to end.

    Pictures go in and come out normalised, in [-1, 1] by default (`normalise`, `denormalise`).
    """

    def __init__(self, config: DiscreteVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.codebook = nn.Embedding(config.codes, config.code_width)
        self.decoder = Decoder(config)

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
        if self.config.mean is None or self.config.std is None:
            return x
        return (x - self._by_channel(self.config.mean, x)) / self._by_channel(self.config.std, x)

    def denormalise(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """What the other methods give as pictures around [0, 1], not clamped."""
        if self.config.mean is None or self.config.std is None:
            return x
        return x * self._by_channel(self.config.std, x) + self._by_channel(self.config.mean, x)

    @staticmethod
    def _by_channel(values: tuple[float, ...], x: Tensor) -> Tensor:
        return torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None]

    def grid(self, x: Float[Tensor, "b c y x"]) -> Grid:
        """Rows and columns of a picture's codes.

        Raises:
            BadInput: other channels, or a side that is not a multiple of `factor`.
        """
        return grid_of(x, self.factor, self.config.channels)

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
        return self.codebook(ids.long())

    def blend(self, shares: Float[Tensor, "b n s"]) -> Float[Tensor, "b n d"]:
        """Mixtures of the codes' vectors, for gradients through the choice of a code."""
        return shares @ self.codebook.weight

    def encode(self, x: Float[Tensor, "b c y x"]) -> Int[Tensor, "b n"]:
        """The codes of normalised pictures in reading order, int64.

        Raises:
            BadInput: as `grid`.
        """
        return self.features(x).argmax(dim=-1)

    def decode(self, f: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b c y x"]:
        """Normalised pictures of the codes' vectors, laid out on `grid` = (rows, columns).

        Raises:
            BadInput: there are not as many vectors as the grid has places.
        """
        return self.decoder(as_map(f, grid).to(self.dtype))

    def decode_ids(self, ids: Int[Tensor, "b n"], grid: Grid) -> Float[Tensor, "b c y x"]:
        """Normalised pictures of codes.

        Raises:
            BadInput: as `lookup` and `decode`.
        """
        require_count(ids.shape[1], grid)
        return self.decode(self.lookup(ids), grid)

    def relax(
        self,
        f: Float[Tensor, "b n s"],
        *,
        temperature: float | None = None,
        noise: Float[Tensor, "b n s"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b n s"]:
        """Shares of the codes, drawn by the Gumbel-softmax relaxation.

        Args:
            f: logits of the codes.
            temperature: the lower, the nearer to one code alone; None: the config's.
            noise: Gumbel noise; None draws it.
            generator: what draws it; None: torch's own.
        """
        temperature = self.config.temperature if temperature is None else temperature
        if temperature <= 0:
            raise BadInput(f"temperature {temperature}; above 0 is expected")
        if noise is None:
            noise = gumbel_noise(f, generator)
        hard = self.config.straight_through
        shares = gumbel_choice(f, noise, temperature=temperature, hard=hard)
        return reinmax(f, shares, temperature) if hard and self.config.reinmax else shares

    def forward(
        self,
        x: Float[Tensor, "b c y x"],
        *,
        temperature: float | None = None,
        noise: Float[Tensor, "b n s"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """Normalised pictures by way of codes drawn by `relax`, and the loss; arguments as there.

        Raises:
            BadInput: as `grid`.
        """
        f = self.features(x)
        shares = self.relax(f, temperature=temperature, noise=noise, generator=generator)
        pictures = self.decode(self.blend(shares), self.grid(x))
        measure = F.mse_loss if self.config.error == "mse" else F.smooth_l1_loss
        error = measure(pictures, x.to(pictures.dtype))
        # As published (dalle_pytorch.py, DiscreteVAE.forward): F.kl_div gets the uniform
        # distribution first, one row, so that its mean over rows is a sum over all places of all
        # pictures.
        chances = f.log_softmax(dim=-1)
        divergence = (chances.exp() * (chances + math.log(self.codes))).sum()
        return Reconstruction(
            pictures, error + self.config.kl_weight * divergence, error, divergence
        )


def reinmax(
    f: Float[Tensor, "b n s"], hard: Float[Tensor, "b n s"], temperature: float
) -> Float[Tensor, "b n s"]:
    """The values of one-hot `hard`, drawn by logits `f`, with gradients of second order.

    Liu et al. 2023, algorithm 2.
    """
    hard = hard.detach()
    chances = f.softmax(dim=-1)
    middle = (hard + (f / temperature).softmax(dim=-1)) / 2
    # Never the logarithm of 0: softmax underflows.
    middle = ((torch.log(middle + 1e-20) - f).detach() + f).softmax(dim=-1)
    return straight_through(hard, 2 * middle - 0.5 * chances)
