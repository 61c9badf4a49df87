"""Lascaux: images as a language, to be read, spelt and written.

import lascaux

classifier = lascaux.Classifier(["cat", "dog", "fire truck"])
print(classifier.classify("photo.jpg").labels)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lascaux.errors import LascauxError

if TYPE_CHECKING:
    from lascaux.models.clip import Clip, ClipConfig
    from lascaux.tasks.classify import Classifier
    from lascaux.tasks.imagine import Imaginer
    from lascaux.tasks.search import Index
    from lascaux.tasks.spell import Speller
    from lascaux.text.clip_bpe import ClipTokenizer
    from lascaux.weights.load import load, save

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Clip",
    "ClipConfig",
    "ClipTokenizer",
    "Imaginer",
    "Index",
    "LascauxError",
    "Speller",
    "load",
    "save",
]

# torch takes a second to import, so a name is fetched when it is first used.
_HOMES = {
    **dict.fromkeys(("Clip", "ClipConfig"), "lascaux.models.clip"),
    "ClipTokenizer": "lascaux.text.clip_bpe",
    "Classifier": "lascaux.tasks.classify",
    "Imaginer": "lascaux.tasks.imagine",
    "Index": "lascaux.tasks.search",
    "Speller": "lascaux.tasks.spell",
    **dict.fromkeys(("load", "save"), "lascaux.weights.load"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lascaux' has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_HOMES[name]), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
