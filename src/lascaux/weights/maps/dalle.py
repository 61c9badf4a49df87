"""DALLE-pytorch's DALL-E: what its names become, what config a file implies, and what is inside.

Its train_dalle.py writes `{"hparams": most of the constructor's arguments, "vae_params": those of a
DiscreteVAE or None, "vae_class_name": ..., "weights": state dict}`; the state dict has the picture
tokeniser's tensors as well, under `vae.`.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lascaux.errors import BadInput, Unsupported, WrongKeys
from lascaux.models.dalle import DalleConfig, rotary_angles
from lascaux.weights.keymap import Rule, dropped_by, translate
from lascaux.weights.maps import discrete_vae, dvae, vqgan
from lascaux.weights.parts import Composite, Part
from lascaux.weights.published import Adopted, Published

_OURS = ("head.weight", "norm.weight", "blocks.0.attention.scale", "attentions.0.qkv.weight")
PARTS = ("tokeniser",)
_VAE = "vae."
_TABLE = "transformer.pos_emb"
_PUBLISHED = ("to_logits.0.weight", "to_logits.1.weight")
# The constructor's arguments -> our fields, where the values are the same.
_SAME = {
    "dim": "width",
    "depth": "layers",
    "heads": "heads",
    "dim_head": "head_width",
    "num_text_tokens": "text_tokens",
    "text_seq_len": "text_length",
    "reversible": "reversible",
    "attn_dropout": "attention_dropout",
    "ff_dropout": "mlp_dropout",
    "loss_img_weight": "image_weight",
    "stable": "stable",
    "sandwich_norm": "sandwich",
    "shift_tokens": "shift",
    "rotary_emb": "rotary",
    "share_input_output_emb": "shared_embeddings",
}
_REAL = {"attn_dropout", "ff_dropout", "loss_img_weight"}
_SHARED = {"shared_attn_ids": "shared_attention", "shared_ff_ids": "shared_mlp"}
_WITHOUT_EFFECT = {"sparse_attn", "optimize_for_inference", "ignore_index"}
# Where the file does not hold the tokeniser: what is fetched, by its codes and the picture's side.
_PRETRAINED = {
    (8192, 32, "OpenAIDiscreteVAE"): "openai-dvae",
    (1024, 16, "VQGanVAE"): "vqgan_imagenet_f16_1024",
    (1024, 16, "VQGanVAE1024"): "vqgan_imagenet_f16_1024",
    (16384, 16, "VQGanVAE"): "vqgan_imagenet_f16_16384",
    (8192, 32, "VQGanVAE"): "vqgan_gumbel_f8",
}


@dataclass(frozen=True)
class Wrapped:
    """What stands in the names between a branch's first `fn` and its function.

    Versions before 1.2.2 have no wrappers for their cache; token shift is a wrapper, too.
    """

    attention: str = "fn.fn"
    mlp: str = "fn"

    @property
    def shifts(self) -> bool:
        """Whether tokens are shifted."""
        return self.mlp != "fn"

    @property
    def cached(self) -> bool:
        """Whether it is of a version that has a cache."""
        return self.attention != self.mlp

    @classmethod
    def by(cls, *, shift: bool) -> "Wrapped":
        """As the newest version writes it."""
        return cls("fn.fn.fn.fn", "fn.fn.fn") if shift else cls()


def _row(x: Tensor) -> Tensor:
    return x.flatten()


def _scale(x: Tensor) -> Tensor:
    return x[None, None]


def _first(config: DalleConfig, layer: int) -> tuple[str, str]:
    if config.reversible:
        stem = f"transformer.layers.blocks.{layer}"
        return f"{stem}.f.net", f"{stem}.g.net"
    return f"transformer.layers.layers.{layer}.0", f"transformer.layers.layers.{layer}.1"


def rules_of(config: DalleConfig, wrapped: Wrapped | None = None) -> tuple[Rule, ...]:
    """The rules for a DALL-E of that config.

    A function that layers share is published under the names of each of them; the last counts,
    since it is what the published constructor keeps of a state dict.
    """
    wrapped = wrapped or Wrapped.by(shift=config.shift)
    last = {
        "attention": {number: layer for layer, number in enumerate(config.attentions)},
        "mlp": {number: layer for layer, number in enumerate(config.mlps)},
    }
    rules: list[Rule] = []
    for layer in range(config.layers):
        attention, mlp = _first(config, layer)
        for published, name in ((attention, "attention"), (mlp, "mlp")):
            ours = f"blocks.{layer}.{name}"
            rules.append(Rule(f"{published}.scale", f"{ours}.scale", _row, _scale))
            rules.append(Rule(f"{published}.fn.norm.{{p}}", f"{ours}.norm.{{p}}"))
            if config.sandwich:
                rules.append(Rule(f"{published}.fn.norm_out.{{p}}", f"{ours}.norm_out.{{p}}"))
        rules += _shared_rules(
            last["attention"][config.attentions[layer]] == layer,
            f"{attention}.fn.{wrapped.attention}.",
            f"attentions.{config.attentions[layer]}.",
            {"to_qkv.{p}": "qkv.{p}", "to_out.0.{p}": "out.{p}"},
        )
        rules += _shared_rules(
            last["mlp"][config.mlps[layer]] == layer,
            f"{mlp}.fn.{wrapped.mlp}.",
            f"mlps.{config.mlps[layer]}.",
            {"net.0.{p}": "up.{p}", "net.3.{p}": "down.{p}"},
        )
    return (
        *rules,
        *_ends(config),
        Rule(_TABLE, None, why="rotary positions, which are computed"),
        Rule("logits_mask", None, why="which classes may follow, which is computed"),
    )


def _shared_rules(kept: bool, published: str, ours: str, names: Mapping[str, str]) -> list[Rule]:
    return [
        Rule(published + theirs, ours + name)
        if kept
        else Rule(published + theirs, None, why="the same tensor as a later layer's")
        for theirs, name in names.items()
    ]


def _ends(config: DalleConfig) -> tuple[Rule, ...]:
    ends = [Rule("to_logits.0.{p}", "norm.{p}")]
    if config.shared_embeddings:
        ends += [
            Rule("image_emb.linear.{p}", "head.{p}"),  # again the last of several names
            Rule("to_logits.1.{p}", None, why="the same tensor as image_emb.linear"),
            Rule("text_emb.linear.{p}", None, why="the same tensor as image_emb.linear"),
        ]
    else:
        ends += [
            Rule("to_logits.1.{p}", "head.{p}"),
            Rule("text_emb.weight", "text_embedding.weight"),
            Rule("image_emb.weight", "image_embedding.weight"),
        ]
    if not config.rotary:
        width = config.width
        ends += [
            Rule("text_pos_emb.weight", "text_positions"),
            Rule(
                "image_pos_emb.weights_0",
                "row_positions",
                lambda x: x.reshape(-1, width),
                lambda x: x[None, :, None],
            ),
            Rule(
                "image_pos_emb.weights_1",
                "column_positions",
                lambda x: x.reshape(-1, width),
                lambda x: x[None, None],
            ),
        ]
    return tuple(ends)


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of a DALL-E, with or without its picture tokeniser."""
    return all(mark in keys for mark in _OURS) or (
        all(mark in keys for mark in _PUBLISHED)
        and any(key.startswith("transformer.layers.") for key in keys)
        and any(key.startswith("image_emb.") for key in keys)
    )


