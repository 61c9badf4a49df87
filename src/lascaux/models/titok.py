"""TiTok: a picture as a short sequence of tokens that lie in no grid.

Yu, Weber, Deng, Shen, Cremers, Chen: "An Image is Worth 32 Tokens for Reconstruction and
Generation", 2024, arXiv:2406.07550. A ViT reads the picture together with 32 to 256 learnt latent
tokens and keeps these alone; another ViT makes the patches from them. Beside Styled VAE-VQ the
other tokeniser without a grid: its tokens have no order from general to particular.

Published checkpoints, all for 256 pixels: the legacy ones l32, b64 and s128, whose decoder names
codes of MaskGIT-VQGAN (Chang et al. 2022, arXiv:2202.04200) and ends in that model's decoder; the
later bl64-vq8k, bl128-vq8k and sl256-vq8k, which give pixels; and ll32, bl64 and bl128 -vae-c16,
which are variational autoencoders without a codebook.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput, Unsupported
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.linear import Linear
from lascaux.nn.quantise import nearest, straight_through
from lascaux.nn.transformer import Block, LayerNorm
from lascaux.nn.upsample import DoublingConvolution

if TYPE_CHECKING:
    from lascaux.images.preprocess import Preprocessing

Size = Literal["small", "base", "large"]

# Width, blocks and heads, as published.
SIZES: dict[str, tuple[int, int, int]] = {
    "small": (512, 8, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}

_LOG_VARIANCE = (-30.0, 20.0)  # what is given beyond is not believed
_PIXEL_CODES, _PIXEL_WIDTH = 1024, 256  # MaskGIT-VQGAN's codebook
_PIXEL_CHANNELS = (128, 128, 256, 256, 512)  # of its decoder, from full size to a sixteenth
_PIXEL_BLOCKS = 2


@dataclass(frozen=True, kw_only=True)
class TiTokConfig:
    """Everything that fixes the parameters of a TiTok and the numbers it answers with."""

    image_size: int = 256  # pixels, square
    encoder_patch_size: int = 16  # pixels
    decoder_patch_size: int = 16
    encoder_width: int
    encoder_layers: int
    encoder_heads: int
    decoder_width: int
    decoder_layers: int
    decoder_heads: int
    latents: int  # tokens of a picture
    token_width: int
    codes: int  # 0: a variational autoencoder, which has none
    unit_length: bool = False  # vectors and codes are compared and given at length 1
    legacy: bool = False  # l32, b64, s128: latents read across, and codes of MaskGIT-VQGAN given
    pixel_codes: int = _PIXEL_CODES  # how many codes a legacy one names; others for other VQGANs
    pixel_decoder: bool = False  # whether MaskGIT-VQGAN's decoder is there to turn those to pixels
    commitment_cost: float = 0.25  # of training
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: Literal["crop", "squash", "pad"] = "crop"
    filter: Literal["bicubic", "bilinear", "opencv-bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        for patch in (self.encoder_patch_size, self.decoder_patch_size):
            if self.image_size < patch or self.image_size % patch:
                raise BadInput(f"image_size {self.image_size} is no multiple of patch_size {patch}")
        for what, width, heads in (
            ("encoder", self.encoder_width, self.encoder_heads),
            ("decoder", self.decoder_width, self.decoder_heads),
        ):
            if heads < 1 or width % heads:
                raise BadInput(f"{what} width {width} does not divide into {heads} heads")
        if min(self.latents, self.token_width) < 1 or self.codes < 0:
            raise BadInput("latents and token_width must be at least one, codes not negative")
        if self.pixel_decoder and not self.legacy:
            raise BadInput("only a legacy TiTok names the codes that the pixel decoder needs")
        if self.pixel_decoder and self.pixel_codes != _PIXEL_CODES:
            raise BadInput(f"pixel_codes={self.pixel_codes}; the pixel decoder has {_PIXEL_CODES}")
        if not self.codes and (self.unit_length or self.pixel_decoder):
            raise BadInput("without codes there are neither unit lengths nor a pixel decoder")

    @property
    def variational(self) -> bool:
        """True where tokens are continuous: the encoder gives means and variances."""
        return self.codes == 0

    @property
    def preprocessing(self) -> "Preprocessing":
        """What a picture goes through before the encoder."""
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
    def from_json(cls, fields: Mapping[str, Any]) -> "TiTokConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "TiTok")


def of_sizes(encoder: str, decoder: str, **fields: Any) -> TiTokConfig:
    """A config with published sizes of encoder and decoder (`SIZES`).

    Raises:
        BadInput: a size is none of these.
    """
    for size in (encoder, decoder):
        if size not in SIZES:
            raise BadInput(f"size {size!r}; expected one of {', '.join(SIZES)}")
    names = ("width", "layers", "heads")
    sizes = {f"encoder_{name}": value for name, value in zip(names, SIZES[encoder], strict=True)}
    sizes |= {f"decoder_{name}": value for name, value in zip(names, SIZES[decoder], strict=True)}
    return TiTokConfig(**sizes, **fields)


def _legacy(size: Size, latents: int) -> TiTokConfig:
    return of_sizes(
        size,
        size,
        latents=latents,
        codes=4096,
        token_width=12,
        unit_length=True,
        legacy=True,
        pixel_decoder=True,
    )


def _vq8k(encoder: Size, latents: int) -> TiTokConfig:
    return of_sizes(encoder, "large", latents=latents, codes=8192, token_width=64)


def _variational(encoder: Size, latents: int) -> TiTokConfig:
    return replace(_vq8k(encoder, latents), codes=0, token_width=16)


VARIANTS: dict[str, TiTokConfig] = {
    "titok-l32": _legacy("large", 32),
    "titok-b64": _legacy("base", 64),
    "titok-s128": _legacy("small", 128),
    "titok-bl64-vq8k": _vq8k("base", 64),
    "titok-bl128-vq8k": _vq8k("base", 128),
    "titok-sl256-vq8k": _vq8k("small", 256),
    "titok-ll32-vae-c16": _variational("large", 32),
    "titok-bl64-vae-c16": _variational("base", 64),
    "titok-bl128-vae-c16": _variational("base", 128),
}


class Encoder(nn.Module):
    """From a picture to what its latent tokens have learnt of it."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.encoder_width, config.encoder_patch_size
        self.patches = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + (config.image_size // patch) ** 2, width))
        self.latents = nn.Parameter(torch.empty(config.latents, width))
        self.latent_positions = nn.Parameter(torch.empty(config.latents, width))
        self.first_norm = LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, config.encoder_heads, 4 * width) for _ in range(config.encoder_layers)
        )
        self.last_norm = LayerNorm(width)
        # A variational one gives means and, behind them, logarithms of variances.
        self.project = Linear(width, config.token_width * (2 if config.variational else 1))

    def initialise(self) -> None:
        """Draw what is no matrix anew, as the published code does."""
        for token in (self.class_token, self.positions, self.latents, self.latent_positions):
            nn.init.normal_(token, std=self.config.encoder_width**-0.5)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b n d"]:
        """One vector a latent token; of a variational TiTok means and log variances."""
        size, count = self.config.image_size, self.config.latents
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, size, size):
            raise BadInput(
                f"pictures of shape {tuple(x.shape)}; this model takes b x 3 x {size} x {size}: "
                "prepare them with lascaux.images and the model's config.preprocessing"
            )
        x = rearrange(self.patches(x.to(self.patches.weight.dtype)), "b d y x -> b (y x) d")
        first = self.class_token.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat((first, x), dim=1) + self.positions
        latents = (self.latents + self.latent_positions).to(x.dtype).expand(len(x), -1, -1)
        x = self.first_norm(torch.cat((x, latents), dim=1))
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x[:, -count:])
        if self.config.legacy:
            # modeling/modules/blocks.py, TiTokEncoder: `n d` read as if it were `d n`.
            x = x.reshape(len(x), self.config.encoder_width, count).mT
        return self.project(x)


