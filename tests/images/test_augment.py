import numpy as np
import pytest
from PIL import Image

from lascaux.errors import BadInput
from lascaux.images.augment import Augmentation, cut_out, flipped, recoloured


def generator(seed=0):
    return np.random.Generator(np.random.PCG64([seed]))


def ramps(width=64, height=48):
    """Red grows to the right, green downwards, each from 0 to 255."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    blue = np.full_like(red, 100)
    return Image.fromarray(np.stack([red, green, blue], 2).astype(np.uint8))


def shares(picture):
    """Which share of the ramps' width and height a picture shows."""
    red, green, _ = (np.asarray(channel, np.float64) / 255 for channel in picture.split())
    return np.ptp(red), np.ptp(green)


def test_cut_outs_have_areas_and_aspects_within_the_ranges():
    areas, aspects = [], []
    for seed in range(200):
        cut = cut_out(ramps(), 64, generator(seed), area=(0.2, 0.6), aspect=(0.5, 2.0))
        assert cut.size == (64, 64)
        across, down = shares(cut)
        areas.append(across * down)
        aspects.append(across * 64 / (down * 48))
    # Ramps are read at pixels' middles, so that a cut-out seems a pixel smaller.
    assert 0.15 < min(areas) < 0.25
    assert 0.5 < max(areas) < 0.62
    assert 0.47 < min(aspects) < 0.6
    assert 1.7 < max(aspects) < 2.15


def test_a_whole_picture_can_be_the_cut_out():
    picture = ramps(48, 48)
    cut = cut_out(picture, 48, generator(), area=(1.0, 1.0), aspect=(1.0, 1.0))
    assert np.array_equal(np.asarray(cut), np.asarray(picture))


def test_where_no_draw_fits_the_middle_is_taken():
    cut = cut_out(ramps(200, 10), 20, generator(), area=(1.0, 1.0), aspect=(1.0, 1.0))
    red = np.asarray(cut)[:, :, 0] / 255
    assert red.min() == pytest.approx(95 / 200, abs=0.02)
    assert red.max() == pytest.approx(105 / 200, abs=0.02)


def test_half_of_the_pictures_are_mirrored():
    picture = ramps()
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rng = generator()
    seen = [flipped(picture, rng).tobytes() for _ in range(200)]
    assert set(seen) == {picture.tobytes(), mirrored.tobytes()}
    assert 70 < seen.count(mirrored.tobytes()) < 130
    assert flipped(picture, rng, 0.0).tobytes() == picture.tobytes()
    assert flipped(picture, rng, 1.0).tobytes() == mirrored.tobytes()


def test_colours_change_within_their_ranges():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    levels = [np.asarray(recoloured(grey, generator(s), brightness=0.4)).mean() for s in range(200)]
    assert 59 <= min(levels) < 65
    assert 135 < max(levels) <= 141
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    hues = [
        np.asarray(recoloured(red, generator(s), hue=0.25).convert("HSV"))[0, 0, 0]
        for s in range(200)
    ]
    turns = [(int(hue) + 128) % 256 - 128 for hue in hues]
    assert -66 <= min(turns) < -55
    assert 55 < max(turns) <= 66


def test_without_ranges_nothing_changes():
    picture = ramps()
    assert recoloured(picture, generator()).tobytes() == picture.tobytes()


def test_a_seed_repeats_what_was_done():
    change = Augmentation(
        size=32, area=(0.1, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    )
    first = [change(ramps(), generator(seed)).tobytes() for seed in range(20)]
    again = [change(ramps(), generator(seed)).tobytes() for seed in range(20)]
    assert first == again
    assert len(set(first)) == 20


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_any_mode_become_rgb(mode):
    changed = Augmentation(size=16)(ramps().convert(mode), generator())
    assert (changed.mode, changed.size) == ("RGB", (16, 16))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": 0}, "size=0"),
        ({"area": (0.0, 1.0)}, r"area=\(0.0, 1.0\); expected 0 < from <= to <= 1.0"),
        ({"area": (0.5, 1.5)}, "area="),
        ({"aspect": (2.0, 1.0)}, "aspect="),
        ({"hue": 0.6}, "hue=0.6; expected 0 to 0.5"),
        ({"flip": 1.1}, "flip=1.1"),
        ({"filter": "nearest"}, "filter='nearest'"),
    ],
)
def test_nonsense_is_refused(values, said):
    with pytest.raises(BadInput, match=said):
        Augmentation(**{"size": 8, **values})
