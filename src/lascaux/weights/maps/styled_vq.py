"""Styled VAE-VQ's checkpoints, as the author's modelv2.py writes them.

The files that he has released come from the first version, whose model.py was published empty; they
are recognised and refused.
"""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from lascaux.errors import Unsupported, WrongKeys
from lascaux.models.styled_vq import StyledVqConfig
from lascaux.weights.keymap import Rule, listed, translate
from lascaux.weights.parts import Composite
from lascaux.weights.published import Adopted, Published

PARTS = ("drawer", "reader")
_OURS = ("codebook", "mean", "decoder.widen.weight")
# Misspelt as published. The last came with the second version.
_MARKS = ("query_embedding", "resblocks_exper.0.layers.0.c_fc.weight", "afer_progject.weight", "V2")


def _first(x: Tensor) -> Tensor:
    return x[0]


def _row(x: Tensor) -> Tensor:
    return x[None]


def _stacked(*parts: Tensor) -> Tensor:
    return torch.stack([part.t() for part in parts]) if parts[0].ndim == 2 else torch.stack(parts)


def _unstacked(x: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.t().contiguous() if part.ndim == 2 else part for part in x)


def _block(published: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(published + "attn.in_proj_{p}", ours + "attention.qkv.{p}"),
        Rule(published + "attn.out_proj.{p}", ours + "attention.out.{p}"),
        Rule(published + "ln_1.{p}", ours + "attention_norm.{p}"),
        Rule(published + "ln_2.{p}", ours + "mlp_norm.{p}"),
        Rule(published + "mlp.c_fc.{p}", ours + "mlp.up.{p}"),
        Rule(published + "mlp.c_proj.{p}", ours + "mlp.down.{p}"),
    )


def _experts(attributes: int) -> tuple[Rule, ...]:
    def rule(layer: str, kind: str, ours: str) -> Rule:
        published = tuple(
            f"resblocks_exper.{{i}}.layers.{number}.{layer}.{kind}" for number in range(attributes)
        )
        return Rule(published, f"encoder.expert_blocks.{{i}}.experts.{ours}", _stacked, _unstacked)

    return (
        rule("c_fc", "weight", "up_weight"),
        rule("c_fc", "bias", "up_bias"),
        rule("c_proj", "weight", "down_weight"),
        rule("c_proj", "bias", "down_bias"),
    )


def _conditioned_block() -> tuple[Rule, ...]:
    published, ours = "decoder.resblocks.{i}.", "decoder.conditioned_blocks.{i}."
    norms = (
        ("ln_1", "first_norm"),
        ("ln_2", "second_norm"),
        ("ln_11", "first_token_norm"),
        ("ln_22", "second_token_norm"),
    )
    return (
        *(Rule(f"{published}{p}.{{p}}", f"{ours}{name}.{{p}}") for p, name in norms),
        Rule(published + "norm1.linear.{p}", ours + "attention_norm.change.{p}"),
        Rule(published + "norm1.norm.{p}", ours + "attention_norm.norm.{p}"),
        Rule(published + "norm2.linear.{p}", ours + "mlp_norm.change.{p}"),
        Rule(published + "norm2.norm.{p}", ours + "mlp_norm.norm.{p}"),
        Rule(published + "attn1.in_proj_{p}", ours + "attention.qkv.{p}"),
        Rule(published + "attn1.out_proj.{p}", ours + "attention.out.{p}"),
        Rule(published + "mlp.c_fc.{p}", ours + "up.{p}"),
        Rule(published + "mlp.c_proj.{p}", ours + "down.{p}"),
        Rule(published + "condition_linear.{p}", None, why="made and never used, as published"),
    )


@cache
def rules(attributes: int = 36) -> tuple[Rule, ...]:
    """The table from the author's names to ours, for that many experts a block."""
    pixels = "decoder.pixels."
    return (
        Rule("patch_embed.{p}", "encoder.patches.{p}"),
        Rule("class_embedding", "encoder.class_token", _first, _row),
        Rule("positional_embedding", "encoder.positions"),
        Rule("query_embedding", "encoder.queries"),
        Rule("ln_ecoder_1.{p}", "encoder.first_norm.{p}"),
        *_block("resblocks.{i}.", "encoder.blocks.{i}."),
        *_block("resblocks_exper.{i}.", "encoder.expert_blocks.{i}.plain."),
        *_experts(attributes),
        Rule("ln_before_project_.{p}", "encoder.last_norm.{p}"),
        Rule("progject_mean.{p}", "encoder.project.{p}"),
        Rule("V2", "mixture"),
        Rule("ln_cosin.{p}", "mixture_norm.{p}"),
        Rule("quantize.embedding.weight", "codebook", optional=True),
        Rule("afer_progject.{p}", "decoder.widen.{p}"),
        Rule("decoder.positional_embedding", "decoder.positions"),
        Rule("decoder.pre_post.{p}", "decoder.first_norm.{p}"),
        *_conditioned_block(),
        *_block("decoder.final_block.{i}.", "decoder.blocks.{i}."),
        Rule("decoder.lin_post.{p}", "decoder.last_norm.{p}"),
        Rule("decoder.linear.{p}", "decoder.patches.{p}"),
        Rule("decoder.cov.{p}", pixels + "first.{p}"),
        Rule("decoder.norm_in.{p}", pixels + "first_norm.{p}"),
        *(
            Rule(f"decoder.ResnetBlock.{name}.{{p}}", f"{pixels}{name}.{{p}}")
            for name in ("norm1", "conv1", "norm2", "conv2")
        ),
        Rule("decoder.norm_out.{p}", pixels + "last_norm.{p}"),
        Rule("decoder.conv_out.{p}", pixels + "last.{p}"),
    )


