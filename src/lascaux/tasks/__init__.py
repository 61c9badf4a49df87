"""What people call: one class per verb, made once and used many times.

Names are looked up when they are first used, so that importing options stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lascaux.tasks.calibrate import Calibration
    from lascaux.tasks.classify import Classifier
    from lascaux.tasks.conditions import Wish
    from lascaux.tasks.embed import embed_pictures, embed_texts
    from lascaux.tasks.evidence import ClassEvidence, EvidenceWeights
    from lascaux.tasks.imagine import Imaginer
    from lascaux.tasks.imagined import label_of
    from lascaux.tasks.options import (
        ClassifyOptions,
        EmbedOptions,
        ImagineOptions,
        PaintOptions,
        SearchOptions,
        SpellOptions,
        UnspellOptions,
    )
    from lascaux.tasks.paint import Growing, Painter
    from lascaux.tasks.pictures import pictures_in
    from lascaux.tasks.results import (
        Classified,
        Embedded,
        Failed,
        Hit,
        Label,
        Picture,
        Spelling,
        Updated,
    )
    from lascaux.tasks.search import Index
    from lascaux.tasks.spell import Reconstruction, Speller
    from lascaux.tasks.spelling_file import read_spellings, write_spellings
    from lascaux.tasks.wishes import wish_of

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
    "Growing": "paint",
    "Hit": "results",
    "ImagineOptions": "options",
    "Imaginer": "imagine",
    "Index": "search",
    "Label": "results",
    "PaintOptions": "options",
    "Painter": "paint",
    "Picture": "results",
    "Reconstruction": "spell",
    "SearchOptions": "options",
    "SpellOptions": "options",
    "Speller": "spell",
    "Spelling": "results",
    "UnspellOptions": "options",
    "Updated": "results",
    "Wish": "conditions",
    "embed_pictures": "embed",
    "embed_texts": "embed",
    "label_of": "imagined",
    "pictures_in": "pictures",
    "read_spellings": "spelling_file",
    "wish_of": "wishes",
    "write_spellings": "spelling_file",
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
    "Growing",
    "Hit",
    "ImagineOptions",
    "Imaginer",
    "Index",
    "Label",
    "PaintOptions",
    "Painter",
    "Picture",
    "Reconstruction",
    "SearchOptions",
    "SpellOptions",
    "Speller",
    "Spelling",
    "UnspellOptions",
    "Updated",
    "Wish",
    "embed_pictures",
    "embed_texts",
    "label_of",
    "pictures_in",
    "read_spellings",
    "wish_of",
    "write_spellings",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
