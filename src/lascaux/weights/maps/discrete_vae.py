"""DALLE-pytorch's DiscreteVAE: what its names become, and what config a file implies.

Its train_vae.py writes `{"hparams": some of the constructor's arguments, "weights": state dict}`,
its train_dalle.py the same arguments as `vae_params`, and the tensors under `vae.`.
"""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lascaux.errors import BadInput, Unsupported, WrongKeys
from lascaux.models.discrete_vae import DiscreteVaeConfig
from lascaux.weights.keymap import Rule, translate
from lascaux.weights.published import Adopted, Published

logger = logging.getLogger(__name__)

_OURS = ("codebook.weight", "encoder.down.0.weight", "decoder.up.0.weight")
_PUBLISHED = ("codebook.weight", "encoder.0.0.weight")
_SECTIONS = ("codebook.weight", "encoder.", "decoder.")
# The constructor's arguments -> our fields, where the values are the same.
_SAME = {
    "image_size": "image_size",
    "num_tokens": "codes",
    "codebook_dim": "code_width",
    "num_layers": "layers",
    "num_resnet_blocks": "blocks",
    "hidden_dim": "width",
    "channels": "channels",
    "temperature": "temperature",
    "straight_through": "straight_through",
    "reinmax": "reinmax",
    "kl_div_loss_weight": "kl_weight",
}
_REAL = {"temperature", "kl_div_loss_weight"}
# The constructor's default: of RGBA, of which a model takes as many as it has channels.
_NORMALISATION = ((0.5, 0.5, 0.5, 0.0), (0.5, 0.5, 0.5, 1.0))


def _conv(published: str, ours: str) -> Rule:
    return Rule(f"{published}.{{p}}", f"{ours}.{{p}}")


def _block(published: str, ours: str) -> tuple[Rule, ...]:
    return tuple(_conv(f"{published}.net.{2 * i}", f"{ours}.conv{i + 1}") for i in range(3))


