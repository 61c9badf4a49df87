import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lascaux.errors import BadInput, BadPicture, Unsupported
from lascaux.images import Preprocessing, denormalise, normalise, pixels, read_picture, to_square
from lascaux.images.opencv import resize_bicubic
from lascaux.images.preprocess import to_whole

CASE = Path(__file__).resolve().parents[1] / "golden" / "clip" / "preprocess-224"
OFFICIAL = Preprocessing(size=224, reading="official")

# cv2.resize(formula(height, width), (new width, new height), interpolation=cv2.INTER_CUBIC) of
# opencv-python-headless 5.0.0 (the wheel for x86-64), recorded as bytes.
OPENCV = [
    (
        (9, 7),
        (4, 5),
        "215a977d84b49ec02a0b5b95d37f7f5a2c563399d3c5be89255b927ab7ffd302590971bcc6a53ca4337138b380"
        "bc8d2a5a6c9676d14bbd5470567d9f",
    ),
    (
        (5, 6),
        (7, 8),
        "002c610b40732b5f994378c05c9fd97cc5f890d7ff2d60b33f87dd69bfb696cc43b05854cf327de35b928ecb8a"
        "ae99b5a588906ea51d82322ea60c61ba3582a7f019d662309a005b0036840a60a43689b74c9cbb1a5164315488"
        "4665b74984d45faeff89d8adaaec213365d943997373dc33adea66dd778f95537b2b7e4c94d0b0b2aa4bb0a50d"
        "85c241ae515c6c2e920259becbff20fc7746b60978054496106eb54599de66aef8",
    ),
    (
        (40, 30),
        (6, 3),
        "8b3e7e793e786771637a7ca7a9a39fd89b7ba0824387788285a6ad6d70955d8c6f4e934caab2b1a3649c90d774"
        "8b7455798188678bd3",
    ),
    ((1, 1), (2, 2), "00356a00356a00356a00356a"),
    ((3, 50), (3, 4), "417668665ebc48a3ed8abfb1afb31a910a8724594b495ad16ec15349a29492af2fb71f8b"),
]


def formula(height, width):
    y, x, c = np.mgrid[:height, :width, :3]
    return ((x * 37 + y * 91 + c * 53 + x * y * c) % 256).astype(np.uint8)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    channels = (x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), x * 0 + 90)
    return np.stack(channels, axis=2).astype(np.uint8)


def as_published(picture, n):
    """Resize(n, bicubic), CenterCrop(n), convert: one Pillow call each, in the picture's mode."""
    width, height = picture.size
    upright = width <= height
    size = (n, int(n * height / width)) if upright else (int(n * width / height), n)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - n) / 2.0), round((size[1] - n) / 2.0)
    return picture.crop((left, top, left + n, top + n)).convert("RGB")


def test_official_preprocessing_is_the_golden_case_to_the_byte():
    config = json.loads((CASE / "manifest.json").read_text())["config"]
    stored = load_file(CASE / "tensors.safetensors")
    assert (config["n_px"], list(OFFICIAL.mean), list(OFFICIAL.std)) == (
        224,
        config["mean"],
        config["std"],
    )
    for name, about in config["images"].items():
        data = stored[f"in.{name}"].numpy().tobytes()
        assert read_picture(data, mode="official").mode == about["mode"]
        x, failures = pixels([data], OFFICIAL)
        assert not failures
        step = config["step"]
        assert torch.equal((x[0, :, ::step, ::step] * 255).byte(), stored[f"out.{name}.rgb"]), name
        x = normalise(x, OFFICIAL.mean, OFFICIAL.std)
        torch.testing.assert_close(
            x[0, :, ::step, ::step], stored[f"out.{name}"].float(), rtol=2e-3, atol=2e-3
        )
        assert x.mean().item() == pytest.approx(about["mean"], abs=1e-5)
        assert x.std().item() == pytest.approx(about["std"], abs=1e-5)


@pytest.mark.parametrize("n", [1, 7, 64, 96, 224, 288])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F", "I"])
def test_official_preprocessing_is_what_pillow_does_step_by_step(n, mode):
    for height, width in [(30, 41), (97, 64), (64, 64), (1, 3), (200, 13), (65, 64), (67, 64)]:
        if mode == "I;16":
            picture = Image.fromarray(formula(height, width)[:, :, 0].astype(np.uint16) * 200)
        else:
            picture = Image.fromarray(formula(height, width)).convert(mode)
        ours = to_square(picture, replace(OFFICIAL, size=n))
        assert (ours.mode, ours.size) == ("RGB", (n, n))
        assert np.array_equal(ours, as_published(picture, n)), (width, height)


