from pathlib import Path

import pytest

from lascaux.errors import BadInput
from lascaux.tasks.aside import written_aside
from lascaux.tasks.pictures import expanded, pictures_in, source_name


@pytest.fixture
def folder(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.txt", ".d.png", "x[1].png", "sub/e.webp", ".git/f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_gives_its_pictures_sorted(folder):
    assert [p.name for p in pictures_in(folder)] == ["a.jpg", "b.PNG", "x[1].png"]
    assert [p.name for p in pictures_in(folder, recursive=True)] == [
        "a.jpg",
        "b.PNG",
        "e.webp",
        "x[1].png",
    ]


def test_a_pattern_gives_pictures_and_a_name_with_brackets_is_a_file(folder):
    assert [p.name for p in pictures_in(folder / "*")] == ["a.jpg", "b.PNG", "x[1].png"]
    assert [p.name for p in pictures_in(folder / "**" / "*.webp")] == ["e.webp"]
    assert pictures_in(folder / "x[1].png") == [folder / "x[1].png"]
    assert pictures_in(folder / "c.txt") == [folder / "c.txt"]


def test_nothing_of_that_name_is_an_error(folder):
    with pytest.raises(BadInput, match="no file or folder"):
        pictures_in(folder / "none.png")
    with pytest.raises(BadInput, match="no picture matches"):
        pictures_in(folder / "*.bmp")


def test_expanding_leaves_what_is_no_folder_or_pattern(folder):
    assert list(expanded("data:image/png;base64,AA*[]")) == ["data:image/png;base64,AA*[]"]
    assert list(expanded("none.png")) == ["none.png"]
    assert list(expanded(str(folder / "*.bmp"))) == [str(folder / "*.bmp")]
    assert list(expanded(b"bytes")) == [b"bytes"]
    assert len(list(expanded(folder))) == 3


def test_sources_have_short_names():
    assert source_name("a.png", 0) == "a.png"
    assert source_name(Path("b") / "c.png", 0) == str(Path("b") / "c.png")
    assert source_name("data:image/png;base64,AAAA", 2) == "data URI 2"
    assert source_name(b"", 3) == "bytes 3"
    assert source_name(object(), 4) == "picture 4"


def _write_half(path):
    with written_aside(path) as part:
        part.write_text("half")
        raise RuntimeError


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        _write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with written_aside(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadInput, match="there is no folder"), written_aside(tmp_path / "n" / "f"):
        pass
    with pytest.raises(BadInput, match="it is a folder"), written_aside(tmp_path):
        pass