def adopt(found: Published) -> Adopted:
    """A DALL-E's tensors under our names, its config, and the tokeniser that it has or names.

    Raises:
        WrongKeys: names are missing or not known, or the file does not tell what it must.
        Unsupported: an argument of the constructor that is not known, or an older form.
    """
    state, given = found.tensors, _whole(found.config)
    if all(mark in state for mark in _OURS):
        if given is None:
            raise WrongKeys(
                f"{found.label}: these tensors do not tell how many heads there are and what the "
                "layers see; load the folder they were saved in"
            )
        return Adopted(tensors=state, config=given)
    own = {_newest(key): x for key, x in state.items() if not key.startswith(_VAE)}
    wrapped = _wrapped(own, found.label)
    config = given.own if given else config_from_hparams(found, own, wrapped)
    if wrapped.shifts != config.shift:
        raise WrongKeys(
            f"{found.label}: shift_tokens is {config.shift}, but its tensors are named as if it "
            f"were {wrapped.shifts}"
        )
    rules = rules_of(config, wrapped)
    _require_same_turns(own, config, found.label)
    ours = Adopted(
        tensors=translate(own, rules, source=found.label),
        config=Composite(config),
        rules=rules,
        layout="dalle-pytorch",
        dropped=dropped_by(own, rules),
    )
    inside = {key.removeprefix(_VAE): x for key, x in state.items() if key.startswith(_VAE)}
    if not inside:
        return replace(ours, fetched={"tokeniser": _named(found, config)})
    return _with_tokeniser(ours, found, inside)


