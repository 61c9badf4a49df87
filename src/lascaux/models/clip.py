"""CLIP: pictures and sentences in one space.

Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever:
"Learning Transferable Visual Models From Natural Language Supervision", 2021, arXiv:2103.00020.
For open-vocabulary classification, search and guidance: the cosine of a picture and a sentence
says how well the one describes the other.

Published checkpoints: OpenAI's RN50, RN101, RN50x4, RN50x16, RN50x64, ViT-B/32, ViT-B/16, ViT-L/14
and ViT-L/14@336px (QuickGELU); OpenCLIP's ViTs (Cherti et al. 2022, arXiv:2212.07143; exact GELU).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput, BadText
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.linear import Linear, linear
from lascaux.nn.prefix_tree import PrefixTree

if TYPE_CHECKING:
    from lascaux.images.preprocess import Preprocessing
    from lascaux.text.clip_bpe import ClipTokenizer

Activation = Literal["quick_gelu", "gelu"]

_MLP_ROWS = 256  # positions whose wide states stay in a CPU's cache
_RESNET_EXPANSION = 4  # a bottleneck block gives four times its inner width
_RESNET_STRIDE = 32  # pixels of the picture per token of the attention pool, as published


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Everything that fixes the parameters of a CLIP and the numbers it answers with."""

    embed_width: int  # of the space that both towers share
    image_size: int  # pixels, square
    vision_layers: int | tuple[int, int, int, int]  # blocks of the ViT, or of the ResNet's stages
    vision_width: int  # channels; of a ResNet, after its stem
    vision_heads: int  # of every block (ViT) or of the attention pool (ResNet)
    patch_size: int | None = None  # pixels; None for a ResNet
    stem_pool: bool = True  # a ResNet's stem ends in a pool, as published; small pictures need none
    vision_mlp_width: int | None = None  # None: four times the width
    text_width: int
    text_heads: int
    text_layers: int
    text_mlp_width: int | None = None  # None: four times the width
    context_length: int = 77  # tokens
    vocabulary_size: int = 49408
    end_id: int | None = None  # id of end-of-text; None: the highest id of a row, as published
    activation: Activation = "quick_gelu"
    norm_epsilon: float = 1e-5
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resize: Literal["crop", "squash", "pad"] = "crop"
    filter: Literal["bicubic", "bilinear", "opencv-bicubic"] = "bicubic"
    reading: Literal["official", "photo"] = "official"  # how pictures are read for published scores
    templates: str = "imagenet"  # the template set of its published scores
    calibration: tuple[float, float] | None = None  # (scale, bias) of independent scores

    def __post_init__(self) -> None:
        if self.convolutional:
            if self.patch_size is not None:
                raise BadInput("a ResNet image tower has no patch_size: leave it None")
            if self.image_size % self.image_stride:
                raise BadInput(
                    f"image_size {self.image_size} is no multiple of {self.image_stride}"
                )
            if self.vision_width % 2:
                raise BadInput(f"vision_width {self.vision_width} is odd; a stem halves it")
        elif self.patch_size is None:
            raise BadInput("a ViT image tower needs patch_size; a ResNet has four vision_layers")
        elif self.image_size < self.patch_size:
            raise BadInput(f"image_size {self.image_size} is below patch_size {self.patch_size}")
        for what, width, heads in (
            ("vision", self.image_token_width, self.vision_heads),
            ("text", self.text_width, self.text_heads),
        ):
            if heads < 1 or width % heads:
                raise BadInput(f"{what} width {width} does not divide into {heads} heads")
        if self.activation not in ("quick_gelu", "gelu"):
            raise BadInput(f"activation {self.activation!r} is neither 'quick_gelu' nor 'gelu'")

    @property
    def convolutional(self) -> bool:
        """True where the image tower is a ResNet."""
        return isinstance(self.vision_layers, tuple)

    @property
    def image_token_width(self) -> int:
        """Channels of an image token where heads share it."""
        return self.vision_width * (8 * _RESNET_EXPANSION if self.convolutional else 1)

    @property
    def image_stride(self) -> int:
        """Pixels of the picture per token, along one side."""
        return self.patch_size or (_RESNET_STRIDE if self.stem_pool else _RESNET_STRIDE // 2)

    @property
    def image_tokens(self) -> int:
        """Tokens of a picture, the class (ViT) or mean (ResNet) token included."""
        return (self.image_size // self.image_stride) ** 2 + 1

    @property
    def preprocessing(self) -> "Preprocessing":
        """What a picture goes through before the image tower."""
        from lascaux.images.preprocess import Preprocessing

        return Preprocessing(
            size=self.image_size,
            resize=self.resize,
            filter=self.filter,
            reading=self.reading,
            mean=self.mean,
            std=self.std,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ClipConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "CLIP")


def unless_fourfold(mlp_width: int, width: int) -> int | None:
    """An MLP width as a config states it: None where it is four times the width."""
    return None if mlp_width == 4 * width else mlp_width


def _vit(patch: int, size: int, vision: tuple[int, int, int], text: int, embed: int) -> ClipConfig:
    layers, width, heads = vision
    return ClipConfig(
        embed_width=embed,
        image_size=size,
        vision_layers=layers,
        vision_width=width,
        vision_heads=heads,
        patch_size=patch,
        text_width=text,
        text_heads=text // 64,
        text_layers=12,
    )


def _resnet(
    layers: tuple[int, int, int, int], size: int, width: int, text: int, embed: int
) -> ClipConfig:
    return ClipConfig(
        embed_width=embed,
        image_size=size,
        vision_layers=layers,
        vision_width=width,
        vision_heads=width // 2,
        text_width=text,
        text_heads=text // 64,
        text_layers=12,
    )


_B32 = _vit(32, 224, (12, 768, 12), 512, 512)
_L14 = _vit(14, 224, (24, 1024, 16), 768, 768)
_OPEN_B32 = replace(_B32, activation="gelu")
_OPEN_L14 = replace(_L14, activation="gelu")
_OPEN_H14 = replace(
    _OPEN_L14,
    embed_width=1024,
    vision_layers=32,
    vision_width=1280,
    text_width=1024,
    text_heads=16,
    text_layers=24,
)

VARIANTS: dict[str, ClipConfig] = {
    # Radford et al. 2021, tables 19 and 20.
    "RN50": _resnet((3, 4, 6, 3), 224, 64, 512, 1024),
    "RN101": _resnet((3, 4, 23, 3), 224, 64, 512, 512),
    "RN50x4": _resnet((4, 6, 10, 6), 288, 80, 640, 640),
    "RN50x16": _resnet((6, 8, 18, 8), 384, 96, 768, 768),
    "RN50x64": _resnet((3, 15, 36, 10), 448, 128, 1024, 1024),
    "ViT-B/32": _B32,
    "ViT-B/16": replace(_B32, patch_size=16),
    "ViT-L/14": _L14,
    "ViT-L/14@336px": replace(_L14, image_size=336),
    # OpenCLIP's model_configs; the same shapes as OpenAI's answer differently: exact GELU.
    "openclip-ViT-B-32": _OPEN_B32,
    "openclip-ViT-B-32-256": replace(_OPEN_B32, image_size=256),
    "openclip-ViT-B-16": replace(_OPEN_B32, patch_size=16),
    "openclip-ViT-B-16-plus-240": replace(
        _OPEN_B32,
        embed_width=640,
        image_size=240,
        vision_width=896,
        vision_heads=14,
        patch_size=16,
        text_width=640,
        text_heads=10,
    ),
    "openclip-ViT-L-14": _OPEN_L14,
    "openclip-ViT-L-14-336": replace(_OPEN_L14, image_size=336),
    "openclip-ViT-H-14": _OPEN_H14,
    "openclip-ViT-g-14": replace(
        _OPEN_H14, vision_layers=40, vision_width=1408, vision_mlp_width=6144
    ),
    "openclip-ViT-bigG-14": replace(
        _OPEN_H14,
        embed_width=1280,
        vision_layers=48,
        vision_width=1664,
        vision_mlp_width=8192,
        text_width=1280,
        text_heads=20,
        text_layers=32,
    ),
}


class LayerNorm(nn.LayerNorm):
    """Layer norm that is computed in float32 whatever the weights are kept in."""

    def forward(self, input: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The normalised sequence, in the dtype it came in."""
        wide = torch.promote_types(input.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(input.to(wide), self.normalized_shape, weight, bias, self.eps).to(
            input.dtype
        )


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are used in float32 whatever they are kept in."""

    def forward(self, input: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The normalised map, in the dtype it came in."""
        if self.training or self.weight.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, variance = self.running_mean.float(), self.running_var.float()
        weight, bias = self.weight.float(), self.bias.float()
        return F.batch_norm(input.float(), mean, variance, weight, bias, eps=self.eps).to(
            input.dtype
        )


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], *, causal: bool) -> Float[Tensor, "b n d"]:
        """What the positions tell each other; `causal` hides later ones from earlier ones."""
        q, k, v = rearrange(self.qkv(x), "b n (three h k) -> three b h n k", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(rearrange(mixed, "b h n k -> b n (h k)"))

    def first(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """What the first position learns from all."""
        q, kv = self._asked(x[:, 0]), self._told(x)
        k, v = rearrange(kv, "b n (two h k) -> two b h n k", two=2, h=self.heads)
        q = rearrange(q, "b (h k) -> b h 1 k", h=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(rearrange(mixed, "b h 1 k -> b (h k)"))

    def on_tree(self, x: Float[Tensor, "n d"], tree: PrefixTree) -> Float[Tensor, "n d"]:
        """What every node of a tree of sequences learns from those before it."""
        return self.out(tree.attend(self.qkv(x), self.heads))

    def at_ends(self, x: Float[Tensor, "n d"], tree: PrefixTree) -> Float[Tensor, "w d"]:
        """What the last token of every sequence learns from those before it."""
        q, kv = self._asked(x[tree.ends]), self._told(x)
        return self.out(tree.attend_from_ends(q, kv, self.heads))

    def _asked(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if type(self.qkv) is not Linear:  # somebody has put an adapter in its place
            return self.qkv(x)[..., :width]
        return linear(x, self.qkv.weight[:width], self.qkv.bias[:width])

    def _told(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if type(self.qkv) is not Linear:
            return self.qkv(x)[..., width:]
        return linear(x, self.qkv.weight[width:], self.qkv.bias[width:])


class Mlp(nn.Module):
    """Two layers with the tower's activation between them."""

    def __init__(self, width: int, hidden_width: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.up = Linear(width, hidden_width)
        self.down = Linear(hidden_width, width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Every position changed by itself."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.down(self._activated(self.up(x)))
        # Of many positions the wide states would go to memory and come back from there.
        parts = x.reshape(-1, x.shape[-1]).split(_MLP_ROWS)
        found = [self.down(self._activated(self.up(part))) for part in parts]
        return (found[0] if len(found) == 1 else torch.cat(found)).reshape_as(x)

    def _activated(self, x: Tensor) -> Tensor:
        if self.activation == "gelu":
            return F.gelu(x)
        # QuickGELU, Hendrycks and Gimpel 2016, section 2: x sigmoid(1.702 x).
        if torch.is_grad_enabled():
            return x * torch.sigmoid(1.702 * x)
        return (1.702 * x).sigmoid_().mul_(x)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, *, activation: Activation, epsilon: float
    ) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(width, eps=epsilon)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = LayerNorm(width, eps=epsilon)
        self.mlp = Mlp(width, mlp_width, activation)

    def forward(self, x: Float[Tensor, "b n d"], *, causal: bool = False) -> Float[Tensor, "b n d"]:
        """The residual stream after attention and MLP."""
        return self._changed(x, self.attention(self.attention_norm(x), causal=causal))

    def first(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """What `forward` gives at the first position; nothing else is computed."""
        return self._changed(x[:, 0], self.attention.first(self.attention_norm(x)))

    def on_tree(self, x: Float[Tensor, "n d"], tree: PrefixTree) -> Float[Tensor, "n d"]:
        """What `forward`, causal, gives at every node of a tree of sequences."""
        return self._changed(x, self.attention.on_tree(self.attention_norm(x), tree))

    def at_ends(self, x: Float[Tensor, "n d"], tree: PrefixTree) -> Float[Tensor, "w d"]:
        """What `on_tree` gives at the end of every sequence; nothing else is computed."""
        return self._changed(x[tree.ends], self.attention.at_ends(self.attention_norm(x), tree))

    def _changed(self, x: Tensor, told: Tensor) -> Tensor:
        x = x + told
        return x + self.mlp(self.mlp_norm(x))


class VisionTransformer(nn.Module):
    """The ViT image tower: patches and a class token, of which the latter is the answer."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, patch = config.vision_width, config.patch_size
        assert isinstance(config.vision_layers, int)
        assert patch is not None
        self.image_size = config.image_size
        self.patches = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(config.image_tokens, width))
        self.first_norm = LayerNorm(width, eps=config.norm_epsilon)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.vision_heads,
                config.vision_mlp_width or 4 * width,
                activation=config.activation,
                epsilon=config.norm_epsilon,
            )
            for _ in range(config.vision_layers)
        )
        self.last_norm = LayerNorm(width, eps=config.norm_epsilon)
        self.project = nn.Linear(width, config.embed_width, bias=False)

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does."""
        width = self.class_token.shape[0]
        self.patches.reset_parameters()
        for weight in (self.class_token, self.positions, self.project.weight):
            nn.init.normal_(weight, std=width**-0.5)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.xavier_uniform_(block.attention.qkv.weight)
            block.attention.out.reset_parameters()
            block.mlp.up.reset_parameters()
            block.mlp.down.reset_parameters()
            nn.init.zeros_(block.attention.qkv.bias)
            nn.init.zeros_(block.attention.out.bias)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b e"]:
        """Embeddings of normalised pictures, not of unit length."""
        _require_pictures(x, self.image_size)
        x = rearrange(self.patches(x.to(self.patches.weight.dtype)), "b d y x -> b (y x) d")
        first = self.class_token.to(x.dtype).expand(x.shape[0], 1, -1)
        x = self.first_norm(torch.cat((first, x), dim=1) + self.positions)
        *blocks, last = cast("list[Block]", list(self.blocks))
        for block in blocks:
            x = block(x)
        x = last(x)[:, 0] if _watched(last) else last.first(x)
        return self.project(self.last_norm(x))


class Bottleneck(nn.Module):
    """Residual block of a ResNet-D: every convolution has stride 1, an average pool halves."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        out_width = width * _RESNET_EXPANSION
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.norm1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = BatchNorm(width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.norm3 = BatchNorm(out_width)
        self.shortcut: Shortcut | None = None
        if stride > 1 or in_width != out_width:
            self.shortcut = Shortcut(in_width, out_width, stride)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2 y2 x2"]:
        """The map after the block, halved by its stride."""
        kept = x if self.shortcut is None else self.shortcut(x)
        x = F.relu(self.norm1(self.conv1(x)))
        x = self.pool(F.relu(self.norm2(self.conv2(x))))
        return F.relu(self.norm3(self.conv3(x)) + kept)


class Shortcut(nn.Module):
    """What goes past a block that changes the channels or the size."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv = nn.Conv2d(in_width, out_width, 1, bias=False)
        self.norm = BatchNorm(out_width)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2 y2 x2"]:
        """The map as the end of the block has it: its channels, its size."""
        return self.norm(self.conv(self.pool(x)))


class AttentionPool(nn.Module):
    """One query, the mean of all tokens, attends to the mean and the tokens."""

    def __init__(self, width: int, heads: int, tokens: int, out_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.empty(tokens, width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, out_width)

    def forward(self, x: Float[Tensor, "b d y x"]) -> Float[Tensor, "b e"]:
        """One embedding of the whole map."""
        x = rearrange(x, "b d y x -> b (y x) d")
        x = torch.cat((x.mean(dim=1, keepdim=True), x), dim=1) + self.positions
        q, k, v = (
            rearrange(t, "b n (h k) -> b h n k", h=self.heads)
            for t in (self.query(x[:, :1]), self.key(x), self.value(x))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(rearrange(mixed, "b h 1 k -> b (h k)"))


class ResNet(nn.Module):
    """The ResNet image tower: a stem of three convolutions, four stages, attention pooling."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.vision_width
        assert isinstance(config.vision_layers, tuple)
        self.image_size = config.image_size
        self.stem_pool = nn.AvgPool2d(2) if config.stem_pool else nn.Identity()
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.norm1 = BatchNorm(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.norm2 = BatchNorm(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.norm3 = BatchNorm(width)
        stages: list[nn.Module] = []
        in_width = width
        for stage, depth in enumerate(config.vision_layers):
            blocks: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if stage and not position else 1
                blocks.append(Bottleneck(in_width, width * 2**stage, stride))
                in_width = width * 2**stage * _RESNET_EXPANSION
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.pool = AttentionPool(
            config.image_token_width, config.vision_heads, config.image_tokens, config.embed_width
        )

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | BatchNorm):
                module.reset_parameters()
        # After the norms were reset: a block begins as its shortcut alone.
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.norm3.weight)
        std = self.pool.positions.shape[1] ** -0.5
        for part in (self.pool.query, self.pool.key, self.pool.value, self.pool.out):
            nn.init.normal_(part.weight, std=std)
        nn.init.normal_(self.pool.positions, std=std)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b e"]:
        """Embeddings of normalised pictures, not of unit length."""
        _require_pictures(x, self.image_size)
        x = x.to(self.conv1.weight.dtype)
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = self.stem_pool(F.relu(self.norm3(self.conv3(x))))
        for stage in self.stages:
            x = stage(x)
        return self.pool(x)


class TextTransformer(nn.Module):
    """The text tower: a causal transformer whose state at end-of-text is the answer."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.text_width
        self.end_id = config.end_id
        self.tokens = nn.Embedding(config.vocabulary_size, width)
        self.positions = nn.Parameter(torch.empty(config.context_length, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.text_heads,
                config.text_mlp_width or 4 * width,
                activation=config.activation,
                epsilon=config.norm_epsilon,
            )
            for _ in range(config.text_layers)
        )
        self.last_norm = LayerNorm(width, eps=config.norm_epsilon)
        self.project = nn.Linear(width, config.embed_width, bias=False)

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does."""
        width, layers = self.positions.shape[1], len(self.blocks)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.project.weight, std=width**-0.5)
        out_std = width**-0.5 * (2 * layers) ** -0.5
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attention.qkv.weight, std=width**-0.5)
            nn.init.normal_(block.attention.out.weight, std=out_std)
            nn.init.normal_(block.mlp.up.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.down.weight, std=out_std)
            nn.init.zeros_(block.attention.qkv.bias)
            nn.init.zeros_(block.attention.out.bias)

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b e"]:
        """Embeddings of texts, not of unit length.

        What stands after the first end-of-text changes nothing, so it is not computed. Without
        gradients, what texts have in common at their beginnings is computed once.
        """
        end = self._end_of_text(ids)
        if not len(ids):
            return self.project.weight.new_empty(0, self.project.out_features)
        if not torch.is_grad_enabled() and not _watched(self.blocks):
            return self._embed_tree(PrefixTree.of(ids, end))
        ids = ids[:, : int(end.max()) + 1]
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, causal=True)
        return self.project(self.last_norm(x[torch.arange(len(ids), device=ids.device), end]))

    def _embed_tree(self, tree: PrefixTree) -> Float[Tensor, "b e"]:
        x = self.tokens(tree.ids) + self.positions[tree.depths]
        *blocks, last = cast("list[Block]", list(self.blocks))
        for block in blocks:
            x = block.on_tree(x, tree)
        return self.project(self.last_norm(last.at_ends(x, tree)))[tree.places]

    def _end_of_text(self, ids: Int[Tensor, "b n"]) -> Int[Tensor, " b"]:
        context, vocabulary = self.positions.shape[0], self.tokens.num_embeddings
        if not 1 <= ids.shape[1] <= context:
            raise BadText(
                f"texts of {ids.shape[1]} tokens; this model takes 1 to {context}: let its "
                "tokenizer truncate or average them"
            )
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
            raise BadText(
                f"token ids from {int(ids.min())} to {int(ids.max())}; this model has 0 to "
                f"{vocabulary - 1}: encode the texts with the tokenizer that came with it"
            )
        # As published (clip/model.py, encode_text): end-of-text is the highest id, and argmax
        # picks the first one where a text holds several.
        return (ids if self.end_id is None else (ids == self.end_id).int()).argmax(dim=-1)


class Clip(nn.Module):
    """Two towers, one for pictures and one for texts, that meet in one space.

    Attributes:
        image: the image tower, usable alone.
        text: the text tower, usable alone.
        tokenizer: turns strings into the ids `text` takes; None until a loader or caller sets it.
        logit_scale: natural logarithm of what cosines are multiplied by.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: ClipTokenizer | None = None
        self.image = ResNet(config) if config.convolutional else VisionTransformer(config)
        self.text = TextTransformer(config)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.initialise()

    def initialise(self) -> None:
        """Draw the weights anew, as the published code does."""
        self.image.initialise()
        self.text.initialise()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return self.logit_scale.dtype

    def encode_image(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b e"]:
        """Embeddings of normalised pictures, not of unit length.

        Raises:
            BadInput: the pictures are not RGB or not of the config's size.
        """
        return self.image(x)

    def encode_text(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b e"]:
        """Embeddings of texts, not of unit length.

        Raises:
            BadText: the rows are longer than the context, or an id is outside the vocabulary.
        """
        return self.text(ids)

    def forward(self, x: Float[Tensor, "b c y x"], ids: Int[Tensor, "m n"]) -> Float[Tensor, "b m"]:
        """Scaled cosines of every picture with every text, in float32."""
        return self.logits(self.encode_image(x), self.encode_text(ids))

    def logits(
        self, pictures: Float[Tensor, "b e"], texts: Float[Tensor, "m e"]
    ) -> Float[Tensor, "b m"]:
        """Scaled cosines of embeddings of any length, in float32 under autocast as well."""
        with torch.autocast(device_type=pictures.device.type, enabled=False):
            wide = torch.promote_types(pictures.dtype, torch.float32)
            pictures = F.normalize(pictures.to(wide), dim=-1)
            texts = F.normalize(texts.to(wide), dim=-1)
            return self.logit_scale.to(wide).exp() * pictures @ texts.T


def _watched(part: nn.Module) -> bool:
    """Whether somebody's hooks wait for calls within, which shortcuts would leave out."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in part.modules()
    )


def _require_pictures(x: Tensor, size: int) -> None:
    if tuple(x.shape[1:]) != (3, size, size):
        channels, height, width = x.shape[1:]
        raise BadInput(
            f"pictures of {channels} channels and {height} x {width} pixels; this model takes RGB "
            f"of {size} x {size}: prepare them with lascaux.images and the model's "
            "config.preprocessing"
        )
