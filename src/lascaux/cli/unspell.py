"""`lascaux unspell`: pictures of ids."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lascaux.cli.flags import WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.sheet import PICTURE_FORMATS, require_file
from lascaux.cli.spell import made_folder, names_apart, report_failed
from lascaux.tasks.options import UnspellOptions
from lascaux.tasks.results import Failed, Spelling, as_json

if TYPE_CHECKING:
    from lascaux.tasks.spell import Speller

_EXAMPLES = """\
examples:
  lascaux unspell ids.json --out picture.png
  lascaux unspell spelt/*.safetensors --model models/mine --out pictures/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument("ids", nargs="+", metavar="IDS", help="files that `lascaux spell` wrote")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE|DIR",
        help="picture.png (or .jpg, .webp) of one picture's ids, or a folder",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    add_flags(parser.add_argument_group("options"), UnspellOptions)


def run(arguments: argparse.Namespace) -> int:
    """Decode, write, and give the exit code: 1 if ids could not be decoded."""
    options = options_from(arguments, UnspellOptions)
    is_file = Path(arguments.out).suffix.lower() in PICTURE_FORMATS
    if is_file:
        require_file("out", arguments.out)
    from lascaux.tasks.spelling_file import read_spellings

    found = [entry for path in arguments.ids for entry in read_spellings(path)]
    if is_file and len(found) > 1:
        raise WrongUse(
            f"--out {arguments.out} is one picture; there are ids of {len(found)}: name a folder"
        )
    folder = None if is_file else made_folder(arguments.out, tuple(PICTURE_FORMATS))
    speller = _speller(found, options)
    results: list[dict[str, str] | Failed] = []
    names = names_apart([entry.source for entry in found])
    with progress() as show:
        for done, (entry, name) in enumerate(zip(found, names, strict=True), 1):
            out = Path(arguments.out) if folder is None else folder / f"{name}-unspelt.png"
            results.append(_unspelt(speller, entry, out))
            show("pictures", done, len(found))
    if arguments.json:
        import json

        told = [as_json(one) if isinstance(one, Failed) else one for one in results]
        print(json.dumps(told, ensure_ascii=False, indent=1))
    written = [one for one in results if not isinstance(one, Failed)]
    if written:
        say(f"wrote {arguments.out}" + (f": {len(written)} pictures" if folder else ""))
    return report_failed(results)


def _speller(found: "list[Spelling | Failed]", options: UnspellOptions) -> "Speller":
    """With the model that was asked for, or that the first ids name."""
    named = next((entry.model for entry in found if isinstance(entry, Spelling)), "")
    if not (model := options.model or named):
        raise WrongUse("the ids do not name their model; name it by --model")
    from lascaux.tasks.spell import Speller

    return Speller(model, tile=options.tile, device=options.device, dtype=options.dtype)


def _unspelt(speller: "Speller", entry: Spelling | Failed, out: Path) -> dict[str, str] | Failed:
    """Where a picture was written, or why there is none."""
    from lascaux.errors import BadInput
    from lascaux.tasks.aside import written_aside

    if isinstance(entry, Failed):
        return entry
    try:
        picture = speller.unspell(entry)
    except BadInput as error:
        return Failed(entry.source, str(error))
    with written_aside(out) as part:
        picture.save(part, PICTURE_FORMATS[out.suffix.lower()])
    return {"source": entry.source, "out": str(out)}
