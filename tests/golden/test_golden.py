"""Answers of official implementations on formula-filled weights; SPEC.md says how they are made.

A case goes the way a real checkpoint goes: the weights are written to a file under their published
keys, and `lascaux.weights.load` finds, recognises, renames and checks them. How a model answers its
cases stands in `answers/`, one file a model.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from golden.case import read_case


@pytest.mark.filterwarnings("ignore::lascaux.text.clip_bpe.TextCutWarning")
@pytest.mark.filterwarnings("ignore:more than one class is named")
def test_the_answer_is_the_official_one(folder: Path, tmp_path: Path) -> None:
    case = read_case(folder)
    answers = "golden.answers." + case.manifest["model"].replace("-", "_")
    if find_spec(answers) is None:
        pytest.fail(f"{case.name}: the project has no model {case.manifest['model']!r}")
    import_module(answers).check(case, tmp_path)
