"""`lascaux search`: pictures of a folder by words, by example, or by both."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from lascaux.cli.flags import WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.sheet import SHEET_LIMIT, draw_sheet, require_file, require_sheet
from lascaux.tasks.options import SearchOptions
from lascaux.tasks.results import Failed, Hit, as_json

if TYPE_CHECKING:
    from lascaux.images.sheet import SheetEntry

_NAMED = 3  # unreadable pictures whose reasons are shown
_EXAMPLES = """\
examples:
  lascaux search "red boat" photos/
  lascaux search --like photo.jpg photos/ --top 30 --sheet found.png
  lascaux search "at night" --like photo.jpg photos/ --without people
  lascaux search "red boat" photos/ --paths | xargs -d '\\n' cp -t boats/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "words", nargs="*", metavar="WORDS", help="what to look for, each text in quotes"
    )
    parser.add_argument("folder", metavar="DIR", help="folder of pictures")
    asked = parser.add_argument_group("what to look for besides words (each can be repeated)")
    asked.add_argument(
        "--like", action="append", default=[], metavar="PHOTO", help="pictures like this one"
    )
    asked.add_argument(
        "--without", action="append", default=[], metavar="TEXT", help="what must not be seen"
    )
    kept = parser.add_argument_group("index")
    kept.add_argument(
        "--index",
        metavar="FILE",
        help="keep the vectors of the pictures there; if not given, in the cache folder",
    )
    kept.add_argument(
        "--no-update",
        action="store_true",
        help="search what is encoded already, without looking for new or changed pictures",
    )
    out = parser.add_argument_group("output (a table if none is chosen)")
    form = out.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON list")
    form.add_argument("--paths", action="store_true", help="only the paths, one in each line")
    out.add_argument("--sheet", metavar="PNG", help="draw a contact sheet as well")
    add_flags(parser.add_argument_group("options"), SearchOptions)


def run(arguments: argparse.Namespace) -> int:
    """Bring the index up to date, search, and print."""
    options = options_from(arguments, SearchOptions)
    _refuse_nonsense(arguments)
    from lascaux.tasks.nearest import require_faiss
    from lascaux.tasks.search import Index

    # Before hours of encoding, not after.
    require_faiss()
    _require_readable(arguments.like)
    index = Index.from_options(arguments.folder, options, arguments.index)
    if arguments.no_update:
        failed = index.failed
    else:
        with progress() as show:
            failed = index.update(show).failed
    if failed:
        say(_unreadable(failed))
    hits = index.search(
        arguments.words,
        like=arguments.like,
        without=arguments.without,
        top=options.top,
        templates=options.templates,
    )
    if not hits:  # another process has just dropped what was found
        say("nothing was found; try again")
        return 1
    if arguments.json:
        print(json_text([as_json(hit) for hit in hits]))
    elif arguments.paths:
        _print_paths(hits)
    else:
        print("\n".join(_table(hits)))
    if arguments.sheet:
        draw_sheet([_card(hit) for hit in hits[:SHEET_LIMIT]], arguments.sheet, len(hits))
    return 0


def json_text(value: object) -> str:
    """JSON of one entry per line; names that are no Unicode stay exact by being escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=1)
    return text


def _refuse_nonsense(arguments: argparse.Namespace) -> None:
    words, folder = arguments.words, arguments.folder
    require_sheet(arguments.sheet)
    require_file("index", arguments.index)
    if not os.path.isdir(os.path.expanduser(folder)):
        if any(os.path.isdir(os.path.expanduser(word)) for word in words):
            raise WrongUse("the folder comes last: lascaux search 'red boat' photos/")
        raise WrongUse(f"{folder!r} is no folder; expected words and then a folder of pictures")
    if not words and not arguments.like:
        raise WrongUse("what to look for? give words before the folder, or a picture by --like")
    if any(not text.strip() for text in (*words, *arguments.without)):
        raise WrongUse("a text is empty; expected words that say what to look for")


def _require_readable(pictures: list[str]) -> None:
    from lascaux.errors import BadPicture
    from lascaux.images.decode import read_picture

    for picture in pictures:
        try:
            read_picture(picture)
        except BadPicture as error:
            raise BadPicture(f"--like {picture}: {error}") from error


def _unreadable(failed: tuple[Failed, ...]) -> str:
    """How many could not be read, and why the first ones."""
    noun = "picture" if len(failed) == 1 else "pictures"
    lines = [f"note: {len(failed)} {noun} could not be read:"]
    lines += [f"  {one.source}: {one.reason}" for one in failed[:_NAMED]]
    if len(failed) > _NAMED:
        lines.append(f"  and {len(failed) - _NAMED} more")
    return "\n".join(lines)


def _table(hits: list[Hit]) -> list[str]:
    return [
        f"{hits[0].scores:>10}  path",
        *(f"{_figure(hit):>10}  {hit.path}" for hit in hits),
    ]


def _figure(hit: Hit) -> str:
    return f"{hit.score:.3f}" if hit.scores == "cosine" else f"{hit.score:+.2f}"


def _print_paths(hits: list[Hit]) -> None:
    # The bytes of the file system, whatever the terminal's encoding.
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(os.fsencode(hit.path) + b"\n" for hit in hits))


def _card(hit: Hit) -> "SheetEntry":
    from lascaux.errors import BadPicture
    from lascaux.images.decode import read_picture
    from lascaux.images.sheet import SheetEntry

    title = os.fsencode(os.path.basename(hit.path)).decode(errors="replace")
    unit = "cosine" if hit.scores == "cosine" else "deviations"
    try:
        picture = read_picture(hit.path)
    except BadPicture as error:  # gone since it was encoded
        return SheetEntry(None, title, (), note=str(error))
    picture.thumbnail((512, 512))
    return SheetEntry(picture, title, (), note=f"{_figure(hit)} {unit}")
