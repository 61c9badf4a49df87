"""The taming transformers' checkpoints: CompVis's, with both their stages or without."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lascaux.errors import BadInput, WrongKeys
from lascaux.models import vqgan as vqgan_model
from lascaux.models.taming_transformer import VARIANTS as SIZES
from lascaux.models.taming_transformer import TamingTransformerConfig
from lascaux.nn.orders import ORDERS, order_of
from lascaux.weights.keymap import Rule, dropped_by, listed, translate
from lascaux.weights.maps import vqgan
from lascaux.weights.maps.taming_transformer_config import told_beside
from lascaux.weights.parts import Composite, Part
from lascaux.weights.published import Adopted, Published

logger = logging.getLogger(__name__)

# Our names of the stages -> the prefixes of their keys.
STAGES = {"first_stage": "first_stage_model.", "condition_stage": "cond_stage_model."}
PARTS = tuple(STAGES)
_OURS = "transformer.positions"
_MARKS = ("tok_emb.weight", "pos_emb", "head.weight", "blocks.0.attn.key.weight")

# First and condition stage of each published transformer, by their names among VQGAN's variants.
_VQGANS: dict[str, tuple[str, str | None]] = {
    "sflckr": ("imagenet-f16-1024", "sflckr-labels"),
    "drin": ("imagenet-f16-1024", "depth"),
    "faceshq": ("faceshq", None),
    "celebahq": ("imagenet-f16-1024", None),
    "ffhq": ("imagenet-f16-1024", None),
    "cin": ("imagenet-f16-16384", None),
    "ade20k": ("ade20k", "ade20k-labels"),
    "coco": ("coco-8k", "coco-labels"),
    "scene-coco": ("coco-8k", None),
    "scene-openimages": ("coco-8k", None),
}


def _variant(name: str) -> Composite:
    stages = zip(STAGES, _VQGANS[name], strict=True)
    return Composite(
        SIZES[name],
        {
            place: Part("vqgan", vqgan_model.VARIANTS[stage])
            for place, stage in stages
            if stage is not None
        },
    )


VARIANTS = {name: _variant(name) for name in SIZES}

_BLOCK = "transformer.blocks.{i}."
TRANSFORMER = (
    Rule("transformer.tok_emb.weight", "transformer.tokens.weight"),
    Rule("transformer.pos_emb", _OURS, lambda x: x[0], lambda x: x[None]),
    Rule(_BLOCK + "ln1.{p}", _BLOCK + "attention_norm.{p}"),
    Rule(_BLOCK + "ln2.{p}", _BLOCK + "mlp_norm.{p}"),
    Rule(
        (
            _BLOCK + "attn.query.{p}",
            _BLOCK + "attn.key.{p}",
            _BLOCK + "attn.value.{p}",
        ),
        _BLOCK + "attention.qkv.{p}",
        lambda *parts: torch.cat(parts),
        lambda x: x.chunk(3),
    ),
    Rule(_BLOCK + "attn.proj.{p}", _BLOCK + "attention.out.{p}"),
    Rule(_BLOCK + "mlp.0.{p}", _BLOCK + "mlp.up.{p}"),
    Rule(_BLOCK + "mlp.2.{p}", _BLOCK + "mlp.down.{p}"),
    Rule("transformer.ln_f.{p}", "transformer.last_norm.{p}"),
    Rule("transformer.head.weight", "transformer.head.weight"),
    Rule(_BLOCK + "attn.mask", None, why="who sees whom; the config tells"),
    Rule("permuter.forward_shuffle_idx", None, why="the order of the codes; the config names it"),
    Rule("permuter.backward_shuffle_idx", None, why="the order of the codes; the config names it"),
    Rule("loss.{a}", None, why="for training alone"),
)


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of a taming transformer, with stages or without."""
    if _OURS in keys:
        return "transformer.blocks.0.attention.qkv.weight" in keys
    return any(all(prefix + mark in keys for mark in _MARKS) for prefix in ("transformer.", ""))


@dataclass(frozen=True)
class _Shapes:
    """What the shapes of the tensors tell."""

    codes: int
    length: int
    layers: int
    width: int

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "_Shapes":
        codes, width = state["transformer.tokens.weight"].shape
        blocks = {key.split(".")[2] for key in state if key.startswith("transformer.blocks.")}
        return cls(codes, len(state[_OURS]), len(blocks), width)

    def fit(self, config: TamingTransformerConfig) -> bool:
        return self == _Shapes(config.codes, config.length, config.layers, config.width)


