"""CLIP's checkpoints: which layout a file has, what its names become, what config it implies."""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from lascaux.errors import Unsupported, WrongKeys
from lascaux.models.clip import Activation, ClipConfig, unless_fourfold
from lascaux.weights.keymap import Rule, dropped_by, listed, translate
from lascaux.weights.published import Adopted, Published

logger = logging.getLogger(__name__)

# Widths of image transformers that OpenAI has not published, and their heads in OpenCLIP's configs.
_OPENCLIP_HEADS = {1280: 16, 1408: 16, 1664: 16, 1792: 16}


def _transposed(x: Tensor) -> Tensor:
    return x.t().contiguous()


def _stacked(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _thirds(x: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.contiguous() for part in x.chunk(3))


def _projection(published: str, ours: str) -> Rule:
    return Rule(published, ours, _transposed, _transposed, why="published as x @ projection")


def _blocks(published: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(published + "attn.in_proj_{p}", ours + "attention.qkv.{p}"),
        Rule(published + "attn.out_proj.{p}", ours + "attention.out.{p}"),
        Rule(published + "ln_1.{p}", ours + "attention_norm.{p}"),
        Rule(published + "ln_2.{p}", ours + "mlp_norm.{p}"),
        Rule(published + "mlp.c_fc.{p}", ours + "mlp.up.{p}"),
        Rule(published + "mlp.c_proj.{p}", ours + "mlp.down.{p}"),
    )


def _text(prefix: str) -> tuple[Rule, ...]:
    return (
        Rule(prefix + "token_embedding.weight", "text.tokens.weight"),
        Rule(prefix + "positional_embedding", "text.positions"),
        *_blocks(prefix + "transformer.resblocks.{i}.", "text.blocks.{i}."),
        Rule(prefix + "ln_final.{p}", "text.last_norm.{p}"),
        _projection(prefix + "text_projection", "text.project.weight"),
        Rule(prefix + "attn_mask", None, why="the causal mask follows from the length"),
    )


def _scalar(x: Tensor) -> Tensor:
    return x.reshape(())


# MegEngine's and some other ports keep the scale with one axis.
_SCALE = (Rule("logit_scale", "logit_scale", _scalar, _scalar),)
_SCALARS = ("input_resolution", "context_length", "vocab_size")
_DROPPED = tuple(Rule(name, None, why="follows from the config") for name in _SCALARS)
_VIT = (
    Rule("visual.conv1.weight", "image.patches.weight"),
    Rule("visual.class_embedding", "image.class_token"),
    Rule("visual.positional_embedding", "image.positions"),
    Rule("visual.ln_pre.{p}", "image.first_norm.{p}"),
    *_blocks("visual.transformer.resblocks.{i}.", "image.blocks.{i}."),
    Rule("visual.ln_post.{p}", "image.last_norm.{p}"),
    _projection("visual.proj", "image.project.weight"),
)
_RESNET = (
    Rule("visual.conv{i}.weight", "image.conv{i}.weight"),
    Rule("visual.bn{i}.{p}", "image.norm{i}.{p}"),
    *(
        rule
        for stage in range(4)
        for published, ours in [(f"visual.layer{stage + 1}.{{b}}.", f"image.stages.{stage}.{{b}}.")]
        for rule in (
            Rule(published + "conv{i}.weight", ours + "conv{i}.weight"),
            Rule(published + "bn{i}.{p}", ours + "norm{i}.{p}"),
            Rule(published + "downsample.0.weight", ours + "shortcut.conv.weight"),
            Rule(published + "downsample.1.{p}", ours + "shortcut.norm.{p}"),
        )
    ),
    Rule("visual.attnpool.positional_embedding", "image.pool.positions"),
    Rule("visual.attnpool.q_proj.{p}", "image.pool.query.{p}"),
    Rule("visual.attnpool.k_proj.{p}", "image.pool.key.{p}"),
    Rule("visual.attnpool.v_proj.{p}", "image.pool.value.{p}"),
    Rule("visual.attnpool.c_proj.{p}", "image.pool.out.{p}"),
)

CLIP_OPENAI = (*_text(""), *_VIT, *_SCALE, *_DROPPED)
CLIP_OPENAI_RESNET = (*_text(""), *_RESNET, *_SCALE, *_DROPPED)
# OpenCLIP's CLIP keeps OpenAI's names; its CustomTextCLIP has the text tower under `text.`.
CLIP_OPENCLIP = CLIP_OPENAI
CLIP_OPENCLIP_CUSTOM = (*_text("text."), *_VIT, *_SCALE)
CLIP_OPENCLIP_CUSTOM_RESNET = (*_text("text."), *_RESNET, *_SCALE)


def _huggingface_tower(published: str, ours: str) -> tuple[Rule, ...]:
    layer, block = published + "encoder.layers.{i}.", ours + "blocks.{i}."
    attention = layer + "self_attn."
    return (
        Rule(
            (attention + "q_proj.{p}", attention + "k_proj.{p}", attention + "v_proj.{p}"),
            block + "attention.qkv.{p}",
            _stacked,
            _thirds,
        ),
        Rule(attention + "out_proj.{p}", block + "attention.out.{p}"),
        Rule(layer + "layer_norm1.{p}", block + "attention_norm.{p}"),
        Rule(layer + "layer_norm2.{p}", block + "mlp_norm.{p}"),
        Rule(layer + "mlp.fc1.{p}", block + "mlp.up.{p}"),
        Rule(layer + "mlp.fc2.{p}", block + "mlp.down.{p}"),
        Rule(published + "embeddings.position_embedding.weight", ours + "positions"),
        Rule(published + "embeddings.position_ids", None, why="counts from 0"),
    )


CLIP_HUGGINGFACE = (
    *_huggingface_tower("text_model.", "text."),
    Rule("text_model.embeddings.token_embedding.weight", "text.tokens.weight"),
    Rule("text_model.final_layer_norm.{p}", "text.last_norm.{p}"),
    Rule("text_projection.weight", "text.project.weight"),
    *_huggingface_tower("vision_model.", "image."),
    Rule("vision_model.embeddings.patch_embedding.weight", "image.patches.weight"),
    Rule("vision_model.embeddings.class_embedding", "image.class_token"),
    Rule("vision_model.pre_layrnorm.{p}", "image.first_norm.{p}", why="published misspelt"),
    Rule("vision_model.post_layernorm.{p}", "image.last_norm.{p}"),
    Rule("visual_projection.weight", "image.project.weight"),
    *_SCALE,
)


def _with_axes(count: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[(None,) * count]


CLIP_MMPRETRAIN = (
    *_text(""),
    Rule("visual.patch_embed.projection.weight", "image.patches.weight"),
    Rule("visual.cls_token", "image.class_token", lambda x: x[0, 0], _with_axes(2)),
    Rule("visual.pos_embed", "image.positions", lambda x: x[0], _with_axes(1)),
    Rule("visual.pre_norm.{p}", "image.first_norm.{p}"),
    Rule("visual.layers.{i}.attn.qkv.{p}", "image.blocks.{i}.attention.qkv.{p}"),
    Rule("visual.layers.{i}.attn.proj.{p}", "image.blocks.{i}.attention.out.{p}"),
    Rule("visual.layers.{i}.ln1.{p}", "image.blocks.{i}.attention_norm.{p}"),
    Rule("visual.layers.{i}.ln2.{p}", "image.blocks.{i}.mlp_norm.{p}"),
    Rule("visual.layers.{i}.ffn.layers.0.0.{p}", "image.blocks.{i}.mlp.up.{p}"),
    Rule("visual.layers.{i}.ffn.layers.1.{p}", "image.blocks.{i}.mlp.down.{p}"),
    Rule("visual.ln1.{p}", "image.last_norm.{p}"),
    _projection("visual_proj.proj", "image.project.weight"),
    *_SCALE,
    *_DROPPED,
)


@dataclass(frozen=True)
class Layout:
    """One publisher's way of naming a CLIP's tensors."""

    name: str
    rules: tuple[Rule, ...]  # none: the names are ours
    marks: tuple[str, ...]  # keys that only this layout has all of


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("lascaux", (), ("image.project.weight", "text.tokens.weight")),
        Layout("lascaux-resnet", (), ("image.pool.positions", "text.tokens.weight")),
        Layout("openai", CLIP_OPENAI, ("visual.proj", "token_embedding.weight")),
        Layout(
            "openai-resnet",
            CLIP_OPENAI_RESNET,
            ("visual.attnpool.positional_embedding", "token_embedding.weight"),
        ),
        Layout(
            "openclip-custom", CLIP_OPENCLIP_CUSTOM, ("visual.proj", "text.positional_embedding")
        ),
        Layout(
            "openclip-custom-resnet",
            CLIP_OPENCLIP_CUSTOM_RESNET,
            ("visual.attnpool.positional_embedding", "text.positional_embedding"),
        ),
        Layout(
            "huggingface",
            CLIP_HUGGINGFACE,
            ("visual_projection.weight", "text_model.embeddings.token_embedding.weight"),
        ),
        Layout("mmpretrain", CLIP_MMPRETRAIN, ("visual_proj.proj", "token_embedding.weight")),
    )
}

