import pytest
import torch

from lascaux.errors import WrongKeys
from lascaux.weights.keymap import Rule, require_shapes, translate, translate_back

ROWS = torch.arange(6.0).reshape(2, 3)
RULES = (
    Rule("net.{i}.w", "layers.{i}.weight"),
    Rule("head", "head.weight", torch.t, torch.t),
    Rule(("q.{p}", "k.{p}"), "both.{p}", lambda q, k: torch.cat((q, k)), lambda x: x.chunk(2)),
    Rule("mask", None, why="follows from the length"),
    Rule("extra.{p}", "extra.{p}", optional=True),
)
STATE = {
    "net.0.w": ROWS,
    "net.11.w": ROWS + 1,
    "head": ROWS,
    "k.bias": ROWS - 1,
    "q.bias": ROWS - 2,
    "mask": ROWS,
}


def test_names_are_translated_and_tensors_changed():
    ours = translate(STATE, RULES)
    assert set(ours) == {"layers.0.weight", "layers.11.weight", "head.weight", "both.bias"}
    assert torch.equal(ours["layers.11.weight"], ROWS + 1)
    assert torch.equal(ours["head.weight"], ROWS.T)
    assert torch.equal(ours["both.bias"], torch.cat((ROWS - 2, ROWS - 1)))


def test_translation_can_be_undone():
    back = translate_back(translate(STATE, RULES), RULES)
    assert set(back) == set(STATE) - {"mask"}
    assert all(torch.equal(back[key], STATE[key]) for key in back)


def test_a_key_that_meets_no_rule_is_named_with_its_file():
    with pytest.raises(WrongKeys, match=r"file\.pt: 1 not expected: net\.0\.w\.deeper"):
        translate({**STATE, "net.0.w.deeper": ROWS}, RULES, source="file.pt")


def test_a_placeholder_does_not_cross_a_dot():
    with pytest.raises(WrongKeys, match=r"net\.0\.1\.w"):
        translate({**STATE, "net.0.1.w": ROWS}, RULES)


def test_a_rule_that_meets_no_key_is_named():
    with pytest.raises(WrongKeys, match="1 missing: head"):
        translate({k: v for k, v in STATE.items() if k != "head"}, RULES)


def test_a_part_that_is_missing_is_named():
    with pytest.raises(WrongKeys, match=r"1 missing: k\.bias"):
        translate({k: v for k, v in STATE.items() if k != "k.bias"}, RULES)


def test_two_tensors_for_one_place_are_refused():
    rules = (*RULES, Rule("old_head", "head.weight", optional=True))
    with pytest.raises(WrongKeys, match="two tensors for the same place"):
        translate({**STATE, "old_head": ROWS}, rules)


def test_a_placeholder_may_occur_twice():
    rules = (Rule("block{i}.conv{i}", "conv{i}"),)
    assert set(translate({"block1.conv1": ROWS, "block2.conv2": ROWS}, rules)) == {"conv1", "conv2"}
    with pytest.raises(WrongKeys):
        translate({"block1.conv2": ROWS}, rules)


def test_shapes_are_compared_under_published_names():
    ours = translate(STATE, RULES)
    expected = {**ours, "head.weight": torch.zeros(3, 4), "layers.3.weight": ROWS}
    del expected["layers.0.weight"]
    with pytest.raises(WrongKeys) as caught:
        require_shapes(ours, expected, RULES, source="file.pt")
    message = str(caught.value)
    assert message.startswith("file.pt: ")
    assert "1 missing: net.3.w" in message
    assert "1 not expected: net.0.w" in message
    assert "head (3 x 2 where the model has 3 x 4)" in message


def test_long_lists_of_keys_are_cut():
    with pytest.raises(WrongKeys, match=r"20 not expected: .* and 12 more$"):
        translate({**STATE, **{f"odd{i}": ROWS for i in range(20)}}, RULES)
