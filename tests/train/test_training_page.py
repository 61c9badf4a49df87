"""docs/training.md names flags and files that are there."""

import re
from pathlib import Path

from lascaux.cli.main import verb_parser

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_every_flag_of_the_page_is_one_of_the_commands():
    (commands,) = (a for a in verb_parser("train")._actions if a.choices and a.dest == "recipe")
    helps = [verb_parser("train").format_help()]
    helps += [parser.format_help() for parser in commands.choices.values()]
    known = set(re.findall(r"--[a-z][a-z-]*", " ".join(helps)))
    # torchrun's own words are not ours.
    named = set(re.findall(r"--[a-z][a-z-]*", PAGE.read_text(encoding="utf-8")))
    assert named <= known, named - known


def test_the_files_of_the_page_are_those_of_a_run(tmp_path: Path):
    from lascaux.train.loop import train
    from lascaux.train.options import Running
    from line import Line

    train(Line(steps=4), tmp_path, Running(workers=0))
    text = PAGE.read_text(encoding="utf-8")
    for path in tmp_path.iterdir():
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text
