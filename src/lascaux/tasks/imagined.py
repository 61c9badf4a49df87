"""What the file of a picture that `imagine` made says of it, and what is read from that again."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lascaux import __version__
from lascaux.errors import BadInput, BadPicture
from lascaux.generate.sampling import Sampling
from lascaux.tasks.results import Picture
from lascaux.tasks.writers import is_ids

VERB = "imagine"

_SAMPLING = ("temperature", "top_k", "top_p", "guidance")
_KINDS = {"seed": int, "prompt": str, "model": str, "settings": dict, "weights": str}


def label_of(picture: Picture) -> dict[str, Any]:
    """The label of a picture's file, for `write_labelled`; `Imaginer.repeat` reads it."""
    told = {name: getattr(picture, name) for name in (*_told(), "record")}
    return {"verb": VERB, "lascaux": __version__, **told}


def sampling_told(sampling: Sampling) -> dict[str, Any]:
    """How codes are drawn, in JSON values."""
    return {name: getattr(sampling, name) for name in _SAMPLING}


@dataclass(frozen=True)
class Kept:
    """The label of a picture, checked as far as that goes without its model."""

    picture: dict[str, Any]  # the fields of `Picture` but image and record
    record: dict[str, Any]
    sampling: Sampling
    complete_text: bool
    tokeniser: str  # the hash of its weights
    conditions: Any
    primed: int  # codes that were given
    ids: Any

    @classmethod
    def of(cls, label: dict[str, Any], path: str | Path) -> "Kept":
        """What a label says.

        Raises:
            BadPicture: something is missing, or of another type.
        """
        try:
            for name, kind in _KINDS.items():
                if type(label[name]) is not kind:
                    raise TypeError(f"{name} is {label[name]!r:.40}")
            record, settings = label["record"], label["settings"]
            return cls(
                picture={name: label[name] for name in _told()},
                record=record,
                sampling=Sampling(**{name: settings[name] for name in _SAMPLING}),
                complete_text=bool(settings["complete_text"]),
                tokeniser=str(record["tokeniser"]),
                conditions=record["conditions"],
                primed=int(record["primed"]),
                ids=record["ids"],
            )
        except (BadInput, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadPicture(
                f"the label of {path} is damaged ({type(error).__name__}: {error}); take a whole "
                "copy of the file"
            ) from error

    def require_ids(self, codes: int, count: int, path: str | Path) -> None:
        """Check that there are the codes of a whole picture.

        Raises:
            BadPicture: there are not.
        """
        whole = is_ids(self.ids, codes) and len(self.ids) == count
        if not whole or not 0 <= self.primed < count:
            raise BadPicture(
                f"the codes in the label of {path} are damaged: expected {count} of 0 to "
                f"{codes - 1}; take a whole copy of the file"
            )


def _told() -> tuple[str, ...]:
    return tuple(e.name for e in fields(Picture) if e.name not in ("image", "record"))
