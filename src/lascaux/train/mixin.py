"""What classes of settings inherit from that are put beside those of a kind of model.

A dataclass hands on all fields of its bases, with the defaults that they have there: were such a
class a Recipe, its plain defaults would undo what the class beside it restates. So it is one only
to those who check types; where it runs, what it calls on itself is found in the class beside it.
"""

from typing import TYPE_CHECKING

from lascaux.train.recipe import Recipe

if TYPE_CHECKING:
    Beside = Recipe
else:
    Beside = object

__all__ = ["Beside"]
