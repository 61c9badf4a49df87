"""Optimisers as recipes name them, built over the parameters that are trained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from lascaux.errors import BadInput
from lascaux.train.muon import Muon
from lascaux.train.sharding import is_sharded

_RATE_OF_MUON = 20.0  # its steps have one size, whatever the gradient's: 0.02 beside Adam's 0.001
Kind = Literal["adamw", "adam", "sgd", "muon"]


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike.

    Attributes:
        name: what the logs call it.
        parameters: by their names in the model.
        weight_decay: of these.
        rate: of learning, as a share of the recipe's.
        orthogonal: by Muon's steps, where the optimiser is Muon.
    """

    name: str
    parameters: Sequence[tuple[str, nn.Parameter]]
    weight_decay: float = 0.0
    rate: float = 1.0
    orthogonal: bool = False


@dataclass(frozen=True)
class Optimiser:
    """One optimiser with its groups.

    `adamw` decays weights apart from the gradient (Loshchilov and Hutter 2017, arXiv:1711.05101),
    `adam` adds the decay to it (Kingma and Ba 2014, arXiv:1412.6980); `sgd` has Nesterov momentum,
    the first of `betas`; `muon` is adamw but for the groups that say so (`muon.py`).
    """

    kind: Kind
    groups: Sequence[Group]
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-8


def decayed_and_plain(
    parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> tuple[Group, ...]:
    """Matrices and kernels with a decay; gains, biases and other vectors without."""
    named = list(parameters)
    return (
        Group("decayed", [each for each in named if each[1].ndim >= 2], weight_decay),
        Group("plain", [each for each in named if each[1].ndim < 2]),
    )


def within_blocks(
    parameters: Iterable[tuple[str, nn.Parameter]], blocks: Iterable[nn.Module], weight_decay: float
) -> tuple[Group, ...]:
    """For Muon: the matrices of a transformer's blocks apart from all other weights.

    Args:
        parameters: all, by their names.
        blocks: whose matrices take Muon's steps, 20 times as long as the others'.
        weight_decay: of matrices and kernels.
    """
    named = list(parameters)
    chosen = {id(p) for block in blocks for p in block.parameters() if p.ndim >= 2}
    inner = [each for each in named if id(each[1]) in chosen]
    rest = [each for each in named if id(each[1]) not in chosen]
    matrices = Group("matrices", inner, weight_decay, rate=_RATE_OF_MUON, orthogonal=True)
    return (matrices, *decayed_and_plain(rest, weight_decay))


def build_optimiser(optimiser: Optimiser, learning_rate: float) -> torch.optim.Optimizer:
    """The optimiser over what is trained of its groups; each group has `name` and `rate`.

    Raises:
        BadInput: nothing of it is trained.
    """
    groups: list[dict[str, Any]] = []
    for group in optimiser.groups:
        # One kernel takes either weights that are sharded or such that are not.
        for sharded in (False, True):
            trained = [
                (name, p)
                for name, p in group.parameters
                if p.requires_grad and is_sharded(p) is sharded
            ]
            if trained:
                groups.append(
                    {
                        "params": [p for _, p in trained],
                        "weights": [name for name, _ in trained],
                        "weight_decay": group.weight_decay,
                        "name": group.name,
                        "rate": group.rate,
                        "orthogonal": group.orthogonal,
                        "lr": learning_rate * group.rate,
                    }
                )
    if not groups:
        raise BadInput("nothing is left to train: --freeze names everything")
    if optimiser.kind == "sgd":
        return torch.optim.SGD(groups, momentum=optimiser.betas[0], nesterov=True, fused=True)
    if optimiser.kind == "muon" and any(is_sharded(p) for g in groups for p in g["params"]):
        raise BadInput("--shard: Muon turns whole matrices; leave it out, or --optimiser muon")
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "muon": Muon}
    kind = kinds[optimiser.kind]
    # One kernel for all parameters; the same numbers as torch's plain way, to its rounding.
    return kind(groups, betas=optimiser.betas, eps=optimiser.epsilon, fused=True)


def set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]


def rates(optimisers: dict[str, torch.optim.Optimizer]) -> dict[str, float]:
    """The learning rates as the logs tell them: one, and by groups where they differ."""
    named = {
        (turn, group["name"]): group["lr"]
        for turn, optimiser in optimisers.items()
        for group in optimiser.param_groups
    }
    first = next(iter(named.values()))
    if all(rate == first for rate in named.values()):
        return {"learning_rate": first}
    several = len(optimisers) > 1
    return {
        f"learning_rate/{turn}/{name}" if several else f"learning_rate/{name}": rate
        for (turn, name), rate in named.items()
    }
