"""The taming transformer: pictures as codes of a VQGAN, written after codes of a condition.

Esser, Rombach, Ommer: "Taming Transformers for High-Resolution Image Synthesis", 2020,
arXiv:2012.09841. For pictures from maps of classes, depth maps, classes, layouts or nothing, of any
size through a sliding window, and for the completion of pictures. Transformer and positions are
those of Karpathy's minGPT.

Published checkpoints, by CompVis: S-FLCKR, ADE20K and COCO (maps of classes), D-RIN (depth),
FacesHQ (coordinates), CelebA-HQ and FFHQ (nothing), ImageNet (class), and the scene models of COCO
and Open Images (boxes of objects).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.cache import Cache, Places
from lascaux.nn.causal import CausalSelfAttention, last_of
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.grid import Grid, require_count, require_ids
from lascaux.nn.linear import Linear
from lascaux.nn.orders import ORDERS, order_of
from lascaux.nn.transformer import LayerNorm, Mlp

Condition = Literal["stage", "first-stage", "coordinates", "class", "start", "tokens"]
CONDITIONS = ("stage", "first-stage", "coordinates", "class", "start", "tokens")


@dataclass(frozen=True, kw_only=True)
class TamingTransformerConfig:
    """What fixes the transformer's parameters, and what it is conditioned on."""

    codes: int  # tokens; pictures and conditions share them
    length: int  # positions: of the condition and all but the last code of a picture
    layers: int = 24
    heads: int = 16
    width: int = 1024
    unmasked: int = 0  # first positions, which see each other whatever their order
    # What is written after: codes of a condition stage, or of the first stage itself; a map of
    # coordinates; a class; a fixed token; or tokens as they are given.
    condition: Condition = "stage"
    condition_size: int | None = None  # pixels, square, to which a condition is brought first
    coordinate_factor: int = 16  # pixels of a map of coordinates per token, along one side
    coordinate_codes: int = 1024  # steps that coordinates are rounded to
    classes: int | None = None  # how many there are; None: as many as tokens
    class_names: tuple[str, ...] = ()  # one for each, where they have names of their own
    objects: int = 0  # of a layout, where tokens stand for their boxes; see tasks.boxes
    start: int = 0  # the fixed token
    # Tokens of which two make one of a condition, where its stage gives two for each place: beyond
    # the codes, codes + pairs * first + second, which is read as the sum of both.
    pairs: int = 0
    order: str = "identity"  # in which a picture's codes are written; see nn.orders
    order_grid: tuple[int, int] | None = None  # rows and columns that an order is made for
    keep: float = 1.0  # probability that a code is read as it is in training; else a random one
    embedding_dropout: float = 0.0  # probabilities, in training
    residual_dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.codes, self.length, self.layers, self.heads, self.width) < 1:
            raise BadInput("codes, length, layers, heads and width must be at least one")
        if self.width % self.heads:
            raise BadInput(f"width {self.width} does not divide into {self.heads} heads")
        if not 0 <= self.unmasked <= self.length:
            raise BadInput(f"{self.unmasked} unmasked positions of {self.length}")
        if self.condition not in CONDITIONS:
            raise BadInput(f"condition {self.condition!r}; expected one of {', '.join(CONDITIONS)}")
        if self.order not in ORDERS:
            raise BadInput(f"order {self.order!r}; expected one of {', '.join(ORDERS)}")
        if (self.order != "identity") != (self.order_grid is not None):
            raise BadInput("an order other than identity needs its order_grid, and only that")
        if not 0 <= self.pairs <= self.codes or (self.pairs and self.condition != "stage"):
            raise BadInput(
                f"pairs of {self.pairs} tokens after {self.condition!r}; expected 0 to "
                f"{self.codes}, and any after a stage alone"
            )
        if self.class_names and len(self.class_names) != (self.classes or self.codes):
            raise BadInput(
                f"{len(self.class_names)} class_names of {self.classes or self.codes} classes"
            )
        if self.objects < 0 or (self.objects and self.condition != "tokens"):
            raise BadInput(f"{self.objects} objects of a layout after {self.condition!r}")
        if not 0 <= self.start < self.codes:
            raise BadInput(f"start token {self.start} of {self.codes}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "TamingTransformerConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "taming transformer")


