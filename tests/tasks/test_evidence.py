import json

import pytest
from PIL import Image

from lascaux.errors import BadClasses
from lascaux.tasks.evidence import (
    ClassEvidence,
    class_evidence,
    classes_file,
    descriptions_file,
    examples_folder,
    merged,
)


def names_of(classes):
    return [entry.name for entry in class_evidence(classes)]


def test_one_string_is_a_published_list_or_names_with_commas():
    assert names_of("cat, dog , fire truck,") == ["cat", "dog", "fire truck"]
    assert names_of("cifar10")[:2] == ["airplane", "automobile"]
    assert names_of("cifar10,") == ["cifar10"]


def test_names_synonyms_and_evidence_can_be_mixed():
    found = class_evidence(["cat", ("happy", "smiling"), ClassEvidence("x", names=("y",))])
    assert [entry.name for entry in found] == ["cat", "happy", "x"]
    assert [entry.prompted for entry in found] == [("cat",), ("happy", "smiling"), ("y",)]


def test_a_mapping_gives_descriptions():
    found = class_evidence({"cat": ["it purrs", "it has whiskers"], "dog": "it barks", "cow": None})
    assert [entry.descriptions for entry in found] == [
        ("it purrs", "it has whiskers"),
        ("it barks",),
        (),
    ]
    assert all(entry.prompted == (entry.name,) for entry in found)


def test_blanks_around_names_are_taken_away():
    assert names_of([" cat ", "dog\n"]) == ["cat", "dog"]


def test_a_class_without_any_evidence_is_refused():
    with pytest.raises(BadClasses, match="neither names, descriptions nor pictures"):
        class_evidence([ClassEvidence("x", names=())])
    with pytest.raises(BadClasses, match="empty name or description"):
        class_evidence({"x": ["good", " "]})


def test_a_file_of_classes_is_lines_or_json(tmp_path):
    lines = tmp_path / "c.txt"
    lines.write_text("\ufeffcat\n\n  dog\n火车\n", encoding="utf-8")
    assert [entry.name for entry in classes_file(lines)] == ["cat", "dog", "火车"]
    listed = tmp_path / "c.json"
    listed.write_text(json.dumps(["cat", ["happy", "glad"]]))
    assert [entry.prompted for entry in classes_file(listed)] == [("cat",), ("happy", "glad")]
    listed.write_text(json.dumps({"cat": ["it purrs"]}))
    assert classes_file(listed)[0].descriptions == ("it purrs",)


@pytest.mark.parametrize("content", ["3", '"cat"', "{", "[]", '["cat", ""]'])
def test_a_json_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(BadClasses):
        classes_file(path)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(BadClasses, match="cannot read classes"):
        classes_file(tmp_path / "none.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadClasses, match="cannot read classes"):
        classes_file(tmp_path / "bytes.txt")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BadClasses, match="no JSON object"):
        descriptions_file(tmp_path / "list.json")


def test_a_folder_of_examples_has_one_subfolder_per_class(tmp_path):
    for place in ("fire_truck/a.png", "fire_truck/more/b.jpg", "cat/c.webp", ".hidden/d.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place)
    (tmp_path / "notes.txt").write_text("not a class")
    cat, truck = examples_folder(tmp_path)
    assert (cat.name, cat.prompted, len(cat.pictures)) == ("cat", ("cat",), 1)
    assert (truck.name, truck.prompted, len(truck.pictures)) == ("fire_truck", ("fire truck",), 2)


def test_an_examples_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(BadClasses, match="there is no folder"):
        examples_folder(tmp_path / "none")
    with pytest.raises(BadClasses, match="no subfolders"):
        examples_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(BadClasses, match="has no pictures"):
        examples_folder(tmp_path)


def test_evidence_of_one_name_is_put_together():
    named = class_evidence(["cat", "dog"])
    described = class_evidence({"dog": ["it barks"], "cow": ["it moos"]})
    shown = (ClassEvidence("dog", pictures=("d.png",)),)
    found = merged(named, described, shown)
    assert [entry.name for entry in found] == ["cat", "dog", "cow"]
    assert found[1].descriptions == ("it barks",)
    assert found[1].pictures == ("d.png",)
    assert found[0] == named[0]
