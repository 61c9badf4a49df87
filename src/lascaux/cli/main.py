"""The `lascaux` command: finds the verb, runs it, and turns errors into exit codes.

0: done; 1: the work, or a part of it, failed; 2: wrong use; 130: interrupted.
"""

import argparse
import io
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib import import_module

import lascaux
from lascaux.cli.flags import PROGRAM, HelpPages, WrongUse
from lascaux.errors import LascauxError

# verb -> module, help line; a module is imported only when its verb is run.
VERBS: dict[str, tuple[str, str]] = {
    "classify": ("lascaux.cli.classify", "name what pictures show, among any classes"),
    "embed": ("lascaux.cli.embed", "write the vectors of pictures or texts to a file"),
    "search": ("lascaux.cli.search", "find pictures of a folder by words or by example"),
    "spell": ("lascaux.cli.spell", "write pictures as ids of an image tokeniser's codes"),
    "unspell": ("lascaux.cli.unspell", "make pictures of the ids that spell wrote"),
    "reconstruct": ("lascaux.cli.reconstruct", "show pictures beside what their ids give back"),
    "imagine": ("lascaux.cli.imagine", "make pictures of a sentence, of a picture, or between two"),
    "paint": ("lascaux.cli.paint", "paint pictures after maps, depth, classes or nothing"),
    "models": ("lascaux.cli.models", "list the models there are, or tell about one"),
    "convert": ("lascaux.cli.convert", "turn a checkpoint file into a folder of safe weights"),
    "train": ("lascaux.cli.train", "train a model by its recipe, or go on where a run stopped"),
    "codebook": ("lascaux.cli.codebook", "give a Styled VAE-VQ its codes, by k-means"),
    "evaluate": ("lascaux.cli.evaluate", "measure a model, and report with seeds and hashes"),
    "data": ("lascaux.cli.data", "look through sets of pictures, and pack them for training"),
    "world": ("lascaux.cli.world", "draw scenes of the emoji world, with their captions"),
    "doctor": ("lascaux.cli.doctor", "check this installation, and say what to mend"),
}

_NOTES = 3  # of each kind, shown in full


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?" instead
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        notes: Counter[type[Warning]] = Counter()
        warnings.showwarning = partial(_show_warning, notes)
        try:
            code = _run(words)
            if more := sum(count - _NOTES for count in notes.values() if count > _NOTES):
                print(f"{PROGRAM}: note: and {more} more notes like these", file=sys.stderr)
            return code
        except WrongUse as error:
            return _complain(f"{error}\n  `{PROGRAM} {_verb(words)}--help` shows how", 2)
        except LascauxError as error:
            return _complain(str(error), 1)
        except KeyboardInterrupt:
            return _complain("interrupted", 130)
        except BrokenPipeError:
            # The reader, such as `head`, has seen enough; Python would complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except SystemExit as error:  # argparse: 0 after help, 2 after wrong use
            return error.code if isinstance(error.code, int) else 1


def top_parser() -> argparse.ArgumentParser:
    """The parser of what stands before a verb; its help lists the verbs."""
    width = max(map(len, VERBS))
    listed = "\n".join(f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items())
    parser = argparse.ArgumentParser(
        PROGRAM,
        usage=f"{PROGRAM} VERB ... [--help]",
        description="Images as a language: read, spell, write and tell pictures.",
        epilog=f"verbs:\n{listed}\n\n`{PROGRAM} VERB --help` tells about one.",
        formatter_class=HelpPages,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb's arguments."""
    module, line = VERBS[verb]
    home = import_module(module)
    parser = argparse.ArgumentParser(
        f"{PROGRAM} {verb}",
        description=f"{line[0].upper()}{line[1:]}.",
        formatter_class=HelpPages,
        allow_abbrev=False,
    )
    home.add_arguments(parser)
    return parser


def _run(words: list[str]) -> int:
    if words and words[0] in VERBS:
        arguments = _parsed(verb_parser(words[0]), words[1:])
        code = import_module(VERBS[words[0]][0]).run(arguments)
        sys.stdout.flush()
        return code
    if words and not words[0].startswith("-"):
        raise WrongUse(f"there is no verb {words[0]!r}; verbs: {', '.join(VERBS)}")
    parser = top_parser()
    if parser.parse_args(words).version:
        print(f"{PROGRAM} {lascaux.__version__}")
        return 0
    parser.print_help()
    return 0 if words else 2


def _parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The arguments; options may stand between them, unless there are commands below the verb."""
    if any(action.nargs == argparse.PARSER for action in parser._actions):
        return parser.parse_args(words)
    return parser.parse_intermixed_args(words)


def _verb(words: list[str]) -> str:
    return f"{words[0]} " if words and words[0] in VERBS else ""


def _complain(message: str, code: int) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return code


def _show_warning(
    notes: Counter[type[Warning]],
    message: Warning | str,
    category: type[Warning],
    *_: object,
    **__: object,
) -> None:
    """A warning in one line, and of each kind the first few alone."""
    notes[category] += 1
    if notes[category] <= _NOTES:
        print(f"{PROGRAM}: note: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
