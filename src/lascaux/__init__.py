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
    from lascaux.tasks.search import Index
    from lascaux.tasks.spell import Speller
    from lascaux.text.clip_bpe import ClipTokenizer
    from lascaux.weights.load import load
    from lascaux.weights.save import save

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Clip",
    "ClipConfig",
    "ClipTokenizer",
    "Index",
    "LascauxError",
    "Speller",
    "load",
    "save",
]

# torch takes a second to import, so a name is fetched when it is first used.
_HOMES = {
    "Classifier": "lascaux.tasks.classify",
    "Clip": "lascaux.models.clip",
    "ClipConfig": "lascaux.models.clip",
    "ClipTokenizer": "lascaux.text.clip_bpe",
    "Index": "lascaux.tasks.search",
    "Speller": "lascaux.tasks.spell",
    "load": "lascaux.weights.load",
    "save": "lascaux.weights.save",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lascaux' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
