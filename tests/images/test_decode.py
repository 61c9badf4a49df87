import base64
import io
import struct
import threading
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image, ImageFile

from lascaux.errors import BadInput, BadPicture
from lascaux.images import read_picture
from lascaux.images.formats import ends_early, kind_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")


def noise(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def smooth(height=40, width=60):
    y, x = np.mgrid[:height, :width]
    channels = (x * 255 // width, y * 255 // height, (x + y) * 2 % 256)
    return np.stack(channels, axis=2).astype(np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def in_every_form():
    picture = Image.fromarray(smooth())
    frames = [Image.fromarray(noise(40, 60, 3, seed=i)) for i in range(3)]
    animated = {"save_all": True, "append_images": frames}
    return {
        "jpeg": encoded(picture, "JPEG", quality=95),
        "progressive jpeg": encoded(picture, "JPEG", progressive=True, quality=95),
        "jpeg with restart markers": encoded(picture, "JPEG", restart_marker_blocks=2),
        "png": encoded(picture, "PNG"),
        "interlaced png": interlaced_png(smooth()),
        "webp": encoded(picture, "WEBP", quality=95),
        "lossless webp": encoded(picture, "WEBP", lossless=True),
        "animated webp": encoded(picture, "WEBP", lossless=True, **animated),
        "gif": encoded(picture, "GIF"),
        "animated gif": encoded(picture, "GIF", **animated),
        "tiff": encoded(picture, "TIFF"),
        "deflated tiff": encoded(picture, "TIFF", compression="tiff_adobe_deflate"),
        "lzw tiff": encoded(picture, "TIFF", compression="tiff_lzw"),
        "big tiff": encoded(picture, "TIFF", big_tiff=True),
        "bmp": encoded(picture, "BMP"),
    }


def png_chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png_of(width, height, colour, depth, data, extra=b"", interlace=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    chunks = png_chunk(b"IHDR", header) + extra
    return (
        b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IDAT", zlib.compress(data))
        + png_chunk(b"IEND", b"")
    )  # fmt: skip


def interlaced_png(pixels):
    height, width, _ = pixels.shape
    data = b""
    for x, y, dx, dy in [
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]:  # fmt: skip
        for row in pixels[y::dy, x::dx]:
            data += b"\x00" + row.tobytes()
    return png_of(width, height, 2, 8, data, interlace=1)


def sixteen_bit_png(values, extra=b""):
    data = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    return png_of(values.shape[1], values.shape[0], 0, 16, data, extra)


def difference(picture, expected):
    return np.abs(np.asarray(picture).astype(int) - np.asarray(expected).astype(int)).max()


def distance(picture, expected):
    """On average, for what is stored with loss."""
    return np.abs(np.asarray(picture).astype(int) - np.asarray(expected).astype(int)).mean()


@pytest.mark.parametrize("form", list(in_every_form()))
def test_every_kind_of_file_is_read(form, tmp_path):
    data = in_every_form()[form]
    path = tmp_path / "picture.dat"
    path.write_bytes(data)
    picture = read_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (60, 40))
    allowed = 24 if "jpeg" in form or form == "webp" else 40 if "gif" in form else 0
    assert difference(picture, smooth()) <= allowed
    assert np.array_equal(picture, read_picture(data))
    assert np.array_equal(picture, read_picture(str(path)))


@pytest.mark.parametrize("form", list(in_every_form()))
def test_every_kind_of_file_is_refused_wherever_it_is_cut(form):
    data = in_every_form()[form]
    length = len(data)
    for keep in {3, 9, 20, 40, length // 10, length // 2, length - 300, length - 12, length - 1}:
        with pytest.raises(BadPicture, match=r"truncated: the file ends early|not a picture"):
            read_picture(data[: max(3, keep)])
    with pytest.raises(BadPicture, match="truncated"):
        read_picture(data[: length // 2])


@pytest.mark.parametrize("form", list(in_every_form()))
def test_cut_files_are_recognised_without_decoding(form):
    data = in_every_form()[form]
    kind = kind_of(data)
    assert kind in FORMATS
    assert not ends_early(data, kind)
    assert not ends_early(data + b"trailing bytes", kind)
    if "tiff" not in form:  # a TIFF's directory may lie before its last strip
        assert all(ends_early(data[:keep], kind) for keep in range(12, len(data), 97))
    assert ends_early(data[: len(data) // 2], kind)


@pytest.mark.parametrize("form", list(in_every_form()))
def test_damaged_files_are_refused_or_read_but_raise_nothing_else(form):
    data = in_every_form()[form]
    draw = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(data)
        for at in draw.integers(0, min(len(data), 400), 4):
            damaged[at] = draw.integers(256)
        with suppress(BadPicture):
            assert read_picture(bytes(damaged), max_pixels=10**6).mode == "RGB"


def test_a_wrong_extension_does_not_matter(tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(Image.fromarray(smooth()), "PNG"))
    assert difference(read_picture(path), smooth()) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"Dear all,\nthe photo is attached.\n", "it is text"),
        (b"BMW is a maker of cars.", "it is text"),
        ("Grüße aus Köln".encode(), "it is text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page .*save the picture itself"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG.*render it"),
        (b"<svg viewBox='0 0 1 1'/>", "SVG.*render it"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC.*convert it to JPEG"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00", "AVIF.*convert it to PNG or JPEG"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00", "video.*save a frame"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF.*export the page"),
        (b"PK\x03\x04\x14\x00\x00\x00", "zip.*unpack"),
        (b"8BPS\x00\x01", "Photoshop.*convert"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "video or sound"),
        (b"\x07\x00\x01\x02 nothing known", "it begins with .*expected a file in JPEG"),
    ],
)
def test_what_is_no_picture_is_refused_by_name_with_advice(content, reason, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(BadPicture, match=reason) as caught:
        read_picture(path)
    assert any("photo.jpg" in note for note in caught.value.__notes__)


def test_paths_that_hold_no_file_are_refused(tmp_path, monkeypatch):
    with pytest.raises(BadPicture, match=r"no file at .*absent\.png"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(BadPicture, match="a folder"):
        read_picture(tmp_path)
    with pytest.raises(BadPicture, match=r"cannot read|no file at"):
        read_picture("x" * 5000)
    with pytest.raises(BadPicture, match=r"cannot read|no file at"):
        read_picture("a\0b.png")
    locked = tmp_path / "locked.png"
    locked.write_bytes(b"x")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(locked), "read_bytes", refuse)
    with pytest.raises(BadPicture, match="permission denied"):
        read_picture(locked)


@pytest.mark.parametrize("address", ["http://example.org/a.jpg", "https://x/y.png", "s3://b/k"])
def test_addresses_are_refused_with_the_reason(address):
    with pytest.raises(BadPicture, match="never fetched from a network: download it first"):
        read_picture(address)


def test_data_uris_are_read():
    data = encoded(Image.fromarray(smooth()), "PNG")
    packed = base64.b64encode(data).decode()
    for uri in (
        f"data:image/png;base64,{packed}",
        f"DATA:image/jpeg;charset=x;BASE64,{packed}",
        f"data:;base64,{packed[:50]}\n {packed[50:]}",
        f"data:image/png;base64,{packed.replace('+', '%2B').rstrip('=')}",
        f"data:image/png;base64,{packed.replace('+', '-').replace('/', '_')}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in data),
    ):
        assert difference(read_picture(uri), smooth()) == 0


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:image/png;base64", "without a comma"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,????", "not valid base64"),
        ("data:image/png;base64,abcde", "not valid base64"),
        ("data:text/plain,hello", "it is text"),
        ("data:image/png;base64,iVBORw0KGgo=", "truncated"),
    ],
)
def test_bad_data_uris_are_refused(uri, reason):
    with pytest.raises(BadPicture, match=reason):
        read_picture(uri)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_stand_upright_whatever_their_orientation(orientation, kind):
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste((255, 0, 0), (0, 0, 32, 16))
    upright.paste((0, 0, 255), (32, 16, 64, 32))
    # How a camera stores it: undone by what the tag tells the reader to do.
    undo = {
        2: (Image.Transpose.FLIP_LEFT_RIGHT,),
        3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,),
        5: (Image.Transpose.ROTATE_90, Image.Transpose.FLIP_TOP_BOTTOM),
        6: (Image.Transpose.ROTATE_90,),
        7: (Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT),
        8: (Image.Transpose.ROTATE_270,),
    }
    stored = upright
    for step in undo.get(orientation, ()):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif)
    assert distance(read_picture(data), upright) < 4
    if kind != "TIFF":  # Pillow turns a TIFF by itself
        assert read_picture(data, mode="official").size == stored.size
    opened = Image.open(io.BytesIO(data))
    assert distance(read_picture(opened), upright) < 4
    assert distance(read_picture(read_picture(data)), upright) < 4


def test_broken_exif_is_ignored():
    data = encoded(Image.fromarray(smooth()), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_picture(data).size == (60, 40)


def test_an_orientation_out_of_range_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert read_picture(encoded(Image.fromarray(smooth()), "PNG", exif=exif)).size == (60, 40)


def test_transparency_shows_white():
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 255
    colour = np.full((8, 8, 3), (200, 30, 60), np.uint8)
    expected = np.where(alpha[:, :, None] == 255, colour, 255)
    rgba = Image.fromarray(np.dstack([colour, alpha]))
    assert difference(read_picture(encoded(rgba, "PNG")), expected) == 0
    assert difference(read_picture(encoded(rgba, "WEBP", lossless=True)), expected) == 0
    assert difference(read_picture(rgba), expected) == 0
    assert difference(read_picture(rgba.convert("RGBa")), expected) == 0
    assert difference(read_picture(np.dstack([colour, alpha])), expected) == 0

    grey = Image.fromarray(np.dstack([np.full((8, 8), 90, np.uint8), alpha]), "LA")
    seen = np.asarray(read_picture(encoded(grey, "PNG")))
    assert (seen[:, :4] == 255).all()
    assert (seen[:, 4:] == 90).all()


def test_half_transparency_mixes_with_white():
    half = Image.new("RGBA", (2, 2), (100, 0, 0, 128))
    assert read_picture(half).getpixel((0, 0)) == pytest.approx((177, 127, 127), abs=1)


def test_transparent_palette_entries_show_white():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    picture.putpixel((0, 0), 0)
    picture.putpixel((1, 0), 2)
    single = read_picture(encoded(picture, "PNG", transparency=0))
    assert single.getpixel((0, 0)) == (255, 255, 255)
    assert single.getpixel((3, 3)) == (200, 100, 50)
    graded = read_picture(encoded(picture, "PNG", transparency=bytes([0, 255, 127])))
    assert graded.getpixel((0, 0)) == (255, 255, 255)
    assert graded.getpixel((3, 3)) == (200, 100, 50)
    assert graded.getpixel((1, 0)) == pytest.approx((128, 255, 128), abs=1)
    gif = read_picture(encoded(picture, "GIF", transparency=0))
    assert gif.getpixel((0, 0)) == (255, 255, 255)
    assert gif.getpixel((3, 3)) == (200, 100, 50)
    plain = read_picture(encoded(picture, "PNG"))
    assert plain.getpixel((0, 0)) == (10, 20, 30)


def test_a_transparent_colour_without_alpha_shows_white():
    rgb = Image.new("RGB", (4, 4), (1, 2, 3))
    rgb.putpixel((2, 2), (9, 9, 9))
    seen = read_picture(encoded(rgb, "PNG", transparency=(1, 2, 3)))
    assert seen.getpixel((0, 0)) == (255, 255, 255)
    assert seen.getpixel((2, 2)) == (9, 9, 9)
    grey = Image.new("L", (4, 4), 7)
    grey.putpixel((2, 2), 99)
    seen = read_picture(encoded(grey, "PNG", transparency=7))
    assert seen.getpixel((0, 0)) == (255, 255, 255)
    assert seen.getpixel((2, 2)) == (99, 99, 99)
    deep = sixteen_bit_png(np.array([[1000, 30000]]), png_chunk(b"tRNS", struct.pack(">H", 1000)))
    assert np.asarray(read_picture(deep))[0, :, 0].tolist() == [255, 117]


def test_sixteen_bits_are_scaled_to_eight():
    values = np.array([[0, 128, 129, 257, 32768, 65535]])
    expected = [0, 0, 1, 1, 128, 255]
    assert np.asarray(read_picture(sixteen_bit_png(values)))[0, :, 1].tolist() == expected
    little = Image.fromarray(values.astype(np.uint16))
    assert np.asarray(read_picture(encoded(little, "TIFF")))[0, :, 1].tolist() == expected
    assert np.asarray(read_picture(values.astype(np.uint16)))[0, :, 1].tolist() == expected
    official = read_picture(sixteen_bit_png(values), mode="official")
    assert np.asarray(official).max() == 65535


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0.0, 32896.0, 65535.0]], np.float32), [0, 128, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0, 1, 255]], np.int32), [0, 1, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 50_000, 100_000]], np.int32), [0, 128, 255]),
        (np.array([[5, 5, 5]], np.int32), [5, 5, 5]),
    ],
)
def test_wide_greys_are_brought_into_range(values, expected):
    picture = Image.fromarray(values)
    assert picture.mode in ("I", "F")
    assert np.asarray(read_picture(picture))[0, :, 0].tolist() == expected
    assert np.asarray(read_picture(encoded(picture, "TIFF")))[0, :, 0].tolist() == expected


