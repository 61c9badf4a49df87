import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.cli.main import main
from lascaux.errors import Unsupported
from lascaux.evaluate import ochre_map
from lascaux.evaluate.judging import overlap
from lascaux.evaluate.report import Report
from lascaux.models.taming_transformer import TamingTransformer, TamingTransformerConfig
from lascaux.train.recipes import ochre_map as recipe
from lascaux.train.taming import vqgan_of, whole


def named(report: Report) -> dict[str, float]:
    return {figure.name: figure.value for figure in report.figures}


@pytest.fixture(scope="module")
def untrained() -> TamingTransformer:
    """It paints after maps, and does not keep to them."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "_OUTLINED", 20)
        patch.setattr(recipe, "OUTLINES", 50)
        patch.setattr(recipe, "OCHRE", replace(recipe.OCHRE, layers=1, heads=2, width=16))
        recipe._patches.cache_clear()
        model = recipe.OchreMap().build()
        recipe._patches.cache_clear()
    assert isinstance(model, TamingTransformer)
    return whole(model, vqgan_of("ochre-vq")).eval()


def test_what_is_painted_is_measured_beside_codes_and_the_scenes(untrained, tmp_path: Path):
    told = []
    sheet = tmp_path / "sheet.png"
    report = ochre_map.evaluate(
        untrained, 6, sheet=sheet, progress=lambda *args: told.append(args[1:])
    )
    assert told == [(done, 6) for done in range(1, 7)]
    found = named(report)
    assert found["scene as drawn: IoU of objects"] > 0.8
    assert found["scene as drawn: judge names the background"] == 1
    assert found["codes of the scene: pixels alike"] > 0.8
    assert found["painted: IoU of objects"] < 0.3 < found["codes of the scene: IoU of objects"]
    with Image.open(sheet) as shown:
        assert shown.width > 8 * 64


def test_an_overlap_is_of_every_object_alone():
    truth, found = np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.uint16)
    truth[0], truth[1] = 20, 21
    found[0], found[2] = 20, 21
    assert overlap(truth, found) == pytest.approx(0.5)  # all of the one, nothing of the other
    found[0, :2] = 0
    assert overlap(truth, found) == pytest.approx(0.25)
    assert overlap(np.zeros((2, 2), np.uint16), np.full((2, 2), 30, np.uint16)) == 1


def test_models_of_other_conditions_are_refused():
    config = TamingTransformerConfig(
        codes=16, length=7, layers=1, heads=1, width=8, condition="start"
    )
    with pytest.raises(Unsupported, match="paints after nothing; this benchmark is of maps"):
        ochre_map.evaluate(TamingTransformer(config), 1)


def test_the_command_prints_a_report(untrained, tmp_path: Path, capsys, monkeypatch):
    model = lascaux.save(untrained, tmp_path / "model")
    real = ochre_map.evaluate
    monkeypatch.setattr(ochre_map, "evaluate", lambda model, **how: real(model, 2, **how))
    words = ["evaluate", "ochre-map", "--model", str(model), "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["benchmark"], told["settings"]["split"]) == ("ochre-map", "test")
    assert main(["evaluate", "ochre-map", "--sheet", str(tmp_path)]) == 2
