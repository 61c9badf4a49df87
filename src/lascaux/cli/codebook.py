"""`lascaux codebook`: stage two of Styled VAE-VQ, a codebook by k-means."""

import argparse
import json

from lascaux.cli.data import opened_source
from lascaux.cli.flags import add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.tasks.options import MakeCodebookOptions, SourceOptions

_EXAMPLES = """\
examples:
  lascaux codebook photos/ --model runs/styled-vq-0/model --codes 4096 --out coded
  lascaux codebook 'shards-{0000..0999}.tar' --model stage-one/ --codes 194560 --device cuda \\
      --out coded

DATA is anything that `lascaux data info` reads. Features and k-means go on where they were killed;
they lie in OUT.work until the model is written.
"""
_SHOWN = 5  # records that could not be read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.epilog = _EXAMPLES
    parser.add_argument("data", metavar="DATA", help="pictures; see below")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the model to write")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_flags(parser.add_argument_group("options"), MakeCodebookOptions)
    add_flags(parser.add_argument_group("how the source is read"), SourceOptions)


def run(arguments: argparse.Namespace) -> int:
    """Make the codes, tell of them, and give the exit code: 1 if a record is broken."""
    options = options_from(arguments, MakeCodebookOptions)
    reading = options_from(arguments, SourceOptions)
    from dataclasses import asdict

    from lascaux.tasks.coding import make_codes

    source = opened_source(arguments.data, reading, absent="keep")
    with progress() as show:
        done = make_codes(source, arguments.out, options, show)
    if arguments.json:
        print(json.dumps(asdict(done), indent=2))
    for one in done.skipped[:_SHOWN]:
        say(f"left out: {one.source}: {one.reason}")
    say(
        f"wrote {done.out}: {done.codes:,} codes from {done.features:,} features of "
        f"{done.records:,} pictures; {done.used:,} in use, perplexity {done.perplexity:,.0f}, "
        f"distortion {done.distortion:.4f}"
    )
    return 1 if done.skipped else 0
