import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lascaux.errors import BadInput, MissingExtra
from lascaux.images.animation import animation

TONES = ("navy", "red", "gold")


def test_a_gif_has_every_picture_for_its_time_and_the_last_one_longer(tmp_path):
    path = tmp_path / "part"
    with animation(path, "gif", 15.0) as add:
        for tone in TONES:
            add(Image.new("RGB", (9, 7), tone))
    times, seen = [], []
    with Image.open(path) as film:
        assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", 3, 0)
        for number in range(3):
            film.seek(number)
            times.append(film.info["duration"])
            seen.append(film.convert("RGB").getpixel((8, 6)))
    assert times == [70, 70, 1500]
    assert seen == [Image.new("RGB", (1, 1), tone).getpixel((0, 0)) for tone in TONES]


def test_an_animation_that_fails_is_not_written(tmp_path):
    def work() -> None:
        with animation(tmp_path / "film", "gif") as add:
            add(Image.new("RGB", (4, 4)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInput, match="at least one picture"), animation(tmp_path / "x", "gif"):
        pass


def test_a_film_goes_to_ffmpeg_frame_by_frame_with_even_sides(tmp_path, monkeypatch):
    frames, told = [], {}

    def write_frames(path, size, **options):
        told.update(path=path, size=size, **options)
        try:
            while True:
                frames.append((yield))
        finally:
            told["closed"] = True

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(write_frames=write_frames))
    with animation(tmp_path / "part", "mp4", 12.0) as add:
        for tone in TONES:
            add(Image.new("RGB", (9, 7), tone))
    assert (told["size"], told["fps"], told["closed"]) == ((10, 8), 12, True)
    assert told["output_params"] == ["-f", "mp4"]  # the name of what is half written says nothing
    assert np.stack(frames).shape == (3, 8, 10, 3)
    assert frames[1][7, 9].tolist() == [255, 0, 0]


def test_a_film_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtra, match=r"lascaux\[video\]"), animation(tmp_path / "x", "mp4"):
        pass