_BARE = "it is a bare image backbone without a text tower"
# Keys that betray a model which is near to CLIP and is none of those above.
_REFUSED = (
    ("visual.trunk.", "its image tower is a timm model (OpenCLIP's TimmModel)"),
    ("text.transformer.embeddings.", "its text tower is a Hugging Face language model"),
    ("logit_bias", "it was trained with a sigmoid loss (SigLIP) and needs its bias"),
    ("visual.attn_pool.", "its image tower pools by attention over learnt queries (CoCa)"),
    ("text_decoder.", "it is a captioner (CoCa)"),
    ("bert.", "its text tower is BERT (Chinese-CLIP)"),
    ("backbone.", _BARE),
)


def unwrapped(state: Mapping[str, Tensor], *, source: str = "the checkpoint") -> dict[str, Tensor]:
    """The tensors without the prefix (`model.`) of what the CLIP was wrapped in.

    Any prefix will do under which a layout is recognised.

    Raises:
        WrongKeys: beside the wrapped CLIP are other tensors.
    """
    prefix = min(_prefixes(state.keys()), key=len, default="")
    if beside := [key for key in state if not key.startswith(prefix)]:
        raise WrongKeys(
            f"{source}: beside the CLIP, whose keys begin with {prefix!r}, {len(beside)} not "
            f"expected: {listed(beside)}; take them out, or save the CLIP alone"
        )
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def recognises(keys: Collection[str]) -> bool:
    """Whether a layout has all of its marks here, under whatever prefix."""
    return any(True for _ in _prefixes(keys))


