import pytest

from lascaux.cli.table import bar, padded, ranking, text_width
from lascaux.tasks.results import Classified, Failed, Label


@pytest.mark.parametrize(("text", "columns"), [("cat", 3), ("火车", 4), ("é", 1), ("e\u0301", 1)])
def test_width_is_counted_in_columns(text, columns):
    assert text_width(text) == columns


@pytest.mark.parametrize("text", ["cat", "火车火车火车", "a long name indeed", "tab\tand\nline"])
def test_padded_text_has_exactly_its_width(text):
    for width in (7, 8):
        assert text_width(padded(text, width)) == width
        assert "\n" not in padded(text, width)


def test_bars_grow_by_eighths_and_never_leave_their_room():
    assert bar(0.0, 10) == ""
    assert bar(0.5, 10) == "█" * 5
    assert bar(0.0125, 10) == "▏"
    assert bar(7.0, 4) == "████"
    assert bar(-1.0, 4) == ""
    assert bar(0.5, 10, plain=True) == "#####"


def test_a_ranking_reads_well():
    labels = (Label("fire truck", 0.9, 0), Label("猫", 0.1, 1))
    assert ranking(Classified("a.png", labels, "softmax"), width=50) == (
        "a.png\n  1  fire truck   90.0%   █████████████████████▋\n  2  猫           10.0%   ██▍\n"
    )


def test_what_is_unusual_is_said():
    assert ranking(Failed("b.png", "empty")) == "b.png\n  not read: empty\n"
    labels = (Label("x", 0.25, 0), Label("x", -0.1, 5))
    text = ranking(Classified("a", labels, "cosine", none_of_these=True), repeated=["x"])
    assert "(cosines)" in text
    assert "none of these" in text
    assert "x (class 5)   -0.100" in text
