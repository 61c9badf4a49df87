import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lascaux.weights.load
from lascaux.models.taming_transformer import VARIANTS
from lascaux.weights import catalogue
from lascaux.weights.maps.taming_transformer import VARIANTS as WHOLE
from painters import STAGE, tiny_painter

PAGE = (Path(__file__).parents[2] / "docs" / "paint.md").read_text(encoding="utf-8")


@pytest.fixture
def a_small_model(monkeypatch):
    """A small model under the name of a large one, with as many codes as the page says."""
    codes = {"codes": 120}
    model = tiny_painter("map", first=replace(STAGE, **codes), **codes)
    monkeypatch.setattr(lascaux.weights.load, "load", lambda *_, **__: model)


def test_the_examples_run_and_print_what_is_written(a_small_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 5).save("seg.png")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    assert capsys.readouterr().out.splitlines() == ["[7, 8, 9, 10]", "7 100 map"]
    with Image.open("half-painted.png") as picture:
        assert (np.asarray(picture)[4:] == 128).all()


def test_every_name_of_the_table_is_in_the_catalogue_with_its_condition():
    table = PAGE.partition("| model | painted after |")[2].partition("\n\n")[0]
    flags = {"stage": "--map", "class": "--class", "tokens": "--boxes"}
    for row in table.splitlines()[2:-1]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for name in re.findall(r"`([\w-]+)`", cells[0]):
            entry = catalogue.find(name)
            assert entry.model == "taming_transformer"
            config = VARIANTS[entry.variant]
            flag = "--depth" if name == "drin" else flags.get(config.condition, "nothing")
            assert flag in cells[1]
            if flag == "--boxes":
                assert f"up to {config.objects} objects" in cells[1]
            if config.condition == "stage" and name != "drin":
                labels = WHOLE[name].parts["condition_stage"].config.labels
                assert str(labels) in cells[1]