def adopt(found: Published) -> Adopted:
    """The tensors of transformer and stages under our names, and their configs.

    The configs are those of the yaml beside the file, where there is one; else of the published
    transformer whose shapes these are.

    Raises:
        WrongKeys: other keys than those of a transformer and its stages, or a config that does
            not fit, or none where shapes do not tell.
    """
    if _OURS in found.tensors:
        if found.config is None:
            raise WrongKeys(
                f"{found.label} is a taming transformer without a config: load its folder"
            )
        return Adopted(tensors=found.tensors, config=_whole(found.config))
    stages, rest = _apart(found.tensors)
    state = translate(rest, TRANSFORMER, source=found.label)
    rules, dropped, parts = list(TRANSFORMER), dropped_by(rest, TRANSFORMER), {}
    wanted = found.config if isinstance(found.config, Composite) else None
    for place, tensors in stages.items():
        stage = _stage(found, place, tensors, wanted)
        parts[place] = Part("vqgan", stage.config)
        state |= {f"{place}.{name}": tensor for name, tensor in stage.tensors.items()}
        rules += [_within(rule, STAGES[place], place) for rule in stage.rules]
        dropped |= {STAGES[place] + key: why for key, why in stage.dropped.items()}
    own = _config(found, state, rest, parts)
    return Adopted(
        tensors=state,
        config=Composite(own, parts),
        rules=tuple(rules),
        layout="taming",
        dropped=dropped,
    )


def _whole(config: Any) -> Composite:
    return config if isinstance(config, Composite) else Composite(config)


def _apart(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of each stage without its prefix, and the others."""
    stages: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    alone = not any(key.startswith("transformer.") for key in tensors)
    for key, tensor in tensors.items():
        for place, prefix in STAGES.items():
            if key.startswith(prefix):
                stages.setdefault(place, {})[key.removeprefix(prefix)] = tensor
                break
        else:
            rest[f"transformer.{key}" if alone else key] = tensor
    return stages, rest


def _stage(
    found: Published, place: str, tensors: dict[str, Tensor], wanted: Composite | None
) -> Adopted:
    """A VQGAN from the keys of one stage."""
    prefix = STAGES[place].rstrip(".")
    given = wanted.parts.get(place) if wanted is not None else None
    return vqgan.adopt(
        Published(
            tensors=tensors,
            label=f"{found.label}, {prefix}",
            paths=found.paths,
            config=given.config if given is not None else None,
            options={"part": prefix},
        )
    )


def _within(rule: Rule, prefix: str, place: str) -> Rule:
    """A rule of a stage as one of the whole."""
    published = tuple(prefix + pattern for pattern in rule.patterns)
    return replace(
        rule,
        published=published if isinstance(rule.published, tuple) else published[0],
        ours=None if rule.ours is None else f"{place}.{rule.ours}",
    )


def _config(
    found: Published,
    state: Mapping[str, Tensor],
    rest: Mapping[str, Tensor],
    parts: Mapping[str, Part],
) -> TamingTransformerConfig:
    shapes = _Shapes.of(state)
    if found.config is not None:
        return _whole(found.config).own
    told = told_beside(found.paths)
    if told is not None and shapes.fit(told.config):
        if told.conditioned:
            return told.config
        staged = "condition_stage" in parts
        return replace(told.config, condition="stage" if staged else "tokens")
    if told is not None:
        logger.warning("the yaml beside %s does not fit its shapes; it is left out", found.label)
    alike = [
        variant.own
        for variant in VARIANTS.values()
        if shapes.fit(variant.own)
        and ("condition_stage" in parts) <= (variant.own.condition == "stage")
    ]
    if not alike:
        raise WrongKeys(
            f"{found.label}: a transformer of {shapes.layers} layers, width {shapes.width}, "
            f"{shapes.codes} codes and {shapes.length} positions is none of those published, and "
            "shapes do not tell its heads: put the project's yaml beside it"
        )
    # S-FLCKR, D-RIN and FacesHQ have the same shapes; the last has no condition stage.
    staged = [each for each in alike if (each.condition == "stage") == ("condition_stage" in parts)]
    return _ordered((staged or alike)[0], rest, found.label)


def _ordered(
    config: TamingTransformerConfig, rest: Mapping[str, Tensor], label: str
) -> TamingTransformerConfig:
    """The config with the order that the checkpoint's permutation is."""
    permutation = rest.get("permuter.forward_shuffle_idx")
    if permutation is None:
        return config
    side = round(len(permutation) ** 0.5)
    for name in ORDERS:
        try:
            order = order_of(name, (side, side))
        except BadInput:
            continue
        if torch.equal(order, permutation.cpu().long()):
            grid = None if name == "identity" else (side, side)
            return replace(config, order=name, order_grid=grid)
    raise WrongKeys(
        f"{label}: its order of {len(permutation)} codes is none of {listed(list(ORDERS))}: put "
        "the project's yaml beside it"
    )


def decisive(config: TamingTransformerConfig) -> str:
    """What changes answers and leaves the shapes of weights as they are."""
    fields = ("heads", "unmasked", "condition", "condition_size", "coordinate_factor")
    more = ("coordinate_codes", "start", "order", "order_grid")
    told = " ".join(str(getattr(config, name)) for name in (*fields, *more))
    return f"{told} {config.pairs}" if config.pairs else told