COCO_OBJECTS = 171  # classes of COCO's objects and stuff together
_MAPS = TamingTransformerConfig(codes=1024, length=512)
_FACES = replace(_MAPS, length=256, width=1664, condition="start")
_SCENES = replace(_MAPS, codes=8192, length=348, condition="tokens", objects=30)

VARIANTS: dict[str, TamingTransformerConfig] = {
    "sflckr": _MAPS,
    "drin": _MAPS,
    "faceshq": replace(_MAPS, condition="coordinates"),
    "celebahq": _FACES,
    "ffhq": _FACES,
    # Of 1000 classes; the table of the official class has one more.
    "cin": replace(
        _FACES, codes=16384, layers=48, heads=24, width=1536, condition="class", classes=1001
    ),
    "ade20k": replace(_MAPS, codes=4096, layers=28),
    "coco": replace(_MAPS, codes=8192, layers=32, width=1280),
    "scene-coco": replace(_SCENES, layers=40, width=1408, classes=COCO_OBJECTS),
    "scene-openimages": replace(_SCENES, layers=36, width=1536),
}


class Block(nn.Module):
    """Pre-norm block of minGPT."""

    def __init__(self, config: TamingTransformerConfig) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.width)
        self.attention = CausalSelfAttention(config.width, config.heads, config.attention_dropout)
        self.mlp_norm = LayerNorm(config.width)
        self.mlp = Mlp(config.width, 4 * config.width)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "n n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """The residual stream after attention and MLP."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def step(self, x: Float[Tensor, "b m d"], layer: int, places: Places) -> Float[Tensor, "b m d"]:
        """The same for new positions behind those that are kept."""
        x = x + self.attention.step(self.attention_norm(x), layer, places)
        return x + self.mlp(self.mlp_norm(x))


class LookAheadCache(Cache):
    """Keeps, beside keys and values, the vectors of positions that see what comes after them.

    They are read again with every further one of their kind.
    """

    def __init__(self, *, unmasked: int, **sizes: Any) -> None:
        super().__init__(**sizes)
        width = sizes["heads"] * sizes["head_width"]
        self.vectors: Float[Tensor, "b n d"] = self.keys.new_zeros(self.batch, unmasked, width)

    def _like(self, batch: int, length: int) -> "LookAheadCache":
        return LookAheadCache(unmasked=self.vectors.shape[1], **self._sizes(batch, length))

    def _copy(self, rows: list[int], length: int) -> "Cache":
        new = super()._copy(rows, length)
        assert isinstance(new, LookAheadCache)
        new.vectors = self.vectors[rows]
        return new


