"""`lascaux embed`: vectors of pictures or texts as a file for other programs."""

import argparse

from lascaux.cli.flags import WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.search import json_text
from lascaux.cli.sheet import require_file
from lascaux.tasks.options import EmbedOptions
from lascaux.tasks.results import Embedded, as_json

_SUFFIXES = (".parquet", ".npy")
_EXAMPLES = """\
examples:
  lascaux embed photos/ --out vectors.parquet --recursive
  lascaux embed *.jpg --out vectors.npy --model ViT-B/32
  lascaux embed --texts captions.txt --out captions.parquet

An interrupted command goes on where it was when it is given again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "pictures", nargs="*", metavar="PHOTO", help="picture files, folders or patterns in quotes"
    )
    parser.add_argument(
        "--texts", metavar="FILE", help="encode the lines of a text file instead of pictures"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="vectors.parquet, or vectors.npy with the paths in vectors.json beside it",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_flags(parser.add_argument_group("options"), EmbedOptions)


def run(arguments: argparse.Namespace) -> int:
    """Encode, write, and give the exit code: 1 if a picture could not be read."""
    options = options_from(arguments, EmbedOptions)
    _refuse_nonsense(arguments)
    from lascaux.tasks.embed import embed_pictures, embed_texts, read_lines

    with progress() as show:
        if arguments.texts:
            done = embed_texts(
                read_lines(arguments.texts),
                arguments.out,
                options.model,
                too_long=options.too_long,
                device=options.device,
                dtype=options.dtype,
                progress=show,
            )
        else:
            done = embed_pictures(
                arguments.pictures,
                arguments.out,
                options.model,
                reading=options.reading,
                recursive=options.recursive,
                device=options.device,
                dtype=options.dtype,
                batch_size=options.batch_size,
                progress=show,
            )
    _report(done, as_object=arguments.json)
    return 1 if done.failed else 0


def _refuse_nonsense(arguments: argparse.Namespace) -> None:
    require_file("out", arguments.out)
    if not arguments.out.lower().endswith(_SUFFIXES):
        raise WrongUse(f"--out {arguments.out}: name it {' or '.join(_SUFFIXES)}")
    if arguments.texts and arguments.pictures:
        raise WrongUse("give pictures or --texts, not both: each makes a file of its own")
    if not arguments.texts and not arguments.pictures:
        raise WrongUse("what to encode? give pictures, folders, or --texts FILE")


def _report(done: Embedded, *, as_object: bool) -> None:
    if as_object:
        print(json_text(as_json(done)))
    for one in done.failed:
        say(f"left out: {one.source}: {one.reason}")
    noun = "vector" if done.rows == 1 else "vectors"
    earlier = f", {done.encoded} encoded now" if done.rows > done.encoded else ""
    say(f"wrote {done.out}: {done.rows} {noun} of {done.width} numbers{earlier}")
