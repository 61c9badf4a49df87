import numpy as np
import pytest
import torch
from torch import Tensor

from lascaux.data.world import BACKGROUNDS, draw_map, sample
from lascaux.data.world.scene import MAP_CLASSES
from lascaux.errors import BadInput
from lascaux.models.label_patches import LabelPatches, LabelPatchesConfig
from lascaux.train.label_patches import learnt_patches

# Of classes 0 to 4, the first two are grounds; a patch is 2 x 2 pixels.
HALVES = [[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0]]


def made(grounds: int = 2) -> LabelPatches:
    stage = LabelPatches(LabelPatchesConfig(labels=5, grounds=grounds, factor=2, shapes=4))
    stage.shapes.copy_(torch.tensor(HALVES).bool())
    return stage


def pairs(stage: LabelPatches, numbers: list[list[int]]) -> list[list[int]]:
    return stage.encode_numbers(torch.tensor([numbers])).reshape(-1, 2).tolist()


def scenes(split, count: int, seed: int = 1) -> Tensor:
    rng = np.random.Generator(np.random.PCG64([seed]))
    drawn = [draw_map(sample(rng, split), 64).astype(np.int32) for _ in range(count)]
    return torch.from_numpy(np.stack(drawn))


def test_a_patch_is_what_stands_before_the_ground_and_its_outline():
    numbers = [
        [0, 0, 0, 0, 3, 1],
        [0, 0, 3, 3, 3, 1],
        [3, 3, 4, 0, 1, 1],
        [3, 3, 0, 0, 1, 1],
    ]
    above, below = pairs(made(), numbers)[:3], pairs(made(), numbers)[3:]
    assert above == [[0, 0], [3, 5 + 1], [3, 5 + 2]]
    # A patch of a thing alone says which ground the map has most of; one of ground says itself.
    assert below == [[3, 0], [4, 5 + 3], [1, 1]]


def test_without_grounds_the_commonest_class_is_told_twice_where_it_is_alone():
    assert pairs(made(0), [[3, 3, 0, 0], [3, 3, 0, 3]])[0] == [3, 3]
    assert pairs(made(0), [[0, 2, 3, 3], [0, 2, 0, 0]]) == [[0, 5 + 2], [0, 5 + 1]]


def test_a_map_of_things_alone_names_no_ground():
    assert pairs(made(), [[3, 3], [3, 3]]) == [[3, 3]]


def test_channels_and_numbers_are_the_same_maps_and_batches_as_one_by_one():
    numbers = torch.randint(5, (3, 4, 6))
    stage = made()
    ids = stage.encode_numbers(numbers)
    ones = torch.nn.functional.one_hot(numbers, 5).permute(0, 3, 1, 2).float()
    assert torch.equal(stage.encode(ones), ids)
    assert torch.equal(torch.cat([stage.encode_numbers(each[None]) for each in numbers]), ids)
    assert ids.shape == (3, 2 * 6)
    assert ids.max() < stage.codes


def test_outlines_of_scenes_come_back_from_their_tokens():
    sizes = {"labels": MAP_CLASSES, "grounds": len(BACKGROUNDS), "factor": 8}
    stage = learnt_patches(scenes("train", 60), **sizes, shapes=200)
    numbers = scenes("validation", 20, seed=2)
    back = stage.numbers(stage.encode_numbers(numbers), (8, 8))
    things, theirs = numbers >= len(BACKGROUNDS), back >= len(BACKGROUNDS)
    common = ((numbers == back) & things).flatten(1).sum(1)
    assert (common / (things | theirs).flatten(1).sum(1)).mean() > 0.85
    again = learnt_patches(scenes("train", 60), **sizes, shapes=200)
    assert torch.equal(stage.shapes, again.shapes)


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="both sides must be multiples of 2"):
        made().encode_numbers(torch.zeros(1, 3, 4, dtype=torch.int64))
    with pytest.raises(BadInput, match="ids from 0 to 5"):
        made().encode_numbers(torch.tensor([[[0, 5], [0, 0]]]))
    with pytest.raises(BadInput, match="maps in which every patch"):
        learnt_patches(torch.zeros(2, 4, 4, dtype=torch.int64), labels=5, factor=2, shapes=3)
    with pytest.raises(BadInput, match="7 grounds of 5 labels"):
        LabelPatchesConfig(labels=5, grounds=7)
