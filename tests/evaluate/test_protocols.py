from pathlib import Path

import pytest
from PIL import Image

from lascaux.data.labelled import folders_of_pictures
from lascaux.errors import BadClasses, BadInput
from lascaux.evaluate.protocols import PROTOCOLS, among, evidence_for, guessed, open_labelled
from lascaux.tasks.evidence import class_evidence
from lascaux.tasks.templates import class_ids, class_list, read_templates

MISSILE = ("n03773504", "n04008634")  # two classes of one published name


def laid(root: Path, *folders: str) -> Path:
    for name in folders:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(root / name / "0.png")
    return root


def test_the_ids_are_a_thousand_in_order_and_belong_to_the_names():
    ids = class_ids("imagenet")
    assert len(set(ids)) == len(class_list("imagenet")) == 1000
    assert list(ids) == sorted(ids)
    # Known pairs from WordNet, at the ends and in the middle.
    known = {"n01440764": "tench", "n02123045": "tabby cat", "n07753592": "banana"}
    found = dict(zip(ids, class_list("imagenet"), strict=True))
    assert {key: found[key] for key in known} == {key: (name,) for key, name in known.items()}
    assert [found[key] for key in MISSILE] == [("missile",), ("missile",)]
    assert found["n15075141"] == ("toilet paper",)
    assert class_ids("food101") == class_ids("world") == ()


def test_wordnet_folders_are_classes_of_imagenet_and_a_subset_is_its_own_candidates(tmp_path):
    laid(tmp_path, "n07753592", "n01440764", "n02123045")
    data = open_labelled(tmp_path)
    assert data.protocol == "imagenet"
    assert data.classes == (("tench",), ("tabby cat",), ("banana",))
    assert data.labels == (0, 1, 2)
    whole = among(data, "imagenet")
    assert (len(whole.classes), whole.labels) == (1000, (0, 281, 954))
    assert whole.keys == class_ids("imagenet")


def test_folders_that_are_no_ids_of_imagenet_are_named(tmp_path):
    laid(tmp_path, "n01440764", "n00000001", "extra")
    with pytest.raises(BadInput, match=r"2 of 3 folders .* extra, n00000001.*'folder'"):
        open_labelled(tmp_path)
    assert open_labelled(tmp_path, "folder").keys == ("extra", "n00000001", "n01440764")


def test_imagenet_v2_is_ordered_by_number_and_not_as_text(tmp_path):
    laid(tmp_path, "0", "2", "10", "100", "999")
    data = open_labelled(tmp_path, "imagenetv2")
    names = class_list("imagenet")
    assert data.keys == ("0", "2", "10", "100", "999")
    assert data.classes == tuple(names[number] for number in (0, 2, 10, 100, 999))
    assert data.sources == ("0/0.png", "2/0.png", "10/0.png", "100/0.png", "999/0.png")
    assert open_labelled(tmp_path).protocol == "folder"
    laid(tmp_path, "1000")
    with pytest.raises(BadInput, match="no numbers from 0 to 999: 1000"):
        open_labelled(tmp_path, "imagenetv2")


def test_a_thousand_numbers_are_imagenet_v2(tmp_path):
    for number in range(1000):
        (tmp_path / str(number)).mkdir()
    assert guessed(tmp_path) == "imagenetv2"


def test_validation_pictures_in_one_folder_need_their_labels(tmp_path):
    folder = tmp_path / "val"
    folder.mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG")
    with pytest.raises(BadInput, match="do not tell their classes; give the labels"):
        open_labelled(folder)
    labels = tmp_path / "val.txt"
    labels.write_text("ILSVRC2012_val_00000002.JPEG 999\nILSVRC2012_val_00000001.JPEG 65\n")
    data = open_labelled(folder, labels=labels)
    assert (data.labels, len(data.classes)) == ((65, 999), 1000)
    assert data.keys[65] == "n01751748"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"protocol": "cifar10"}, "there is no cifar10"),
        ({"protocol": "imagenet"}, "1 of 1 folders .* are no WordNet ids"),
        ({"protocol": "imagenetv2"}, "are no numbers"),
        ({"protocol": "mnist"}, f"no protocol 'mnist'; there are: {', '.join(PROTOCOLS)}"),
        ({"split": "train"}, "'train' is there of CIFAR alone"),
        ({"split": "val"}, "expected 'test' or 'train'"),
        ({"labels": "x.txt"}, "labels go with ImageNet's validation pictures"),
    ],
)
def test_a_wrong_protocol_says_what_it_needs(tmp_path, words, reason):
    laid(tmp_path, "cat")
    with pytest.raises(BadInput, match=reason):
        open_labelled(tmp_path, **words)


def test_a_place_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match="there is no file or folder"):
        open_labelled(tmp_path / "none")


def test_other_classes_are_found_by_name_or_taken_in_order(tmp_path):
    data = folders_of_pictures(laid(tmp_path, "cat", "fire_truck"))
    more = among(data, "dog, fire truck, cat")
    assert (more.keys, more.labels) == (("dog", "fire truck", "cat"), (2, 1))
    assert more.sources == data.sources
    other = among(data, [("Katze", "Kater"), "Feuerwehr"])
    assert (other.classes, other.labels) == ((("Katze", "Kater"), ("Feuerwehr",)), (0, 1))
    assert other.keys == data.keys
    with pytest.raises(BadClasses, match=r"3 classes were given for the 2 .* 1 of these .*\(cat\)"):
        among(data, "dog, fire truck, cow")
    (tmp_path / "names.txt").write_text("cat\nfire truck\nship\n")
    assert among(data, str(tmp_path / "names.txt")).labels == (0, 1)


def test_classes_of_one_name_are_never_mixed_up(tmp_path):
    data = open_labelled(laid(tmp_path, *MISSILE))
    whole = among(data, "imagenet")
    assert [whole.keys[label] for label in whole.labels] == list(MISSILE)
    with pytest.raises(BadClasses, match="2 of these are not among them"):
        among(data, "missile, cat, dog")
    with pytest.raises(BadClasses, match="a name of 2 classes; tell them apart by their keys"):
        evidence_for(data, class_evidence({"missile": "flies"}), "descriptions")
    found = evidence_for(data, class_evidence({MISSILE[1]: "flies"}), "descriptions")
    assert list(found) == [1]


def test_evidence_of_no_class_or_given_twice_is_refused(tmp_path):
    data = folders_of_pictures(laid(tmp_path, "cat", "fire_truck"))
    with pytest.raises(BadClasses, match="descriptions of 'dog', which is no class of"):
        evidence_for(data, class_evidence({"dog": "barks"}), "descriptions")
    with pytest.raises(BadClasses, match="'fire_truck' twice"):
        evidence_for(data, class_evidence({"fire_truck": "a", "fire truck": "b"}), "descriptions")


def test_published_templates_are_those_of_the_paper():
    assert len(read_templates("imagenet")) == 80
    assert read_templates("cifar") == read_templates("cifar10") == read_templates("cifar100")


def test_names_that_fit_in_part_are_not_taken_in_order(paint, tmp_path):
    data = open_labelled(paint(tmp_path / "data", ("red", "green", "blue")))
    with pytest.raises(BadClasses, match="1 of these are not among them"):
        among(data, "green,blue,crimson")
    assert [names[0] for names in among(data, "rouge,verte,bleue").classes] == [
        "rouge",
        "verte",
        "bleue",
    ]
