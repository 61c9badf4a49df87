"""The taming transformers' configs as CompVis publishes them: a yaml file beside the checkpoint."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lascaux.errors import BadInput, BrokenFile, Unsupported
from lascaux.models.taming_transformer import COCO_OBJECTS, Condition, TamingTransformerConfig
from lascaux.weights.maps.vqgan_config import candidates, read_yaml

logger = logging.getLogger(__name__)

# Classes of the condition stage, by the last part of their names -> what the condition is.
_CONDITIONS: dict[str, Condition] = {
    "CoordStage": "coordinates",
    "Labelator": "class",
    "SOSProvider": "start",
    "DummyCondStage": "tokens",
}
_ORDERS = {
    "Identity": "identity",
    "Subsample": "subsample",
    "ZCurve": "z-curve",
    "SpiralOut": "spiral-out",
    "SpiralIn": "spiral-in",
    "Random": "random",
    "AlternateParsing": "alternate",
}


@dataclass(frozen=True)
class Told:
    """What a yaml file tells."""

    config: TamingTransformerConfig
    conditioned: bool  # whether it says what the condition is


def told_by_yaml(content: Mapping[str, Any], *, source: str) -> Told | None:
    """What a project file tells of a transformer; None where it tells of none.

    Raises:
        Unsupported: a permuter that this project does not have.
        BrokenFile: values that no transformer can have.
    """
    params = _mapping(_mapping(content.get("model", content)).get("params"))
    sizes = _mapping(_mapping(params.get("transformer_config")).get("params"))
    if "vocab_size" not in sizes:
        return None
    try:
        condition, options = _condition(params, _mapping(content.get("data")))
        order, grid = _order(params, source)
        config = TamingTransformerConfig(
            codes=sizes["vocab_size"],
            length=sizes["block_size"],
            # What minGPT takes where the file says nothing.
            layers=sizes.get("n_layer", 12),
            heads=sizes.get("n_head", 8),
            width=sizes.get("n_embd", 256),
            unmasked=sizes.get("n_unmasked", 0),
            embedding_dropout=float(sizes.get("embd_pdrop", 0.0)),
            residual_dropout=float(sizes.get("resid_pdrop", 0.0)),
            attention_dropout=float(sizes.get("attn_pdrop", 0.0)),
            condition=condition or "tokens",
            condition_size=_size(params.get("downsample_cond_size", -1)),
            order=order,
            order_grid=grid,
            keep=float(params.get("pkeep", 1.0)),
            start=int(params.get("sos_token", 0)),
            **options,
        )
    except (KeyError, TypeError, ValueError, BadInput) as error:
        raise BrokenFile(f"{source}: no config of a taming transformer: {error!r}") from error
    return Told(config, condition is not None)


def _condition(
    params: Mapping[str, Any], data: Mapping[str, Any]
) -> tuple[Condition | None, dict[str, Any]]:
    stage = params.get("cond_stage_config")
    if stage == "__is_unconditional__" or params.get("unconditional"):
        return "start", {}
    if stage == "__is_first_stage__":
        return "first-stage", {}
    target = str(_mapping(stage).get("target", "")).rpartition(".")[2]
    told = _mapping(_mapping(stage).get("params"))
    if not target:
        return None, {}
    condition = _CONDITIONS.get(target, "stage")
    if condition == "coordinates":
        steps, factor = told["n_embed"], told["down_factor"]
        return condition, {"coordinate_codes": steps, "coordinate_factor": factor}
    if condition == "tokens" and told.get("conditional_key") == "objects_bbox":
        return condition, _layouts(data)
    return condition, {"classes": told["n_classes"]} if condition == "class" else {}


def _layouts(data: Mapping[str, Any]) -> dict[str, int]:
    """Of layouts how many objects they have, and of which classes where that is known."""
    train = _mapping(_mapping(data.get("params")).get("train"))
    objects = int(_mapping(train.get("params")).get("max_objects_per_image", 30))
    of_coco = str(train.get("target", "")).endswith("AnnotatedObjectsCoco")
    return {"objects": objects} | ({"classes": COCO_OBJECTS} if of_coco else {})


def _order(params: Mapping[str, Any], source: str) -> tuple[str, tuple[int, int] | None]:
    permuter = _mapping(params.get("permuter_config"))
    name = str(permuter.get("target", "Identity")).rpartition(".")[2]
    if name not in _ORDERS:
        raise Unsupported(f"{source}: a permuter {name!r}; supported are {', '.join(_ORDERS)}")
    if name == "Identity":
        return "identity", None
    sides = _mapping(permuter.get("params"))
    return _ORDERS[name], (sides["H"], sides["W"])


def _size(size: Any) -> int | None:
    return int(size) if size is not None and int(size) > -1 else None


def told_beside(paths: Sequence[Path]) -> Told | None:
    """What the yaml file that belongs to a checkpoint tells; looked for where a VQGAN's is.

    Files that cannot be used are logged, and so is a folder with several that tell differently.
    """
    for group in candidates(paths[0]) if paths else ():
        found: list[Told] = []
        for place in group:
            try:
                told = told_by_yaml(read_yaml(place), source=str(place))
            except (BrokenFile, Unsupported) as error:
                logger.warning("%s; it is left out", error)
                continue
            found += [told] if told is not None else []
        if len(set(found)) > 1:
            names = ", ".join(place.name for place in group)
            logger.warning("%s: several configs lie beside it (%s); none is taken", paths[0], names)
            return None
        if found:
            return found[0]
    return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