def test_values_that_are_not_finite_are_refused():
    for bad in (np.nan, np.inf):
        values = np.array([[0.0, bad]], np.float32)
        for source in (values, Image.fromarray(values), torch.from_numpy(values)[None]):
            with pytest.raises(BadPicture, match="not finite"):
                read_picture(source)


def test_inks_become_light():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, :8] = (0, 255, 255, 0)  # magenta and yellow: red
    inks[:, 8:] = (0, 0, 0, 0)  # paper
    cmyk = Image.fromarray(inks, "CMYK")
    for data in (encoded(cmyk, "TIFF"), encoded(cmyk, "JPEG", quality=95)):
        seen = read_picture(data)
        assert seen.getpixel((2, 2)) == pytest.approx((255, 0, 0), abs=6)
        assert seen.getpixel((13, 13)) == pytest.approx((255, 255, 255), abs=6)
    assert read_picture(cmyk).getpixel((13, 13)) == (255, 255, 255)


def test_inks_of_a_jpeg_without_adobes_mark_are_taken_as_they_are():
    stored = np.zeros((16, 16, 4), np.uint8)
    # Pillow writes Adobe's mark and inverted inks; without the mark the bytes mean themselves.
    stored[...] = (255, 0, 0, 255)
    data = encoded(Image.fromarray(stored, "CMYK"), "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[at + 2 : at + 4])[0]
    unmarked = data[:at] + data[at + 2 + length :]
    assert read_picture(data).getpixel((3, 3)) == pytest.approx((0, 0, 0), abs=6)
    assert read_picture(unmarked).getpixel((3, 3)) == pytest.approx((255, 0, 0), abs=6)


def test_other_modes_become_rgb():
    picture = Image.fromarray(smooth())
    for mode in ("L", "1", "P", "LA", "PA", "RGBA", "RGBX", "YCbCr", "HSV", "CMYK"):
        assert read_picture(picture.convert("P").convert(mode)).mode == "RGB"
    ycbcr = encoded(picture.convert("YCbCr"), "TIFF")
    assert difference(read_picture(ycbcr), smooth()) < 6


def test_a_mode_without_rgb_is_refused(monkeypatch):
    def refuse(self, mode):
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(BadPicture, match="its colours are LAB"):
        read_picture(Image.new("LAB", (4, 4)))


def test_the_first_frame_of_an_animation_is_taken():
    for form in ("animated gif", "animated webp"):
        assert difference(read_picture(in_every_form()[form]), smooth()) < 40


def test_official_reading_leaves_the_mode_alone():
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        picture = Image.fromarray(smooth()).convert(mode)
        read = read_picture(encoded(picture, "PNG"), mode="official")
        assert read.mode == mode
        assert difference(read, picture) == 0


@pytest.mark.parametrize("mode", ["photo", "official"])
def test_the_callers_image_is_not_touched(mode):
    mine = Image.fromarray(smooth())
    mine.info["note"] = "kept"
    read = read_picture(mine, mode=mode)
    read.thumbnail((5, 5))
    read.info.clear()
    assert mine.size == (60, 40)
    assert mine.info == {"note": "kept"}


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_pictures_are_read(size):
    picture = Image.new("RGB", size, (3, 2, 1))
    assert read_picture(encoded(picture, "PNG")).size == size


def test_a_header_that_claims_too_much_is_refused_before_decoding():
    bomb = png_of(100_000, 100_000, 2, 8, b"")
    with pytest.raises(BadPicture, match="enormous"):
        read_picture(bomb)
    with pytest.raises(BadPicture, match="enormous"):
        read_picture(bomb[:60])
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 10**5, 10**5, 1, 24, *[0] * 6)
    with pytest.raises(BadPicture, match="enormous"):
        read_picture(bmp)


