"""The emoji world: procedural scenes of which everything is known.

One description (`Scene`) gives the picture, the semantic map, captions in English and Chinese and
the tags; `sampling` draws scenes of a split, `wild` distorted pictures, `spoiled` pictures that
show nothing properly.
"""

from lascaux.data.world.backgrounds import BACKGROUNDS, COLOURS, PLACES
from lascaux.data.world.language import caption, tags
from lascaux.data.world.objects import Object, objects
from lascaux.data.world.sampling import sample
from lascaux.data.world.scene import MAP_NAMES, Scene, Thing, draw, draw_map

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "MAP_NAMES",
    "PLACES",
    "Object",
    "Scene",
    "Thing",
    "caption",
    "draw",
    "draw_map",
    "objects",
    "sample",
    "tags",
]
