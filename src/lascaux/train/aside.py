"""Records kept aside to validate on: chosen by their keys, and the same in every run."""

import hashlib

from lascaux.data.records import Part, Source

MOST = 1000  # records kept for validation


def kept_aside(source: Source, share: float) -> list[int]:
    """Records chosen by their keys, so that others that are added later leave them aside.

    Args:
        source: of all records.
        share: of them that is wanted, at most 1000 records.
    """
    wanted = min(round(share * len(source)), MOST)
    marks = [
        hashlib.sha256(source.key(index).encode("utf-8", "surrogateescape")).digest()
        for index in range(len(source))
    ]
    return sorted(sorted(range(len(source)), key=marks.__getitem__)[:wanted])


def trained_on(source: Source, share: float) -> Part:
    """The records that are not kept aside."""
    kept = set(kept_aside(source, share))
    return Part(source, (index for index in range(len(source)) if index not in kept))


def validated_on(source: Source, share: float, other: Source | None = None) -> Part:
    """The records kept aside, or the first thousand of another source."""
    if other is not None:
        return Part(other, range(min(len(other), MOST)))
    return Part(source, kept_aside(source, share))