def test_palette_transparency_raises_no_warning_in_official_reading():
    picture = Image.new("P", (4, 4))
    picture.putpalette([9, 9, 9, 200, 0, 0])
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=bytes([0, 255]))
    square = to_square(read_picture(stream.getvalue(), mode="official"), OFFICIAL)
    assert square.getpixel((100, 100)) == (9, 9, 9)


@pytest.mark.parametrize("size", [(1, 700), (700, 1), (2, 1500), (1500, 3), (7, 3001)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_the_middle_of_a_thin_picture_is_that_of_the_whole(size, mode, monkeypatch):
    values = formula(size[1], size[0]) if 1 in size else smooth(size[1], size[0])
    picture = Image.fromarray(values).convert(mode)
    monkeypatch.setattr("lascaux.images.preprocess._LARGEST_WHOLE", 1000)
    ours = np.asarray(to_square(picture, replace(OFFICIAL, size=64))).astype(int)
    difference = np.abs(ours - np.asarray(as_published(picture, 64)))
    assert difference.max() <= (0 if 1 in size else 2)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "lanczos", "opencv-bicubic"])
def test_pictures_of_one_pixel_by_thousands_are_prepared(filter):
    how = Preprocessing(size=224, filter=filter)
    for shape in [(5000, 1, 3), (1, 5000, 3), (1, 1, 3)]:
        square = to_square(Image.fromarray(np.full(shape, 77, np.uint8)), how)
        assert square.size == (224, 224)
        assert square.getpixel((9, 200)) == (77, 77, 77)


def test_photo_reading_turns_upright_and_shows_white_before_resizing():
    picture = Image.new("RGBA", (40, 80), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    picture.paste((255, 0, 0, 255), (0, 40, 40, 80))
    picture.save(stream, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(stream.getvalue()))
    photo = to_square(opened, Preprocessing(size=40, resize="squash"))
    assert photo.getpixel((5, 20)) == (255, 0, 0)
    assert photo.getpixel((35, 20)) == (255, 255, 255)
    official = to_square(opened, Preprocessing(size=40, resize="squash", reading="official"))
    assert official.getpixel((20, 5)) == (0, 0, 0)


def test_squashing_keeps_both_edges_and_cropping_does_not():
    picture = Image.fromarray(smooth(50, 200))
    squashed = np.asarray(to_square(picture, Preprocessing(size=50, resize="squash")))
    cropped = np.asarray(to_square(picture, Preprocessing(size=50)))
    assert squashed[25, 0, 0] < 5
    assert squashed[25, 49, 0] > 250
    assert 90 < cropped[25, 0, 0] < cropped[25, 49, 0] < 165


def test_padding_keeps_the_aspect_and_fills_with_the_mean_colour():
    how = Preprocessing(size=50, resize="pad", mean=(0.5, 0.25, 1.0), std=(1.0, 1.0, 1.0))
    wide = np.asarray(to_square(Image.new("RGB", (200, 100), (9, 9, 9)), how))
    assert (wide[:12] == (128, 64, 255)).all()
    assert (wide[38:] == (128, 64, 255)).all()
    assert (wide[13:37] == 9).all()
    tall = np.asarray(to_square(Image.new("RGB", (100, 200), (9, 9, 9)), how))
    assert np.array_equal(tall, wide.transpose(1, 0, 2))
    line = np.asarray(to_square(Image.new("RGB", (1000, 1), (9, 9, 9)), how))
    assert (line == 9).all(axis=2).sum() == 50


@pytest.mark.parametrize(("before", "after", "recorded"), OPENCV)
def test_opencv_bicubic_gives_what_opencv_gave(before, after, recorded):
    picture = Image.fromarray(formula(before[1], before[0]))
    assert resize_bicubic(picture, after).tobytes().hex() == recorded


def test_opencv_bicubic_is_that_of_an_installed_opencv():
    cv2 = pytest.importorskip("cv2", reason="compares with opencv-python-headless if installed")
    draw = np.random.default_rng(0)
    wrong = total = 0
    for _ in range(40):
        height, width, new_height, new_width = (int(n) for n in draw.integers(4, 200, 4))
        picture = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_CUBIC)
        ours = np.asarray(resize_bicubic(Image.fromarray(picture), (new_width, new_height)))
        difference = np.abs(theirs.astype(int) - ours)
        assert difference.max() <= 1
        wrong += (difference > 0).sum()
        total += difference.size
    # With Intel's library only roundings differ; without, its weights have 11 bits.
    assert wrong / total < (1e-4 if cv2.ipp.useIPP() else 0.06)


