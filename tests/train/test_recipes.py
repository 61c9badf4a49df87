from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.cli.train import RECIPES, settings_of
from lascaux.data.world import BACKGROUNDS, objects
from lascaux.data.world.objects import digit_scans
from lascaux.errors import BadInput
from lascaux.train.contrastive import matched_pairs, one_of_bank
from lascaux.train.recipe import Moment, Share
from lascaux.train.recipes import ochre_clip
from lascaux.train.recipes.ochre_clip import Example, OchreClip
from lascaux.train.recipes.ochre_judge import OchreJudge, make_batch


def test_matched_pairs_without_accidents_is_the_published_loss():
    logits = torch.randn(6, 6)
    own = torch.arange(6)
    cross = torch.nn.functional.cross_entropy
    published = (cross(logits, own) + cross(logits.T, own)) / 2
    none = torch.full((6,), float("-inf"))
    ours = matched_pairs(logits, none, torch.zeros(6, 6, dtype=torch.bool))
    torch.testing.assert_close(ours, published)


def test_what_is_true_by_accident_neither_helps_nor_harms():
    logits = torch.randn(4, 4)
    spared = torch.zeros(4, 4, dtype=torch.bool)
    spared[0, 2] = True
    none = torch.full((4,), float("-inf"))
    changed = logits.clone()
    changed[0, 2] += 10
    assert matched_pairs(logits, none, spared) == matched_pairs(changed, none, spared)


def test_two_true_names_share_the_weight_and_none_counts_nothing():
    logits = torch.zeros(2, 5)
    true = torch.zeros(2, 5, dtype=torch.bool)
    assert one_of_bank(logits, true) == 0
    true[0, 1] = true[0, 3] = True
    torch.testing.assert_close(one_of_bank(logits, true), torch.tensor(5.0).log())


def test_a_batch_depends_on_its_step_alone():
    recipe = OchreClip(batch_size=12)
    first, again, other = (recipe.batch(Share(n, n, 12)) for n in (3, 3, 4))
    assert torch.equal(first.pictures, again.pictures)
    assert torch.equal(first.captions, again.captions)
    assert not torch.equal(first.pictures, other.pictures)


def test_true_captions_of_other_pictures_are_known():
    def example(things, background, count):
        return Example(np.zeros(0), "", None, frozenset(things), background, count)

    made = [
        example({1}, "red", 1),
        example({1}, None, None),  # a distorted picture, named only
        example({1}, "blue", 1),
        example({1, 2}, "red", 2),
        example({1}, "red", 3),
    ]
    true = ochre_clip._also_true(made)
    assert true[0, 1]  # the name alone is true of any picture of it
    assert true[3, 1]
    assert not true[0, 2]  # another background
    assert not true[0, 4]  # another count
    assert not true[0, 3]  # a second object that is not there


def test_training_never_sees_a_held_out_scan_or_pair(monkeypatch):
    seen = []
    real = ochre_clip.sample
    monkeypatch.setattr(
        ochre_clip, "sample", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1]
    )
    OchreClip(scenes=1.0).batch(Share(0, 0, 64))
    held = digit_scans()[2]
    test = ochre_clip.pairs("test", digits=True)
    for scene in seen:
        for thing in scene.things:
            assert thing.object not in test[scene.background]
            if objects()[thing.object].digit is not None:
                assert not held[thing.scan]


def test_a_missing_folder_of_glyphs_is_named(tmp_path):
    with pytest.raises(BadInput, match="make_other_glyphs"):
        OchreClip(scenes=0.0, digits=0.0, easy_steps=0, glyphs=str(tmp_path / "no")).batch(
            Share(0, 0, 8)
        )


def test_neither_an_unseen_font_nor_a_quarter_of_the_objects_is_trained_on(tmp_path, caplog):
    shades = {"first": (255, 0, 0), "openmoji": (0, 255, 0), "second": (0, 0, 255)}
    for font, shade in shades.items():
        (tmp_path / font).mkdir()
        for thing in objects()[:8]:
            Image.new("RGB", (9, 5), shade).save(tmp_path / font / f"{thing.code}.png")

    def trained_on(unseen):
        found = ochre_clip._other_glyphs(str(tmp_path), unseen)
        assert set(found) == {1, 2, 3, 5, 6, 7}
        assert all(picture.mode == "RGBA" for picture in found[1])
        return [picture.getpixel((0, 0))[:3] for picture in found[1]]

    assert trained_on("") == list(shades.values())
    assert trained_on(OchreClip().unseen_fonts) == [shades["first"], shades["second"]]
    assert trained_on("first, second") == [shades["openmoji"]]
    assert not ochre_clip._other_glyphs(str(tmp_path), "first,second,openmoji")
    assert "fxemoji" in caplog.text  # a name that is not there may be a misspelt one


def test_a_batch_draws_other_fonts_but_not_the_unseen(tmp_path):
    for font in ("first", "second"):
        (tmp_path / font).mkdir()
        for thing in objects():
            if thing.digit is None:
                Image.new("RGB", (9, 5)).save(tmp_path / font / f"{thing.code}.png")

    def pictures(**settings):
        recipe = OchreClip(scenes=0.0, digits=0.0, easy_steps=0, **settings)
        return recipe.batch(Share(0, 0, 6)).pictures

    glyphs = str(tmp_path)
    assert torch.equal(pictures(), pictures(glyphs=glyphs, unseen_fonts="first,second"))
    assert not torch.equal(pictures(), pictures(glyphs=glyphs, unseen_fonts="first"))


def test_the_judge_learns_presence_only_of_what_is_properly_there():
    rng = np.random.Generator(np.random.PCG64([0]))
    batch = make_batch(rng, "train", 32, 0.5)
    assert 0 < batch.proper.sum() < 32
    assert (batch.present.any(1) == batch.proper).all()
    assert ((batch.number > 0) == batch.proper).all()
    assert batch.maps.max() < len(BACKGROUNDS) + len(objects())


@pytest.mark.parametrize("recipe", [OchreClip(), OchreJudge()])
def test_a_step_gives_a_finite_loss_with_gradients(recipe):
    torch.manual_seed(0)
    model = recipe.build().train()
    loss = recipe.loss(model, recipe.batch(Share(0, 0, 4)), Moment(0))
    loss.value.backward()
    assert torch.isfinite(loss.value)
    assert all(torch.isfinite(torch.as_tensor(value)) for value in loss.figures.values())
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_a_model_that_knows_nothing_is_exported_without_a_calibration(tmp_path, caplog):
    torch.manual_seed(0)
    recipe = OchreClip()
    recipe.export(recipe.build().eval(), tmp_path / "model", {"validation_object": 0.0})
    assert lascaux.load(tmp_path / "model").config.calibration is None
    assert "without a calibration" in caplog.text


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_or_a_class_before_it_restates_holds(name: str):
    recipe = settings_of(name)
    defaults = {field.name: field.default for field in fields(recipe)}
    for field, default in defaults.items():
        owner = next(
            each for each in recipe.__mro__ if field in vars(each).get("__annotations__", {})
        )
        stated = owner.__dataclass_fields__[field].default  # pyright: ignore[reportAttributeAccessIssue]
        assert default == stated, f"{field} is stated by {owner.__name__}"