class Decoder(nn.Module):
    """From vectors of tokens to pixels, or to logits of MaskGIT-VQGAN's codes."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.decoder_width, config.decoder_patch_size
        self.widen = Linear(config.token_width, width)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + (config.image_size // patch) ** 2, width))
        self.mask_token = nn.Parameter(torch.empty(width))
        self.latent_positions = nn.Parameter(torch.empty(config.latents, width))
        self.first_norm = LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_heads, 4 * width) for _ in range(config.decoder_layers)
        )
        self.last_norm = LayerNorm(width)
        if config.legacy:
            self.up = Linear(width, 2 * width)
            self.logits = Linear(2 * width, config.pixel_codes)
        else:
            self.patches = Linear(width, 3 * patch**2)
            self.smooth = nn.Conv2d(3, 3, 3, padding=1)

    def initialise(self) -> None:
        """Draw what is no matrix anew, as the published code does."""
        tokens = (self.class_token, self.positions, self.mask_token, self.latent_positions)
        for token in tokens:
            nn.init.normal_(token, std=self.config.decoder_width**-0.5)

    def forward(self, z: Float[Tensor, "b n d"]) -> Float[Tensor, "b c y x"]:
        """Pixels; of a legacy TiTok logits of MaskGIT-VQGAN's codes at each patch."""
        z = self.widen(z.to(self.widen.weight.dtype)) + self.latent_positions
        places = len(self.positions) - 1
        masks = self.mask_token.expand(places, -1)
        x = torch.cat((self.class_token[None], masks)) + self.positions
        x = torch.cat((x.to(z.dtype).expand(len(z), -1, -1), z), dim=1)
        x = self.first_norm(x)
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x[:, 1 : 1 + places])
        rows = math.isqrt(places)
        if self.config.legacy:
            x = self.logits(torch.tanh(self.up(x)))
            return rearrange(x, "b (y x) s -> b s y x", y=rows)
        size = self.config.decoder_patch_size
        x = rearrange(self.patches(x), "b (y x) (p q c) -> b c (y p) (x q)", y=rows, p=size, c=3)
        return self.smooth(x)


