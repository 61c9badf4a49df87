"""`lascaux spell`: pictures as ids of codes."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lascaux.cli.flags import WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.sheet import require_file
from lascaux.tasks.options import SpellOptions
from lascaux.tasks.results import Failed, Spelling, as_json

_SUFFIXES = (".json", ".safetensors")
_EXAMPLES = """\
examples:
  lascaux spell photo.jpg --model vqgan-imagenet-f16-1024
  lascaux spell photo.jpg --model openai-dvae --out ids.json
  lascaux spell photos/ --model openai-dvae --out spelt/ --binary
  lascaux spell panorama.jpg --model vq-f8 --tile --out ids.safetensors

`lascaux unspell` makes pictures of the files.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PHOTO",
        help="picture files, folders, patterns in quotes, or data URIs",
    )
    parser.add_argument(
        "--out",
        metavar="FILE|DIR",
        help="ids.json or ids.safetensors with all of them, or a folder with a file for each",
    )
    parser.add_argument(
        "--binary", action="store_true", help="write .safetensors files into the folder, not .json"
    )
    parser.add_argument("--json", action="store_true", help="print the ids as one JSON list")
    add_flags(parser.add_argument_group("options"), SpellOptions)


def run(arguments: argparse.Namespace) -> int:
    """Spell, write, and give the exit code: 1 if a picture could not be read."""
    options = options_from(arguments, SpellOptions)
    folder = _folder(arguments)
    from lascaux.tasks.spell import Speller
    from lascaux.tasks.spelling_file import json_lines, write_spellings

    sources = sources_of(arguments.pictures, recursive=options.recursive)
    speller = Speller.from_options(options)
    names = names_apart(sources)
    results: list[Spelling | Failed] = []
    with progress() as show:
        for done, result in enumerate(speller.spell_many(sources), 1):
            name = next(names)
            show("pictures", done, len(sources))
            if folder is not None and isinstance(result, Spelling):
                suffix = _SUFFIXES[arguments.binary]
                write_spellings([result], folder / f"{name}{suffix}")
            elif not arguments.out and not arguments.json:
                _print(result)
            results.append(result)
    spelt = [result for result in results if isinstance(result, Spelling)]
    if arguments.out and folder is None and spelt:
        write_spellings(spelt, arguments.out)
    if arguments.json:
        print(json_lines([as_json(result) for result in results]), end="")
    if arguments.out and spelt:
        say(f"wrote {arguments.out}: {account(spelt)}")
    return report_failed(results)


def sources_of(given: list[str], *, recursive: bool) -> list[Any]:
    """The pictures that arguments stand for.

    Raises:
        BadInput: they stand for folders without pictures alone.
    """
    from lascaux.errors import BadInput
    from lascaux.tasks.pictures import expanded, is_folder

    sources = [found for each in given for found in expanded(each, recursive=recursive)]
    if all(map(is_folder, sources)):
        advice = "" if recursive else "; add --recursive to look into subfolders"
        raise BadInput(f"no pictures in {', '.join(given)}{advice}")
    return sources


def names_apart(sources: list[Any]) -> Iterator[str]:
    """A file name without suffix for each picture, no two alike."""
    taken: set[str] = set()
    for number, source in enumerate(sources, 1):
        given = str(source)
        stem = f"picture-{number}" if given.startswith("data:") else Path(given).stem
        name, again = stem, 1
        while name.lower() in taken:  # some file systems take A and a for one
            again += 1
            name = f"{stem}-{again}"
        taken.add(name.lower())
        yield name


def made_folder(path: str, files: Sequence[str] = ()) -> Path:
    """The folder of that name, made if need be.

    Args:
        path: its name.
        files: suffixes of files that could have been named instead; others are mistaken, then.

    Raises:
        WrongUse: it is a file, or named like one, or cannot be made.
    """
    folder = Path(path).expanduser()
    if files and folder.suffix and not folder.is_dir() and not path.endswith("/"):
        raise WrongUse(
            f"--out {path}: a file is named {', '.join(files)}; of a folder with a dot in its name "
            "write a / behind it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(f"--out {path}: expected a folder ({error.strerror})") from error
    return folder


def pictures_folder(path: str) -> Path:
    """A folder for pictures that are named by the command, made if need be.

    Raises:
        WrongUse: as `made_folder`, or it is named like a picture.
    """
    from lascaux.images.formats import SUFFIXES

    if Path(path).suffix.lower() in SUFFIXES and not Path(path).is_dir() and path[-1] != "/":
        raise WrongUse(
            f"--out {path}: expected a folder, in which pictures get names of their own; of one "
            "with a dot in its name write a / behind it"
        )
    return made_folder(path)


def report_failed(results: list[Any]) -> int:
    """Tell of what failed; 1 if anything did."""
    failed = [result for result in results if isinstance(result, Failed)]
    for one in failed:
        say(f"left out: {one.source}: {one.reason}")
    return 1 if failed else 0


def account(spelt: list[Spelling]) -> str:
    """How many ids there are, in words."""
    noun = "picture" if len(spelt) == 1 else "pictures"
    total = sum(len(one.ids) for one in spelt)
    return f"{len(spelt)} {noun}, {total:,} ids of {spelt[0].codes:,} codes"


def layout(spelling: Spelling) -> str:
    """How many ids lie how, in words."""
    places = " x ".join(map(str, spelling.grid)) if spelling.grid else str(len(spelling.ids))
    return f"{places} codes of {spelling.codes:,}"


def _folder(arguments: argparse.Namespace) -> Path | None:
    """The folder that a file for each picture goes to, if one was named."""
    is_file = bool(arguments.out) and arguments.out.lower().endswith(_SUFFIXES)
    if arguments.binary and (is_file or not arguments.out):
        raise WrongUse("--binary is of files in a folder; name one by --out DIR")
    if is_file:
        require_file("out", arguments.out)
    return None if is_file or not arguments.out else made_folder(arguments.out, _SUFFIXES)


def _print(result: Spelling | Failed) -> None:
    if isinstance(result, Failed):
        return
    print(f"{result.source}: {layout(result)}")
    width = len(str(result.codes - 1))
    columns = result.grid[1] if result.grid else 16
    ids = [f"{one:>{width}}" for one in result.ids]
    for first in range(0, len(ids), columns):
        print("  " + " ".join(ids[first : first + columns]))
