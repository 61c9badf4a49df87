"""`lascaux train RECIPE`: train a model of the embedded family, or go on where a run stopped."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from lascaux.cli.flags import HelpPages, WrongUse, add_flags, options_from

# Recipe -> class of its settings, in the file of that name.
RECIPES = {"ochre-clip": "OchreClip", "ochre-judge": "OchreJudge"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every recipe, one sub-command each."""
    parser.epilog = (
        "A run lives in runs/RECIPE-NAME. Ctrl-C saves and stops; the same command goes on.\n"
        "The finished model is in the run's folder `model`, which `lascaux` commands take by path."
    )
    parser.add_argument("--list", action="store_true", help="list the recipes and exit")
    commands = parser.add_subparsers(dest="recipe", metavar="RECIPE")
    for name in RECIPES:
        module = import_module(_module(name))
        about = (module.__doc__ or "").strip()
        recipe = commands.add_parser(
            name,
            help=about.splitlines()[0].split(": ", 1)[-1],
            description=about,
            formatter_class=HelpPages,
            allow_abbrev=False,
        )
        add_flags(recipe, getattr(module, RECIPES[name]))
        recipe.add_argument("--name", default="0", help="of the run (default: 0)")
        recipe.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
        recipe.add_argument("--threads", type=int, metavar="N", help="threads of torch")
        recipe.add_argument("--json", action="store_true", help="print figures as JSON lines")


def run(arguments: argparse.Namespace) -> int:
    """Train until the last step or an interruption; 0 when finished, 130 when interrupted."""
    if arguments.list:
        print("\n".join(RECIPES))
        return 0
    if not arguments.recipe:
        raise WrongUse(f"name a recipe: {', '.join(RECIPES)}")
    from lascaux.train.loop import train

    settings = getattr(import_module(_module(arguments.recipe)), RECIPES[arguments.recipe])
    recipe = options_from(arguments, settings)
    _refuse_nonsense(recipe, arguments.threads)
    folder = arguments.runs / f"{arguments.recipe}-{arguments.name}"
    finished = train(
        recipe,
        folder,
        threads=arguments.threads,
        report=_print_json if arguments.json else _print_line,
    )
    if not finished:
        print(f"stopped; the same command goes on from {folder}", file=sys.stderr)
        return 130
    print(f"finished: {folder / 'model'}", file=sys.stderr)
    return 0


def _refuse_nonsense(recipe: Any, threads: int | None) -> None:
    least = {"steps": 1, "batch_size": 1, "seed": 0, "warmup_steps": 0, "cooldown_steps": 0}
    for field, low in least.items():
        if getattr(recipe, field) < low:
            flag = field.replace("_", "-")
            raise WrongUse(f"--{flag} is {getattr(recipe, field)}; it must be at least {low}")
    if threads is not None and threads < 1:
        raise WrongUse(f"--threads is {threads}; it must be at least 1")


def _module(recipe: str) -> str:
    return f"lascaux.train.recipes.{recipe.replace('-', '_')}"


def _print_json(figures: dict[str, float]) -> None:
    import json

    print(json.dumps(figures), flush=True)


def _print_line(figures: dict[str, float]) -> None:
    step = f"step {figures['step']:>6.0f}"
    rest = "  ".join(f"{k} {v:.4g}" for k, v in figures.items() if k != "step")
    ending = "\r" if sys.stdout.isatty() and "loss" in figures else "\n"
    print(f"{step}  {rest}"[:200], end=ending, flush=True)