class PixelBlock(nn.Module):
    """Residual block of MaskGIT-VQGAN."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, in_width, eps=1e-6)
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(32, width, eps=1e-6)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1, bias=False) if in_width != width else None

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2 y x"]:
        """The map after the block."""
        changed = self.conv1(F.silu(self.norm1(x)))
        changed = self.conv2(F.silu(self.norm2(changed)))
        # maskgit_vqgan.py, ResnetBlock: the shortcut takes what the block gives, not what it got.
        return changed + (x if self.shortcut is None else self.shortcut(changed))


class PixelLevel(nn.Module):
    """Blocks of one resolution, and what doubles it."""

    def __init__(self, in_width: int, width: int, *, doubles: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            PixelBlock(width if number else in_width, width) for number in range(_PIXEL_BLOCKS)
        )
        self.enlarge = DoublingConvolution(width, width) if doubles else None

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2 y2 x2"]:
        """The map after the level, twice as large but at the last."""
        for block in self.blocks:
            x = block(x)
        return x if self.enlarge is None else self.enlarge(x)


class PixelDecoder(nn.Module):
    """MaskGIT-VQGAN's decoder: from mixtures of its codes to a picture, 16 times as large."""

    def __init__(self) -> None:
        super().__init__()
        top = _PIXEL_CHANNELS[-1]
        self.codebook = nn.Parameter(torch.empty(_PIXEL_CODES, _PIXEL_WIDTH))
        self.first = nn.Conv2d(_PIXEL_WIDTH, top, 3, padding=1)
        self.middle = nn.ModuleList(PixelBlock(top, top) for _ in range(_PIXEL_BLOCKS))
        # Counted from full size, as published; run from the other end.
        self.levels = nn.ModuleList(
            PixelLevel(in_width, width, doubles=number > 0)
            for number, (in_width, width) in enumerate(
                zip((*_PIXEL_CHANNELS[1:], top), _PIXEL_CHANNELS, strict=True)
            )
        )
        self.last_norm = nn.GroupNorm(32, _PIXEL_CHANNELS[0], eps=1e-6)
        self.last = nn.Conv2d(_PIXEL_CHANNELS[0], 3, 3, padding=1)

    def forward(self, logits: Float[Tensor, "b s y x"]) -> Float[Tensor, "b c y2 x2"]:
        """Pictures of codes that are mixed as the logits say."""
        x = torch.einsum("b s y x, s d -> b d y x", logits.softmax(dim=1), self.codebook)
        x = self.first(x)
        for block in self.middle:
            x = block(x)
        for level in reversed(self.levels):
            x = level(x)
        return self.last(F.silu(self.last_norm(x)))