def _whole(config: Any) -> Composite | None:
    return config if config is None or isinstance(config, Composite) else Composite(config)


def _with_tokeniser(ours: Adopted, found: Published, inside: dict[str, Tensor]) -> Adopted:
    """The same with the picture tokeniser in the file."""
    if any(key.startswith("model.") for key in inside):
        model, adopt_part = "vqgan", vqgan.adopt
    elif any(key.startswith("enc.") for key in inside):
        model, adopt_part = "dvae", dvae.adopt
    else:
        model, adopt_part = "discrete-vae", discrete_vae.adopt
    # The hparams are the transformer's.
    told = found.values.get("vae_params")
    part = adopt_part(
        Published(
            tensors=inside,
            label=f"{found.label} (under {_VAE})",
            values={} if told is None else {"vae_params": told},
        )
    )
    rules = tuple(
        replace(
            rule,
            published=tuple(_VAE + pattern for pattern in rule.patterns),
            ours=None if rule.ours is None else f"tokeniser.{rule.ours}",
        )
        for rule in part.rules
    )
    return replace(
        ours,
        tensors={**ours.tensors, **{f"tokeniser.{key}": x for key, x in part.tensors.items()}},
        config=replace(ours.config, parts={"tokeniser": Part(model, part.config)}),
        rules=ours.rules + rules,
        dropped={**ours.dropped, **{_VAE + key: why for key, why in part.dropped.items()}},
    )


def _named(found: Published, config: DalleConfig) -> str:
    """The published tokeniser that a file names which has none in it."""
    given = found.values.get("vae_class_name")
    named = _PRETRAINED.get((config.codes, config.grid, given or "OpenAIDiscreteVAE"))
    if named is None:
        raise WrongKeys(
            f"{found.label}: it has no tensors of its picture tokeniser ({given or 'not named'}, "
            f"{config.codes} codes, {config.grid} x {config.grid} of them), and no published one "
            "is known that fits"
        )
    return named


def _newest(key: str) -> str:
    """Later releases of axial-positional-embedding keep their weights in a list."""
    return re.sub(r"^image_pos_emb\.weights\.(\d)$", r"image_pos_emb.weights_\1", key)


def config_from_hparams(
    found: Published, own: Mapping[str, Tensor], wrapped: Wrapped
) -> DalleConfig:
    """The config that `hparams` and shapes tell.

    What an older version's `hparams` do not say yet, the names of its tensors do.

    Raises:
        WrongKeys: there are none, or they do not fit the tensors.
        Unsupported: an argument that is not known, or a form of before 0.9.
    """
    label, hparams = found.label, found.values.get("hparams")
    if not isinstance(hparams, Mapping):
        raise WrongKeys(
            f"{label}: it has no hparams, and no shapes tell the heads and what the layers see "
            "(MegEngine's files have none, for one); load it with config=DalleConfig(...), of "
            "which lascaux.models.dalle.VARIANTS has two"
        )
    fields: dict[str, Any] = {"shift": wrapped.shifts, "rotary": "text_pos_emb.weight" not in own}
    for name, value in hparams.items():
        if name in _SAME:
            fields[_SAME[name]] = float(value) if name in _REAL else value
        elif name in _SHARED:
            fields[_SHARED[name]] = None if value is None else _integers(value)
        elif name == "attn_types":
            one = isinstance(value, str)
            fields["patterns"] = ("full",) if value is None else (value,) if one else tuple(value)
        elif name not in _WITHOUT_EFFECT:
            raise Unsupported(f"{label}: hparams has {name} = {value!r}, which is not known")
    fields["centred_window"] = not wrapped.cached or _before(found.values.get("version"), (1, 5))
    try:
        fields["codes"] = _codes(own, fields)
        return DalleConfig(**fields, grid=_grid(found, own, fields))
    except (BadInput, TypeError, KeyError) as error:
        raise WrongKeys(f"{label}: hparams that no DALL-E has: {error}") from error