def _prefixes(keys: Collection[str]) -> Iterator[str]:
    """Every prefix under which a layout has all of its marks."""
    for layout in LAYOUTS.values():
        for key in keys:
            if f".{key}".endswith(f".{layout.marks[0]}"):
                prefix = key.removesuffix(layout.marks[0])
                if all(prefix + mark in keys for mark in layout.marks):
                    yield prefix


def refuse_kin(keys: Collection[str], source: str) -> None:
    """Raises where the keys betray a model near to CLIP.

    Raises:
        Unsupported: it is one; the message says which.
    """
    reads_text = any("text" in key or "token_embedding" in key for key in keys)
    for part, reason in _REFUSED:
        # Also under a wrapper's prefix.
        if any(f".{part}" in f".{key}" for key in keys) and not (reason is _BARE and reads_text):
            raise Unsupported(f"{source} is no plain CLIP: {reason}")


def recognise(keys: Collection[str], *, source: str = "the checkpoint") -> Layout:
    """The layout that a checkpoint's keys are in.

    Raises:
        Unsupported: it is a kin of CLIP that this project does not have; the message says which.
        WrongKeys: it is no CLIP.
    """
    refuse_kin(keys, source)
    for layout in LAYOUTS.values():
        if all(mark in keys for mark in layout.marks):
            return layout
    shown = ", ".join(list(keys)[:6]) or "none"
    raise WrongKeys(
        f"{source}: these are not the keys of a CLIP that OpenAI, Hugging Face, OpenCLIP, "
        f"mmpretrain or Lascaux published; {len(keys)} keys, the first of them {shown}"
    )


def adopt(found: Published) -> Adopted:
    """A CLIP's tensors under our names, and its config.

    Raises:
        Unsupported, WrongKeys: as `recognise` and `translate`.
    """
    source = found.label
    state = unwrapped(found.tensors, source=source)
    layout = recognise(state.keys(), source=source)
    given = found.options.get("activation")
    known = given or implied_activation(state, layout)
    dropped = dropped_by(state, layout.rules)
    if layout.rules:
        state = translate(state, layout.rules, source=source)
    config = found.config
    if config is None:
        config = config_from_tensors(state, activation=known, source=source)
    elif given is not None:
        config = replace(config, activation=given)
    return Adopted(
        tensors=state, config=config, rules=layout.rules, layout=layout.name, dropped=dropped
    )


def rename(state: Mapping[str, Tensor], *, source: str = "the checkpoint") -> dict[str, Tensor]:
    """The tensors of any known layout under our names.

    Raises:
        Unsupported, WrongKeys: as `recognise` and `translate`.
    """
    layout = recognise(state.keys(), source=source)
    return translate(state, layout.rules, source=source) if layout.rules else dict(state)


