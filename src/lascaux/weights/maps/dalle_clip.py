"""The small CLIP of DALLE-pytorch: what its names become, and what config its shapes imply."""

import math
import re
from collections.abc import Collection, Mapping

from torch import Tensor

from lascaux.errors import BadInput, WrongKeys
from lascaux.models.dalle_clip import DalleClipConfig, side_of
from lascaux.weights.keymap import Rule, translate
from lascaux.weights.published import Adopted, Published

_OURS = ("text_project.weight", "image_project.weight", "image.blocks.0.attention.scale")
_PUBLISHED = ("to_text_latent.weight", "to_visual_latent.weight", "to_visual_embedding.weight")


def _tower(published: str, ours: str) -> tuple[Rule, ...]:
    layer = f"{published}.layers.layers.{{l}}."
    rules: list[Rule] = []
    for number, name in ((0, "attention"), (1, "mlp")):
        block = f"{ours}.blocks.{{l}}.{name}"
        rules.append(
            Rule(
                f"{layer}{number}.scale",
                f"{block}.scale",
                lambda x: x.flatten(),
                lambda x: x[None, None],
            )
        )
        rules.append(Rule(f"{layer}{number}.fn.norm.{{p}}", f"{block}.norm.{{p}}"))
    return (
        *rules,
        Rule(f"{layer}0.fn.fn.fn.to_qkv.weight", f"{ours}.attentions.{{l}}.qkv.weight"),
        Rule(f"{layer}0.fn.fn.fn.to_out.0.{{p}}", f"{ours}.attentions.{{l}}.out.{{p}}"),
        Rule(f"{layer}1.fn.fn.net.0.{{p}}", f"{ours}.mlps.{{l}}.up.{{p}}"),
        Rule(f"{layer}1.fn.fn.net.3.{{p}}", f"{ours}.mlps.{{l}}.down.{{p}}"),
    )


DALLE_CLIP = (
    Rule("temperature", "logit_scale"),
    Rule("text_emb.weight", "text_embedding.weight"),
    Rule("text_pos_emb.weight", "text_positions.weight"),
    *_tower("text_transformer", "text"),
    Rule("to_text_latent.weight", "text_project.weight"),
    Rule("to_visual_embedding.{p}", "patches.{p}"),
    Rule("visual_pos_emb.weight", "image_positions.weight"),
    *_tower("visual_transformer", "image"),
    Rule("to_visual_latent.weight", "image_project.weight"),
)


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of DALLE-pytorch's CLIP."""
    return any(all(mark in keys for mark in marks) for marks in (_OURS, _PUBLISHED))


def adopt(found: Published) -> Adopted:
    """Its tensors under our names, and the config that their shapes tell.

    Raises:
        WrongKeys: names are missing or not known, or the shapes make no such model.
    """
    state, rules = _without_wrapper_gap(found.tensors), DALLE_CLIP
    if all(mark in state for mark in _OURS):
        rules = ()
    else:
        state = translate(state, rules, source=found.label)
    config = found.config or _config(state, found.label)
    layout = "dalle-pytorch" if rules else "lascaux"
    return Adopted(tensors=state, config=config, rules=rules, layout=layout)


def _without_wrapper_gap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Versions before 1.2.2 lack one wrapper around attention."""
    return {re.sub(r"(?<!\.fn)\.fn\.fn\.to_", ".fn.fn.fn.to_", key): x for key, x in state.items()}


def _config(state: Mapping[str, Tensor], source: str) -> DalleClipConfig:
    def layers(tower: str) -> int:
        return len({key.split(".")[2] for key in state if key.startswith(f"{tower}.blocks.")})

    try:
        patches, image_width = state["image_positions.weight"].shape
        # Three channels, since shapes tell no more.
        size = math.isqrt(state["patches.weight"].shape[1] // 3)
        text_tokens, text_width = state["text_embedding.weight"].shape
        return DalleClipConfig(
            text_width=text_width,
            image_width=image_width,
            embed_width=state["text_project.weight"].shape[0],
            text_tokens=text_tokens,
            text_length=state["text_positions.weight"].shape[0],
            text_layers=layers("text"),
            text_heads=state["text.attentions.0.out.weight"].shape[1] // 64,
            image_layers=layers("image"),
            image_heads=state["image.attentions.0.out.weight"].shape[1] // 64,
            image_size=side_of(patches) * size,
            patch_size=size,
        )
    except KeyError as error:
        raise WrongKeys(f"{source}: missing {error.args[0]!r}, which fixes the sizes") from error
    except BadInput as error:
        raise WrongKeys(f"{source}: no CLIP of DALLE-pytorch has such tensors: {error}") from error
