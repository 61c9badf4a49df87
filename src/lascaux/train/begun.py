"""The models that a run begins with or learns from, by the flags that name them."""

from typing import TypeVar

from torch import nn

from lascaux.errors import BadInput
from lascaux.weights.load import load

M = TypeVar("M", bound=nn.Module)


def named(flag: str, name: str, kind: type[M], called: str) -> M:
    """The model of a name, which is to be of one kind.

    Args:
        flag: that named it, such as "--model".
        name: a model's name, folder or hub id.
        kind: the class that is expected.
        called: what users call it, such as "VQGAN".

    Raises:
        BadInput: it is something else.
        WeightsError: it cannot be found or loaded.
    """
    found = load(name)
    if not isinstance(found, kind):
        raise BadInput(f"{flag} {name} is a {type(found).__name__}; expected a {called}")
    return found