def test_a_part_of_an_opencv_resize_is_cut_from_the_whole():
    picture = Image.fromarray(formula(33, 57))
    whole = resize_bicubic(picture, (80, 90))
    part = resize_bicubic(picture, (80, 90), part=(10, 20, 31, 64))
    assert np.array_equal(part, whole.crop((10, 20, 31, 64)))


def test_opencv_bicubic_does_not_smooth_and_pillows_does():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    picture = Image.fromarray(stripes)
    assert np.ptp(np.asarray(to_square(picture, Preprocessing(size=9)))) < 60
    rough = to_square(picture, Preprocessing(size=9, filter="opencv-bicubic"))
    assert np.ptp(np.asarray(rough)) > 200


def test_opencv_bicubic_sees_rgb_whatever_the_picture_is():
    how = Preprocessing(size=8, filter="opencv-bicubic", reading="official")
    for mode in ("L", "P", "1", "RGBA", "CMYK"):
        picture = Image.fromarray(smooth(20, 20)).convert(mode)
        assert np.array_equal(to_square(picture, how), to_square(picture.convert("RGB"), how))


def test_pixels_keep_their_order_and_bad_pictures_stop_nobody(tmp_path):
    good = [Image.new("RGB", (30, 20), (value, 0, 0)) for value in (10, 20, 30)]
    (tmp_path / "empty.png").touch()
    sources = [good[0], b"not a picture", good[1], tmp_path / "empty.png", good[2]]
    x, failures = pixels(sources, Preprocessing(size=16))
    assert x.shape == (3, 3, 16, 16)
    assert x.dtype == torch.float32
    assert (x[:, 0, 8, 8] * 255).round().tolist() == [10, 20, 30]
    assert [index for index, _ in failures] == [1, 3]
    assert all(isinstance(error, BadPicture) for _, error in failures)
    assert "empty" in str(failures[1][1])


def test_pixels_of_nothing_are_an_empty_batch():
    x, failures = pixels([], Preprocessing(size=16))
    assert x.shape == (0, 3, 16, 16)
    assert failures == []


def test_a_batch_equals_its_pictures_one_by_one():
    pictures = [Image.fromarray(formula(20 + i, 33)) for i in range(4)]
    together, _ = pixels(pictures, Preprocessing(size=24))
    alone = torch.cat([pixels([picture], Preprocessing(size=24))[0] for picture in pictures])
    assert torch.equal(together, alone)


def test_arrays_tensors_files_and_images_give_the_same_pixels(tmp_path):
    array = formula(40, 30)
    Image.fromarray(array).save(tmp_path / "a.png")
    sources = [
        array,
        torch.from_numpy(array).permute(2, 0, 1) / 255,
        tmp_path / "a.png",
        Image.fromarray(array),
    ]
    x, _ = pixels(sources, Preprocessing(size=24))
    assert all(torch.equal(x[0], other) for other in x[1:])


def test_denormalising_undoes_normalising():
    x = torch.rand(2, 3, 4, 5)
    how = Preprocessing(size=4)
    y = normalise(x, how.mean, how.std)
    assert y[0, 2, 1, 1] == pytest.approx(((x[0, 2, 1, 1] - how.mean[2]) / how.std[2]).item())
    torch.testing.assert_close(denormalise(y, how.mean, how.std), x)
    assert normalise(x.double(), how.mean, how.std).dtype == torch.float64


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "lanczos", "opencv-bicubic"])
@pytest.mark.parametrize("reading", ["photo", "official"])
def test_json_brings_the_same_preprocessing_back(resize, filter, reading):
    how = Preprocessing(
        size=96,
        resize=resize,
        filter=filter,
        reading=reading,
        mean=(0.1, 1 / 3, 0.7),
        std=(0.2, 0.3, 1e-3),
    )
    assert Preprocessing.from_json(json.loads(json.dumps(how.to_json()))) == how


