import hashlib

import numpy as np
import pytest
from PIL import Image

from lascaux.data.world import (
    BACKGROUNDS,
    COLOURS,
    Scene,
    Thing,
    backgrounds,
    caption,
    draw,
    draw_map,
    objects,
    tags,
)
from lascaux.data.world import sample as sample_scene
from lascaux.data.world.backgrounds import background
from lascaux.data.world.language import ZH, relation
from lascaux.data.world.objects import digit_scans, glyph, glyph_count, scans_of
from lascaux.data.world.sampling import aligned, colour_pairs, crowd, pairs, twin
from lascaux.data.world.spoiled import SPOILS, spoil
from lascaux.data.world.wild import KINDS, fixed_set, wild


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed]))


def digest(picture: Image.Image) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def test_there_are_at_least_300_objects_with_names_in_two_languages():
    assert glyph_count() >= 300
    assert len({thing.name for thing in objects()}) == len(objects())
    assert len({thing.zh for thing in objects()}) == len(objects())
    assert all(thing.name.islower() or not thing.name.isascii() for thing in objects())


def test_no_synonym_names_a_second_object():
    names = [n for thing in objects() for n in {thing.name, *thing.synonyms}]
    assert len(names) == len(set(names))


def test_no_glyph_is_blank():
    for index in range(glyph_count()):
        ink = np.asarray(glyph(index))[..., 3]
        assert (ink > 128).mean() > 0.1, objects()[index].name


def test_the_same_seed_gives_the_same_picture_and_another_seed_another():
    first, again, other = (draw(sample_scene(rng(seed))) for seed in (5, 5, 6))
    assert digest(first) == digest(again)
    assert digest(first) != digest(other)


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_a_background_is_the_same_every_time(name: str):
    drawn = digest(background(name, 3, 64))
    backgrounds._kept.cache_clear()
    assert digest(background(name, 3, 64)) == drawn


def test_splits_hold_every_pair_of_object_and_background_once():
    for name in BACKGROUNDS:
        parts = [pairs(split, digits=True)[name] for split in ("train", "validation", "test")]
        everything = sorted(index for part in parts for index in part)
        assert everything == list(range(len(objects())))
    share = len(colour_pairs("test")) / (glyph_count() * len(COLOURS))
    assert 0.08 < share < 0.12


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_pair_of_a_scene_is_of_its_split(split):
    generator = rng(1)
    for _ in range(200):
        scene = sample_scene(generator, split, digits=True)
        allowed = pairs(split, digits=True)[scene.background]
        assert {thing.object for thing in scene.things} <= set(allowed)


def test_scans_of_test_scenes_are_never_those_of_training_scenes():
    _, _, held_out = digit_scans()
    for digit in range(10):
        trained, tested = scans_of(digit, held_out=False), scans_of(digit, held_out=True)
        assert not set(trained) & set(tested)
        assert all(held_out[list(tested)])
    assert abs(held_out.mean() - 1 / 3) < 0.01


def test_the_map_marks_what_the_picture_shows():
    scene = Scene("red", (Thing(10, 0.5, 0.5, 0.5),), 0)
    shown, picture = draw_map(scene, 64), np.asarray(draw(scene, 64))
    empty = np.asarray(draw(Scene("red", (), 0), 64))
    changed = (picture != empty).any(-1)
    inside = shown == len(BACKGROUNDS) + 10
    assert inside.sum() > 200
    assert changed[inside].mean() > 0.98  # a glyph's pixel may happen to have the ground's colour
    assert (shown[~changed] == BACKGROUNDS.index("red")).mean() > 0.98


def test_later_things_cover_earlier_ones_in_picture_and_map():
    below, above = Thing(10, 0.5, 0.5, 0.5), Thing(20, 0.5, 0.5, 0.5)
    alone, both = Scene("blue", (above,), 0), Scene("blue", (below, above), 0)
    top = draw_map(alone, 64) == len(BACKGROUNDS) + 20
    assert (draw_map(both, 64)[top] == len(BACKGROUNDS) + 20).all()


def test_a_caption_names_background_objects_count_and_order():
    scene = Scene("turquoise", (Thing(0, 0.3, 0.5, 0.3), Thing(1, 0.7, 0.5, 0.3)), 0)
    assert relation(scene) == ("left", 0, 1)
    said = {caption(scene, rng(seed)) for seed in range(40)}
    assert all("turquoise" in text and "hot" in text and "taco" in text for text in said)
    assert any("to the left of a taco" in text for text in said)
    three = Scene("sea", (Thing(0, 0.3, 0.3, 0.3),) * 3, 0)
    assert all("three" in caption(three, rng(seed)) for seed in range(10))
    assert all("三个" in caption(three, rng(seed), "zh") for seed in range(10))
    assert all(ZH["sea"] in caption(three, rng(seed), "zh") for seed in range(10))
    assert tags(three) == ["hot dog", "food and plants", "sea"]


