"""Inception v3 as torchvision names it, and with it pytorch-fid's port of TensorFlow's.

The two have the same names. What differs in the model follows from the classes: TensorFlow's graph
has 1008, torchvision's 1000 and an auxiliary classifier, which only its training used.
pytorch-fid's module numbers the same parts in four blocks and leaves the classes out; so it lies in
checkpoints of AR-LDM, under `inception`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from lascaux.errors import BadInput, WrongKeys
from lascaux.models.inception import MIXED, VARIANTS, InceptionConfig
from lascaux.weights.keymap import Rule, dropped_by, translate
from lascaux.weights.published import Adopted, Published

_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}_{number + 1}" for number in range(count))


_FIVE = (("branch1x1",), _numbered("branch5x5", 2), _numbered("branch3x3dbl", 3))
_SEVEN = (("branch1x1",), _numbered("branch7x7", 3), _numbered("branch7x7dbl", 5))
_FORKED = (
    ("branch1x1",),
    ("branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b"),
)
# The convolutions of each block's branches, in the order of the model's.
_NAMES = (
    *(_FIVE,) * 3,
    (("branch3x3",), _numbered("branch3x3dbl", 3)),
    *(_SEVEN,) * 4,
    (_numbered("branch3x3", 2), _numbered("branch7x7x3", 4)),
    *(_FORKED,) * 2,
)


# The parts as pytorch-fid's module numbers them.
_NUMBERS = (
    *(f"blocks.0.{place}" for place in range(3)),
    *(f"blocks.1.{place}" for place in range(2)),
    *(f"blocks.2.{place}" for place in range(8)),
    *(f"blocks.3.{place}" for place in range(3)),
)


def _places(parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every convolution, as published and ours, for the publisher's names of stem and blocks."""
    stem, blocks = parts[: len(_STEM)], parts[len(_STEM) :]
    yield from ((name, f"stem.{place}") for place, name in enumerate(stem))
    for place, (block, branches, layout) in enumerate(zip(blocks, _NAMES, MIXED, strict=True)):
        for which, (names, steps) in enumerate(zip(branches, layout.branches, strict=True)):
            kernels = [(row, side) for row, step in enumerate(steps) for side in range(len(step))]
            for name, (row, side) in zip(names, kernels, strict=True):
                yield f"{block}.{name}", f"mixed.{place}.branches.{which}.{row}.{side}"
        if layout.pool_width:
            yield f"{block}.branch_pool", f"mixed.{place}.pool"


def _convolutions(parts: Sequence[str]) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{published}.{theirs}.{{p}}", f"{ours}.{name}.{{p}}")
        for published, ours in _places(parts)
        for theirs, name in (("conv", "conv"), ("bn", "norm"))
    )


_COUNTER = "a counter of training steps"
_AUXILIARY = "the auxiliary classifier, which only training used"
RULES = (
    Rule("{a}.bn.num_batches_tracked", None, why=_COUNTER),
    Rule("{a}.{b}.bn.num_batches_tracked", None, why=_COUNTER),
    Rule("AuxLogits.{a}.{p}", None, why=_AUXILIARY),
    Rule("AuxLogits.{a}.{b}.{p}", None, why=_AUXILIARY),
    *_convolutions((*_STEM, *(f"Mixed_{block}" for block in _BLOCKS))),
    Rule("fc.{p}", "classify.{p}"),
)
FEATURE_RULES = (
    Rule("blocks.{a}.{b}.bn.num_batches_tracked", None, why=_COUNTER),
    Rule("blocks.{a}.{b}.{c}.bn.num_batches_tracked", None, why=_COUNTER),
    *_convolutions(_NUMBERS),
)
# Of each layout: its rules, and keys that must be there.
LAYOUTS: dict[str, tuple[tuple[Rule, ...], tuple[str, ...]]] = {
    "torchvision": (
        RULES,
        ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.weight"),
    ),
    "pytorch-fid": (
        FEATURE_RULES,
        ("blocks.0.0.conv.weight", "blocks.3.2.branch_pool.conv.weight"),
    ),
    "lascaux": ((), ("stem.0.conv.weight", "mixed.10.pool.conv.weight")),
}


def _layout(keys: Collection[str]) -> str | None:
    found = (name for name, (_, marks) in LAYOUTS.items() if all(mark in keys for mark in marks))
    return next(found, None)


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the keys of an Inception v3."""
    return _layout(keys) is not None


def adopt(found: Published) -> Adopted:
    """An Inception's tensors under our names, and the config that their shapes tell.

    Raises:
        WrongKeys: keys are missing, or there are others.
    """
    name = _layout(found.tensors) or "torchvision"
    rules, _ = LAYOUTS[name]
    state = translate(found.tensors, rules, source=found.label) if rules else found.tensors
    config = found.config or _config(state, found.label)
    if name == "pytorch-fid":
        config = replace(config, classes=None)
    dropped = dropped_by(found.tensors, rules)
    return Adopted(tensors=dict(state), config=config, rules=rules, layout=name, dropped=dropped)


def _config(state: Mapping[str, Tensor], source: str) -> InceptionConfig:
    classes = len(state["classify.weight"]) if "classify.weight" in state else None
    first = len(state["stem.0.conv.weight"])
    fid = VARIANTS["inception-fid"]
    # Without classes it was made for FID: nobody else leaves them out.
    plain = fid if classes in (None, fid.classes) else VARIANTS["inception-imagenet"]
    try:
        return replace(plain, classes=classes, shrink=32 // max(first, 1))
    except BadInput as error:
        raise WrongKeys(f"{source}: no Inception v3 has such tensors: {error}") from error


def decisive(config: InceptionConfig) -> str:
    """What of a config changes features and leaves shapes as they are."""
    told = (config.size, config.mean, config.std, config.counts_padding, config.last_pool)
    return " ".join(map(str, (*told, config.norm_epsilon)))
