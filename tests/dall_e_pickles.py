"""OpenAI's two files as its code made them: modules saved whole, of classes nobody here has."""

import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LEGACY = {"_use_new_zipfile_serialization": False}
_CLASSES = {
    "dall_e": (),
    "dall_e.encoder": ("Encoder", "EncoderBlock"),
    "dall_e.decoder": ("Decoder", "DecoderBlock"),
    "dall_e.utils": ("Conv2d",),
}


@contextmanager
def dall_e() -> Iterator[dict[str, type[nn.Module]]]:
    """The package, with classes that only hold things, for as long as something is pickled."""
    made: dict[str, type[nn.Module]] = {}
    for module, names in _CLASSES.items():
        sys.modules[module] = types.ModuleType(module)
        for name in names:
            made[name] = type(name, (nn.Module,), {"__module__": module})
            setattr(sys.modules[module], name, made[name])
    try:
        yield made
    finally:
        for module in _CLASSES:
            del sys.modules[module]


def saved_halves(
    folder: Path,
    state: Mapping[str, Tensor],
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    **how: Any,
) -> Path:
    """The folder with encoder.pkl and decoder.pkl.

    `state` has its keys under `enc.` and `dec.`; `attributes` are those of either module, by
    `Encoder` and `Decoder`; `how` goes to `torch.save`.
    """
    for prefix, name in (("enc.", "Encoder"), ("dec.", "Decoder")):
        half = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        with dall_e() as classes, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the legacy form looks for the source of classes
            whole = _module(classes, name, half, (attributes or {}).get(name, {}))
            torch.save(whole, folder / f"{name.lower()}.pkl", **how)
    return folder


def _module(
    classes: Mapping[str, type[nn.Module]],
    name: str,
    state: Mapping[str, Tensor],
    attributes: Mapping[str, Any],
) -> nn.Module:
    whole = _made(classes[name], **attributes)
    whole.blocks = _sequence(classes, name, state, "blocks.")
    assert set(whole.state_dict()) == set(state)
    return whole


def _made(kind: type[nn.Module], **attributes: Any) -> nn.Module:
    # attrs sets its fields before nn.Module's own __init__ is called.
    made = kind.__new__(kind)
    made.__dict__.update(attributes, device=torch.device("cpu"), requires_grad=False)
    nn.Module.__init__(made)
    return made


def _conv(classes: Mapping[str, type[nn.Module]], weight: Tensor, bias: Tensor) -> nn.Module:
    n_out, n_in, kw, _ = weight.shape
    conv = _made(classes["Conv2d"], n_in=n_in, n_out=n_out, kw=kw, use_float16=True)
    conv.w = nn.Parameter(weight, requires_grad=False)
    conv.b = nn.Parameter(bias, requires_grad=False)
    return conv


def _sequence(
    classes: Mapping[str, type[nn.Module]], name: str, state: Mapping[str, Tensor], prefix: str
) -> nn.Module:
    inside = dict.fromkeys(k.removeprefix(prefix).split(".")[0] for k in state if prefix in k[:99])
    held: OrderedDict[str, nn.Module] = OrderedDict()
    for part in [part for part in inside if any(k.startswith(f"{prefix}{part}.") for k in state)]:
        before = f"{prefix}{part}."
        if before + "w" in state:
            if part.startswith("conv"):
                held[part.replace("conv", "relu")] = nn.ReLU()
            held[part] = _conv(classes, state[before + "w"], state[before + "b"])
        elif part.startswith("block_"):
            block = _made(classes[name + "Block"], n_layers=8, post_gain=1 / 64)
            shortcut = [state.get(f"{before}id_path.{end}") for end in "wb"]
            own = shortcut[0] is not None
            block.id_path = _conv(classes, *shortcut) if own else nn.Identity()  # type: ignore[arg-type]
            block.res_path = _sequence(classes, name, state, f"{before}res_path.")
            held[part] = block
        else:
            held[part] = _sequence(classes, name, state, before)
            if part.startswith("group_") and name == "Encoder":
                held[part].add_module("pool", nn.MaxPool2d(kernel_size=2))
            elif part.startswith("group_"):
                held[part].add_module("upsample", nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(held)
