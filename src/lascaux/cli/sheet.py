"""Writing contact sheets, and refusing targets that cannot be written before any work."""

from pathlib import Path
from typing import TYPE_CHECKING

from lascaux.cli.flags import WrongUse
from lascaux.cli.progress import say

if TYPE_CHECKING:
    from lascaux.images.sheet import SheetEntry

SHEET_LIMIT = 240  # cards; a sheet of more is no longer looked at
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def require_file(flag: str, path: str | None) -> None:
    """Check that a file can be written where a flag says.

    Raises:
        WrongUse: it is a folder, or in a folder that does not exist.
    """
    if path:
        file = Path(path).expanduser()
        if file.is_dir() or not file.parent.is_dir():
            raise WrongUse(f"--{flag} {path}: expected a file in a folder that exists")


def require_sheet(path: str | None) -> None:
    """Check that a contact sheet can be written there, in the form that its name asks for.

    Raises:
        WrongUse: as `require_file`, or the suffix is of no picture.
    """
    require_file("sheet", path)
    if path and Path(path).suffix.lower() not in PICTURE_FORMATS:
        raise WrongUse(f"--sheet {path}: name it {', '.join(PICTURE_FORMATS)}")


def draw_sheet(cards: "list[SheetEntry]", path: str, pictures: int) -> None:
    """Write the cards as one picture; `pictures` is how many there were to choose from."""
    from lascaux.images.sheet import contact_sheet
    from lascaux.tasks.aside import written_aside

    with written_aside(path) as part:
        contact_sheet(cards).save(part, PICTURE_FORMATS[Path(path).suffix.lower()])
    beyond = f" (the first {SHEET_LIMIT} of {pictures} pictures)" if pictures > len(cards) else ""
    say(f"drew {path}{beyond}")
