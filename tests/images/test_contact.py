import pytest
from PIL import Image

from lascaux.errors import BadInput
from lascaux.images.contact import contact_page


def tile(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def count(page: Image.Image, colour: tuple[int, int, int]) -> int:
    return sum(n for n, found in page.getcolors(1 << 24) or [] if found == colour)


def test_every_picture_is_on_the_page_whole_and_as_large_as_the_others():
    page = contact_page([tile("#ff0000"), tile("#0000ff"), tile("#00ff00", (640, 640))])
    assert count(page, (255, 0, 0)) == count(page, (0, 0, 255)) == 192 * 192
    assert count(page, (0, 255, 0)) == 512 * 512


def test_the_page_is_about_square_and_columns_are_as_asked():
    pictures = [tile("red")] * 64
    page = contact_page(pictures)
    assert page.width == page.height
    assert contact_page(pictures[:3], columns=1).height > 3 * 192


def test_lines_and_a_title_take_room_and_stay_on_the_page():
    plain = contact_page([tile("red")] * 4)
    told = contact_page([tile("red")] * 4, ["seed 1 " * 40] * 4, title="long " * 200)
    assert told.width == plain.width
    assert told.height > plain.height
    right = told.crop((told.width - 24, 0, told.width, told.height))
    assert right.getcolors(1 << 20) == [(24 * told.height, told.getpixel((0, 0)))]


def test_what_makes_no_page_is_refused():
    with pytest.raises(BadInput, match="at least one picture"):
        contact_page([])
    with pytest.raises(BadInput, match="1 lines for 2 pictures"):
        contact_page([tile("red")] * 2, ["one"])
    with pytest.raises(BadInput, match="columns is 0"):
        contact_page([tile("red")], columns=0)
