"""VQGAN's checkpoints: CompVis's, latent-diffusion's, MegEngine's names of them, and clip-gen's."""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lascaux.errors import BadInput, Unsupported, WrongKeys
from lascaux.models.vqgan import VqGanConfig
from lascaux.weights.keymap import Rule, listed, translate
from lascaux.weights.maps.vqgan_config import config_beside
from lascaux.weights.published import Adopted, Published

logger = logging.getLogger(__name__)

# What Lightning and the training of others leave in a checkpoint, by the beginning of its key.
_DROPPED = {
    "loss.": "perceptual loss and discriminator, for training alone",
    "model_ema.": "the running average of the weights",
    "discriminator.": "for training alone",
    "perceptual_loss.": "for training alone",
}


def _flat(*parts: Tensor) -> Tensor:
    """Convolutions of one pixel as one matrix; biases as one vector."""
    return torch.cat([part.flatten(1) if part.ndim == 4 else part for part in parts])


def _convolutions(x: Tensor) -> tuple[Tensor, ...]:
    return tuple(_convolution(part) for part in x.chunk(3))


def _convolution(x: Tensor) -> Tensor:
    return x[:, :, None, None] if x.ndim == 2 else x


def _residual(published: str, ours: str) -> tuple[Rule, ...]:
    return (
        *(
            Rule(f"{published}{name}.{{p}}", f"{ours}{name}.{{p}}", optional=True)
            for name in ("norm1", "conv1", "norm2", "conv2")
        ),
        Rule(published + "nin_shortcut.{p}", ours + "shortcut.{p}", optional=True),
    )


def _attention(published: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(published + "norm.{p}", ours + "norm.{p}", optional=True),
        Rule(
            (published + "q.{p}", published + "k.{p}", published + "v.{p}"),
            ours + "qkv.{p}",
            _flat,
            _convolutions,
            optional=True,
        ),
        Rule(published + "proj_out.{p}", ours + "out.{p}", _flat, _convolution, optional=True),
    )


def _half(half: str, levels: str, resample: str) -> tuple[Rule, ...]:
    level = f"{half}.{levels}.{{l}}."
    ours = f"{half}.levels.{{l}}."
    return (
        Rule(f"{half}.conv_in.{{p}}", f"{half}.first.{{p}}"),
        *_residual(level + "block.{b}.", ours + "blocks.{b}."),
        *_attention(level + "attn.{b}.", ours + "attention.{b}."),
        Rule(f"{level}{resample}.conv.{{p}}", ours + "resample.conv.{p}", optional=True),
        *_residual(half + ".mid.block_1.", half + ".middle.first."),
        *_attention(half + ".mid.attn_1.", half + ".middle.attention."),
        *_residual(half + ".mid.block_2.", half + ".middle.second."),
        Rule(f"{half}.norm_out.{{p}}", f"{half}.last_norm.{{p}}"),
        Rule(f"{half}.conv_out.{{p}}", f"{half}.last.{{p}}"),
    )


_TAMING_BODY = (
    *_half("encoder", "down", "downsample"),
    *_half("decoder", "up", "upsample"),
    Rule("quant_conv.{p}", "to_code.{p}"),
    Rule("post_quant_conv.{p}", "from_code.{p}"),
    Rule("quantize.used", "used", optional=True),
    Rule(
        "colorize",
        "colours",
        lambda x: x.flatten(1),
        lambda x: x[:, :, None, None],
        optional=True,
    ),
)
VQGAN_TAMING = (*_TAMING_BODY, Rule("quantize.embedding.weight", "codebook.weight"))
_CHOICE = Rule("quantize.proj.{p}", "choice.{p}", _flat, _convolution)
VQGAN_TAMING_GUMBEL = (*_TAMING_BODY, _CHOICE, Rule("quantize.embed.weight", "codebook.weight"))
# MegEngine's port calls the Gumbel codebook as the other one.
VQGAN_MEGENGINE_GUMBEL = (*VQGAN_TAMING, _CHOICE)


