"""`lascaux train RECIPE`: train a model, or go on where a run stopped."""

import argparse
import ast
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from lascaux.cli.flags import HelpPages, WrongUse, add_flags, options_from
from lascaux.cli.progress import say
from lascaux.train.options import Running

# Recipe -> class of its settings, in the file of that name.
RECIPES = {
    "clip": "ClipTraining",
    "vqgan": "VqGanTraining",
    "styled-vq": "StyledVqTraining",
    "clip-gen": "ClipGenTraining",
    "dalle": "DalleTraining",
    "taming": "TamingTraining",
    "ochre-clip": "OchreClip",
    "ochre-judge": "OchreJudge",
    "ochre-vq": "OchreVq",
    "ochre-styled": "OchreStyled",
    "ochre-imagine": "OchreImagine",
    "ochre-dalle": "OchreDalle",
    "ochre-map": "OchreMap",
}

_ENDING = """\
A run lives in runs/RECIPE-NAME: metrics.jsonl, checkpoints/, samples/, and in the end model/, which
every command takes by its path. Ctrl-C saves and stops; the same command goes on. --dry-run tells
what a run would cost.
"""


class _Lazy(argparse.ArgumentParser):
    """A parser whose flags are added when they are needed; a recipe's file imports torch."""

    recipe: str | None = None

    def fill(self) -> None:
        """Add the flags of the recipe, once."""
        if self.recipe is None:
            return
        settings, self.recipe = settings_of(self.recipe), None
        add_flags(self.add_argument_group("what is trained"), settings)
        add_flags(self.add_argument_group("how it is run"), Running)

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """As always, with all flags."""
        self.fill()
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """As always, with all flags."""
        self.fill()
        return super().format_help()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every recipe, one sub-command each."""
    parser.epilog = _ENDING
    parser.add_argument("--list", action="store_true", help="list the recipes and exit")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    commands = parser.add_subparsers(dest="recipe", metavar="RECIPE", parser_class=_Lazy)
    for name in RECIPES:
        about = _about(name)
        recipe = commands.add_parser(
            name,
            help=about.splitlines()[0].split(": ", 1)[-1],
            description=about,
            formatter_class=HelpPages,
            allow_abbrev=False,
        )
        recipe.recipe = name
        recipe.add_argument("--name", default="0", help="of the run (default: 0)")
        recipe.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
        recipe.add_argument(
            "--processes",
            type=int,
            default=1,
            metavar="N",
            help="that train together on this machine",
        )
        recipe.add_argument(
            "--dry-run", action="store_true", help="tell what it would cost, and do nothing"
        )
        recipe.add_argument("--json", action="store_true", help="print figures as JSON lines")


def run(arguments: argparse.Namespace) -> int:
    """Train until the last step or an interruption; 0 when finished, 130 when interrupted."""
    if arguments.list:
        return _list(as_json=arguments.json)
    if not arguments.recipe:
        raise WrongUse(f"name a recipe: {', '.join(RECIPES)}")
    recipe = options_from(arguments, settings_of(arguments.recipe))
    running = options_from(arguments, Running)
    if arguments.processes < 1:
        raise WrongUse(f"--processes is {arguments.processes}; it must be at least 1")
    folder = arguments.runs / f"{arguments.recipe}-{arguments.name}"
    if arguments.dry_run:
        from lascaux.cli.dry_run import dry_run

        return dry_run(recipe, running, folder, arguments.processes, as_json=arguments.json)
    if arguments.processes > 1 and "RANK" not in os.environ:
        return _several(arguments.processes)
    from lascaux.cli.training import Shown
    from lascaux.train.loop import MODEL, train

    with Shown(recipe.steps, as_json=arguments.json) as shown:
        finished = train(recipe, folder, running, report=shown)
    if os.environ.get("RANK", "0") == "0":
        ending = f"finished: {folder / MODEL}"
        say(ending if finished else f"stopped; the same command goes on from {folder}")
    code = 0 if finished else 130
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave(code)
    return code


def settings_of(recipe: str) -> type:
    """The class of a recipe's settings."""
    return getattr(import_module(_module(recipe)), RECIPES[recipe])


def _several(processes: int) -> int:
    """This same command in several processes; gives the exit code of them all."""
    import signal
    import subprocess

    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += [f"--nproc-per-node={processes}", "-m", "lascaux.cli.main", *sys.argv[1:]]
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    process = subprocess.Popen(words, env=environment)
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the whole group by itself
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    code = process.wait()
    return 130 if asked else int(code != 0)


def _leave(code: int) -> NoReturn:
    """End one of several processes at once.

    All is written. While Python takes itself apart, threads of gloo that still wait are destroyed,
    and now and then this aborts a process that has done its work.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _list(*, as_json: bool) -> int:
    told = {name: _about(name).splitlines()[0].split(": ", 1)[-1] for name in RECIPES}
    if as_json:
        import json

        print(json.dumps(told, indent=1))
        return 0
    width = max(map(len, told))
    for name, line in told.items():
        print(f"{name:<{width}}  {line}")
    return 0


def _about(recipe: str) -> str:
    """The docstring of a recipe's file, without importing it."""
    spec = find_spec(_module(recipe))
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").strip()


def _module(recipe: str) -> str:
    return f"lascaux.train.recipes.{recipe.replace('-', '_')}"
