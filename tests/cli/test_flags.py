import argparse
from dataclasses import dataclass, field, fields
from typing import Literal

import pytest

from lascaux.cli.flags import WrongUse, add_flags, options_from
from lascaux.errors import BadInput
from lascaux.tasks.options import ClassifyOptions


@dataclass(frozen=True, kw_only=True)
class Everything:
    steps: int
    name: str = "x"
    rate: float = field(default=0.5, metadata={"help": "100% of it"})
    mode: Literal["a", "b"] = "a"
    loud: bool = False
    careful: bool = True
    seed: int | None = None
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    tags: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise BadInput("steps is negative")


def chosen(*words, options=Everything):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, options)
    return options_from(parser.parse_args(words), options)


def test_defaults_are_those_of_the_dataclass():
    assert chosen("--steps", "3") == Everything(steps=3)
    assert chosen(options=ClassifyOptions) == ClassifyOptions()


def test_every_type_of_field_is_read():
    words = (
        "--steps 4 --name y --rate 2e-1 --mode b --loud --no-careful --seed 7 "
        "--sizes 3 4 5 --pair 1 2 --tags p q"
    )
    assert chosen(*words.split()) == Everything(
        steps=4,
        name="y",
        rate=0.2,
        mode="b",
        loud=True,
        careful=False,
        seed=7,
        sizes=(3, 4, 5),
        pair=(1.0, 2.0),
        tags=("p", "q"),
    )


@pytest.mark.parametrize(
    "words", ["", "--steps x", "--steps 1 --mode c", "--steps 1 --pair 1", "--steps 1 --rate a"]
)
def test_words_that_do_not_fit_are_refused(words):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        chosen(*words.split())


def test_what_the_dataclass_refuses_is_wrong_use():
    with pytest.raises(WrongUse, match="steps is negative"):
        chosen("--steps", "-1")


def test_a_field_that_no_flag_can_give_is_refused():
    @dataclass(frozen=True)
    class Odd:
        table: dict

    with pytest.raises(TypeError, match="table"):
        add_flags(argparse.ArgumentParser(), Odd)


def test_help_holds_every_field_with_its_default():
    parser = argparse.ArgumentParser()
    add_flags(parser, Everything)
    page = parser.format_help()
    assert "100% of it (default: 0.5)" in page
    assert "--no-careful" in page
    assert "default: 1 2" in page


def test_an_empty_default_is_not_shown():
    @dataclass(frozen=True)
    class Start:
        start: str = field(default="", metadata={"help": "a folder"})
        glyphs: str = ""

    parser = argparse.ArgumentParser()
    add_flags(parser, Start)
    assert "default" not in parser.format_help()


def test_every_option_of_a_verb_has_help():
    assert all(option.metadata.get("help") for option in fields(ClassifyOptions))
