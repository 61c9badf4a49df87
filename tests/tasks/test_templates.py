import json
from pathlib import Path

import pytest

from lascaux.errors import BadInput
from lascaux.tasks.templates import (
    class_list,
    class_list_names,
    read_templates,
    template_set_names,
)


def test_the_published_sets_have_their_sizes():
    sizes = {name: len(read_templates(name)) for name in template_set_names()}
    assert sizes == {
        "imagenet": 80,
        "imagenet-7": 7,
        "cifar": 18,
        "simple": 1,
        "vanilla": 1,
        "plain": 1,
    }


def test_the_published_sets_are_those_of_the_golden_cases():
    case = Path(__file__).parents[1] / "golden" / "zeroshot" / "tiny-vit" / "manifest.json"
    published = json.loads(case.read_text(encoding="utf-8"))["config"]["templates"]
    ours = {
        "vanilla": "vanilla",
        "openai_imagenet_sub": "imagenet-7",
        "openai_imagenet": "imagenet",
        "openai_cifar100": "cifar",
    }
    assert {name: list(read_templates(ours[name])) for name in published} == published


def test_the_published_lists_have_their_sizes():
    published = {
        "imagenet": 1000,
        "cifar10": 10,
        "cifar100": 100,
        "food101": 101,
        "sun397": 397,
        "kinetics700": 700,
        "country211": 211,
        "stanford-cars": 196,
    }
    assert {name: len(class_list(name)) for name in published} == published
    assert len(class_list_names()) == 29


@pytest.mark.parametrize("name", class_list_names())
def test_every_list_can_be_read_and_holds_no_empty_name(name):
    classes = class_list(name)
    assert classes
    assert all(names and all(each.strip() for each in names) for names in classes)
    if not name.startswith("world"):
        assert all("{}" in template for template in read_templates(name))


def test_emotions_have_several_names_as_published():
    assert class_list("fer2013")[3] == ("happy", "smiling")


def test_the_embedded_world_is_named_in_two_languages():
    english, chinese = class_list("world"), class_list("world-zh")
    assert len(english) == len(chinese) >= 300
    assert english != chinese


def test_templates_come_from_files_lists_and_strings(tmp_path):
    lines = tmp_path / "t.txt"
    lines.write_text("a drawing of {}\n\n{} at night\n", encoding="utf-8")
    assert read_templates(lines) == ("a drawing of {}", "{} at night")
    assert read_templates(str(lines)) == read_templates(lines)
    listed = tmp_path / "t.json"
    listed.write_text(json.dumps(["一张{}的图片"]), encoding="utf-8")
    assert read_templates(listed) == ("一张{}的图片",)
    assert read_templates("my own {}") == ("my own {}",)
    assert read_templates(["{}", "the {}"]) == ("{}", "the {}")


def test_templates_without_a_place_for_the_name_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no place for the class name"):
        read_templates(["a photo"])
    with pytest.raises(BadInput, match="at least one is needed"):
        read_templates([])
    with pytest.raises(BadInput, match="no template set or readable file named 'imagnet'"):
        read_templates("imagnet")
    for content in ("{", '{"a": 1}'):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(BadInput, match="expected a list"):
            read_templates(tmp_path / "t.json")
