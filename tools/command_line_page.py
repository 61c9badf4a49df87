"""Writes docs/command-line.md from the live help pages: `python tools/command_line_page.py`."""

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
        help_page = verb_parser(verb).format_help()
        parts.append(f"## lascaux {verb}\n\n```\n$ lascaux {verb} --help\n{help_page}```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
