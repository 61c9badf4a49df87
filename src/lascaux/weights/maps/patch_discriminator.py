"""Patch discriminators as taming-transformers and clip-gen keep them in a VQGAN's checkpoint."""

import re
from collections.abc import Collection
from typing import Literal

from torch import Tensor

from lascaux.errors import WrongKeys
from lascaux.models.patch_discriminator import PatchDiscriminatorConfig
from lascaux.weights.keymap import Rule, translate
from lascaux.weights.published import Adopted, Published

Name = Literal["lascaux", "taming", "clip-gen"]


def _flat(x: Tensor) -> Tensor:
    return x.flatten()


def _axes(x: Tensor) -> Tensor:
    return x[None, :, None, None]


def rules_of(name: Name, layers: int) -> tuple[Rule, ...]:
    """From a publisher's numbers to our names, for as many normalised layers."""
    if name == "lascaux":
        return ()
    start = "main" if name == "taming" else "features"
    last = f"main.{2 + 3 * layers}" if name == "taming" else "head"
    rules = [Rule(f"{start}.0.{{p}}", "first.{p}"), Rule(last + ".{p}", "last.{p}")]
    for layer in range(layers):
        conv, norm = f"{start}.{2 + 3 * layer}.", f"{start}.{3 + 3 * layer}."
        rules += [
            Rule(norm + "loc", f"layers.{layer}.norm.shift", _flat, _axes, optional=True),
            Rule(norm + "scale", f"layers.{layer}.norm.scale", _flat, _axes, optional=True),
            Rule(norm + "initialized", f"layers.{layer}.norm.initialised", optional=True),
            Rule(conv + "{p}", f"layers.{layer}.conv.{{p}}"),
            Rule(norm + "{p}", f"layers.{layer}.norm.{{p}}", optional=True),
        ]
    return tuple(rules)


# Of each layout: what every key looks like, and keys that must be there.
_LAYOUTS: dict[Name, tuple[str, tuple[str, ...]]] = {
    "lascaux": (r"(first|last|layers)\..+", ("first.weight", "layers.0.conv.weight")),
    "taming": (r"main\.\d+\.\w+", ("main.0.weight", "main.2.weight")),
    "clip-gen": (r"(features\.\d+|head)\.\w+", ("features.2.weight", "head.weight")),
}


def _layout(keys: Collection[str]) -> Name | None:
    for name, (pattern, marks) in _LAYOUTS.items():
        if all(mark in keys for mark in marks) and all(re.fullmatch(pattern, k) for k in keys):
            return name
    return None


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of a patch discriminator."""
    return _layout(keys) is not None


def adopt(found: Published) -> Adopted:
    """A discriminator's tensors under our names, and the config their shapes tell.

    Raises:
        WrongKeys: it is no patch discriminator.
    """
    name = _layout(found.tensors)
    if name is None:
        raise WrongKeys(f"{found.label}: these are not the keys of a patch discriminator")
    start = {"lascaux": "layers", "taming": "main", "clip-gen": "features"}[name]
    numbers = {int(k.split(".")[1]) for k in found.tensors if k.startswith(f"{start}.")}
    layers = len(numbers) if name == "lascaux" else (max(numbers) - (name == "taming")) // 3
    rules = rules_of(name, layers)
    state = translate(found.tensors, rules, source=found.label) if rules else found.tensors
    width, channels = state["first.weight"].shape[:2]
    config = found.config or PatchDiscriminatorConfig(
        channels=channels,
        width=width,
        layers=layers,
        norm="act" if "layers.0.norm.shift" in state else "batch",
    )
    return Adopted(tensors=dict(state), config=config, rules=rules, layout=name)
