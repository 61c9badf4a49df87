from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lascaux.data.labelled import (
    Labelled,
    flat_pictures,
    folders_of_pictures,
    imagenet_labels,
)
from lascaux.errors import BadInput

IDS = ("n01440764", "n01443537", "n01484850")


def picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


@pytest.fixture
def zoo(tmp_path):
    root = tmp_path / "zoo"
    for name in ("fire_truck/a.png", "fire_truck/deep/b.JPEG", "cat/z.png", ".hidden/x.png"):
        picture(root / name)
    (root / "cat" / "notes.txt").write_text("no picture")
    picture(root / "cat" / ".thumb.png")
    return root


def test_subfolders_are_classes_in_order_and_underscores_are_spaces(zoo):
    data = folders_of_pictures(zoo)
    assert data.name == "zoo"
    assert data.classes == (("cat",), ("fire truck",))
    assert data.keys == ("cat", "fire_truck")
    assert data.sources == ("cat/z.png", "fire_truck/a.png", "fire_truck/deep/b.JPEG")
    assert data.labels == (0, 1, 1)
    assert data.pictures == tuple(zoo / source for source in data.sources)


def test_the_fingerprint_tells_names_labels_and_sizes_but_not_the_place(zoo, tmp_path):
    before = folders_of_pictures(zoo).fingerprint
    moved = zoo.rename(tmp_path / "elsewhere")
    assert folders_of_pictures(moved).fingerprint == before
    (moved / "cat" / "z.png").write_bytes(b"longer or shorter")
    assert folders_of_pictures(moved).fingerprint != before
    again = folders_of_pictures(moved).fingerprint
    (moved / "cat" / "z.png").rename(moved / "fire_truck" / "z.png")
    picture(moved / "cat" / "y.png")
    assert folders_of_pictures(moved).fingerprint not in (before, again)


def test_the_fingerprint_of_arrays_is_over_their_pixels():
    def of(value):
        shown = np.full((4, 4, 3), value, np.uint8)
        return Labelled(
            name="x", classes=(("a",),), keys=("a",), pictures=(shown,), labels=(0,), sources=("0",)
        ).fingerprint

    assert of(1) == of(1) != of(2)


def test_a_limited_draw_is_in_order_and_depends_on_its_seed_alone(zoo):
    data = folders_of_pictures(zoo)
    assert data.some(None, 0) == data.some(9, 4) == (0, 1, 2)
    draws = {data.some(2, seed) for seed in range(20)}
    assert draws == {(0, 1), (0, 2), (1, 2)}
    assert data.some(2, 7) == data.some(2, 7)


def test_folders_that_hold_no_classes_say_what_is_wrong(zoo, tmp_path):
    with pytest.raises(BadInput, match=r"nothing at .*expected a folder with one subfolder"):
        folders_of_pictures(tmp_path / "none")
    with pytest.raises(BadInput, match="a file at"):
        folders_of_pictures(zoo / "cat" / "z.png")
    with pytest.raises(BadInput, match="cat has no subfolders"):
        folders_of_pictures(zoo / "cat")
    (zoo / "dog").mkdir()
    with pytest.raises(BadInput, match=r"1 of 3 class folders .* have no pictures: dog"):
        folders_of_pictures(zoo)


def test_splits_are_not_taken_for_classes(tmp_path):
    picture(tmp_path / "train" / "cat" / "a.png")
    picture(tmp_path / "val" / "cat" / "a.png")
    with pytest.raises(BadInput, match=r"holds splits \(train, val\); name one"):
        folders_of_pictures(tmp_path)


def test_labels_of_kaggle_and_of_caffe_mean_the_same(tmp_path):
    kaggle, caffe = tmp_path / "LOC_val_solution.csv", tmp_path / "val.txt"
    kaggle.write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000001,n01484850 111 108 428 366 \n"
        "ILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"
    )
    caffe.write_text("ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\n")
    expected = {"ILSVRC2012_val_00000001": 2, "ILSVRC2012_val_00000002": 0}
    assert imagenet_labels(kaggle, IDS) == imagenet_labels(caffe, IDS) == expected


def test_the_development_kits_numbering_is_refused_with_its_reason(tmp_path):
    (tmp_path / "ground_truth.txt").write_text("490\n361\n171\n")
    with pytest.raises(BadInput, match="ILSVRC2012_ID, another order"):
        imagenet_labels(tmp_path / "ground_truth.txt", IDS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("a.JPEG 3\n", r"line 1: class 3; expected 0 to 2"),
        ("a.JPEG cat\n", "line 1: 'a.JPEG cat'; expected LOC_val_solution.csv"),
        ("ImageId,PredictionString\nx,n99999999 1 2 3 4\n", "line 2: .*one WordNet id"),
        ("ImageId,PredictionString\nx,n01440764 1 2 3 4 n01443537 1 2 3 4\n", "line 2"),
        ("ImageId,PredictionString\nx\n", "line 2"),
    ],
)
def test_other_files_of_labels_are_refused_by_their_line(tmp_path, text, reason):
    (tmp_path / "labels").write_text(text)
    with pytest.raises(BadInput, match=reason):
        imagenet_labels(tmp_path / "labels", IDS)


def test_labels_and_pictures_of_one_folder_must_fit(tmp_path):
    for name in ("a.JPEG", "b.JPEG"):
        picture(tmp_path / name)
    names = {"x": ("ex",), "y": ("why", "wye")}
    data = flat_pictures(tmp_path, {"b": 0, "a": 1}, names, protocol="imagenet")
    assert (data.sources, data.labels) == (("a.JPEG", "b.JPEG"), (1, 0))
    assert data.classes == (("ex",), ("why", "wye"))
    with pytest.raises(BadInput, match=r"1 of 3 labelled pictures are not in .*: c;"):
        flat_pictures(tmp_path, {"a": 0, "b": 0, "c": 1}, names, protocol="imagenet")
    with pytest.raises(BadInput, match=r"1 of 2 pictures in .* have no label: b\.JPEG"):
        flat_pictures(tmp_path, {"a": 0}, names, protocol="imagenet")


def test_a_set_that_does_not_fit_together_is_refused():
    whole = {"name": "x", "classes": (("a",), ("a",)), "keys": ("1", "2"), "sources": ("p",)}
    shown = (np.zeros((2, 2, 3), np.uint8),)
    Labelled(**whole, pictures=shown, labels=(1,))
    with pytest.raises(BadInput, match="a label is no class"):
        Labelled(**whole, pictures=shown, labels=(2,))
    with pytest.raises(BadInput, match="1 pictures, 2 labels"):
        Labelled(**whole, pictures=shown, labels=(0, 1))
    with pytest.raises(BadInput, match="one key for each class"):
        Labelled(**whole | {"keys": ("1", "1")}, pictures=shown, labels=(0,))