def rules_of(config: DiscreteVaeConfig) -> tuple[Rule, ...]:
    """The rules for a DiscreteVAE of as many layers and blocks as the config says.

    Published are two flat sequences, in which a part's number depends on what stands before it.
    """
    layers, blocks = config.layers, config.blocks
    before = 1 + blocks if blocks else 0  # of the decoder's upsampling layers
    return (
        Rule("codebook.weight", "codebook.weight"),
        *(_conv(f"encoder.{i}.0", f"encoder.down.{i}") for i in range(layers)),
        *(r for i in range(blocks) for r in _block(f"encoder.{layers + i}", f"encoder.blocks.{i}")),
        _conv(f"encoder.{layers + blocks}", "encoder.out"),
        *((_conv("decoder.0", "decoder.first"),) if blocks else ()),
        *(r for i in range(blocks) for r in _block(f"decoder.{1 + i}", f"decoder.blocks.{i}")),
        *(_conv(f"decoder.{before + i}.0", f"decoder.up.{i}") for i in range(layers)),
        _conv(f"decoder.{before + layers}", "decoder.out"),
    )


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of a DiscreteVAE, and of nothing else besides."""
    return any(all(mark in keys for mark in marks) for marks in (_OURS, _PUBLISHED)) and all(
        key.startswith(_SECTIONS) for key in keys
    )


def adopt(found: Published) -> Adopted:
    """A DiscreteVAE's tensors under our names, and its config.

    The config is that of the shapes, with what the file says besides.

    Raises:
        WrongKeys: names are missing or not known.
        Unsupported: an argument of the constructor that is not known.
    """
    state, config = found.tensors, found.config
    if all(mark in state for mark in _OURS):
        return Adopted(tensors=state, config=config or _config_of_shapes(state, found.label))
    # Of a file of train_dalle.py, hparams are the transformer's.
    hparams = found.values.get("vae_params") or found.values.get("hparams")
    implied = config or config_from_state(state, hparams, source=found.label)
    rules = rules_of(implied)
    tensors = translate(state, rules, source=found.label)
    return Adopted(tensors=tensors, config=implied, rules=rules, layout="dalle-pytorch")


def config_from_state(
    state: Mapping[str, Tensor],
    hparams: Mapping[str, Any] | None = None,
    *,
    source: str = "the checkpoint",
) -> DiscreteVaeConfig:
    """The config that published shapes and the `hparams` beside them imply.

    Without `hparams` nothing tells the size of the pictures: 256 is taken, and a warning logged.

    Raises:
        WrongKeys: a tensor that fixes a size is missing.
        Unsupported: an argument of the constructor that is not known.
    """
    # Layers are sequences of a convolution and a ReLU; what follows them is a block or the last.
    layers = len({k for k in state if re.fullmatch(r"encoder\.\d+\.0\.weight", k)})
    blocks = len({k for k in state if re.fullmatch(r"encoder\.\d+\.net\.0\.weight", k)})
    shapes = {
        "encoder.down.0.weight": "encoder.0.0.weight",
        "codebook.weight": "codebook.weight",
    }
    try:
        ours = {name: state[published] for name, published in shapes.items()}
    except KeyError as error:
        raise WrongKeys(f"{source}: missing {error.args[0]!r}, which fixes the sizes") from error
    implied = _sized(ours, layers, blocks, source)
    if hparams is None:
        logger.warning(
            "%s does not tell the size of its pictures: taken as %d pixels; load it with "
            "config=... if that is wrong",
            source,
            implied.image_size,
        )
        return implied
    return config_from_hparams(hparams, implied, source=source)


def config_from_hparams(
    hparams: Mapping[str, Any],
    implied: DiscreteVaeConfig | None = None,
    *,
    source: str = "the checkpoint",
) -> DiscreteVaeConfig:
    """The config that the published constructor's arguments mean.

    Args:
        hparams: the arguments by name; those left out have the published defaults.
        implied: what is known of the tensors, instead of those defaults.
        source: what the messages call the file.

    Raises:
        Unsupported: an argument is not known.
        WrongKeys: a value is impossible.
    """
    fields: dict[str, Any] = {}
    given = dict(hparams)
    normalisation: Any = given.pop("normalization", _NORMALISATION)
    for name, value in given.items():
        if name == "smooth_l1_loss":
            fields["error"] = "smooth_l1" if value else "mse"
        elif name in _SAME:
            fields[_SAME[name]] = float(value) if name in _REAL else value
        else:
            raise Unsupported(f"{source}: hparams has {name} = {value!r}, which is not known")
    base = implied or DiscreteVaeConfig()
    channels = fields.get("channels", base.channels)
    try:
        return replace(base, **fields, **_by_channel(normalisation, channels))
    except (BadInput, TypeError, ValueError) as error:
        raise WrongKeys(f"{source}: hparams that no DiscreteVAE has: {error}") from error


def _by_channel(normalisation: Any, channels: int) -> dict[str, tuple[float, ...] | None]:
    if normalisation is None:
        return {"mean": None, "std": None}
    mean, std = normalisation
    # As published: cut to the channels there are.
    return {
        "mean": tuple(float(value) for value in mean[:channels]),
        "std": tuple(float(value) for value in std[:channels]),
    }


def _config_of_shapes(state: Mapping[str, Tensor], source: str) -> DiscreteVaeConfig:
    layers = len({k for k in state if re.fullmatch(r"encoder\.down\.\d+\.weight", k)})
    blocks = len({k for k in state if re.fullmatch(r"encoder\.blocks\.\d+\.conv1\.weight", k)})
    return _sized(state, layers, blocks, source)


def _sized(ours: Mapping[str, Tensor], layers: int, blocks: int, source: str) -> DiscreteVaeConfig:
    codes, code_width = ours["codebook.weight"].shape
    width, channels = ours["encoder.down.0.weight"].shape[:2]
    try:
        return DiscreteVaeConfig(
            codes=codes,
            code_width=code_width,
            layers=layers,
            blocks=blocks,
            width=width,
            channels=channels,
            **_by_channel(_NORMALISATION, channels),  # pyright: ignore[reportArgumentType]
        )
    except BadInput as error:
        raise WrongKeys(f"{source}: no DiscreteVAE has such tensors: {error}") from error