def _integers(value: Any) -> tuple[int, ...]:
    return (int(value),) if isinstance(value, int) else tuple(int(each) for each in value)


def _before(version: Any, limit: tuple[int, int]) -> bool:
    """Whether a file says that it is of an earlier version; files before 1.1.6 say nothing."""
    numbers = re.findall(r"\d+", version) if isinstance(version, str) else []
    return len(numbers) >= 2 and (int(numbers[0]), int(numbers[1])) < limit


def _codes(own: Mapping[str, Tensor], fields: Mapping[str, Any]) -> int:
    defaults = DalleConfig(codes=1, grid=1, width=1, layers=1)
    texts = fields.get("text_tokens", defaults.text_tokens)
    total = own["to_logits.1.weight"].shape[0]
    if (embedded := own.get("text_emb.weight")) is not None and embedded.shape[0] == texts:
        raise Unsupported(
            "of a version before 0.9, in which the tokens that fill a text had no ids of their own"
        )
    return total - texts - fields.get("text_length", defaults.text_length)


def _grid(found: Published, own: Mapping[str, Tensor], fields: Mapping[str, Any]) -> int:
    """Codes along a side: as the positions tell, else the tokeniser."""
    if (rows := own.get("image_pos_emb.weights_0")) is not None:
        return rows.shape[1]
    if (table := own.get(_TABLE)) is not None:
        texts = fields.get("text_length", 256) + 1
        return math.isqrt(table.shape[1] - texts)
    vae_params = found.values.get("vae_params")
    if isinstance(vae_params, Mapping):
        return vae_params.get("image_size", 256) // 2 ** vae_params.get("num_layers", 3)
    levels = {
        match[1]
        for key in found.tensors
        if (match := re.match(r"vae\.model\.encoder\.down\.(\d+)\.", key))
    }
    # As published (vae.py): pictures of 256 pixels, and OpenAI's tokeniser where none is named.
    named = found.values.get("vae_class_name")
    factor = 2 ** (len(levels) - 1) if levels else 16 if str(named).startswith("VQGan") else 8
    return 256 // factor


def _wrapped(own: Mapping[str, Tensor], label: str) -> Wrapped:
    found = []
    for ending in ("to_qkv.weight", "net.0.weight"):
        pattern = re.compile(rf"transformer\..+?\.fn\.((?:fn\.)*fn)\.{re.escape(ending)}")
        between = {match[1] for key in own if (match := pattern.fullmatch(key))}
        if len(between) != 1:
            raise WrongKeys(
                f"{label}: tensors that end in {ending} have {len(between)} kinds of names; "
                "one is expected"
            )
        found.append(between.pop())
    return Wrapped(*found)


def _require_same_turns(own: Mapping[str, Tensor], config: DalleConfig, label: str) -> None:
    """Check the table of rotary positions in the file: some versions had other ones.

    Raises:
        Unsupported: it is not the newest version's.
    """
    if (table := own.get(_TABLE)) is None or not config.rotary:
        return
    expected = rotary_angles(config).repeat_interleave(2, dim=-1)
    table = table.float().reshape(-1, table.shape[-1])
    # The file may be kept in half precision.
    if table.shape != expected.shape or not torch.allclose(table, expected, rtol=0.01, atol=0.01):
        raise Unsupported(
            f"{label}: its table of rotary positions is not that of DALLE-pytorch 1.1.4 and later "
            f"for {config.text_length} text tokens and {config.grid} x {config.grid} codes"
        )


def decisive(config: DalleConfig) -> str:
    """What changes answers and leaves the shapes of weights as they are."""
    fields = ("heads", "patterns", "window", "dilation", "centred_window", "shift", "stable")
    return " ".join(str(getattr(config, name)) for name in (*fields, "reversible", "rotary"))
