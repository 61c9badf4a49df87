"""OpenAI's dVAE: which layout a file has, what its names become, what config it implies.

Published are two modules saved whole, encoder.pkl and decoder.pkl; DALLE-pytorch keeps both in one
state dict under `enc.` and `dec.`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from lascaux.errors import BadInput, Unsupported, WrongKeys
from lascaux.models.dvae import DvaeConfig
from lascaux.weights.keymap import Rule, translate
from lascaux.weights.published import Adopted, Published

# File of a folder -> what stands before the names of its tensors once both are read.
HALVES = {"encoder.pkl": "encoder.", "decoder.pkl": "decoder."}
# Layout -> what the names of the two halves begin with.
LAYOUTS = {"openai": ("encoder.", "decoder."), "dalle-pytorch": ("enc.", "dec.")}

_OURS = ("encoder.stem.weight", "codebook.bias", "decoder.out.weight")
_FIRST = "blocks.input.w"
# What a module saved whole says of itself -> the field of our config.
_ATTRIBUTES = {
    "encoder.vocab_size": "codes",
    "encoder.group_count": "groups",
    "encoder.n_hid": "encoder_width",
    "encoder.n_blk_per_group": "encoder_blocks",
    "encoder.input_channels": "in_channels",
    "decoder.vocab_size": "codes",
    "decoder.group_count": "groups",
    "decoder.n_init": "first_width",
    "decoder.n_hid": "decoder_width",
    "decoder.n_blk_per_group": "decoder_blocks",
    "decoder.output_channels": "out_channels",
}


def _rows(w: Tensor) -> Tensor:
    return w[:, :, 0, 0].t()


def _kernel(weight: Tensor) -> Tensor:
    return weight.t()[:, :, None, None].contiguous()


def _conv(published: str, ours: str) -> tuple[Rule, ...]:
    return Rule(f"{published}.w", f"{ours}.weight"), Rule(f"{published}.b", f"{ours}.bias")


def _half(published: str, ours: str, groups: int, blocks: int) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for group in range(groups):
        for block in range(blocks):
            theirs = f"{published}blocks.group_{group + 1}.block_{block + 1}."
            named = f"{ours}groups.{group}.{block}."
            for ending, kind in (("w", "weight"), ("b", "bias")):
                rules.append(
                    Rule(f"{theirs}id_path.{ending}", f"{named}shortcut.{kind}", optional=True)
                )
            for conv in range(4):
                rules += _conv(f"{theirs}res_path.conv_{conv + 1}", f"{named}convs.{conv}")
    return (*rules, *_conv(f"{published}blocks.output.conv", f"{ours}out"))


def rules_of(config: DvaeConfig, layout: str = "openai") -> tuple[Rule, ...]:
    """The rules of a layout for a dVAE of as many groups and blocks as the config says."""
    encoder, decoder = LAYOUTS[layout]
    return (
        *_conv(f"{encoder}{_FIRST[:-2]}", "encoder.stem"),
        *_half(encoder, "encoder.", config.groups, config.encoder_blocks),
        Rule(
            f"{decoder}{_FIRST}",
            "codebook.weight",
            _rows,
            _kernel,
            why="published as a convolution of one-hot maps",
        ),
        Rule(f"{decoder}{_FIRST[:-1]}b", "codebook.bias"),
        *_half(decoder, "decoder.", config.groups, config.decoder_blocks),
    )


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of a dVAE, and of nothing else besides."""
    return all(mark in keys for mark in _OURS) or _layout(keys) is not None


def refuse_half(keys: Collection[str], source: str) -> None:
    """Say what is missing where these are the keys of an encoder or a decoder alone.

    Raises:
        Unsupported: they are.
    """
    if _FIRST in keys and "blocks.output.conv.w" in keys:
        raise Unsupported(
            f"{source} is one half of OpenAI's dVAE; put both halves into one folder, under the "
            f"names {' and '.join(HALVES)}, and load the folder or one of the two"
        )


def _layout(keys: Collection[str]) -> tuple[str, str] | None:
    """The layout, and the prefix of what the dVAE was wrapped in."""
    for name, (encoder, decoder) in LAYOUTS.items():
        for key in keys:
            prefix = key.removesuffix(f"{encoder}{_FIRST}")
            if prefix == key or (prefix and not prefix.endswith(".")):
                continue
            halves = (f"{prefix}{encoder}blocks.", f"{prefix}{decoder}blocks.")
            if f"{prefix}{decoder}{_FIRST}" in keys and all(k.startswith(halves) for k in keys):
                return name, prefix
    return None