HUB = {
    "crop_size": {"height": 336, "width": 336},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 336},
}
OLD_HUB = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
OPEN_CLIP = {
    "size": 224,
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def test_configurations_of_the_hub_are_read():
    assert Preprocessing.from_json(HUB) == Preprocessing(size=336)
    assert Preprocessing.from_json(OLD_HUB) == Preprocessing(size=224)
    squashed = {**HUB, "size": {"height": 336, "width": 336}, "do_center_crop": False}
    assert Preprocessing.from_json(squashed).resize == "squash"
    assert Preprocessing.from_json({**HUB, "resample": 2}).filter == "bilinear"


def test_configurations_of_open_clip_are_read():
    half = (0.5, 0.5, 0.5)
    expected = Preprocessing(size=224, mean=half, std=half)
    assert Preprocessing.from_json(OPEN_CLIP) == expected
    assert Preprocessing.from_json({"model_cfg": {}, "preprocess_cfg": OPEN_CLIP}) == expected
    squashed = {**OPEN_CLIP, "size": [224, 224], "resize_mode": "squash"}
    assert Preprocessing.from_json(squashed) == replace(expected, resize="squash")
    assert Preprocessing.from_json({**OPEN_CLIP, "interpolation": "bilinear"}).filter == "bilinear"
    padded = {**OPEN_CLIP, "resize_mode": "longest", "fill_color": [128, 128, 128]}
    assert Preprocessing.from_json(padded) == replace(expected, resize="pad")
    assert Preprocessing.from_json({"size": 64, "mean": [0, 0, 0]}).mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({**HUB, "resample": 1}, "resample = 1"),
        ({**HUB, "do_resize": False}, "do_resize = False"),
        ({**HUB, "do_normalize": False}, "do_normalize"),
        ({**HUB, "rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({**HUB, "do_pad": True}, "'do_pad' = True"),
        ({**HUB, "crop_size": {"height": 300, "width": 300}}, "differ"),
        ({**HUB, "size": {"longest_edge": 336}}, "longest_edge"),
        ({**HUB, "size": {"height": 336, "width": 224}}, "square of whole pixels"),
        ({**HUB, "do_center_crop": False}, "not square"),
        ({**HUB, "image_processor_type": "SiglipImageProcessor"}, "SiglipImageProcessor"),
        ({**OPEN_CLIP, "interpolation": "random"}, "interpolation = 'random'"),
        ({**OPEN_CLIP, "resize_mode": "stretch"}, "resize_mode = 'stretch'"),
        ({**OPEN_CLIP, "resize_mode": "longest"}, "fill_color"),
        ({**OPEN_CLIP, "mode": "L"}, "mode = 'L'"),
        ({**OPEN_CLIP, "sharpen": 2}, "'sharpen' = 2"),
        ({**OPEN_CLIP, "size": [224, 336]}, "square"),
    ],
)
def test_what_would_change_pixels_unseen_is_refused(fields, reason):
    with pytest.raises(Unsupported, match=reason):
        Preprocessing.from_json(fields)


def test_a_missing_size_is_refused():
    for fields in ({k: v for k, v in HUB.items() if k != "size"}, {**OPEN_CLIP, "size": None}):
        with pytest.raises(BadInput, match="no `size`"):
            Preprocessing.from_json(fields)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 0}, "at least 1"),
        ({"std": (1.0, 0.0, 1.0)}, "positive"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "three numbers"),
    ],
)
def test_values_that_prepare_nothing_are_refused(change, reason):
    with pytest.raises(BadInput, match=reason):
        Preprocessing(**{"size": 224, **change})


def test_a_whole_picture_keeps_its_shape_and_is_cut_evenly_to_multiples():
    picture = Image.fromarray(
        np.arange(45 * 62 * 3, dtype=np.uint32).astype(np.uint8).reshape(45, 62, 3)
    )
    how = Preprocessing(size=32, filter="lanczos")
    assert to_whole(picture, how).tobytes() == picture.tobytes()
    assert to_whole(picture, how, multiple=8).tobytes() == picture.crop((3, 2, 59, 42)).tobytes()
    smaller = picture.resize((41, 30), Image.Resampling.LANCZOS).crop((0, 1, 40, 29))
    assert to_whole(picture, how, short=30, multiple=4).tobytes() == smaller.tobytes()
    with pytest.raises(BadPicture, match="at least 64 on each side"):
        to_whole(picture, how, multiple=64)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "lanczos", "opencv-bicubic"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "CMYK"])
@pytest.mark.parametrize("reading", ["photo", "official"])
def test_whole_pictures_of_every_mode_become_rgb(filter, mode, reading):
    how = Preprocessing(size=8, filter=filter, reading=reading)
    found = to_whole(Image.new("RGB", (33, 21), "navy").convert(mode), how, short=16, multiple=8)
    assert (found.mode, found.size) == ("RGB", (24, 16))
