import json
from dataclasses import replace

import numpy as np
import pytest

from lascaux.errors import BadClasses, BadInput
from lascaux.models.taming_transformer import VARIANTS
from lascaux.tasks.boxes import layout_picture, layout_tokens, object_names, read_layout

COCO, OPEN_IMAGES = VARIANTS["scene-coco"], VARIANTS["scene-openimages"]
DOG = {"object": "dog", "box": [0.1, 0.4, 0.5, 0.5]}
GRASS = {"object": "grass", "box": [0, 0.65, 1, 0.35]}


def tokens(content, config=COCO) -> list[int]:
    return layout_tokens(read_layout(content, config), config)


def test_tokens_are_those_of_the_published_builder():
    # As ObjectsBoundingBoxConditionalBuilder(171, 30, 8192, True, True, False) answers.
    found = tokens({"objects": [DOG, GRASS], "shown": [0.125, 0, 0.75, 1]})
    assert found == [88, 3249, 7253, 27, 5220, 8099, *(84 * [8191]), 11, 8088]
    assert tokens([DOG])[3:] == [*(87 * [8191]), 0, 8099]


def test_names_are_numbered_by_the_ids_of_coco_as_strings():
    names = object_names(COCO)
    assert len(names) == len(set(names)) == 171
    # Ids 1, 10, 100, 101; "other", 183, is none of them.
    assert names[:4] == ("person", "traffic light", "cardboard", "carpet")
    assert names[-1] == "cage"  # of id 99
    assert not object_names(OPEN_IMAGES)
    assert tokens([{"object": 88, "box": DOG["box"]}]) == tokens([DOG])


def test_what_reaches_beyond_the_picture_ends_with_it_and_what_is_not_shown_is_left_out():
    over = {"object": "dog", "box": [-0.2, 0.5, 0.6, 0.8]}
    # As published it keeps its width, although it begins further right.
    assert tokens([over]) == tokens([{"object": "dog", "box": [0, 0.5, 0.6, 0.5]}])
    left = {"objects": [DOG, GRASS], "shown": [0.7, 0, 0.3, 1]}
    assert len(read_layout(left, COCO).objects) == 1


def test_marks_raise_the_number_by_all_classes():
    marked = replace(OPEN_IMAGES, classes=300)
    what = {"object": 7, "box": DOG["box"], "group": True, "depiction": True, "inside": False}
    assert tokens([what], marked)[0] == 7 + 5 * 300
    with pytest.raises(BadInput, match="dog is marked group; models of COCO were trained without"):
        tokens([{**DOG, "group": True}])
    with pytest.raises(BadInput, match="does not say how many classes it has"):
        tokens([what], OPEN_IMAGES)
    with pytest.raises(BadInput, match="would be token 8512; this model has 8192"):
        tokens([{**what, "inside": True, "occluded": True}], replace(OPEN_IMAGES, classes=567))


def test_a_layout_is_read_from_a_file_and_told_again(tmp_path):
    path = tmp_path / "park.json"
    path.write_text(json.dumps({"objects": [DOG, GRASS], "shown": [0, 0, 1, 0.9]}))
    layout = read_layout(path, COCO)
    assert [each.name for each in layout.objects] == ["dog", "grass"]
    assert read_layout(json.loads(json.dumps(layout.to_json())), COCO) == layout


def test_a_layout_can_be_looked_at():
    picture = np.asarray(layout_picture(read_layout([DOG, GRASS], COCO)))
    inside, colour = picture[300, 150], picture[400, 51]
    assert (inside == 255).all()
    assert colour.tolist() == [0x1E, 0x76, 0xB3]
    grey = layout_picture(read_layout({"objects": [DOG], "shown": [0, 0, 0.5, 1]}, COCO))
    assert grey.getpixel((500, 20)) == (0xD8,) * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "a layout has no objects"),
        ("[", "park.json is no JSON"),
        ("5", "a layout has no objects"),
        ([], "0 objects, and none of them within"),
        (["dog"], "object 1 is 'dog'; expected"),
        ([DOG, {"object": "dog"}], "object 2 is "),
        ([{**DOG, "colour": "red"}], "object 1 has colour; .*may be marked group, occluded"),
        ([{**DOG, "group": "no"}], "object 1 has group 'no'; expected true or false"),
        ([{**DOG, "object": None}], "object 1 is None; expected the name or number"),
        ([{**DOG, "object": 171}], "class 171; this model has 0 to 170"),
        ([{**DOG, "object": "dgo"}], "no class of this model is called 'dgo'; nearest: dog"),
        ([{**DOG, "box": [0, 0, 1]}], r"the box of object 1 is \[0, 0, 1\]; expected left, top"),
        ([{**DOG, "box": [0, 0, 0, 1]}], "expected left, top, width and height"),
        ([{**DOG, "box": [0, 0, float("nan"), 1]}], "expected left, top"),
        ([{**DOG, "box": [10, 20, 300, 200]}], "not within the picture, .*shares of them, not pix"),
        ([{**DOG, "box": [0, 0, 300, 200]}], "not within the picture"),
        ({"objects": [DOG], "shown": [0, 0, 1, 1.5]}, "the box of shown .* not within"),
        ({"objects": [DOG], "crop": [0, 0, 1, 1]}, "a layout with crop; it has objects and shown"),
        (31 * [DOG], "31 objects; this model knows layouts of up to 30"),
    ],
)
def test_layouts_that_cannot_be_are_refused(content, message, tmp_path):
    source = content
    if isinstance(content, str):
        source = tmp_path / "park.json"
        source.write_text(content)
    with pytest.raises((BadInput, BadClasses), match=message):
        tokens(source)