def adopt(found: Published) -> Adopted:
    """A dVAE's tensors under our names, and its config, which the shapes tell.

    Raises:
        WrongKeys: a half is missing, the halves are exchanged, names are missing or not known, or
            the module that was saved says other sizes of itself than its tensors have.
    """
    state = found.tensors
    if all(mark in state for mark in _OURS):
        config = found.config or _config_of_ours(state, found.label)
        return Adopted(tensors=state, config=config)
    recognised = _layout(state)
    if recognised is None:
        raise WrongKeys(
            f"{found.label}: a dVAE has an encoder and a decoder; these keys are not of both. "
            "Load the folder in which encoder.pkl and decoder.pkl are"
        )
    layout, prefix = recognised
    state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    implied = _config_of_published(state, layout, found.label)
    _require_agreement(implied, found.values, found.label)
    rules = rules_of(implied, layout)
    tensors = translate(state, rules, source=found.label)
    return Adopted(tensors=tensors, config=found.config or implied, rules=rules, layout=layout)


def _config_of_published(state: Mapping[str, Tensor], layout: str, source: str) -> DvaeConfig:
    encoder, decoder = LAYOUTS[layout]
    try:
        first, codebook = state[f"{encoder}{_FIRST}"], state[f"{decoder}{_FIRST}"]
        out = state[f"{decoder}blocks.output.conv.w"]
        codes = state[f"{encoder}blocks.output.conv.w"].shape[0]
    except KeyError as error:
        raise WrongKeys(f"{source}: missing {error.args[0]!r}, which fixes the sizes") from error
    if any(each.ndim != 4 for each in (first, codebook, out)) or first.shape[-1] == 1:
        raise WrongKeys(
            f"{source}: {encoder}{_FIRST} is of shape {tuple(first.shape)}; the encoder begins "
            "with a convolution of 7 x 7: were encoder.pkl and decoder.pkl exchanged?"
        )
    return _config(
        source,
        codes=codes,
        encoder_width=first.shape[0],
        encoder_blocks=_most(state, rf"{encoder}blocks\.group_\d+\.block_(\d+)\."),
        decoder_width=out.shape[1],
        decoder_blocks=_most(state, rf"{decoder}blocks\.group_\d+\.block_(\d+)\."),
        first_width=codebook.shape[0],
        groups=_most(state, rf"{encoder}blocks\.group_(\d+)\."),
        in_channels=first.shape[1],
        out_channels=out.shape[0] // 2,
    )


def _config_of_ours(state: Mapping[str, Tensor], source: str) -> DvaeConfig:
    stem, out = state["encoder.stem.weight"], state["decoder.out.weight"]
    codes, first_width = state["codebook.weight"].shape
    return _config(
        source,
        codes=codes,
        encoder_width=stem.shape[0],
        encoder_blocks=1 + _most(state, r"encoder\.groups\.\d+\.(\d+)\."),
        decoder_width=out.shape[1],
        decoder_blocks=1 + _most(state, r"decoder\.groups\.\d+\.(\d+)\."),
        first_width=first_width,
        groups=1 + _most(state, r"encoder\.groups\.(\d+)\."),
        in_channels=stem.shape[1],
        out_channels=out.shape[0] // 2,
    )


def _config(source: str, **sizes: int) -> DvaeConfig:
    try:
        return DvaeConfig(**sizes)
    except BadInput as error:
        raise WrongKeys(f"{source}: no dVAE has such tensors: {error}") from error


def _most(keys: Collection[str], pattern: str) -> int:
    """The highest number that a pattern finds in the keys; 0 where it finds none."""
    found = (re.match(pattern, key) for key in keys)
    return max((int(match[1]) for match in found if match), default=0)


def _require_agreement(implied: DvaeConfig, said: Mapping[str, Any], source: str) -> None:
    for name, field in _ATTRIBUTES.items():
        if name in said and said[name] != getattr(implied, field):
            raise WrongKeys(
                f"{source}: the module says {name} = {said[name]!r}, its tensors are those of "
                f"{getattr(implied, field)}; the file was tampered with or is corrupt"
            )