def test_pictures_between_pillows_two_limits_are_read_without_a_warning():
    large = png_of(100_000_000, 1, 0, 1, b"\x00" + bytes(12_500_000))
    assert read_picture(large, mode="official").size == (100_000_000, 1)


def test_limits_of_the_caller_hold_for_every_source(tmp_path):
    picture = Image.fromarray(smooth())
    data = encoded(picture, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    uri = "data:;base64," + base64.b64encode(data).decode()
    tensor = torch.zeros(3, 40, 60)
    for source in (path, data, uri, picture, smooth(), tensor):
        with pytest.raises(BadPicture, match="60 x 40 = 2,400 pixels; at most 2,000"):
            read_picture(source, max_pixels=2000)
        assert read_picture(source, max_pixels=2400).size == (60, 40)
    for source in (path, data, uri):
        with pytest.raises(BadPicture, match=r"enormous: .* bytes; at most 100 are read"):
            read_picture(source, max_bytes=100)


def test_arrays_of_every_kind_are_read():
    grey = noise(5, 7)
    assert np.array_equal(np.asarray(read_picture(grey))[:, :, 0], grey)
    assert np.array_equal(read_picture(grey[:, :, None]), read_picture(grey))
    rgb = noise(5, 7, 3)
    assert np.array_equal(read_picture(rgb), rgb)
    assert np.array_equal(read_picture(rgb[::-1, ::-1]), rgb[::-1, ::-1])
    for dtype in (np.float16, np.float32, np.float64):
        assert np.array_equal(read_picture((rgb / 255).astype(dtype)), rgb)
    assert np.asarray(read_picture(grey > 127)).max() == 255
    assert np.array_equal(read_picture(rgb.astype(np.uint16) * 257), rgb)


def test_tensors_of_every_kind_are_read():
    rgb = noise(5, 7, 3)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    assert np.array_equal(read_picture(tensor), rgb)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        exact = dtype != torch.bfloat16
        read = read_picture((tensor.double() / 255).to(dtype))
        assert difference(read, rgb) <= (0 if exact else 1)
    assert np.array_equal(read_picture((tensor / 255).requires_grad_()), rgb)
    assert np.asarray(read_picture(torch.ones(1, 4, 4))).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((3, 5, 7)), "channels come first; expected y x c"),
        (np.zeros((2, 5, 7, 3)), "one picture at a time"),
        (np.zeros((5, 7, 2)), "expected y x"),
        (np.zeros(5), "expected y x"),
        (np.zeros((0, 5, 3)), "empty: it is 5 x 0 pixels"),
        (np.full((5, 7, 3), 200.0), "from 200 to 200; expected .*divide by 255"),
        (np.full((5, 7, 3), -0.5), r"-0.5.*denormalise first"),
        (np.zeros((5, 7, 3), np.int64), "type int64; expected bool, uint8"),
        (np.zeros((5, 7, 3), complex), "type complex128"),
        (np.zeros((5, 7), object), "type object"),
        (torch.zeros(5, 7, 3), "channels come last; expected c y x"),
        (torch.zeros(2, 3, 5, 7), "one picture at a time"),
        (torch.zeros(5, 7), "expected c y x"),
        (torch.full((3, 5, 7), 255.0), "divide by 255"),
        (torch.full((3, 5, 7), -2.0), "denormalise first"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "type int64"),
        (torch.zeros(3, 0, 7), "empty"),
    ],
)
def test_arrays_and_tensors_of_wrong_form_or_range_are_refused(source, reason):
    with pytest.raises(BadPicture, match=reason):
        read_picture(source)


def test_rounding_beyond_the_range_is_forgiven():
    assert np.asarray(read_picture(np.full((2, 2), 1 + 1e-6))).max() == 255


def test_an_empty_or_half_read_image_of_pillow_is_refused():
    with pytest.raises(BadPicture, match="empty"):
        read_picture(Image.new("RGB", (0, 5)))
    data = encoded(Image.fromarray(smooth()), "JPEG")
    with pytest.raises(BadPicture, match="truncated"):
        read_picture(Image.open(io.BytesIO(data[:-100])))


def test_what_is_no_source_and_no_mode_is_refused():
    # Under the tests' type checks the second message is the checker's.
    with pytest.raises((BadPicture, TypeCheckError), match=r"source|type dict is no picture"):
        read_picture({})
    with pytest.raises((BadInput, TypeCheckError), match="mode"):
        read_picture(smooth(), mode="exact")


def test_nothing_of_pillow_or_of_the_warnings_is_left_changed():
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    data = list(in_every_form().values())

    def work():
        for item in data * 3:
            read_picture(item)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    assert before == after
