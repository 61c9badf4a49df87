"""DALL-E as DALLE-pytorch has it: sentence and picture as one sequence, written token by token.

Wang and contributors: https://github.com/lucidrains/DALLE-pytorch, 2021, `DALLE`; after Ramesh et
al. 2021, "Zero-Shot Text-to-Image Generation", arXiv:2102.12092. For painting what a sentence says,
for going on with a picture's first rows, and for completing a sentence before it is painted.

Published checkpoints: users' own, such as COCO512 (`coco_512_16_16D_16H_80TSL`, of the group
dalle-pytorch-replicate), which MegEngine's port gives as a preset, too.

The sequence is a beginning (id 0), `text_length` text tokens and the picture's codes in reading
order. A text that is too short is filled with tokens of its own for each place, so that there are
`text_tokens + text_length` text classes; who calls a model fills with 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput, BadText, Unsupported
from lascaux.nn.attention import attention
from lascaux.nn.branch import Block, GegluMlp, HeadProjections
from lascaux.nn.cache import Cache, Places
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.grid import require_ids
from lascaux.nn.linear import Linear, linear
from lascaux.nn.reversible import Half, reversible
from lascaux.nn.transformer import LayerNorm

Pattern = Literal["full", "axial_row", "axial_col", "conv_like"]
_REFUSED = {
    "sparse": "its random blocks are DeepSpeed's and drawn anew in every process",
    "mlp": "gated MLPs instead of attention went out of DALLE-pytorch again",
}


@dataclass(frozen=True, kw_only=True)
class DalleConfig:
    """Everything that fixes the parameters of a DALL-E, its answers and its loss.

    The defaults are those of the published constructor.
    """

    codes: int  # of the picture
    grid: int  # codes along each side of the picture
    width: int  # dim
    layers: int  # depth
    text_tokens: int = 10000  # of the text tokeniser (num_text_tokens)
    text_length: int = 256  # text_seq_len
    heads: int = 8
    head_width: int = 64  # dim_head
    patterns: tuple[str, ...] = ("full",)  # what the layers see, in turn (attn_types)
    window: int = 5  # side of what conv_like sees, in codes; odd
    dilation: int = 1  # from one of them to the next
    centred_window: bool = False  # around the code, as before version 1.5, instead of before it
    rotary: bool = (
        True  # positions turn queries, keys and values; else they are learnt (rotary_emb)
    )
    shift: bool = True  # some channels come from the tokens to the left and above (shift_tokens)
    stable: bool = False  # divides by the greatest channel before the logits
    sandwich: bool = False  # a second norm behind attention and MLP (sandwich_norm)
    reversible: bool = False  # two streams
    shared_attention: tuple[int, ...] | None = None  # ids of the layers' attentions, in turn
    shared_mlp: tuple[int, ...] | None = None  # and of their MLPs (shared_ff_ids)
    shared_embeddings: bool = False  # the logits' weights are the embeddings, too
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0  # ff_dropout
    image_weight: float = 7.0  # of the picture in the loss, where the text has 1 (loss_img_weight)
    tokeniser: str | None = None  # name of the one whose codes it writes, if it has none inside
    guidance: float = 1.0  # where nothing else is asked for; 1: none
    temperature: float = 1.0  # likewise

    def __post_init__(self) -> None:
        sizes = ("codes", "grid", "width", "layers", "text_tokens", "text_length", "heads")
        for name in (*sizes, "head_width", "window", "dilation"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} {getattr(self, name)}; at least 1 is expected")
        for pattern in self.patterns:
            if pattern in _REFUSED:
                raise Unsupported(f"attention {pattern!r} is refused: {_REFUSED[pattern]}")
        if not self.patterns or not set(self.patterns) <= set(get_args(Pattern)):
            known = ", ".join(get_args(Pattern))
            raise BadInput(f"patterns {self.patterns}; expected one or more of {known}")
        if self.window % 2 == 0:
            raise BadInput(f"window {self.window}; an odd number is expected")
        if self.rotary and self.head_width < 6:
            raise BadInput(f"head_width {self.head_width}; rotary positions need at least 6")
        if self.image_weight < 0:
            raise BadInput(f"image_weight {self.image_weight}; 0 or more is expected")
        if not 0 < self.temperature < float("inf"):
            raise BadInput(f"temperature {self.temperature}; expected a number above 0")
        self._require_agreement()

    def _require_agreement(self) -> None:
        _numbered(self.shared_mlp, self.layers)
        seen: dict[int, str] = {}
        for layer, (owner, pattern) in enumerate(zip(self.attentions, self.seen, strict=True)):
            if seen.setdefault(owner, pattern) != pattern:
                raise BadInput(
                    f"layer {layer} shares its attention with one that sees {seen[owner]!r}; it "
                    f"would see {pattern!r}: patterns and shared_attention must agree"
                )

    @property
    def image_length(self) -> int:
        """Codes of a picture."""
        return self.grid**2

    @property
    def length(self) -> int:
        """Tokens that are read; the last code of a picture is not, since nothing follows it."""
        return self.text_length + self.image_length

    @property
    def text_classes(self) -> int:
        """Text tokens with those that fill."""
        return self.text_tokens + self.text_length

    @property
    def seen(self) -> tuple[str, ...]:
        """The pattern of every layer."""
        return tuple(islice(cycle(self.patterns), self.layers))

    @property
    def attentions(self) -> tuple[int, ...]:
        """Which attention each layer has, counted in the order in which they first occur."""
        return _numbered(self.shared_attention, self.layers)

    @property
    def mlps(self) -> tuple[int, ...]:
        """Which MLP each layer has, counted likewise."""
        return _numbered(self.shared_mlp, self.layers)

    def top_k(self, threshold: float) -> int:
        """How many codes a published filter leaves: `filter_thres`, or --top_k of generate.py.

        That counts text classes as well, so that 0.9 may leave nearly all codes.

        Raises:
            BadInput: it is no share.
        """
        if not 0 <= threshold <= 1:
            raise BadInput(f"threshold {threshold}; expected a share from 0 to 1")
        return min(max(int((1 - threshold) * (self.text_classes + self.codes)), 1), self.codes)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "DalleConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "DALL-E")


def _numbered(ids: Sequence[int] | None, layers: int) -> tuple[int, ...]:
    if ids is not None and not ids:
        raise BadInput("shared ids are empty; give at least one, or None")
    own = list(islice(cycle(range(layers) if ids is None else ids), layers))
    numbers = {each: number for number, each in enumerate(dict.fromkeys(own))}
    return tuple(numbers[each] for each in own)


_ROWS, _COLUMN, _FULL = "axial_row", "axial_col", "full"
_COCO = DalleConfig(
    codes=1024,
    grid=16,
    width=512,
    layers=16,
    text_tokens=8192,
    text_length=80,
    heads=16,
    patterns=(*(_ROWS, _ROWS, _COLUMN, _ROWS) * 2, *(_ROWS, _ROWS, _COLUMN, _FULL) * 2),
    shift=False,
)
# The first list of layers is the authors' own; MegEngine's preset has another for the same weights.
VARIANTS = {
    "coco_512_16_16D_16H_80TSL": _COCO,
    "megengine-coco_512_16_16d_16h_80tsl": replace(
        _COCO, patterns=(_ROWS, _ROWS, _COLUMN, _ROWS, _ROWS, _ROWS, _COLUMN, _FULL)
    ),
}


class Loss(NamedTuple):
    """What training minimises, nats a token."""

    total: Float[Tensor, ""]  # both, weighted
    text: Float[Tensor, ""]
    image: Float[Tensor, ""]


class DalleCache:
    """What a DALL-E keeps of tokens that it has read; allocated once.

    Attributes:
        kept: keys and values.
        recent: of the last `grid` tokens the channels that later tokens take over, for attention
            and MLP of each layer; None where tokens are not shifted.
    """

    def __init__(self, kept: Cache, recent: Float[Tensor, "l two b n d"] | None) -> None:
        self.kept, self.recent = kept, recent

    @property
    def batch(self) -> int:
        """How many rows there are."""
        return self.kept.batch

    @property
    def length(self) -> int:
        """Tokens that were read."""
        return self.kept.length

    @property
    def capacity(self) -> int:
        """Tokens there is room for."""
        return self.kept.capacity

    @property
    def nbytes(self) -> int:
        """What it takes, filled or not."""
        return self.kept.nbytes + (0 if self.recent is None else self.recent.nbytes)

    def select(self, rows: Sequence[int] | Int[Tensor, " b"]) -> "DalleCache":
        """A cache of these rows, in this order; one may be named several times."""
        which = torch.as_tensor(rows, device=self.kept.keys.device)
        recent = None if self.recent is None else self.recent[:, :, which]
        return DalleCache(self.kept.select(rows), recent)

    def repeat(self, times: int, *, length: int | None = None) -> "DalleCache":
        """A cache in which every row stands several times, one beside the other.

        Args:
            times: how often.
            length: tokens the new one has room for; as this one.
        """
        recent = None if self.recent is None else self.recent.repeat_interleave(times, dim=2)
        return DalleCache(self.kept.repeat(times, length=length), recent)


@dataclass
class _Reading:
    """One pass over the next tokens: where they begin, how many they are, and what is kept."""

    start: int
    count: int
    cache: DalleCache | None = None
    places: Places | None = None

    def earlier(self, layer: int, branch: int) -> Tensor | None:
        """The recent tokens' channels of a layer's attention (0) or MLP (1)."""
        if self.cache is None or self.cache.recent is None:
            return None
        return self.cache.recent[layer, branch]


class Dalle(nn.Module):
    """Reads a sentence and a picture's codes, and tells what may come next.

    `tokeniser` turns codes into pictures and pictures into codes; `tokenizer` texts into ids.
    """

    turns: Tensor
    inside: Tensor

    def __init__(self, config: DalleConfig, tokeniser: nn.Module | None = None) -> None:
        super().__init__()
        if tokeniser is not None and cast(Any, tokeniser).codes != config.codes:
            raise BadInput(
                f"the picture tokeniser has {cast(Any, tokeniser).codes} codes, the model "
                f"{config.codes}: they do not belong together"
            )
        self.config = config
        self.tokeniser = tokeniser
        self.tokenizer: Any = None
        width = config.width
        if not config.shared_embeddings:
            self.text_embedding = nn.Embedding(config.text_classes, width)
            self.image_embedding = nn.Embedding(config.codes, width)
        if not config.rotary:
            self.text_positions = nn.Parameter(torch.empty(config.text_length + 1, width))
            self.row_positions = nn.Parameter(torch.empty(config.grid, width))
            self.column_positions = nn.Parameter(torch.empty(config.grid, width))
            for positions in (self.text_positions, self.row_positions, self.column_positions):
                nn.init.normal_(positions)
        self.blocks = nn.ModuleList(
            Block(width, layer + 1, sandwich=config.sandwich) for layer in range(config.layers)
        )
        self.attentions = nn.ModuleList(
            HeadProjections(width, config.heads, config.head_width, config.attention_dropout)
            for _ in range(max(config.attentions) + 1)
        )
        self.mlps = nn.ModuleList(
            GegluMlp(width, config.mlp_dropout) for _ in range(max(config.mlps) + 1)
        )
        self.norm = LayerNorm(width)
        self.head = Linear(width, config.text_classes + config.codes)
        for pattern in set(config.seen):
            self.register_buffer(f"seen_{pattern}", _seen(config, pattern), persistent=False)
        if config.rotary:
            self.register_buffer("turns", _turns(config), persistent=False)
        if config.shift:
            y, x = _places(config.image_length, config.grid)
            inside = torch.stack((y > 0, x > 0))[..., None]
            self.register_buffer("inside", inside, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return self.head.weight.dtype

    # What goes in

    def prefix(self, text: Int[Tensor, "b n"], *, whole: bool = True) -> Int[Tensor, "b m"]:
        """A text as `step` takes it: the beginning in front, filled up to `text_length`.

        A text of nothing but 0 is the condition for guidance: none.

        Args:
            text: ids of the text tokeniser, filled with 0 or not filled.
            whole: False leaves it open, for the model to complete.

        Raises:
            BadText: it is too long, or an id is not of the text tokeniser.
        """
        length = self.config.text_length
        if text.shape[1] > length:
            raise BadText(f"{text.shape[1]} text tokens; this model reads {length}: cut the text")
        _require_text(text, self.config.text_tokens)
        return F.pad(text.long(), (1, length - text.shape[1] if whole else 0))

    def plain_text(self, ids: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Text that the model wrote as ids of the text tokeniser; what fills becomes 0."""
        return torch.where(ids < self.config.text_tokens, ids, 0)

    def _embedded(self, ids: Int[Tensor, "b n"], start: int) -> Float[Tensor, "b n d"]:
        """Vectors of the tokens of which the first is the `start`-th of the sequence."""
        text, codes = self._parted(ids, start)
        parts: list[Tensor] = []
        if text.shape[1]:
            _require_text(text, self.config.text_classes)
            places = torch.arange(start, start + text.shape[1], device=ids.device)
            fills = self.config.text_tokens + places - 1
            text = torch.where((text == 0) & (places > 0), fills, text)
            x = F.embedding(text, self._embeddings[0])
            parts.append(x if self.config.rotary else x + self.text_positions[places])
        if codes.shape[1]:
            require_ids(codes, self.config.codes)
            x = F.embedding(codes, self._embeddings[1])
            if not self.config.rotary:
                first = max(0, start - self.config.text_length - 1)
                y, column = _places(first + codes.shape[1], self.config.grid, x.device)
                x = x + self.row_positions[y[first:]] + self.column_positions[column[first:]]
            parts.append(x)
        x = torch.cat(parts, dim=1)
        # As published: a tenth of the gradient reaches the embeddings.
        return 0.1 * x + 0.9 * x.detach() if self.config.stable and x.requires_grad else x

    @property
    def _embeddings(self) -> tuple[Tensor, Tensor]:
        if not self.config.shared_embeddings:
            return self.text_embedding.weight, self.image_embedding.weight
        sizes = self.config.text_classes, self.config.codes
        text, codes = self.head.weight.split(sizes)
        return text, codes

    def _parted(self, ids: Int[Tensor, "b n"], start: int) -> tuple[Tensor, Tensor]:
        """The text and the codes among tokens."""
        texts = min(max(self.config.text_length + 1 - start, 0), ids.shape[1])
        return ids[:, :texts].long(), ids[:, texts:].long()

    # What happens to it

    def _read(self, x: Float[Tensor, "b n d"], reading: _Reading) -> Float[Tensor, "b n d"]:
        """What the blocks make of tokens, ready for the logits."""
        functions = [
            (partial(self._attend, layer, reading), partial(self._think, layer, reading))
            for layer in range(self.config.layers)
        ]
        if self.config.reversible:
            dropout = self.config.attention_dropout or self.config.mlp_dropout
            pairs = [
                (
                    Half(f, _weights(self._block(layer).attention, self._attention(layer))),
                    Half(g, _weights(self._block(layer).mlp, self._mlp(layer))),
                )
                for layer, (f, g) in enumerate(functions)
            ]
            x = reversible(x, pairs, random=self.training and dropout > 0)
        else:
            for attend, think in functions:
                x = x + attend(x)
                x = x + think(x)
        if self.config.stable:
            x = x / x.amax(dim=-1, keepdim=True).detach()
        return self.norm(x)

    def _block(self, layer: int) -> Block:
        return cast(Block, self.blocks[layer])

    def _attention(self, layer: int) -> HeadProjections:
        return cast(HeadProjections, self.attentions[self.config.attentions[layer]])

    def _mlp(self, layer: int) -> GegluMlp:
        return cast(GegluMlp, self.mlps[self.config.mlps[layer]])

    def _think(self, layer: int, reading: _Reading, x: Tensor) -> Tensor:
        branch = self._block(layer).mlp
        x = self._shifted(branch.before(x), reading, reading.earlier(layer, 1))
        return branch.after(self._mlp(layer)(x))

    def _attend(self, layer: int, reading: _Reading, x: Tensor) -> Tensor:
        branch, heads = self._block(layer).attention, self._attention(layer)
        x = self._shifted(branch.before(x), reading, reading.earlier(layer, 0))
        projected = heads.project(x)
        if self.config.rotary:
            projected = self._turned(projected, reading)
        mixed = self._mixed(layer, reading, *projected)
        return branch.after(heads.merge(mixed))

    def _mixed(
        self, layer: int, reading: _Reading, q: Tensor, k: Tensor, v: Tensor
    ) -> Float[Tensor, "b h n k"]:
        """What positions take from those that they see."""
        if reading.places is not None:
            k, v = reading.places.append(layer, k, v)
        # `stable` divides the logits by 1024 before it subtracts the greatest, and multiplies again
        # behind: the same function, and torch's kernels subtract the greatest anyhow.
        end = reading.start + reading.count
        pattern = self.config.seen[layer]
        if pattern == _FULL and (reading.count == 1 or not reading.start):
            return attention(q, k, v, causal=reading.count > 1)
        if reading.count == 1 and reading.start > self.config.text_length:
            return self._gathered(pattern, reading.start, q, k, v)
        table = cast(Tensor, getattr(self, f"seen_{pattern}"))
        return attention(q, k, v, mask=table[reading.start : end, :end])

    def _gathered(
        self, pattern: str, place: int, q: Tensor, k: Tensor, v: Tensor
    ) -> Float[Tensor, "b h 1 k"]:
        """The same for a single code, which asks the text and a few of the codes before it.

        Keys and values are looked at where they lie, since copying them would cost more than this.
        """
        texts, grid = self.config.text_length + 1, self.config.grid
        row, column = divmod(place - texts, grid)
        which: slice | Tensor
        if pattern == "axial_row":
            which = slice(texts + row * grid, place + 1)
        elif pattern == "axial_col":
            which = slice(texts + column, place + 1, grid)
        else:
            table = cast(Tensor, self.seen_conv_like)
            which = table[place, texts : place + 1].nonzero()[:, 0] + texts
        q = q * q.shape[-1] ** -0.5
        asked = (k[:, :, :texts], k[:, :, which])
        weights = torch.cat([q @ each.transpose(-1, -2) for each in asked], dim=-1)
        weights = weights.float().softmax(dim=-1).to(v.dtype)
        return weights[..., :texts] @ v[:, :, :texts] + weights[..., texts:] @ v[:, :, which]

    def _turned(self, x: Float[Tensor, "three b h n k"], reading: _Reading) -> Tensor:
        """Queries, keys and values turned by where they stand; published are all three."""
        cosine, sine = self.turns[:, reading.start : reading.start + reading.count]
        whole = cosine.shape[-1]
        pairs = x[..., :whole].unflatten(-1, (-1, 2))
        across = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
        turned = (x[..., :whole] * cosine + across * sine).to(x.dtype)
        return turned if whole == x.shape[-1] else torch.cat((turned, x[..., whole:]), dim=-1)

    def _shifted(self, x: Tensor, reading: _Reading, earlier: Tensor | None) -> Tensor:
        """Tokens with some of their channels from earlier ones: half of a text token's from the
        one before; of a code a quarter from the one above, and a quarter from the one to the left.
        """
        if not self.config.shift:
            return x
        grid, count = self.config.grid, reading.count
        half, quarter, kept = _shares(self.config.width)
        if earlier is None:
            past = F.pad(x[..., :kept], (0, 0, grid, 0))
        else:
            past = torch.cat((earlier, x[..., :kept]), dim=1)
            earlier.copy_(past[:, count:])
        left = past[:, grid - 1 : -1]
        texts = min(max(self.config.text_length + 1 - reading.start, 0), count)
        parts = []
        if texts:
            parts.append(torch.cat((left[:, :texts, :half], x[:, :texts, half:]), dim=-1))
        if texts < count:
            first = max(0, reading.start - self.config.text_length - 1)
            in_row, in_column = self.inside[:, first : first + count - texts]
            above = past[:, texts:count, :quarter] * in_row
            beside = left[:, texts:, quarter : 2 * quarter] * in_column
            parts.append(torch.cat((above, beside, x[:, texts:, 2 * quarter :]), dim=-1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    # What comes out

    def forward(
        self, text: Int[Tensor, "b n"], codes: Int[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b k v"]:
        """Logits of what follows every token, text classes first, then codes.

        Args:
            text: ids of the text tokeniser, filled with 0 up to `text_length` or not filled.
            codes: the picture or its beginning; of a whole one, the last is not read.

        Returns:
            For every token that was read; what cannot follow has the lowest number there is.

        Raises:
            BadText: as `prefix`.
            BadInput: a code is not of the codebook, or there are too many.
        """
        ids = self._sequence(text, codes)
        x = self._read(self._embedded(ids, 0), _Reading(0, ids.shape[1]))
        logits = linear(x, self.head.weight, self.head.bias)
        is_text = torch.arange(ids.shape[1], device=x.device) < self.config.text_length
        for_text = torch.arange(logits.shape[-1], device=x.device) < self.config.text_classes
        return logits.masked_fill(is_text[:, None] != for_text, torch.finfo(logits.dtype).min)

    def loss(
        self,
        text: Int[Tensor, "b n"],
        codes: Int[Tensor, "b m"],
        *,
        read: Int[Tensor, "b m"] | None = None,
        null: Bool[Tensor, " b"] | None = None,
    ) -> Loss:
        """How unlikely sentences and pictures are: cross entropy, the picture weighing more.

        Args:
            text: as `forward`.
            codes: whole pictures.
            read: codes after which those of the pictures are learnt; None: their own.
            null: whose text is left away, so that guidance works later on. As published, the
                tokens that fill are what is learnt of them then.

        Raises:
            BadInput, BadText: as `forward`, or pictures are not whole.
        """
        if codes.shape[1] != self.config.image_length:
            raise BadInput(
                f"pictures of {codes.shape[1]} codes; {self.config.image_length} are expected"
            )
        if null is not None:
            text = text * ~null[:, None]
        ids = self._sequence(text, codes if read is None else read)
        texts, classes = self._sizes
        x = self._read(self._embedded(ids, 0), _Reading(0, ids.shape[1]))
        words, bias = self.head.weight, self.head.bias
        labels = self.prefix(text)[:, 1:]
        fills = self.config.text_tokens + torch.arange(texts, device=labels.device)
        labels = torch.where(labels == 0, fills, labels)
        said = linear(x[:, :texts], words[:classes], bias[:classes]).float()
        drawn = linear(x[:, texts:], words[classes:], bias[classes:]).float()
        of_text = F.cross_entropy(said.flatten(0, 1), labels.flatten())
        of_image = F.cross_entropy(drawn.flatten(0, 1), codes.long().flatten())
        weight = self.config.image_weight
        return Loss((of_text + weight * of_image) / (weight + 1), of_text, of_image)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.config.text_length, self.config.text_classes

    def _sequence(self, text: Tensor, codes: Tensor | None) -> Int[Tensor, "b n"]:
        ids = self.prefix(text)
        if codes is None:
            return ids
        if codes.shape[1] > self.config.image_length:
            raise BadInput(
                f"{codes.shape[1]} codes; a picture of this model has {self.config.image_length}"
            )
        return torch.cat((ids, codes.long()), dim=1)[:, : self.config.length]

    # One token after the other

    def new_cache(
        self, batch: int, length: int | None = None, dtype: torch.dtype | None = None
    ) -> DalleCache:
        """Room for what `step` keeps.

        Args:
            batch: rows.
            length: tokens of each; None: as many as are ever read.
            dtype: of what is kept; None: as the weights.
        """
        config, dtype = self.config, dtype or self.dtype
        kept = Cache(
            layers=config.layers,
            batch=batch,
            heads=config.heads,
            length=length or config.length,
            head_width=config.head_width,
            dtype=dtype,
            device=self.device,
        )
        if not config.shift:
            return DalleCache(kept, None)
        shape = config.layers, 2, batch, config.grid, _shares(config.width)[2]
        return DalleCache(kept, torch.zeros(shape, dtype=dtype, device=self.device))

    @torch.no_grad()
    def step(self, new_ids: Int[Tensor, "b m"], cache: DalleCache) -> Float[Tensor, "b v"]:
        """Logits of what follows the new tokens, float32: text classes, or codes after the text.

        What the new tokens are, their place in the sequence says: the beginning and text up to
        `text_length` (`prefix`), codes behind. Both may come at once.

        Args:
            new_ids: tokens behind those that the cache has.
            cache: of `new_cache`; it has them as well afterwards.

        Raises:
            BadInput: ids that are none, more rows or fewer than the cache has, or no room.
        """
        start, count = cache.length, new_ids.shape[1]
        if new_ids.shape[0] != cache.batch or not count:
            raise BadInput(
                f"ids of shape {tuple(new_ids.shape)} for a cache of {cache.batch} rows: one row "
                "for each is expected, and at least one token"
            )
        if start + count > self.config.length:
            raise BadInput(
                f"{start + count} tokens; after {self.config.length} the picture is whole"
            )
        places = cache.kept.places(count)
        x = self._embedded(new_ids, start)
        x = self._read(x, _Reading(start, count, cache, places))[:, -1]
        places.done()
        classes = self.config.text_classes
        ours = (
            slice(0, classes) if cache.length <= self.config.text_length else slice(classes, None)
        )
        return linear(x, self.head.weight[ours], self.head.bias[ours]).float()


def _require_text(text: Tensor, classes: int) -> None:
    if text.is_floating_point() or text.dtype == torch.bool:
        raise BadText(f"text ids of dtype {text.dtype}; whole numbers are expected")
    if text.numel() and (int(text.min()) < 0 or int(text.max()) >= classes):
        raise BadText(
            f"text ids from {int(text.min())} to {int(text.max())}; this model has 0 to "
            f"{classes - 1}: they come from another text tokeniser"
        )


def _weights(*modules: nn.Module) -> tuple[Tensor, ...]:
    return tuple(weight for module in modules for weight in module.parameters())


def _shares(width: int) -> tuple[int, int, int]:
    """How many channels of a text token and of a code are shifted, and how many must be kept."""
    half, quarter = math.ceil(width / 2), math.ceil(width / 4)
    return half, quarter, max(half, 2 * quarter)


def _places(
    count: int, grid: int, device: torch.device | None = None
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows and columns of the first codes of a picture."""
    numbers = torch.arange(count, device=device)
    return numbers // grid, numbers % grid


def _seen(config: DalleConfig, pattern: str) -> Bool[Tensor, "n n"]:
    """Which tokens (columns) each token (rows) sees.

    Always all of the text before it; of the codes those before it that the pattern has.
    """
    numbers = torch.arange(config.length)
    causal = numbers <= numbers[:, None]
    if pattern == _FULL:
        return causal
    y, x = _places(config.image_length - 1, config.grid)
    above, left = y[:, None] - y, x[:, None] - x
    if pattern == "axial_row":
        near = above == 0
    elif pattern == "axial_col":
        near = left == 0
    else:
        reach = (config.window - 1) * config.dilation
        first, last = (-reach // 2, reach // 2) if config.centred_window else (0, reach)
        near = torch.ones_like(above, dtype=torch.bool)
        for away in (above, left):
            near &= (away >= first) & (away <= last) & ((away - first) % config.dilation == 0)
    seen = causal.clone()
    texts = config.text_length + 1
    seen[texts:, texts:] &= near
    return seen


def _turns(config: DalleConfig) -> Float[Tensor, "two n k"]:
    """Cosines and sines by which the channels of a head are turned at every place.

    Of three thirds of a head, the first is turned by the place in the text, the others by row and
    column (Su et al. 2021, arXiv:2104.09864). As published (transformer.py), a code is at 8192 in
    the text, and a text token at -10 where rows and columns go from -1 to 1.
    """
    angles = rotary_angles(config)
    angles = angles.repeat_interleave(2, dim=-1)
    still = config.head_width - config.head_width % 2 - angles.shape[-1]
    angles = F.pad(angles, (0, still))
    return torch.stack((angles.cos(), angles.sin()))


def rotary_angles(config: DalleConfig) -> Float[Tensor, "n k"]:
    """Radians of every pair of channels at every place of a sequence, the last code included."""
    third = config.head_width // 3
    texts, codes = config.text_length + 1, config.image_length
    along = 1.0 / 10000 ** (torch.arange(0, third, 2)[: third // 2].float() / third)
    across = torch.linspace(1.0, 5.0, third // 2) * math.pi
    places = torch.cat((torch.arange(texts), torch.full((codes,), 8192))).float()
    sides = torch.linspace(-1.0, 1.0, config.grid)
    outside = torch.full((texts,), -10.0)
    rows, columns = (
        torch.outer(torch.cat((outside, sides[each])), across)
        for each in _places(codes, config.grid)
    )
    return torch.cat((torch.outer(places, along), rows, columns), dim=-1)