def clip_gen_rules(keys: Collection[str]) -> tuple[Rule, ...]:
    """The rules of clip-gen's keys, whose blocks are numbered through, level after level.

    Raises:
        WrongKeys: the numbers do not make levels.
    """
    rules: list[Rule] = []
    for half, levels in (("encoder", "down"), ("decoder", "up")):
        rules += _clip_gen_levels(half, levels, keys)
        rules += [
            Rule(f"{half}.conv_in.{{p}}", f"{half}.first.{{p}}"),
            *_clip_gen_residual(f"{half}.mid.0.", f"{half}.middle.first."),
            *_clip_gen_attention(f"{half}.mid.1.", f"{half}.middle.attention."),
            *_clip_gen_residual(f"{half}.mid.2.", f"{half}.middle.second."),
            Rule(f"{half}.final.0.{{p}}", f"{half}.last_norm.{{p}}"),
            Rule(f"{half}.final.2.{{p}}", f"{half}.last.{{p}}"),
        ]
    return (
        *rules,
        Rule("encoder.final.3.{p}", "to_code.{p}"),
        Rule("decoder.quant_conv_in.{p}", "from_code.{p}"),
        Rule("quantizer.embedding.weight", "codebook.weight"),
    )


def _clip_gen_levels(half: str, levels: str, keys: Collection[str]) -> Iterator[Rule]:
    start = f"{half}.{levels}."
    parts: dict[int, set[str]] = {}
    for key in keys:
        if key.startswith(start):
            number, _, rest = key.removeprefix(start).partition(".")
            if not number.isdigit():
                raise WrongKeys(f"{key!r} is numbered by {number!r}")
            parts.setdefault(int(number), set()).add(rest.partition(".")[0])
    count = sum("conv" in names for names in parts.values()) + 1
    level, block = (0 if half == "encoder" else count - 1), 0
    for number in sorted(parts):
        published, ours = f"{start}{number}.", f"{half}.levels.{level}."
        if "conv" in parts[number]:
            yield Rule(published + "conv.{p}", ours + "resample.conv.{p}")
            level, block = level + (1 if half == "encoder" else -1), 0
        elif "attn" in parts[number]:
            yield from _clip_gen_attention(published, f"{ours}attention.{block - 1}.")
        else:
            yield from _clip_gen_residual(published, f"{ours}blocks.{block}.")
            block += 1


def _clip_gen_residual(published: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(published + "block.0.{p}", ours + "norm1.{p}"),
        Rule(published + "block.2.{p}", ours + "conv1.{p}"),
        Rule(published + "block.3.{p}", ours + "norm2.{p}"),
        Rule(published + "block.6.{p}", ours + "conv2.{p}"),
        Rule(published + "shortcut.{p}", ours + "shortcut.{p}", optional=True),
    )


def _clip_gen_attention(published: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(published + "norm.{p}", ours + "norm.{p}"),
        Rule(published + "attn.in_proj_{p}", ours + "qkv.{p}"),
        Rule(published + "attn.out_proj.{p}", ours + "out.{p}"),
    )


Name = Literal["lascaux", "taming", "taming-gumbel", "megengine-gumbel", "clip-gen"]


@dataclass(frozen=True)
class Layout:
    """One publisher's way of naming a VQGAN's tensors."""

    name: Name
    marks: tuple[str, ...]  # keys that only this layout has all of; the first says the prefix

    def rules(self, keys: Collection[str]) -> tuple[Rule, ...]:
        """From its names to ours; none where they are ours."""
        if self.name == "clip-gen":
            return clip_gen_rules(keys)
        return {
            "lascaux": (),
            "taming": VQGAN_TAMING,
            "taming-gumbel": VQGAN_TAMING_GUMBEL,
            "megengine-gumbel": VQGAN_MEGENGINE_GUMBEL,
        }[self.name]


