import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lascaux.errors import BadPicture
from lascaux.tasks.features import image_features, stream_features


def test_streamed_features_are_those_of_the_pictures_in_their_order(colour_clip, picture):
    given = [picture(name, at) for at, name in enumerate(["red", "blue", "white", "green"] * 5)]
    expected, _ = image_features(colour_clip, given, "photo")
    found = list(stream_features(colour_clip, iter(given), "photo", batch_size=3, workers=3))
    assert [p is q for (p, _), q in zip(found, given, strict=True)] == [True] * len(given)
    torch.testing.assert_close(torch.stack([row for _, row in found]), expected)


def test_what_cannot_be_read_is_told_in_its_place(colour_clip, picture):
    given = [b"", picture("red"), b"no picture", picture("blue"), b""]
    found = list(stream_features(colour_clip, given, "photo", batch_size=2))
    assert [isinstance(row, BadPicture) for _, row in found] == [True, False, True, False, True]
    assert [p for p, _ in found] == given


def test_a_batch_without_any_picture_and_no_pictures_at_all(colour_clip):
    assert list(stream_features(colour_clip, [], "photo")) == []
    found = list(stream_features(colour_clip, [b"", b""], "photo", batch_size=1))
    assert all(isinstance(row, BadPicture) for _, row in found)


def test_who_stops_listening_stops_the_decoding(colour_clip, picture):
    before = threading.active_count()
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield picture("red")

    stream = stream_features(colour_clip, endless(), "photo", batch_size=2)
    next(stream)
    stream.close()
    assert len(taken) == 4
    assert threading.active_count() == before


def test_an_error_of_another_kind_is_not_hidden(colour_clip, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("lascaux.tasks.features.square_pixels", broken)
    with pytest.raises(ZeroDivisionError):
        list(stream_features(colour_clip, [b"x"], "photo"))


def test_decoding_goes_on_while_the_model_works(colour_clip, picture, monkeypatch):
    """The model waits for a picture of the next batch, which must therefore come by itself."""
    from lascaux.images.preprocess import square_pixels

    decoded = [threading.Event() for _ in range(4)]

    def noted(path, how):
        decoded[int(path.name)].set()
        return square_pixels(picture("red"), how)

    plain = colour_clip.encode_image

    def waiting(x):
        assert decoded[3].wait(10)
        return plain(x)

    monkeypatch.setattr("lascaux.tasks.features.square_pixels", noted)
    monkeypatch.setattr(colour_clip, "encode_image", waiting)
    paths = [Path(str(at)) for at in range(4)]
    assert len(list(stream_features(colour_clip, paths, "photo", batch_size=2))) == 4


def test_objects_of_the_caller_are_read_when_they_are_taken(colour_clip, picture, tmp_path):
    """A picture opened lazily and given twice, and an array that is filled anew each time."""
    picture("red").resize((900, 900)).save(tmp_path / "red.jpg")
    lazy = Image.open(tmp_path / "red.jpg")
    buffer = np.zeros((48, 48, 3), np.uint8)

    def given():
        yield lazy
        yield lazy
        for name in ("blue", "white", "green"):
            buffer[:] = np.asarray(picture(name).resize((48, 48)))
            yield buffer

    found = [row for _, row in stream_features(colour_clip, given(), "photo", batch_size=1)]
    apart = [picture(name).resize((48, 48)) for name in ("blue", "white", "green")]
    expected, _ = image_features(colour_clip, [tmp_path / "red.jpg"] * 2 + apart, "photo")
    torch.testing.assert_close(torch.stack(found), expected)