class TiTok(nn.Module):
    """A picture as a sequence of tokens without places, and back.

    Attributes:
        encoder: gives a vector for each latent token.
        codebook: `codes token_width`; with no row in a variational TiTok.
        decoder: takes vectors of tokens.
        pixel_decoder: of a legacy TiTok, turns logits of codes to pixels; None where it is missing.
    """

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.codebook = nn.Parameter(torch.empty(config.codes, config.token_width))
        self.decoder = Decoder(config)
        self.pixel_decoder = PixelDecoder() if config.pixel_decoder else None
        self.initialise()

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does."""
        parts = [self.encoder, self.decoder]
        for part in parts:
            part.initialise()
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    # As published but for a cut at 100 standard deviations.
                    nn.init.normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        if self.config.codes:
            nn.init.uniform_(self.codebook, -1 / self.config.codes, 1 / self.config.codes)
        if self.pixel_decoder is not None:
            bound = 1 / _PIXEL_CODES
            nn.init.uniform_(self.pixel_decoder.codebook, -bound, bound)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return self.encoder.positions.dtype

    @property
    def codes(self) -> int:
        """Size of the codebook; 0 of a variational TiTok."""
        return self.config.codes

    @property
    def length(self) -> int:
        """Tokens of a picture."""
        return self.config.latents

    def normalise(self, pictures: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Pictures in [0, 1] in the range the model takes: the same as published."""
        return (pictures - self._colour(self.config.mean)) / self._colour(self.config.std)

    def denormalise(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """What `decode` gives as pictures in [0, 1], not clamped."""
        return x * self._colour(self.config.std) + self._colour(self.config.mean)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Pictures there and back, by way of the codes where there are any."""
        features = self.features(x)
        return self.decode(features if self.config.variational else self.quantise(features)[1])

    def features(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b n d"]:
        """What is quantised, of unit length where that counts; of a variational TiTok the means.

        Raises:
            BadInput: the pictures are not RGB or not of the config's size.
        """
        found = self.encoder(x)
        if self.config.variational:
            return found[..., : self.config.token_width]
        return F.normalize(found, dim=-1) if self.config.unit_length else found

    def distribution(
        self, x: Float[Tensor, "b c y x"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"]]:
        """Means and log variances of a variational TiTok's tokens, in float32.

        Raises:
            Unsupported: this TiTok has codes.
            BadInput: as `features`.
        """
        if not self.config.variational:
            raise Unsupported("this TiTok has codes and gives no distribution: take `features`")
        mean, log_variance = self.encoder(x).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def sample(
        self, x: Float[Tensor, "b c y x"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b n d"]:
        """Tokens drawn from a variational TiTok's distribution, as in its training.

        Raises:
            Unsupported, BadInput: as `distribution`.
        """
        mean, log_variance = self.distribution(x)
        drawn = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + (0.5 * log_variance).exp() * drawn

    def quantise(
        self, features: Float[Tensor, "b n d"]
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n d"]]:
        """The nearest codes, and their vectors; gradients go straight through to the features.

        Raises:
            Unsupported: a variational TiTok has no codes.
            BadInput: the features are of another width.
        """
        self._require_width(features)
        if self.config.unit_length:
            features = F.normalize(features, dim=-1)
        ids = self._chosen(features)
        found = self._rows()[ids].to(features.dtype)
        if torch.is_grad_enabled() and features.requires_grad:
            found = straight_through(found, features)
        return ids, found

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The vectors that codes stand for.

        Raises:
            Unsupported: a variational TiTok has no codes.
            BadInput: an id is none of the codes.
        """
        self._require_codes()
        if ids.is_floating_point() or ids.dtype == torch.bool or ids.ndim != 2:
            raise BadInput(
                f"ids of {ids.dtype} and shape {tuple(ids.shape)}; whole numbers b n are expected"
            )
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.codes):
            raise BadInput(
                f"ids from {int(ids.min())} to {int(ids.max())}; this model has 0 to "
                f"{self.codes - 1}: take ids that this very model gave"
            )
        found = self.codebook[ids.long()]
        return F.normalize(found, dim=-1) if self.config.unit_length else found

    def encode(self, x: Float[Tensor, "b c y x"]) -> Int[Tensor, "b n"]:
        """The codes of pictures.

        Raises:
            Unsupported: a variational TiTok has no codes.
            BadInput: as `features`.
        """
        self._require_codes()
        return self._chosen(self.features(x))

    def decode(
        self, features: Float[Tensor, "b n d"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c y x"]:
        """Pictures of tokens' vectors, unclamped and differentiable.

        Args:
            features: as `features`, `quantise` or `lookup` give them.
            grid: None; tokens have no places.

        Raises:
            BadInput: another number of tokens, another width, or a grid.
            Unsupported: a legacy TiTok after its first stage, which has no pixel decoder.
        """
        self._require_width(features)
        if grid is not None:
            raise BadInput(f"grid {grid}: these tokens lie in no grid; leave it None")
        if features.shape[1] != self.length:
            raise BadInput(f"{features.shape[1]} tokens; this model decodes {self.length}")
        if self.config.legacy and self.pixel_decoder is None:
            raise Unsupported(
                "this legacy TiTok comes from its first stage of training and gives logits of "
                "MaskGIT-VQGAN's codes (`decoder`), not pixels: take one with a finetuned decoder"
            )
        x = self.decoder(features)
        return x if self.pixel_decoder is None else self.pixel_decoder(x)

    def decode_ids(
        self, ids: Int[Tensor, "b n"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c y x"]:
        """Pictures of codes, unclamped; arguments and errors as `lookup` and `decode`."""
        return self.decode(self.lookup(ids), grid)

    def _rows(self) -> Tensor:
        if not self.config.unit_length:
            return self.codebook
        return F.normalize(self.codebook, dim=-1)

    def _chosen(self, features: Tensor) -> Tensor:
        self._require_codes()
        return nearest(features, self._rows())

    def _colour(self, values: tuple[float, float, float]) -> Tensor:
        return torch.tensor(values, device=self.device)[:, None, None]

    def _require_codes(self) -> None:
        if self.config.variational:
            raise Unsupported(
                "this TiTok is a variational autoencoder and has no codes: take its `features`, "
                "or another TiTok"
            )

    def _require_width(self, features: Tensor) -> None:
        width = self.config.token_width
        if features.ndim != 3 or features.shape[2] != width:
            raise BadInput(f"features of shape {tuple(features.shape)}; expected b n {width}")
