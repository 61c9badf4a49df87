import argparse
import importlib
import pkgutil

import pytest

import lascaux
import lascaux.cli
from lascaux.cli.main import VERBS, main, verb_parser


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"\n  {verb} " in page for verb in VERBS)


def test_every_listed_verb_exists_and_every_existing_one_is_listed():
    listed = {module for module, _ in VERBS.values()}
    there = {f"lascaux.cli.{entry.name}" for entry in pkgutil.iter_modules(lascaux.cli.__path__)}
    assert {module for module in listed if module not in there} == set()
    verbs = {name for name in there if hasattr(importlib.import_module(name), "add_arguments")}
    assert verbs == listed


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_page_and_json(verb, capsys):
    assert main([verb, "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: lascaux {verb}")
    assert max(map(len, page.splitlines())) <= 100
    parser = verb_parser(verb)
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for each in below[0].choices.values() if below else [parser]:
        assert "--json" in each.format_help()


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lascaux {lascaux.__version__}\n"


def test_no_verb_or_an_unknown_one_is_wrong_use(capsys):
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().out
    assert main(["clasify"]) == 2
    assert "there is no verb 'clasify'" in capsys.readouterr().err
    assert main(["--colour"]) == 2


def test_doctor_reports_in_both_forms(capsys):
    import json

    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is (code == 0)
    assert {"python", "torch", "devices", "cache", "ochre-clip"} <= {
        check["name"] for check in report["checks"]
    }
    assert all(check["advice"] for check in report["checks"] if not check["ok"])
    assert main(["doctor"]) == code
    assert "python" in capsys.readouterr().out
