import json
import os
import re
import shutil
import signal
import sys

import pytest
from PIL import Image

from killed import killed_after_the_first_batch
from lascaux.cli.main import main
from lascaux.tasks import Index


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "cache"


@pytest.fixture
def search(verb):
    return verb("search")


def test_a_table_lists_scores_and_paths_best_first(search, pictures, model_folder):
    code, out, err = search("cat", pictures)
    assert code == 0
    head, *lines = out.splitlines()
    assert head.split() == ["cosine", "path"]
    found = Index(pictures, model_folder).search("cat")
    assert [line.split() for line in lines] == [[f"{hit.score:.3f}", hit.path] for hit in found]
    assert len(lines) == 3
    assert "1 picture could not be read" in err
    assert str(pictures / "z.png") in err


def test_a_picture_finds_itself_and_words_may_stand_before_the_option(search, pictures):
    code, out, _ = search("--like", pictures / "b.jpg", pictures, "--paths", "--top", "1")
    assert (code, out) == (0, f"{pictures / 'b.jpg'}\n")
    code, out, _ = search("cat", "--like", pictures / "b.jpg", pictures, "--without", "dog")
    assert code == 0
    assert out.splitlines()[0].split() == ["deviations", "path"]


def test_json_is_the_list_that_python_gives(search, pictures, model_folder):
    code, out, _ = search("a dog", pictures, "--json", "--top", "2")
    assert code == 0
    hits = Index(pictures, model_folder).search("a dog", top=2)
    assert json.loads(out) == [
        {"path": hit.path, "score": hit.score, "scores": "cosine"} for hit in hits
    ]


def test_paths_are_usable_from_where_the_command_was_given(search, pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    _, out, _ = search("cat", "pictures/", "--paths")
    assert sorted(out.splitlines()) == ["pictures/a.png", "pictures/b.jpg", "pictures/c.webp"]
    monkeypatch.chdir(pictures)
    _, out, _ = search("cat", ".", "--paths")
    assert sorted(out.splitlines()) == ["./a.png", "./b.jpg", "./c.webp"]


def test_names_that_are_no_unicode_come_out_as_their_bytes(pictures, model_folder, capfdbinary):
    name = b"caf\xe9.png"
    try:
        shutil.copy(pictures / "a.png", pictures / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system has only Unicode names")
    command = ["search", "cat", str(pictures), "--model", str(model_folder)]
    assert main([*command, "--paths"]) == 0
    assert os.fsencode(pictures) + b"/" + name in capfdbinary.readouterr().out.splitlines()
    assert main([*command, "--json"]) == 0
    paths = [hit["path"] for hit in json.loads(capfdbinary.readouterr().out)]
    assert os.fsdecode(os.fsencode(pictures) + b"/" + name) in paths
    assert main(command) == 0


def test_without_an_update_only_what_is_there_is_searched(search, pictures, tmp_path):
    index = tmp_path / "my.sqlite"
    code, out, err = search("cat", pictures, "--index", index, "--no-update")
    assert (code, out) == (1, "")
    assert "--no-update" in err
    search("cat", pictures, "--index", index)
    Image.new("RGB", (20, 20), "white").save(pictures / "new.png")
    _, out, err = search("cat", pictures, "--index", index, "--no-update", "--json")
    assert len(json.loads(out)) == 3
    assert "could not be read" in err
    _, out, _ = search("cat", pictures, "--index", index, "--json")
    assert len(json.loads(out)) == 4


def test_a_sheet_shows_the_hits(search, pictures, tmp_path):
    target = tmp_path / "sheet.png"
    code, _, err = search("cat", pictures, "--sheet", target)
    assert code == 0
    assert f"drew {target}" in err
    with Image.open(target) as sheet:
        colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert {(0, 0, 128), (0, 128, 0)} <= colours


def test_many_unreadable_pictures_are_counted_and_the_first_named(search, pictures):
    for n in range(5):
        (pictures / f"y{n}.png").write_bytes(b"")
    _, _, err = search("cat", pictures)
    assert "6 pictures could not be read" in err
    assert len(re.findall(r"^  .*\.png: ", err, re.MULTILINE)) == 3
    assert "and 3 more" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "DIR"),
        (("{pictures}",), "what to look for"),
        (("red boat",), "no folder"),
        (("{pictures}", "red boat"), "the folder comes last"),
        (("", "{pictures}"), "empty"),
        (("cat", "{pictures}", "--without", " "), "empty"),
        (("cat", "{pictures}", "--top", "0"), "top"),
        (("cat", "{pictures}", "--json", "--paths"), "not allowed"),
        (("cat", "{pictures}", "--sheet", "s.gif"), "--sheet"),
        (("cat", "{pictures}", "--index", "no/such/place"), "--index"),
        (("cat", "{pictures}", "--colour"), "--colour"),
    ],
)
def test_wrong_use_exits_with_2_and_says_so(search, pictures, words, said):
    code, out, err = search(*(word.replace("{pictures}", str(pictures)) for word in words))
    assert (code, out) == (2, "")
    assert said in err


def test_work_that_fails_exits_with_1_and_names_what(search, pictures, tmp_path, cache):
    code, _, err = search("--like", pictures / "z.png", pictures)
    assert code == 1
    assert str(pictures / "z.png") in err
    assert not (cache / "indexes").exists()  # found out before any work
    (tmp_path / "empty").mkdir()
    code, _, err = search("cat", tmp_path / "empty")
    assert (code, err) == (1, f"lascaux: no pictures in {tmp_path / 'empty'}\n")
    code, _, err = search("cat", pictures, "--index", pictures / "a.png")
    assert code == 1
    assert "no index" in err


def test_without_faiss_the_command_says_so_before_any_work(search, pictures, monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "faiss", None)
    code, _, err = search("cat", pictures)
    assert code == 1
    assert "lascaux[search]" in err
    assert not (cache / "indexes").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a signal of POSIX")
def test_a_killed_update_goes_on_where_it_was(many, model_folder, tmp_path):
    file, whole = tmp_path / "killed.sqlite", tmp_path / "whole.sqlite"
    given = ("--model", model_folder, "--batch-size", 4)
    there = killed_after_the_first_batch(file, "search", "cat", many, "--index", file, *given)
    assert 4 <= there < 240
    assert there % 4 == 0
    index = Index(many, model_folder, file=file)
    assert index.update().added == 240 - there
    uninterrupted = Index(many, model_folder, file=whole)
    assert uninterrupted.update().added == 240
    for asked in ({"words": "a cat"}, {"words": "dog", "like": many / "017.png"}):
        found, expected = (one.search(**asked, top=240) for one in (index, uninterrupted))
        # Batches of other sizes round differently.
        assert {hit.path: hit.score for hit in found} == pytest.approx(
            {hit.path: hit.score for hit in expected}, abs=2e-3
        )