def test_a_caption_of_any_scene_says_what_it_shows_and_no_more():
    assert "red" in caption(Scene("red", ()), rng())
    assert "红色" in caption(Scene("red", ()), rng(), "zh")
    several = Scene("red", tuple(Thing(index, 0.5, 0.5, 0.2) for index in (0, 1, 2)))
    said = {caption(several, rng(seed)) for seed in range(20)}
    assert all("taco" in text and "burrito" in text and "three" not in text for text in said)
    assert "热狗、墨西哥卷饼和" in caption(several, rng(), "zh")
    assert "5 " in caption(Scene("red", (Thing(0, 0.5, 0.5, 0.2),) * 5), rng())


def test_distorted_pictures_show_their_object_at_a_quarter_of_the_short_side():
    for number, (picture, index, kind) in enumerate(fixed_set()):
        assert picture.mode == "RGB"
        assert min(picture.size) == 256
        assert 0 <= index < glyph_count()
        assert kind == KINDS[number % len(KINDS)]
    assert number == 299


@pytest.mark.parametrize("kind", KINDS)
def test_a_distorted_picture_repeats_with_its_seed(kind):
    assert digest(wild(rng(3), 5, kind, 96)) == digest(wild(rng(3), 5, kind, 96))
    assert digest(wild(rng(3), 5, kind, 96)) != digest(wild(rng(4), 5, kind, 96))


def test_an_unknown_distortion_is_refused_by_name():
    with pytest.raises(ValueError, match="no distortion named 'melted'"):
        wild(rng(), 0, "melted")


@pytest.mark.parametrize("how", SPOILS)
def test_a_spoiled_picture_differs_from_the_proper_one(how):
    scene = Scene("green", (Thing(30, 0.5, 0.5, 0.6),), 0)
    proper = np.asarray(draw(scene, 64)).astype(int)
    spoiled = spoil(scene, how, rng(2)).astype(int)
    assert spoiled.shape == proper.shape
    assert np.abs(spoiled - proper).mean() > 3


def test_a_crowd_is_of_different_objects_of_its_split():
    draws = rng(5)
    seen = [crowd(draws, split, digits=True) for split in ("train", "test") for _ in range(40)]
    assert {len(scene.things) for scene in seen} == {4, 6, 7, 8, 9}
    for place, scene in enumerate(seen):
        allowed = pairs("train" if place < 40 else "test", True)[scene.background]
        objects = [thing.object for thing in scene.things]
        assert len(set(objects)) == len(objects)
        assert set(objects) <= set(allowed)


def test_an_aligned_scene_is_the_same_one_on_a_grid():
    draws = rng(4)
    for _ in range(200):
        scene = sample_scene(draws, "train", digits=True)
        found = aligned(scene)
        assert (found.background, found.variant) == (scene.background, scene.variant)
        assert [it.object for it in found.things] == [it.object for it in scene.things]
        for thing, before in zip(found.things, scene.things, strict=True):
            assert thing.size in (0.375, 0.5, 0.75)
            assert abs(thing.size - before.size) <= 0.125
            edges = [
                8 * (at + sign * thing.size / 2) for at in (thing.x, thing.y) for sign in (-1, 1)
            ]
            assert all(edge == round(edge) and 0 <= edge <= 8 for edge in edges)
            assert max(abs(thing.x - before.x), abs(thing.y - before.y)) <= 0.1
        assert aligned(found) == found
        boxes = {(it.x, it.y) for it in found.things}
        assert len(boxes) == len(found.things), "none hides another"


def test_a_twin_keeps_the_things_or_the_background_and_is_of_the_split():
    draws = rng(6)
    kept = {"things": 0, "background": 0}
    for _ in range(60):
        scene = sample_scene(draws, "train", digits=True)
        other = twin(draws, scene, digits=True)
        allowed = pairs("train", True)[other.background]
        assert all(thing.object in allowed for thing in other.things)
        if other.things == scene.things:
            assert other.background != scene.background
            kept["things"] += 1
        else:
            assert (other.background, other.variant) == (scene.background, scene.variant)
            kept["background"] += 1
    assert min(kept.values()) > 15