def config_from_state(
    state: Mapping[str, Tensor],
    *,
    activation: Activation | None = None,
    source: str = "the checkpoint",
) -> ClipConfig:
    """The config that a checkpoint's shapes imply, by the rule of OpenAI's `build_model`.

    Shapes tell neither the heads (64 channels each, but for widths that only OpenCLIP has) nor the
    activation: QuickGELU, or exact GELU for those widths, unless the caller says otherwise. Of a
    checkpoint that does not show where it comes from, this is said in a logged warning.

    Raises:
        Unsupported, WrongKeys: as `recognise` and `translate`.
    """
    layout = recognise(state.keys(), source=source)
    activation = activation or implied_activation(state, layout)
    return config_from_tensors(rename(state, source=source), activation=activation, source=source)


def implied_activation(keys: Collection[str], layout: Layout) -> Activation | None:
    """QuickGELU where published keys show that OpenAI's code made the file; None: unknown."""
    from_openai = all(name in keys for name in _SCALARS) or layout.name == "mmpretrain"
    return "quick_gelu" if from_openai else None


def config_from_tensors(
    state: Mapping[str, Tensor],
    *,
    activation: Activation | None = None,
    source: str = "the checkpoint",
) -> ClipConfig:
    """As `config_from_state`, of tensors that have our names already."""
    try:
        config = _config_of_shapes(state)
    except KeyError as error:
        raise WrongKeys(f"{source}: missing {error.args[0]!r}, which fixes the sizes") from error
    heads = None if config.convolutional else _OPENCLIP_HEADS.get(config.vision_width)
    if heads is None:
        guess, of = "quick_gelu", "OpenAI's models"
    else:
        guess, of = "gelu", "OpenCLIP's models of this width"
        config = replace(config, vision_heads=heads)
    if activation is None:
        logger.warning(
            "%s does not tell its activation: taken as %s, as %s. If its scores look wrong, load "
            "it with activation='%s', or from a folder that has its config",
            source,
            guess,
            of,
            "quick_gelu" if guess == "gelu" else "gelu",
        )
    odd_vision = not config.convolutional and heads is None and config.vision_width % 64
    if odd_vision or config.text_width % 64:
        logger.warning(
            "%s does not tell its heads, and not all widths are multiples of 64: taken as %d "
            "(pictures) and %d (texts); load it with config=... if that is wrong",
            source,
            config.vision_heads,
            config.text_heads,
        )
    return replace(config, activation=activation or guess)


def _config_of_shapes(state: Mapping[str, Tensor]) -> ClipConfig:
    text_width = state["text.last_norm.weight"].shape[0]
    text_mlp_width = state["text.blocks.0.mlp.up.weight"].shape[0]
    vocabulary_size = state["text.tokens.weight"].shape[0]
    text = {
        "embed_width": state["text.project.weight"].shape[0],
        "text_width": text_width,
        "text_heads": max(1, text_width // 64),
        "text_layers": _count(state, "text.blocks."),
        "text_mlp_width": unless_fourfold(text_mlp_width, text_width),
        "context_length": state["text.positions"].shape[0],
        "vocabulary_size": vocabulary_size,
    }
    if "image.pool.positions" in state:
        width = state["image.conv3.weight"].shape[0]
        side = math.isqrt(state["image.pool.positions"].shape[0] - 1)
        layers = tuple(_count(state, f"image.stages.{stage}.") for stage in range(4))
        return ClipConfig(
            image_size=32 * side,
            vision_layers=cast("tuple[int, int, int, int]", layers),
            vision_width=width,
            vision_heads=max(1, width * 32 // 64),
            **text,
        )
    width, _, _, patch_size = state["image.patches.weight"].shape
    side = math.isqrt(state["image.positions"].shape[0] - 1)
    mlp_width = state["image.blocks.0.mlp.up.weight"].shape[0]
    return ClipConfig(
        image_size=patch_size * side,
        vision_layers=_count(state, "image.blocks."),
        vision_width=width,
        vision_heads=max(1, width // 64),
        patch_size=patch_size,
        vision_mlp_width=unless_fourfold(mlp_width, width),
        **text,
    )


def _count(state: Mapping[str, Any], prefix: str) -> int:
    return len({key[len(prefix) :].split(".", 1)[0] for key in state if key.startswith(prefix)})