class Transformer(nn.Module):
    """minGPT: tokens with learned positions, blocks, and logits of what comes next."""

    def __init__(self, config: TamingTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.codes, config.width)
        self.positions = nn.Parameter(torch.zeros(config.length, config.width))
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.last_norm = LayerNorm(config.width)
        self.head = Linear(config.width, config.codes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self,
        ids: Int[Tensor, "b n"],
        *,
        vectors: Float[Tensor, "b m d"] | None = None,
        first: int = 0,
    ) -> Float[Tensor, "b n2 v"]:
        """Logits of the token after each position.

        Args:
            ids: the sequences.
            vectors: what stands before them, in the place of tokens.
            first: position from which on logits are wanted.

        Raises:
            BadInput: they are longer than there are positions, or there is no such token.
        """
        x = self._embedded(ids)
        if vectors is not None:
            x = torch.cat((vectors.to(x.dtype), x), dim=1)
        self._require_room(x.shape[1])
        places = torch.arange(x.shape[1], device=x.device)
        x = self.dropout(x + self.positions[: x.shape[1]])
        mask = self._seen(places, places) if self.config.unmasked else None
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.last_norm(x[:, first:]))

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache for sequences of up to `length` tokens, in the dtype of the weights.

        Raises:
            BadInput: that is longer than there are positions.
        """
        self._require_room(length)
        sizes = {
            "layers": self.config.layers,
            "batch": batch,
            "heads": self.config.heads,
            "length": length,
            "head_width": self.config.width // self.config.heads,
            "dtype": dtype or self.positions.dtype,
            "device": self.positions.device,
        }
        if self.config.unmasked:
            return LookAheadCache(unmasked=self.config.unmasked, **sizes)
        return Cache(**sizes)

    def step(
        self,
        new_ids: Int[Tensor, "b m"] | Float[Tensor, "b m d"],
        cache: Cache,
        *,
        rows: slice | Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v"]:
        """The logits, in float32, of the token after new ones, which are kept.

        Args:
            new_ids: the new tokens, or vectors in their place.
            cache: what was read before, as `new_cache` gives it.
            rows: of the cache, to which they belong; all.
            counts: how many of each row's are no padding; all.

        Raises:
            BadInput: there is no room for them, or no such token.
        """
        x = new_ids if new_ids.is_floating_point() else self._embedded(new_ids)
        x = x.to(self.positions.dtype)
        if self.config.unmasked and isinstance(cache, LookAheadCache):
            x = self._again(x, cache, rows)
        places = cache.places(x.shape[1], rows=rows, counts=counts)
        x = x + self.positions[places.positions]
        if self.config.unmasked and min(places.starts) < self.config.unmasked:
            seen = self._seen(places.positions, torch.arange(places.end, device=x.device))
            places.see(seen[:, None])
        for layer, block in enumerate(self.blocks):
            x = cast(Block, block).step(x, layer, places)
        places.done()
        return self.head(self.last_norm(last_of(x, places))).float()

    def _embedded(self, ids: Tensor) -> Tensor:
        codes, pairs = self.config.codes, self.config.pairs
        require_ids(ids, codes + pairs**2)
        if not pairs:
            return self.tokens(ids)
        paired, both = ids >= codes, (ids - codes).clamp(min=0)
        second = self.tokens(both % pairs) * paired[..., None]
        return self.tokens(torch.where(paired, both // pairs, ids)) + second

    def _require_room(self, length: int) -> None:
        if length > self.config.length:
            raise BadInput(
                f"a sequence of {length} tokens; this model has positions for {self.config.length}"
            )

    def _seen(self, new: Tensor, all_of: Tensor) -> Tensor:
        """What each of some positions sees of all."""
        new = new[..., None]
        ahead = (new < self.config.unmasked) & (all_of < self.config.unmasked)
        return (all_of <= new) | ahead

    def _again(
        self, x: Tensor, cache: LookAheadCache, rows: slice | Sequence[int] | None
    ) -> Tensor:
        """The new vectors, behind those that now see more than when they were read."""
        unmasked = self.config.unmasked
        which = range(cache.batch)[rows] if isinstance(rows, slice) else rows
        starts = {cache.lengths[row] for row in (range(cache.batch) if which is None else which)}
        if (starts == {0} and x.shape[1] >= unmasked) or min(starts) >= unmasked:
            return x
        if rows is not None or len(starts) > 1:
            raise BadInput(
                f"windows of this model must begin with its {unmasked} unmasked positions at once: "
                "give a condition of at least as many tokens"
            )
        (start,) = starts
        kept = x[:, : unmasked - start]
        cache.vectors[:, start : start + kept.shape[1]] = kept
        cache.clear(range(cache.batch))
        return torch.cat((cache.vectors[:, :start].to(x.dtype), x), dim=1)


class TamingTransformer(nn.Module):
    """A transformer between two tokenisers: of conditions, and of the pictures it writes.

    Either tokeniser may be absent; then conditions or pictures come and go as codes.
    """

    order: Tensor
    place: Tensor

    def __init__(
        self,
        config: TamingTransformerConfig,
        *,
        first_stage: nn.Module | None = None,
        condition_stage: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if condition_stage is not None and config.condition != "stage":
            raise BadInput(f"a condition stage for a model of condition {config.condition!r}")
        for name, stage in (("first", first_stage), ("condition", condition_stage)):
            if stage is not None and (codes := _tokeniser(stage).codes) > config.codes:
                raise BadInput(f"the {name} stage has {codes} codes; the model {config.codes}")
        if condition_stage is not None:
            # Only stages that are no VQGAN give several tokens for each place.
            inside = _tokeniser(condition_stage)
            pairs = inside.codes if getattr(inside, "depth", 1) == 2 else 0
            if pairs != config.pairs:
                raise BadInput(
                    f"the condition stage pairs {pairs} tokens; the model {config.pairs}"
                )
        self.first_stage = first_stage
        self.condition_stage = condition_stage
        self.transformer = Transformer(config)
        order = order_of(config.order, config.order_grid or (1, 1))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)

    @property
    def codes(self) -> int:
        """How many tokens there are."""
        return self.config.codes

    def encode(self, x: Float[Tensor, "b c y x"]) -> Int[Tensor, "b n"]:
        """The codes of pictures in the first stage's range, in the order they are written in.

        Raises:
            BadInput: there is no first stage, or the pictures do not fit it.
        """
        return self.ordered(self._stage(self.first_stage, "first").encode(x))

    def decode_ids(self, ids: Int[Tensor, "b n"], grid: Grid) -> Float[Tensor, "b c y x"]:
        """Pictures in the first stage's range, from codes in the order they are written in.

        Raises:
            BadInput: there is no first stage, or codes do not fit the grid.
        """
        require_count(ids.shape[1], grid)
        return self._stage(self.first_stage, "first").decode_ids(self.in_rows(ids), grid)

    def ordered(self, ids: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Codes in rows, brought into the order they are written in.

        Raises:
            BadInput: they are not as many as the order is made for.
        """
        return ids if self.config.order == "identity" else ids[:, self._fitting(self.order, ids)]

    def in_rows(self, ids: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """The reverse of `ordered`."""
        return ids if self.config.order == "identity" else ids[:, self._fitting(self.place, ids)]

    def encode_condition(self, condition: Tensor) -> Int[Tensor, "b m"]:
        """The tokens that a picture is written after.

        Args:
            condition: what the config's `condition` says: pictures `b c y x` in the stage's range
                (maps of classes as ones and zeros), a map of coordinates `b 1 y x` in [0, 1],
                classes `b`, tokens `b m`; for a fixed token anything with a row for each picture.

        Raises:
            BadInput: it does not fit.
        """
        kind = self.config.condition
        if kind in ("stage", "first-stage", "coordinates"):
            if condition.ndim != 4:
                raise BadInput(f"a condition of shape {tuple(condition.shape)}; expected b c y x")
            if (size := self.config.condition_size) is not None:
                condition = F.interpolate(condition, size=(size, size))
            if kind == "coordinates":
                _, ids = self.coordinate_ids(condition)
                # As published a step beyond the last is possible; no checkpoint has a token for it.
                return rearrange(ids, "b 1 y x -> b (y x)").clamp(max=self.config.codes - 1)
            first = kind == "first-stage"
            stage = self.first_stage if first else self.condition_stage
            ids = self._stage(stage, "first" if first else "condition").encode(condition)
            return self.paired(ids)
        if kind == "class":
            require_ids(condition, self.config.classes or self.config.codes)
            return condition.reshape(len(condition), 1).long()
        if kind == "start":
            shape = len(condition), 1
            return torch.full(shape, self.config.start, device=self.order.device)
        require_ids(condition, self.config.codes)
        return condition.long()

    def paired(self, ids: Int[Tensor, "b m"]) -> Int[Tensor, "b m2"]:
        """The tokens of a condition as they are read: of those that come in pairs, one for each.

        Raises:
            BadInput: a token is none of those that make pairs.
        """
        if not self.config.pairs:
            return ids
        require_ids(ids, self.config.pairs)
        first, second = rearrange(ids, "b (m k) -> k b m", k=2)
        return self.config.codes + self.config.pairs * first + second

    def coordinate_ids(
        self, coordinates: Float[Tensor, "b 1 y x"]
    ) -> tuple[Float[Tensor, "b 1 y2 x2"], Int[Tensor, "b 1 y2 x2"]]:
        """A map of coordinates in [0, 1] as steps, as numbers and as ids, from 0 to all steps."""
        factor = self.config.coordinate_factor
        small = F.interpolate(coordinates, scale_factor=1 / factor, mode="area").clamp(0, 1)
        steps = (self.config.coordinate_codes * small).round()
        return steps, steps.long()

    def coordinates_of(self, steps: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y2 x2"]:
        """The map of coordinates that steps stand for."""
        scale = float(self.config.coordinate_factor)
        return F.interpolate(steps / self.config.coordinate_codes, scale_factor=scale)

    def logits(
        self,
        condition: Int[Tensor, "b m"],
        ids: Int[Tensor, "b n"],
        *,
        read: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Logits of each code of a picture, given the condition and the codes before it.

        Args:
            condition: its tokens.
            ids: the picture's codes, in the order they are written in.
            read: what is read in their place; the codes themselves.
        """
        sequence = torch.cat((condition, ids if read is None else read), dim=1)
        return self.transformer(sequence[:, :-1], first=condition.shape[1] - 1)

    def logits_at_once(
        self, condition: Int[Tensor, "b m"], start: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n2 v"]:
        """Logits of a picture's codes, of which none but the first is read.

        For models that keep no code in training (`keep` is 0): as published, the condition's codes
        stand in the place of those that are not read.

        Args:
            condition: its tokens, as many as the picture has.
            start: codes that are there already.

        Raises:
            BadInput: there are more of them than the condition has tokens.
        """
        if start.shape[1] >= condition.shape[1]:
            raise BadInput(
                f"{start.shape[1]} codes with a condition of {condition.shape[1]} tokens; only "
                "what is left of those can be drawn at once"
            )
        noise = condition[:, start.shape[1] :]
        return self.logits(condition, torch.cat((start, noise), dim=1))

    def loss(
        self,
        condition: Int[Tensor, "b m"],
        ids: Int[Tensor, "b n"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross entropy of the codes of pictures; conditions are not predicted.

        In `train()` mode codes are read as random ones where the config does not keep them.

        Args:
            condition: tokens.
            ids: codes, in the order they are written in.
            generator: of what is not kept.
        """
        read = self.disturbed(ids, generator) if self.training and self.config.keep < 1 else None
        logits = self.logits(condition, ids, read=read)
        return F.cross_entropy(rearrange(logits, "b n v -> (b n) v").float(), ids.flatten())

    def disturbed(
        self, ids: Int[Tensor, "b n"], generator: torch.Generator | None = None
    ) -> Int[Tensor, "b n"]:
        """Codes of which some, as the config says, are others at random."""
        chance = {"generator": generator, "device": ids.device}
        kept = torch.rand(ids.shape, **chance) < self.config.keep
        return torch.where(kept, ids, torch.randint(self.codes, ids.shape, **chance))

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Cache:
        """As `Transformer.new_cache`."""
        return self.transformer.new_cache(batch, length, dtype)

    def step(
        self,
        new_ids: Int[Tensor, "b m"] | Float[Tensor, "b m d"],
        cache: Cache,
        *,
        rows: slice | Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v"]:
        """As `Transformer.step`."""
        return self.transformer.step(new_ids, cache, rows=rows, counts=counts)

    def _fitting(self, places: Tensor, ids: Tensor) -> Tensor:
        if ids.shape[1] != len(places):
            raise BadInput(f"{ids.shape[1]} codes; this model writes in an order for {len(places)}")
        return places

    def _stage(self, stage: nn.Module | None, name: str) -> Any:
        if stage is None:
            raise BadInput(
                f"this model came without its {name} stage: give and take codes, or load a "
                "checkpoint that has it"
            )
        return stage


def coordinate_map(height: int, width: int) -> Float[Tensor, "1 1 y x"]:
    """How far into a picture each pixel is, in rows, from 0 up to 1; as FacesHQ was trained."""
    return torch.arange(height * width).reshape(1, 1, height, width) / (height * width)


def _tokeniser(stage: nn.Module) -> Any:
    return stage
