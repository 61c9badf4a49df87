import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.cli.main import main
from lascaux.data.world.scene import draw
from lascaux.errors import BadInput
from lascaux.evaluate import imagine
from lascaux.evaluate.imagine import Comparison, Made
from lascaux.evaluate.options import EvaluateImagineOptions
from lascaux.models.clip_gen import ClipGen, ClipGenConfig


@pytest.fixture(scope="module")
def model() -> ClipGen:
    """Untrained, of ochre-vq's codes and ochre-clip's embeddings."""
    torch.manual_seed(0)
    return ClipGen(
        ClipGenConfig(
            codes=4096,
            length=64,
            layers=1,
            heads=2,
            width=16,
            embedding_width=256,
            clip="ochre-clip",
            tokeniser="ochre-vq",
        )
    )


def named(report) -> dict[str, float]:
    return {figure.name: figure.value for figure in report.figures}


def few(**changes) -> EvaluateImagineOptions:
    return EvaluateImagineOptions(**{"limit": 4, "candidates": 2, **changes})


def test_true_pictures_are_nearly_always_right_and_near_true_ones():
    comparison = Comparison(few(limit=40, candidates=1))
    pictures = [[draw(scene)] for scene in comparison.wanted.scenes]
    sentences = comparison.wanted.sentences
    assert any(
        scene.names[0] in s for s, scene in zip(sentences, comparison.wanted.scenes, strict=True)
    )
    found = {f.name: f.value for f in comparison._figures(Made(pictures, [[0.5]] * 40, 1.0, 1.0))}
    assert found["one: judge sees the object"] > 0.9
    assert found["one: judge sees the background"] > 0.95
    assert found["one: CLIP score"] == pytest.approx(50)
    # Those of other sentences are as near to true ones, and wrong.
    wrong = Made(pictures[1:] + pictures[:1], [[-0.5]] * 40, 1.0, 1.0)
    other = {figure.name: figure.value for figure in comparison._figures(wrong)}
    assert other["one: judge sees the object"] < 0.2
    assert other["one: CLIP score"] == 0
    called = "one: Fréchet distance of ochre-clip features"
    assert other[called] == pytest.approx(found[called], rel=1e-3)
    grey = [[Image.new("RGB", (64, 64), (level, level, level))] for level in range(40)]
    assert {f.name: f.value for f in comparison._figures(Made(grey, [[0.0]] * 40, 1.0, 1.0))}[
        called
    ] > 2 * found[called]


def test_the_best_is_the_one_with_the_highest_score():
    pictures = [[Image.new("L", (1, 1), value) for value in row] for row in ((1, 2), (3, 4))]
    made = Made(pictures, [[0.3, 0.1], [0.2, 0.4]], 1.0, 1.0)
    assert [np.asarray(picture).item() for picture in made.best] == [1, 4]
    assert [np.asarray(picture).item() for picture in made.first] == [1, 3]


def test_a_model_is_measured_alike_every_time(model: ClipGen):
    told: list[tuple[str, int, int]] = []
    comparison = Comparison(few(), lambda *now: told.append(now))
    report, made = comparison.evaluate(model)
    again, same = Comparison(few()).evaluate(model)
    assert [len(row) for row in made.pictures] == [2] * 4
    assert told[-1] == ("pictures", 4, 4)
    timed = {"seconds for a picture", "most memory of the process"}
    assert {k: v for k, v in named(report).items() if k not in timed} == {
        k: v for k, v in named(again).items() if k not in timed
    }
    for mine, theirs in zip(made.first, same.first, strict=True):
        assert np.array_equal(np.asarray(mine), np.asarray(theirs))
    assert named(report)["best of 2: CLIP score"] >= named(report)["one: CLIP score"]
    assert all(named(report)[name] > 0 for name in timed)


def test_sentences_of_ones_own_are_measured_without_judge(model: ClipGen, tmp_path: Path):
    prompts = tmp_path / "sentences.txt"
    prompts.write_text("a cat\n\n  a red apple on snow\na dog\n", encoding="utf-8")
    report, _ = Comparison(few(prompts=str(prompts), limit=2)).evaluate(model)
    assert not any("judge" in name or "Fréchet" in name for name in named(report))
    assert report.figures[0].of == 2
    photos = tmp_path / "photos"
    photos.mkdir()
    for place in range(3):
        Image.effect_noise((32, 32), 20 * place + 5).convert("RGB").save(photos / f"{place}.png")
    options = few(prompts=str(prompts), reference=str(photos), features="ochre-clip")
    report, _ = Comparison(options).evaluate(model)
    assert named(report)["one: Fréchet distance of ochre-clip features"] > 0
    assert report.details["failures"] == []
    (photos / "broken.png").write_bytes(b"no picture")
    (failure,) = Comparison(options).evaluate(model)[0].details["failures"]
    assert failure["source"].endswith("broken.png")


def test_files_without_sentences_are_refused(tmp_path: Path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with pytest.raises(BadInput, match="holds no sentence"):
        imagine.wanted(few(prompts=str(empty)))
    with pytest.raises(BadInput, match=r"nowhere\.txt.*a sentence on each line"):
        imagine.wanted(few(prompts=str(tmp_path / "nowhere.txt")))
    for field, value in (("candidates", 0), ("limit", 0), ("seed", -1)):
        with pytest.raises(BadInput, match=f"{field} is {value}"):
            few(**cast(Any, {field: value}))


def test_models_stand_side_by_side(model: ClipGen, tmp_path: Path, capsys):
    folder, sheet, out = tmp_path / "model", tmp_path / "sheet.png", tmp_path / "report.json"
    lascaux.save(model, folder)
    words = ["evaluate", "imagine", "--limit", "2", "--candidates", "1"]
    pair = ["--model", str(folder), str(tmp_path / "nothing")]
    assert main([*words, *pair, "--sheet", str(sheet), "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "nothing could not be measured" in captured.err
    assert "one: judge sees the object" in captured.out
    assert [report["model"] for report in json.loads(out.read_text())] == [str(folder)]
    with Image.open(sheet) as shown:
        assert shown.width > 2 * 192
    assert main([*words, "--model", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["judge"] == "ochre-judge"
