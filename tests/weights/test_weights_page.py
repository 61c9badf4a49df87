import re
from pathlib import Path

import torch

from lascaux.weights.reading import NESTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")


def test_the_examples_of_reading_run_and_show_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"model.visual.conv1.weight": torch.ones(2, 3, 1, 1)}
    optimiser = [{"state": {0: {f"slot{n}": torch.ones(1) for n in range(302)}}}]
    torch.save({"epoch": 7, "state_dict": state, "optimizer_states": optimiser}, "last.ckpt")
    torch.save({"params": state, "params_ema": state}, "gan.pth")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "read_tensors" in b]
    values = {}
    exec(block, values)
    assert list(values["checkpoint"].tensors) == ["model.visual.conv1.weight"]
    assert values["checkpoint"].metadata == {"epoch": 7, "inside": "state_dict"}
    assert values["checkpoint"].skipped == ["optimizer_states: 302 tensors left out"]


def test_every_variable_of_the_page_is_one_the_code_reads():
    code = (ROOT / "src" / "lascaux" / "weights" / "download.py").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:LASCAUX|XDG)_[A-Z_]+|HF_HUB_[A-Z_]+", PAGE))
    assert {"LASCAUX_HOME", "LASCAUX_MIRROR", "HF_HUB_OFFLINE"} <= named
    assert [name for name in named if name not in code] == []


def test_the_places_that_the_page_names_are_looked_into():
    (sentence,) = re.findall(r"trainers put it: (.*?)Everything", PAGE, re.S)
    named = re.findall(r"`(\w+)`", sentence)
    assert set(named) <= set(NESTS)
    assert len(named) == 5
