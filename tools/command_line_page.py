"""Writes docs/command-line.md from the live help pages: `python tools/command_line_page.py`."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from lascaux.cli.main import VERBS, top_parser, verb_parser

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"

_OPENING = """\
# The command line

One command, `lascaux`, with a verb for each thing to do. Every verb has `--help` and `--json`;
`--device`, `--dtype`, `--batch-size` and `--seed` mean the same wherever they occur.

Exit codes: 0 all done, 1 the work or a part of it failed (one picture of many, for instance),
2 wrong use, 130 interrupted. Results go to standard output, everything else to standard error.

This page is written by `python tools/command_line_page.py` from the help pages themselves.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [_OPENING, f"```\n$ lascaux --help\n{top_parser().format_help()}```\n"]
    for verb in VERBS:
        parts.append(f"## lascaux {verb}\n")
        parts += [f"```\n$ {p.prog} --help\n{p.format_help()}```\n" for p in _with_commands(verb)]
    return "\n".join(parts)


def _with_commands(verb: str) -> Iterator[argparse.ArgumentParser]:
    """The parser of a verb, and those of the commands below it."""
    parser = verb_parser(verb)
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
