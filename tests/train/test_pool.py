from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from lascaux.data.world.boxed import stacked
from lascaux.data.world.sampling import pairs
from lascaux.data.world.scene import Scene
from lascaux.errors import BadInput
from lascaux.train.codes import reader_of
from lascaux.train.pool import PAGE, Pool, mixed, read_by
from lascaux.train.recipe import Share
from lascaux.train.recipes.ochre_imagine import OchreImagine


def pool(folder: Path, **changes) -> Pool:
    two_pages = {"seed": 3, "different": 2 * PAGE, "portraits": 0.75, "loose": 0.0}
    return Pool(**{**two_pages, "on_grid": False, "folder": folder, **changes})


def sizes(scenes: list[Scene]) -> torch.Tensor:
    return torch.tensor([[scene.things[0].size] for scene in scenes])


def middle(scene: Scene, loose: float) -> bool:
    """Whether it is a portrait."""
    thing = scene.things[0]
    near = max(abs(thing.x - 0.5), abs(thing.y - 0.5)) <= 0.03 * loose
    return len(scene.things) == 1 and near and -0.09 <= (thing.size - 0.75) / (loose or 1) <= 0.03


def test_every_scene_comes_once_a_turn_and_each_turn_has_its_order(tmp_path: Path):
    scenes = pool(tmp_path)
    steps = [scenes.numbers(Share(step, step, 32)) for step in range(12)]
    turns = [list(chain(*steps[4 * turn : 4 * turn + 4])) for turn in range(3)]
    assert turns[0] == list(range(2 * PAGE))
    assert all(sorted(turn) == turns[0] for turn in turns)
    assert turns[1] != turns[2] != turns[0] != turns[1]
    assert scenes.numbers(Share(5, 5, 32)) == steps[5]


def test_a_batch_may_lie_across_two_turns(tmp_path: Path):
    numbers = pool(tmp_path).numbers(Share(2, 2, 48))
    assert numbers[:32] == list(range(96, 128))
    assert set(numbers[32:]) <= set(range(128))


def test_most_are_portraits_and_none_is_held_out(tmp_path: Path):
    drawn = pool(tmp_path).scenes(range(2 * PAGE))
    assert sum(middle(scene, 0) for scene in drawn) == 96
    loose = pool(tmp_path, loose=1.0).scenes(range(2 * PAGE))
    assert sum(middle(scene, 0) for scene in loose) == 0
    assert 96 <= sum(middle(scene, 1) for scene in loose) <= 106
    held = {split: pairs(split, digits=True) for split in ("validation", "test")}
    for scene in drawn:
        for thing in scene.things:
            assert all(thing.object not in out[scene.background] for out in held.values())
    kept = mixed(np.random.Generator(np.random.PCG64([1])), "validation", 32, 0.75)
    assert all(
        thing.object in held["validation"][scene.background]
        for scene in kept
        for thing in scene.things
    )


def test_on_the_grid_a_thing_has_the_same_codes_wherever_it_is():
    reader = reader_of("ochre-vq")
    scenes = OchreImagine(portraits=0.5).scenes_of(np.random.default_rng(2), "train", 64)
    for scene in scenes[:40]:
        thing, length = scene.things[0], round(scene.things[0].size * 8)
        found = []
        for top, left in ((0, 0), (8 - length, 0), (8 - length, 8 - length)):
            moved = replace(thing, x=(left + length / 2) / 8, y=(top + length / 2) / 8)
            ids = reader.answers(stacked([Scene("red", (moved,))])).reshape(8, 8)
            found.append(ids[top : top + length, left : left + length])
        assert torch.equal(found[0], found[1]), thing
        assert torch.equal(found[0], found[2]), thing
        place = (thing.x * 8 - length / 2, thing.y * 8 - length / 2)
        assert all(at == round(at) and 0 <= at <= 8 - length for at in place)


def test_answers_are_asked_for_once_and_found_again_in_the_folder(tmp_path: Path):
    asked = []

    def read(scenes: list[Scene]) -> torch.Tensor:
        asked.append(len(scenes))
        return sizes(scenes)

    first = pool(tmp_path)
    answers = first.answers("sizes", read, [5, 70, 6])
    assert torch.equal(answers, sizes(first.scenes([5, 70, 6])))
    assert asked == [PAGE, PAGE]
    first.answers("sizes", read, [7, 71])
    assert torch.equal(pool(tmp_path).answers("sizes", read, [5, 70, 6]), answers)
    assert asked == [PAGE, PAGE], "the folder has them"
    pool(tmp_path, seed=4).answers("sizes", read, [5])
    pool(tmp_path, portraits=0.5).answers("sizes", read, [5])
    pool(tmp_path, loose=0.5).answers("sizes", read, [5])
    pool(tmp_path, on_grid=True).answers("sizes", read, [5])
    assert asked == [PAGE] * 6, "other scenes are others"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".npy"]


def test_what_is_damaged_or_cannot_be_kept_is_told(tmp_path: Path):
    pool(tmp_path).answers("sizes", sizes, [5])
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadInput, match="delete it, and it is made again"):
        pool(tmp_path).answers("sizes", sizes, [5])
    with pytest.raises(BadInput, match="name another folder by --kept-in"):
        pool(path).answers("sizes", sizes, [5])


def test_ids_of_large_codebooks_stay_what_they_are(tmp_path: Path):
    large = replace(reader_of("ochre-vq"), answers=lambda x: torch.full((len(x), 2), 100_000))
    assert read_by(pool(tmp_path), large, [5]).tolist() == [[100_000, 100_000]]
    assert read_by(pool(tmp_path), large, [5]).tolist() == [[100_000, 100_000]], "kept, too"
    other = replace(large, preprocessing=replace(large.preprocessing, size=32))
    with pytest.raises(BadInput, match="reads pictures of 32 pixels; scenes have 64"):
        read_by(pool(tmp_path), other, [5])


def test_impossible_pools_are_refused():
    with pytest.raises(BadInput, match="--different is 100; expected a multiple of 64"):
        OchreImagine(different=100)
    with pytest.raises(BadInput, match=r"--portraits is 1\.5"):
        OchreImagine(portraits=1.5)
