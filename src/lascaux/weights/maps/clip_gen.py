"""CLIP-GEN's checkpoints: what `train_gpt.py` of HFAiLab/clip-gen writes."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from lascaux.errors import WrongKeys
from lascaux.models.clip_gen import VARIANTS, ClipGenConfig
from lascaux.weights.keymap import Rule, dropped_by, translate
from lascaux.weights.published import Adopted, Published

_MARKS = ("cond_proj.weight", "tok_emb.weight", "blocks.0.encoder.self_attn.in_proj_weight")
_OURS = ("condition.weight", "tokens.weight", "blocks.0.attention.qkv.weight")
_WRAPPED = "module."  # by torch's DistributedDataParallel

_ENCODER = "blocks.{i}.encoder."
_BLOCK = "blocks.{i}."
CLIP_GEN = (
    Rule("tok_emb.weight", "tokens.weight"),
    Rule("pos_emb", "positions", lambda x: x[0], lambda x: x[None]),
    Rule("cond_proj.{p}", "condition.{p}"),
    Rule(_ENCODER + "self_attn.in_proj_{p}", _BLOCK + "attention.qkv.{p}"),
    Rule(_ENCODER + "self_attn.out_proj.{p}", _BLOCK + "attention.out.{p}"),
    Rule(_ENCODER + "linear1.{p}", _BLOCK + "mlp.up.{p}"),
    Rule(_ENCODER + "linear2.{p}", _BLOCK + "mlp.down.{p}"),
    Rule(_ENCODER + "norm1.{p}", _BLOCK + "attention_norm.{p}"),
    Rule(_ENCODER + "norm2.{p}", _BLOCK + "mlp_norm.{p}"),
    Rule("norm.{p}", "last_norm.{p}"),
    Rule("head.{p}", "head.{p}"),
    Rule("blocks.{i}.mask", None, why="who sees whom; always those before"),
)


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of CLIP-GEN's transformer."""
    return any(
        all(prefix + mark in keys for mark in marks)
        for marks, prefix in ((_OURS, ""), (_MARKS, ""), (_MARKS, _WRAPPED))
    )


def adopt(found: Published) -> Adopted:
    """The tensors under our names, and the config that their shapes tell.

    Raises:
        WrongKeys: other keys than those of CLIP-GEN's transformer, or shapes that do not tell how
            many heads it has.
    """
    if all(mark in found.tensors for mark in _OURS):
        config = found.config or _config(found.tensors, found.label)
        return Adopted(tensors=found.tensors, config=config)
    state = {key.removeprefix(_WRAPPED): tensor for key, tensor in found.tensors.items()}
    tensors = translate(state, CLIP_GEN, source=found.label)
    return Adopted(
        tensors=tensors,
        config=found.config or _config(tensors, found.label),
        rules=CLIP_GEN,
        layout="clip-gen",
        dropped=dropped_by(state, CLIP_GEN),
    )


def _config(state: Mapping[str, Tensor], label: str) -> ClipGenConfig:
    try:
        codes, width = state["tokens.weight"].shape
        length, embedding_width = len(state["positions"]), state["condition.weight"].shape[1]
    except KeyError as error:
        raise WrongKeys(f"{label}: missing {error.args[0]!r}, which fixes the sizes") from error
    layers = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    for variant in VARIANTS.values():
        if (variant.layers, variant.width) == (layers, width):
            return replace(variant, codes=codes, length=length, embedding_width=embedding_width)
    raise WrongKeys(
        f"{label}: {layers} layers of width {width} are none of those published, and shapes do not "
        "tell the heads: give the config"
    )


def decisive(config: ClipGenConfig) -> str:
    """What changes answers and leaves the shapes of weights as they are."""
    return str(config.heads)
