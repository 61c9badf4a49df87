import json

import pytest
from PIL import Image, PngImagePlugin

from lascaux.errors import BadInput, BadPicture, Unsupported
from lascaux.images.labelled import CHUNK, labelled_png, read_label, write_labelled

LABEL = {"verb": "imagine", "prompt": "红色苹果, a red apple", "seed": 3, "top_p": 0.95, "k": None}


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((9, 7)).convert("RGB")


def foreign(text: str, path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(CHUNK, text)
    picture().save(path, pnginfo=chunks)


def test_a_label_comes_back_and_pixels_stay(tmp_path):
    path = tmp_path / "a.png"
    write_labelled(picture(), path, LABEL)
    assert read_label(path) == read_label(str(path), "imagine") == LABEL
    assert Image.open(path).convert("RGB").tobytes() == picture().tobytes()
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_the_same_picture_and_label_give_the_same_bytes():
    assert labelled_png(picture(), LABEL) == labelled_png(picture(), LABEL)


def test_half_a_surrogate_pair_survives(tmp_path):
    write_labelled(picture(), tmp_path / "a.png", {"prompt": "\ud800"})
    assert read_label(tmp_path / "a.png") == {"prompt": "\ud800"}


def test_pictures_that_do_not_say_how_they_were_made_are_refused(tmp_path):
    plain, photo = tmp_path / "plain.png", tmp_path / "photo.jpg"
    picture().save(plain)
    picture().save(photo)
    (tmp_path / "cut.png").write_bytes(plain.read_bytes()[:40])
    for path, reason in (
        (plain, "does not say how it was made"),
        (photo, "cannot be read as PNG"),
        (tmp_path / "cut.png", "cannot be read as PNG"),
        (tmp_path / "none.png", "not there"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(BadPicture, match=reason):
            read_label(path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"format": "lascaux-picture-9"}', "{}"])
def test_broken_labels_and_later_ones_are_refused(text, tmp_path):
    foreign(text, tmp_path / "a.png")
    with pytest.raises((BadPicture, Unsupported)):
        read_label(tmp_path / "a.png")


def test_a_picture_of_another_verb_names_it(tmp_path):
    foreign(json.dumps({"format": "lascaux-picture-1", "verb": "paint"}), tmp_path / "a.png")
    with pytest.raises(BadInput, match="made by `lascaux paint`"):
        read_label(tmp_path / "a.png", "imagine")


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(BadInput, match="no JSON"):
        write_labelled(picture(), tmp_path / "a.png", {"score": float("nan")})
    with pytest.raises(BadInput, match="no JSON"):
        write_labelled(picture(), tmp_path / "a.png", {"score": object()})
    with pytest.raises(BadInput, match="folder that exists"):
        write_labelled(picture(), tmp_path / "no" / "a.png", {})
    assert list(tmp_path.iterdir()) == []
