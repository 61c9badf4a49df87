"""What kind of file some bytes are, and whether they go on to the end, without decoding them.

Sources of the layouts: JPEG ITU-T T.81 annex B, PNG (W3C, third edition) chapter 5, GIF89a, the
WebP container specification, TIFF 6.0 section 2, BMP as in Windows' BITMAPFILEHEADER.
"""

import re
import struct

SUPPORTED = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
# By which files are taken for pictures where a folder is searched; in lower case.
SUFFIXES = frozenset(
    (".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00\x10\x00\x00\x00CR", "raw (CR2)"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "icon (ICO)"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"v/1\x01", "OpenEXR"),
    (b"qoif", "QOI"),
    (b"%!PS", "PostScript"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\x1aE\xdf\xa3", "video (Matroska)"),
)
_BRANDS = {  # of ISO base media files, behind "ftyp"
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
    b"crx ": "raw (CR3)",
}
_HTML = (b"<!doctype html", b"<html")

_CONVERT = "convert it to PNG or JPEG first"
ADVICE = {
    "HEIC": "convert it to JPEG first (phones export it so when sharing)",
    "SVG": "it holds drawing commands, no pixels: render it to PNG first",
    "PDF": "export the page as PNG first",
    "PostScript": "export the page as PNG first",
    "video (MP4)": "save a frame as PNG first",
    "video (Matroska)": "save a frame as PNG first",
    "video or sound (RIFF)": "save a frame as PNG first",
    "zip": "unpack it first",
    "gzip": "unpack it first",
    "web page (HTML)": "save the picture itself, not the page around it",
    "AVIF": _CONVERT,
    "JPEG 2000": _CONVERT,
    "JPEG XL": _CONVERT,
    "OpenEXR": _CONVERT,
    "Photoshop": _CONVERT,
    "QOI": _CONVERT,
    "icon (ICO)": _CONVERT,
    "raw (CR2)": _CONVERT,
    "raw (CR3)": _CONVERT,
}


def kind_of(data: bytes) -> str | None:
    """The name of the format that the first bytes tell, supported or not; None if unknown.

    A name from `SUPPORTED` is Pillow's name of the format. The file's own name plays no part.
    """
    if data[:4] == b"RIFF":
        if len(data) < 12:
            return "WEBP"  # cut short; of RIFF files it is the one that is a picture
        return "WEBP" if data[8:12] == b"WEBP" else "video or sound (RIFF)"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video (MP4)")
    for signature, kind in _SIGNATURES:
        if data.startswith(signature) and not (kind == "BMP" and _is_text(data[:1024])):
            return kind
        if kind in SUPPORTED and 2 < len(data) < len(signature) and signature.startswith(data):
            return kind  # cut short within its signature
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_HTML):
        return "web page (HTML)"
    if start.startswith((b"<svg", b"<?xml", b"<!--")):
        return "SVG" if b"<svg" in start else "XML"
    return "text" if _is_text(data[:1024]) else None


def ends_early(data: bytes, kind: str) -> bool:
    """Whether a file of a supported kind stops before its own structure says that it ends.

    A file whose structure cannot be followed counts as complete: its decoder is the judge then.
    """
    check = {"JPEG": _jpeg, "PNG": _png, "GIF": _gif, "WEBP": _webp, "TIFF": _tiff, "BMP": _bmp}
    try:
        return check[kind](data)
    except (struct.error, IndexError):  # a field lies beyond the end
        return True


def _is_text(start: bytes) -> bool:
    if not start or b"\x00" in start:
        return False
    # The first kilobyte may end within a character.
    text = start.decode("utf-8", errors="ignore")
    whole = len(text.encode()) >= len(start) - 3
    return whole and all(c.isprintable() or c.isspace() for c in text)


_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)


def _jpeg(data: bytes) -> bool:
    at = 2
    while True:
        found = _MARKER.search(data, at)
        if found is None:
            return True
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:  # end of image
            return False
        if marker not in (0x01, 0xD8):  # all others have a length
            at += struct.unpack_from(">H", data, at)[0]
        if marker == 0xDA:  # a scan, in which 0xFF is never followed by 0xD9
            return data.find(b"\xff\xd9", at) < 0


def _png(data: bytes) -> bool:
    at = 8
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        if not name.isalpha():
            return False
        at += 12 + length
        if name == b"IEND":
            return at > len(data)


def _gif(data: bytes) -> bool:
    at = 13 + _gif_table(data[10])
    while True:
        block = data[at]
        if block == 0x21:  # extension: label, then sub-blocks
            at = _gif_sub_blocks(data, at + 2)
        elif block == 0x2C:  # image: place, table, code size, then sub-blocks
            at = _gif_sub_blocks(data, at + 11 + _gif_table(data[at + 9]))
        else:  # 0x3B ends the file; nothing else is defined
            return False


def _gif_table(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_sub_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += 1 + data[at]
    return at + 1


def _webp(data: bytes) -> bool:
    return len(data) < 8 + struct.unpack_from("<I", data, 4)[0]


def _tiff(data: bytes) -> bool:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    first = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    entries = struct.unpack_from(order + ("Q" if big else "H"), data, first)[0]
    end = first + (8 + 20 * entries if big else 2 + 12 * entries)
    if end > len(data):
        return True
    start, step = (first + 8, 20) if big else (first + 2, 12)
    values: dict[int, tuple[int, ...]] = {}
    for at in range(start, start + entries * step, step):
        tag = struct.unpack_from(order + "H", data, at)[0]
        if tag in _TIFF_TAGS:
            values[tag] = _tiff_values(data, at, order, big)
    for offsets, sizes in ((273, 279), (324, 325)):  # of strips, of tiles
        pairs = zip(values.get(offsets, ()), values.get(sizes, ()), strict=False)
        if any(offset + size > len(data) for offset, size in pairs):
            return True
    return False


# What decoding needs: size, bits, compression, colours, strips, resolution, palette, tiles, tables.
_TIFF_TAGS = {*range(256, 260), 262, *range(273, 285), 317, 320, *range(322, 326), 338, 339, 347}
_TIFF_KINDS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q", 7: "B", 10: "Q", 16: "Q"}


def _tiff_values(data: bytes, at: int, order: str, big: bool) -> tuple[int, ...]:
    kind, count = struct.unpack_from(order + ("HQ" if big else "HI"), data, at + 2)
    if kind not in _TIFF_KINDS:
        return ()
    length = count * struct.calcsize(order + _TIFF_KINDS[kind])
    at, inline = (at + 12, 8) if big else (at + 8, 4)
    if length > inline:
        at = struct.unpack_from(order + ("Q" if big else "I"), data, at)[0]
        if at + length > len(data):
            raise IndexError
    return struct.unpack_from(f"{order}{count}{_TIFF_KINDS[kind]}", data, at)


def _bmp(data: bytes) -> bool:
    start, header = struct.unpack_from("<II", data, 10)
    if header < 40:
        return False
    width, height = struct.unpack_from("<ii", data, 18)
    bits, compression = struct.unpack_from("<HI", data, 28)
    if compression not in (0, 3):
        return False
    stride = (width * bits + 31) // 32 * 4
    return len(data) < start + stride * abs(height)