def decisive(config: StyledVqConfig) -> str:
    """What of a config changes answers and leaves shapes as they are."""
    told = f"{config.heads} {config.heads_of_decoder} {config.quantised} {config.distance}"
    if config.levels:
        told = f"{told} {config.levels}"
    return f"{told} {config.coordinates}" if config.coordinates else told


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of a second version, under whatever prefix, or ours."""
    prefix = _prefix(keys)
    published = prefix is not None and all(prefix + mark in keys for mark in _MARKS)
    return published or all(key in keys for key in _OURS)


def refuse_kin(keys: Collection[str], source: str) -> None:
    """Raises where the keys are those of the released first version.

    Raises:
        Unsupported: they are.
    """
    prefix = _prefix(keys)
    if prefix is not None and prefix + "V2" not in keys and _any(keys, prefix + "resblocks_exper."):
        raise Unsupported(
            f"{source} is a Styled VAE-VQ of the first version: its cosine layer (V2) is missing, "
            "and what stood in its place nobody can know, because the model.py of that version was "
            "published empty. Checkpoints of modelv2.py are read; none was released, so train one"
        )


def adopt(found: Published) -> Adopted:
    """A Styled VAE-VQ's tensors under our names, and its config.

    Raises:
        Unsupported: it is of the first version, or of an early draft of the second.
        WrongKeys: it is none.
    """
    state, config, source = found.tensors, found.config, found.label
    if all(key in state for key in _OURS):
        if config is None:
            raise WrongKeys(f"{source} is a Styled VAE-VQ without a config; load its folder")
        return Adopted(tensors=state, config=config)
    refuse_kin(state.keys(), source)
    prefix = _prefix(state.keys()) or ""
    if beside := [key for key in state if not key.startswith(prefix)]:
        raise WrongKeys(
            f"{source}: beside the keys that begin with {prefix!r}, {len(beside)} not expected: "
            f"{listed(beside)}"
        )
    state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    _require_square(state.get("V2"), source)
    if isinstance(config, Composite):
        config = config.own
    if config is None:
        config = config_from_shapes(state, source=source)
    table = rules(config.attributes)
    ours = translate(state, table, source=source)
    width = config.latent_width
    zeros: Callable[..., Tensor] = ours["mixture"].new_zeros
    ours.setdefault("codebook", zeros(0, width))
    ours["mean"] = zeros(config.attributes, width)
    dropped = {key: "made and never used" for key in state if ".condition_linear." in key}
    return Adopted(tensors=ours, config=config, rules=table, layout="styled-vq", dropped=dropped)


def config_from_shapes(
    state: Mapping[str, Tensor], *, source: str = "the checkpoint"
) -> StyledVqConfig:
    """The config that shapes under the author's names imply, quantised as his code does it.

    Heads are one for 64 channels, as published; shapes do not tell them.

    Raises:
        WrongKeys: what fixes the sizes is missing.
    """
    try:
        width, _, patch, _ = state["patch_embed.weight"].shape
        decoder_width = state["afer_progject.weight"].shape[0]
        codebook = state.get("quantize.embedding.weight")
        pixel_width, _, kernel, _ = state["decoder.cov.weight"].shape
        mlp_width = state["resblocks.0.mlp.c_fc.weight"].shape[0]
        decoder_mlp_width = state["decoder.resblocks.0.mlp.c_fc.weight"].shape[0]
        return StyledVqConfig(
            image_size=patch * isqrt(len(state["positional_embedding"]) - 1),
            patch_size=patch,
            attributes=len(state["query_embedding"]),
            width=width,
            heads=max(1, width // 64),
            mlp_width=None if mlp_width == 4 * width else mlp_width,
            plain_layers=_count(state, "resblocks."),
            expert_layers=_count(state, "resblocks_exper."),
            latent_width=state["V2"].shape[1],
            codes=0 if codebook is None else len(codebook),
            decoder_width=decoder_width,
            decoder_heads=None if decoder_width >= 64 else 1,
            decoder_mlp_width=(
                None if decoder_mlp_width == 4 * decoder_width else decoder_mlp_width
            ),
            decoder_layers=_count(state, "decoder.final_block."),
            pixel_width=pixel_width,
            pixel_kernel=kernel,
            quantised="mixture",
            distance="euclidean",
        )
    except KeyError as error:
        raise WrongKeys(f"{source}: missing {error.args[0]!r}, which fixes the sizes") from error


def _require_square(matrix: Tensor | None, source: str) -> None:
    if matrix is not None and matrix.shape[0] != matrix.shape[1]:
        raise Unsupported(
            f"{source}: V2 is {matrix.shape[0]} x {matrix.shape[1]}; that is an early draft of the "
            "second version, which weighed by the cosine alone. Square ones are read"
        )


def _prefix(keys: Collection[str]) -> str | None:
    """What stands before the names, `module.` of torch's DistributedDataParallel for one."""
    mark = _MARKS[0]
    found = (key.removesuffix(mark) for key in keys if f".{key}".endswith(f".{mark}"))
    return min(found, key=len, default=None)


def _any(keys: Collection[str], beginning: str) -> bool:
    return any(key.startswith(beginning) for key in keys)


def _count(state: Mapping[str, Any], prefix: str) -> int:
    return len({key[len(prefix) :].split(".", 1)[0] for key in state if key.startswith(prefix)})
