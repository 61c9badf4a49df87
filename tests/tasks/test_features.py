import threading

import pytest
import torch

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

    def noted(at, how):
        decoded[at].set()
        return square_pixels(picture("red"), how)

    plain = colour_clip.encode_image

    def waiting(x):
        assert decoded[3].wait(10)
        return plain(x)

    monkeypatch.setattr("lascaux.tasks.features.square_pixels", noted)
    monkeypatch.setattr(colour_clip, "encode_image", waiting)
    assert len(list(stream_features(colour_clip, range(4), "photo", batch_size=2))) == 4
