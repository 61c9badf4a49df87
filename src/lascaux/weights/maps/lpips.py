"""LPIPS's checkpoints: a part of a VQGAN's, or torchvision's VGG16 with LPIPS's weightings."""

from collections.abc import Collection
from dataclasses import replace

from torch import Tensor

from lascaux.models.lpips import LpipsConfig
from lascaux.weights.keymap import Rule, dropped_by, translate
from lascaux.weights.published import Adopted, Published

# Numbers of the convolutions in torchvision's VGG16, stage by stage.
_NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


def _flat(x: Tensor) -> Tensor:
    return x.flatten()


def _axes(x: Tensor) -> Tensor:
    return x[None, :, None, None]


def _rules(pattern: str) -> tuple[Rule, ...]:
    return (
        *(
            Rule(
                pattern.format(slice=stage + 1, number=number) + ".{p}",
                f"stages.{stage}.{place}.{{p}}",
            )
            for stage, numbers in enumerate(_NUMBERS)
            for place, number in enumerate(numbers)
        ),
        *(
            Rule(f"lin{stage}.model.1.weight", f"weights.{stage}", _flat, _axes)
            for stage in range(len(_NUMBERS))
        ),
        Rule("lins.{i}.model.1.weight", None, why="the same as lin0 to lin4"),
        Rule("scaling_layer.{p}", None, why="constants"),
        Rule("classifier.{i}.{p}", None, why="VGG's classes are not needed"),
    )


LAYOUTS = {
    "taming": (_rules("net.slice{slice}.{number}"), "net.slice1.0.weight"),
    "torchvision": (_rules("features.{number}"), "features.0.weight"),
    "lascaux": ((), "stages.0.0.weight"),
}
_MARK = {"lascaux": "weights.0"}


def _layout(keys: Collection[str]) -> str | None:
    for name, (_, mark) in LAYOUTS.items():
        if mark in keys and _MARK.get(name, "lin0.model.1.weight") in keys:
            return name
    return None


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of an LPIPS with its VGG16."""
    return _layout(keys) is not None


def adopt(found: Published) -> Adopted:
    """An LPIPS's tensors under our names.

    Raises:
        WrongKeys: keys are missing, or there are others.
    """
    name = _layout(found.tensors) or "taming"
    rules, _ = LAYOUTS[name]
    state = translate(found.tensors, rules, source=found.label) if rules else found.tensors
    config = found.config or _config(state)
    dropped = dropped_by(found.tensors, rules)
    return Adopted(tensors=dict(state), config=config, rules=rules, layout=name, dropped=dropped)


def _config(state: dict[str, Tensor]) -> LpipsConfig:
    plain = LpipsConfig()
    widths = tuple(len(state[f"weights.{stage}"]) for stage in range(len(plain.widths)))
    return replace(plain, widths=widths)
