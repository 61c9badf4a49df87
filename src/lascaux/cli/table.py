"""Rankings as text for a terminal: aligned, with bars, whatever the writing."""

import unicodedata
from collections.abc import Sequence

from lascaux.tasks.results import Classified, Failed, Label

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NAME_WIDTH = 30  # columns at most
_BAR_WIDTH = 28  # columns at most


def text_width(text: str) -> int:
    """Columns a terminal needs: Chinese and emoji take two, combining marks none."""
    return sum(map(_columns, text))


def padded(text: str, width: int) -> str:
    """The text in exactly `width` columns, shortened with an ellipsis if need be."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if text_width(text) > width:
        while text and text_width(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - text_width(text))


def bar(share: float, width: int, *, plain: bool = False) -> str:
    """A bar of at most `width` columns for a share of 0 to 1; plain ones are of ASCII signs."""
    share = min(max(share, 0.0), 1.0)
    if plain:
        return "#" * round(share * width)
    whole, eighths = divmod(round(share * width * 8), 8)
    return "█" * whole + (_EIGHTHS[eighths] if eighths else "")


def ranking(
    result: Classified | Failed,
    *,
    repeated: Sequence[str] = (),
    room: int = 0,
    width: int = 80,
    plain: bool = False,
) -> str:
    """One picture's lines.

    Args:
        result: what the classifier answered.
        repeated: names that several classes have; these are shown with their index.
        room: columns for names at least, so that one picture's table looks like the next one's.
        width: columns of the terminal.
        plain: ASCII bars.
    """
    if isinstance(result, Failed):
        return f"{result.source}\n  not read: {result.reason}\n"
    lines = [result.source + ("  (cosines)" if result.scores == "cosine" else "")]
    names = [_shown(label, repeated) for label in result.labels]
    room = min(_NAME_WIDTH, width // 2, max(room, *map(text_width, names)))
    places = len(str(len(names)))
    bars = max(0, min(_BAR_WIDTH, width - room - places - 15))
    if result.none_of_these:
        lines.append(f"  {'':{places}}  none of these; nearest:")
    for place, (label, name) in enumerate(zip(result.labels, names, strict=True), 1):
        score = label.score
        figure = f"{score:7.3f}" if result.scores == "cosine" else f"{score:6.1%} "
        line = f"  {place:{places}}  {padded(name, room)}  {figure}"
        lines.append(f"{line}  {bar(score, bars, plain=plain)}".rstrip())
    return "\n".join(lines) + "\n"


def _shown(label: Label, repeated: Sequence[str]) -> str:
    return f"{label.name} (class {label.index})" if label.name in repeated else label.name


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
