import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.data.world import Scene, draw, objects, sample
from lascaux.data.world.objects import digit_scans, glyph, glyph_count
from lascaux.data.world.spoiled import picture, spoil
from lascaux.data.world.wild import digit_picture, fixed_set
from lascaux.evaluate import ochre_clip
from lascaux.evaluate.judging import judged
from lascaux.tasks.classify import Classifier

OCHRE = Path(lascaux.__file__).parent / "ochre"


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed]))


@pytest.fixture(scope="module")
def clip():
    return lascaux.load("ochre-clip")


@pytest.fixture(scope="module")
def judge():
    return lascaux.load("ochre-judge")


@pytest.fixture(scope="module")
def namer(clip) -> Classifier:
    return Classifier([thing.name for thing in objects()], clip)


def singles(count: int) -> list[Scene]:
    generator = rng(31)
    return [sample(generator, "test", "single") for _ in range(count)]


def test_every_embedded_model_is_small():
    files = list(OCHRE.rglob("*.safetensors"))
    drawing = {"ochre-vq", "ochre-styled", "ochre-imagine", "ochre-dalle", "ochre-map"}
    names = {"ochre-clip", "ochre-judge", *drawing}
    assert {file.parent.name for file in files} == names
    assert all(file.stat().st_size <= 8_000_000 for file in files)


def test_objects_before_backgrounds_never_trained_on_are_named(namer: Classifier):
    scenes = singles(120)
    best = namer.cosines(draw(scene) for scene in scenes).argmax(1).tolist()
    right = [index == scene.things[0].object for index, scene in zip(best, scenes, strict=True)]
    assert np.mean(right) > 0.8


def test_chinese_names_work_as_well(clip):
    scenes = singles(60)
    named = Classifier([thing.zh for thing in objects()], clip, templates=("{}",))
    best = named.cosines(draw(scene) for scene in scenes).argmax(1).tolist()
    right = [index == scene.things[0].object for index, scene in zip(best, scenes, strict=True)]
    assert np.mean(right) > 0.8


def test_distorted_pictures_are_still_read(namer: Classifier):
    taken = list(fixed_set())[:80]
    best = namer.cosines(shown for shown, _, _ in taken).argmax(1).tolist()
    assert np.mean([i == index for i, (_, index, _) in zip(best, taken, strict=True)]) > 0.5


def test_scans_of_digits_never_trained_on_are_named(clip):
    _, values, held_out = digit_scans()
    unseen = np.flatnonzero(held_out)[:80]
    words = [thing.name for thing in objects()[glyph_count() :]]
    shown = [digit_picture(rng(int(scan)), int(scan)) for scan in unseen]
    best = Classifier(words, clip).cosines(shown).argmax(1).numpy()
    assert (best == values[unseen]).mean() > 0.85


def test_an_independent_score_does_not_depend_on_the_other_classes(clip):
    shown = draw(singles(1)[0])
    few = Classifier(["fox", "pizza"], clip).classify(shown, scores="independent", top_k=9)
    many = Classifier(["fox", "pizza", "dog", "cat"], clip).classify(
        shown, scores="independent", top_k=9
    )
    assert few.scores == "probability"
    score = {label.name: label.score for label in many.labels}
    assert all(label.score == pytest.approx(score[label.name], abs=1e-5) for label in few.labels)


def test_the_judge_knows_fresh_scenes_and_refuses_spoiled_ones(judge):
    generator = rng(32)
    scenes = [sample(generator, "test", "single") for _ in range(120)]
    fresh = [a.accepts(s) for s, a in zip(scenes, judged(judge, map(draw, scenes)), strict=True)]
    assert np.mean(fresh) > 0.96
    blank = (picture(spoil(scene, "blank", generator)) for scene in scenes[:40])
    assert [a for s, a in zip(scenes, judged(judge, blank), strict=False) if a.accepts(s)] == []


def test_embedded_models_survive_saving(clip, tmp_path: Path):
    lascaux.save(clip, tmp_path / "again")
    again = lascaux.load(tmp_path / "again")
    ids = clip.tokenizer(["a fox on a blue background", "蓝色背景上的狐狸"])
    torch.testing.assert_close(again.encode_text(ids), clip.encode_text(ids), rtol=0, atol=0)


def test_every_font_has_two_figures_and_unseen_fonts_are_told_apart(clip, tmp_path: Path):
    for font in ("first", "second", "third"):
        (tmp_path / font).mkdir()
        for thing in objects()[: 4 if font == "second" else 8]:
            glyph(thing.index).save(tmp_path / font / f"{thing.code}.png")
    figures = ochre_clip._other_fonts(clip, tmp_path, ("third", "absent"))
    seen, unseen = (ochre_clip.NOTES[name] for name in ("other fonts", "fonts never seen"))
    assert [(f.name.removeprefix("distorted, "), f.of, f.note) for f in figures] == [
        ("first", 16, seen[0]),
        ("first", 6, seen[1]),
        ("second", 8, seen[0]),
        ("second", 3, seen[1]),
        ("third", 16, unseen[0]),
        ("third", 6, unseen[1]),
        ("other fonts", 24, f"{seen[0]}; mean of 2"),
        ("other fonts", 9, f"{seen[1]}; mean of 2"),
        ("fonts never seen", 16, f"{unseen[0]}; mean of 1"),
        ("fonts never seen", 6, f"{unseen[1]}; mean of 1"),
    ]
    values = [figure.value for figure in figures]
    assert values[6] == pytest.approx((values[0] + values[2]) / 2)
    assert values[0] > 0.5  # these are the drawings that it was trained on
    assert values[0] == values[4]


def test_a_font_that_holds_one_part_alone_has_one_figure(clip, tmp_path: Path):
    (tmp_path / "first").mkdir()
    Image.new("RGB", (9, 5)).save(tmp_path / "first" / f"{objects()[1].code}.png")
    notes = [figure.note for figure in ochre_clip._other_fonts(clip, tmp_path, ())]
    assert notes == ["drawings trained on", "drawings trained on; mean of 1"]


@pytest.mark.slow
def test_the_report_holds_every_figure_with_what_it_takes_to_get_it_again():
    report = json.loads(ochre_clip.evaluate().to_json())
    names = {figure["name"] for figure in report["figures"]}
    assert {"object", "pair", "object, Chinese names", "digits", "distorted"} <= names
    assert len(report["weights_sha256"]) == 64
    assert report["versions"]["torch"] == torch.__version__
