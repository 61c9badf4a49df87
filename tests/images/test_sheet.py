import numpy as np
import pytest
from PIL import Image, ImageFont

from lascaux.errors import BadInput
from lascaux.images.sheet import SheetEntry, contact_sheet, side_by_side


def card(colour="red", size=(64, 48), bars=(("cat", 0.75), ("dog", 0.25)), **more):
    return SheetEntry(Image.new("RGB", size, colour), "a.png", bars, **more)


def count(page, colour):
    return sum(n for n, found in page.getcolors(1 << 24) if found == colour)


def test_every_picture_is_on_the_sheet_whole():
    page = contact_sheet([card("#ff0000", (64, 48)), card("#0000ff", (500, 1000))])
    assert page.mode == "RGB"
    assert count(page, (255, 0, 0)) == 3 * 64 * 3 * 48
    assert count(page, (0, 0, 255)) == 124 * 248


def test_bars_are_as_long_as_their_scores():
    def ink(score):
        return count(contact_sheet([card(bars=(("cat", score),))]), (0xB5, 0x54, 0x2B))

    assert ink(0.0) == 0
    assert ink(0.9) == pytest.approx(3 * ink(0.3), rel=0.1)
    assert ink(5.0) == ink(1.0)


def test_columns_are_as_asked_and_never_more_than_cards():
    one, two = (contact_sheet([card()] * 4, columns=n) for n in (1, 2))
    assert one.height > two.height
    assert one.width < two.width
    assert contact_sheet([card()] * 2, columns=9).size == contact_sheet([card()] * 2, 2).size


def test_a_picture_that_could_not_be_read_has_a_card_with_its_reason():
    plain = contact_sheet([SheetEntry(None, "b.png", ())])
    noted = contact_sheet([SheetEntry(None, "b.png", (), note="truncated")])
    assert noted.size != plain.size or noted.tobytes() != plain.tobytes()


def test_long_titles_stay_on_their_card():
    page = contact_sheet([card(bars=(("long " * 50, 1.0),), note="note " * 50)])
    background = page.getpixel((0, 0))
    right = page.crop((page.width - 36, 0, page.width, page.height))
    assert right.getcolors(1 << 20) == [(36 * page.height, background)]


def test_the_same_cards_give_the_same_sheet():
    assert contact_sheet([card()] * 3).tobytes() == contact_sheet([card()] * 3).tobytes()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(BadInput, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(BadInput, match="columns is 0"):
        contact_sheet([card()], columns=0)
    (tmp_path / "f.ttf").write_bytes(b"no font")
    with pytest.raises(BadInput, match="cannot read font"):
        contact_sheet([card()], font=tmp_path / "f.ttf")


def test_the_users_font_is_used(tmp_path):
    face = ImageFont.load_default(16)
    (tmp_path / "f.ttf").write_bytes(face.font_bytes)
    assert contact_sheet([card()], font=tmp_path / "f.ttf").tobytes() == (
        contact_sheet([card()]).tobytes()
    )


def pair(size, **more):
    left, right = (Image.new("RGB", size, colour) for colour in ("#ff0000", "#0000ff"))
    return side_by_side(left, right, labels=("left", "right"), title="a.png", **more)


@pytest.mark.parametrize(
    ("size", "times"), [((32, 32), 8), ((100, 60), 2), ((300, 20), 1), ((800, 500), 1)]
)
def test_two_pictures_are_side_by_side_whole_and_pixel_by_pixel(size, times):
    page = pair(size, lines=("one", "two"))
    area = times**2 * size[0] * size[1]
    assert count(page, (255, 0, 0)) == count(page, (0, 0, 255)) == area
    pixels = np.asarray(page)
    left = np.argwhere((pixels == (255, 0, 0)).all(2))
    right = np.argwhere((pixels == (0, 0, 255)).all(2))
    assert left[:, 0].min() == right[:, 0].min()
    assert left[:, 1].max() < right[:, 1].min()


def test_every_line_of_a_pair_has_its_room_and_long_ones_stay_on_the_card():
    pages = [pair((32, 32), lines=("line " * 99,) * n) for n in range(3)]
    assert pages[0].height < pages[1].height < pages[2].height
    right = pages[2].crop((pages[2].width - 36, 0, pages[2].width, pages[2].height))
    assert len(right.getcolors(1 << 20)) == 1


def test_pictures_of_two_sizes_are_no_pair():
    with pytest.raises(BadInput, match="one size is expected"):
        side_by_side(
            Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9)), labels=("a", "b"), title=""
        )
