"""What people call: one class per verb, made once and used many times.

Names are looked up when they are first used, so that importing options stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lascaux.tasks.calibrate import Calibration
    from lascaux.tasks.classify import Classifier
    from lascaux.tasks.embed import embed_pictures, embed_texts
    from lascaux.tasks.evidence import ClassEvidence, EvidenceWeights
    from lascaux.tasks.options import ClassifyOptions, EmbedOptions, SearchOptions
    from lascaux.tasks.pictures import pictures_in
    from lascaux.tasks.results import Classified, Embedded, Failed, Hit, Label, Updated
    from lascaux.tasks.search import Index

_HOMES = {
    "Calibration": "calibrate",
    "ClassEvidence": "evidence",
    "Classified": "results",
    "Classifier": "classify",
    "ClassifyOptions": "options",
    "EmbedOptions": "options",
    "Embedded": "results",
    "EvidenceWeights": "evidence",
    "Failed": "results",
    "Hit": "results",
    "Index": "search",
    "Label": "results",
    "SearchOptions": "options",
    "Updated": "results",
    "embed_pictures": "embed",
    "embed_texts": "embed",
    "pictures_in": "pictures",
}

__all__ = [
    "Calibration",
    "ClassEvidence",
    "Classified",
    "Classifier",
    "ClassifyOptions",
    "EmbedOptions",
    "Embedded",
    "EvidenceWeights",
    "Failed",
    "Hit",
    "Index",
    "Label",
    "SearchOptions",
    "Updated",
    "embed_pictures",
    "embed_texts",
    "pictures_in",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