_TAMING_MARKS = ("encoder.mid.block_1.norm1.weight", "decoder.mid.block_1.norm1.weight")
LAYOUTS = (
    Layout(
        "lascaux",
        ("codebook.weight", "decoder.middle.first.norm1.weight", "decoder.last_norm.weight"),
    ),
    Layout("taming-gumbel", (*_TAMING_MARKS, "quantize.embed.weight", "quantize.proj.weight")),
    Layout(
        "megengine-gumbel", (*_TAMING_MARKS, "quantize.embedding.weight", "quantize.proj.weight")
    ),
    Layout("taming", (*_TAMING_MARKS, "quantize.embedding.weight")),
    Layout(
        "clip-gen",
        ("encoder.final.3.weight", "decoder.quant_conv_in.weight", "quantizer.embedding.weight"),
    ),
)


def _found(keys: Collection[str]) -> dict[str, Layout]:
    """Every prefix under which a VQGAN's keys are, and their layout."""
    found: dict[str, Layout] = {}
    for layout in LAYOUTS:
        for key in keys:
            if f".{key}".endswith(f".{layout.marks[0]}"):
                prefix = key.removesuffix(layout.marks[0])
                if all(prefix + mark in keys for mark in layout.marks):
                    found.setdefault(prefix, layout)
    return found


def _beside(keys: Collection[str], prefix: str) -> list[str]:
    """Keys that have nothing to do with the VQGAN of that prefix."""
    return [key for key in keys if not key.startswith((prefix, *_DROPPED))]


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of one VQGAN, under whatever prefix, and of nothing more."""
    found = _found(keys)
    return len(found) == 1 and not _beside(keys, next(iter(found)))


def refuse_larger(keys: Collection[str], source: str) -> None:
    """Raises where VQGANs are parts of a checkpoint that is not read as a whole.

    Raises:
        Unsupported: the message says how to take the parts.
    """
    if found := sorted(_found(keys)):
        parts = " or ".join(f"part={prefix.rstrip('.')!r}" for prefix in found if prefix)
        raise Unsupported(
            f"{source} holds more than one model, of which this version reads the VQGAN: load it "
            f"with {parts or 'the other keys taken out'}"
        )


def adopt(found: Published) -> Adopted:
    """A VQGAN's tensors under our names, and its config.

    The config is that of the yaml beside the file, where it fits; else shapes tell it, which know
    neither the size of the pictures it was trained on nor anything that matters in training alone.

    Raises:
        WrongKeys: it is no VQGAN, or one of another shape than its config.
    """
    places = _found(found.tensors)
    if len(places) != 1:
        shown = listed(list(found.tensors)) or "none"
        raise WrongKeys(
            f"{found.label}: {len(places)} VQGANs where one is expected; "
            f"{len(found.tensors)} keys: {shown}"
        )
    (prefix, layout), *_ = places.items()
    if beside := _beside(found.tensors, prefix):
        raise WrongKeys(
            f"{found.label}: beside the VQGAN, whose keys begin with {prefix!r}, {len(beside)} not "
            f"expected: {listed(beside)}"
        )
    state = {
        key.removeprefix(prefix): tensor
        for key, tensor in found.tensors.items()
        if key.startswith(prefix)
    }
    dropped = {
        key: why
        for key in found.tensors
        for start, why in _DROPPED.items()
        if key.startswith((start, prefix + start))
    }
    state = {key: tensor for key, tensor in state.items() if prefix + key not in dropped}
    rules = layout.rules(state)
    if rules:
        state = translate(state, rules, source=found.label)
    config = found.config or _config(state, layout, found)
    return Adopted(tensors=state, config=config, rules=rules, layout=layout.name, dropped=dropped)


def _config(state: Mapping[str, Tensor], layout: Layout, found: Published) -> VqGanConfig:
    implied = config_from_tensors(state, source=found.label)
    if layout.name == "clip-gen":
        return replace(implied, norm_epsilon=1e-5, beta=0.2)
    part = found.options.get("part")
    told = config_beside(found.paths, part=part) if layout.name.startswith("taming") else None
    if told is None:
        return implied
    place, config = told
    if _fixed(config) != _fixed(implied):
        logger.warning("%s does not fit %s: its shapes tell the sizes instead", place, found.label)
        return implied
    return replace(config, used_codes=implied.used_codes)


def _fixed(config: VqGanConfig) -> tuple[object, ...]:
    """What of a config the shapes of the weights tell, too."""
    return (
        *(config.codes, config.code_width, config.quantiser, config.in_channels, config.width),
        *(config.encoder, config.out_channels, config.multiples, config.blocks),
        config.latent_width,
        *(config.double_latent, config.resampling_convolutions, config.labels),
        *(config.attends(encoder=True), config.attends(encoder=False)),
    )


def config_from_tensors(
    state: Mapping[str, Tensor], *, source: str = "the checkpoint"
) -> VqGanConfig:
    """The config that the shapes of tensors under our names imply.

    They do not tell the size of the pictures it was trained at (taken as 256; sizes of attention
    are given for that), nor dropout, weights of losses, and which id an unused code has.

    Raises:
        WrongKeys: a tensor that fixes sizes is missing.
    """
    try:
        return _config_of_shapes(state)
    except KeyError as error:
        raise WrongKeys(f"{source}: missing {error.args[0]!r}, which fixes the sizes") from error
    except BadInput as error:
        raise WrongKeys(f"{source}: its shapes make no VQGAN: {error}") from error


def _config_of_shapes(state: Mapping[str, Tensor]) -> VqGanConfig:
    encoded, in_channels = state["encoder.first.weight"].shape[:2]
    levels = _count(state, "decoder.levels.")
    blocks = _count(state, "decoder.levels.0.blocks.") - 1
    last = f"blocks.{blocks}.conv2.weight"
    widths = [state[f"decoder.levels.{level}.{last}"].shape[0] for level in range(levels)]
    latent_width = state["decoder.first.weight"].shape[1]
    codes, code_width = state["codebook.weight"].shape
    attends = [f"decoder.levels.{level}.attention.0.out.weight" in state for level in range(levels)]
    patches = not _count(state, "encoder.levels.")
    width = widths[0] if patches else encoded
    if not patches:
        encoded = state["encoder.last.weight"].shape[0]
    # Where pictures are too small to be halved so often, larger ones have the same structure.
    image_size = max(256, 2 ** (levels - 1))
    labels = state["colours"].shape[1] if "colours" in state else None
    return VqGanConfig(
        codes=codes,
        code_width=code_width,
        quantiser="gumbel" if "choice.weight" in state else "nearest",
        in_channels=in_channels,
        out_channels=state["decoder.last.weight"].shape[0],
        image_size=image_size,
        encoder="patches" if patches else "convolutions",
        width=width,
        multiples=tuple(each // width for each in widths),
        blocks=blocks,
        attention_sizes=tuple(image_size >> level for level in range(levels) if attends[level]),
        latent_width=latent_width,
        double_latent=encoded == 2 * latent_width,
        resampling_convolutions=levels == 1 or "decoder.levels.1.resample.conv.weight" in state,
        used_codes=len(state["used"]) if "used" in state else None,
        labels=labels,
        mean=0.5 if labels is None else 0.0,
        std=0.5 if labels is None else 1.0,
    )


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".", 1)[0] for key in state if key.startswith(prefix)})


def decisive(config: VqGanConfig) -> str:
    """What changes answers and leaves the shapes of weights as they are."""
    fields = ("norm_epsilon", "groups", "mean", "std", "unknown", "resampling_convolutions")
    return " ".join(str(getattr(config, name)) for name in fields)
