import pytest
import torch

from lascaux.errors import BadInput, GenerationFailed
from lascaux.generate.sampling import NEAR, Sampling, draw, guided, kept, shares, uniforms_of

# Shares 0.5, 0.2, 0.2, 0.1.
TABLE = torch.tensor([[0.2, 0.5, 0.1, 0.2]]).log()


def left(logits: torch.Tensor, **options) -> list[int]:
    return kept(logits, Sampling(**options))[0].nonzero().flatten().tolist()


def test_top_k_keeps_what_ties_with_the_last():
    assert left(TABLE, top_k=1) == [1]
    assert left(TABLE, top_k=2) == [0, 1, 3]
    assert left(TABLE, top_k=4) == left(TABLE) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.01, [1]), (0.49, [1]), (0.51, [0, 1]), (0.75, [0, 1, 3]), (0.95, [0, 1, 2, 3]), (1.0, 4)],
)
def test_top_p_keeps_the_token_that_crosses_it(top_p: float, expected: list[int] | int):
    assert left(TABLE, top_p=top_p) == ([0, 1, 2, 3] if expected == 4 else expected)


def test_top_p_counts_shares_of_what_top_k_left():
    # Of 0.5, 0.2, 0.2 the first has 0.556.
    assert left(TABLE, top_k=2, top_p=0.53) == [1]
    assert left(TABLE, top_p=0.53) == [0, 1]


def test_the_temperature_comes_before_top_p():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    assert (shares(logits, Sampling(temperature=0.1, top_p=0.9)) > 0).sum() == 1
    assert (shares(logits, Sampling(temperature=10.0, top_p=0.9)) > 0).sum() == 3


def test_a_draw_is_the_number_of_tokens_that_end_at_or_below_it():
    u = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.79, 0.81, 0.999999])
    drawn = draw(TABLE.expand(8, 4), Sampling(), u.double())
    assert drawn.ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    torch.testing.assert_close(drawn.margins[1], torch.tensor(0.01).double(), atol=1e-6, rtol=0)


def test_no_draw_gives_a_token_without_a_share():
    logits = torch.tensor([[0.0, 1.0, float("-inf")]]).repeat(2, 1)
    highest = torch.tensor([1 - 1e-16, 1.0]).double()  # what rounding may leave above the last end
    drawn = draw(logits, Sampling(), highest)
    assert drawn.ids.tolist() == [1, 1]
    assert (drawn.margins > NEAR).all()  # there is nothing on the other side


def test_greedy_takes_the_first_of_the_likeliest_and_tells_by_how_much():
    drawn = draw(torch.tensor([[1.0, 3.0, 3.0], [0.0, 2.0, 0.5]]), Sampling(greedy=True), None)
    assert drawn.ids.tolist() == [1, 1]
    assert drawn.margins.tolist() == [0, 1.5]
    assert draw(torch.ones(1, 1), Sampling(greedy=True), None).ids.tolist() == [0]


def test_guidance_of_one_is_the_condition_alone_and_a_mask_stays_a_mask():
    conditional = torch.tensor([[1.0, 2.0, float("-inf")]])
    null = torch.tensor([[0.0, 3.0, float("-inf")]])
    assert guided(conditional, null, 1.0).tolist() == conditional.tolist()
    assert guided(conditional, null, 3.0).tolist() == [[3.0, 0.0, float("-inf")]]
    assert guided(conditional, null, 0.0).tolist() == null.tolist()


def test_a_picture_s_chance_is_its_own():
    both = uniforms_of([7, 8], 40)
    assert torch.equal(uniforms_of([8], 40)[0], both[1])
    assert torch.equal(uniforms_of([7], 5)[0], both[0, :5])
    assert (both[0] != both[1]).all()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_stop_with_the_step_named(number: float):
    logits = torch.zeros(3, 4)
    logits[1, 2] = number
    with pytest.raises(GenerationFailed, match="step 12 are no numbers in row 1 "):
        draw(logits, Sampling(), torch.zeros(3).double(), step=12)


def test_a_row_with_everything_masked_is_refused():
    with pytest.raises(GenerationFailed):
        draw(torch.full((1, 3), float("-inf")), Sampling(greedy=True), None)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"guidance": float("inf")},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict):
    with pytest.raises(BadInput, match=next(iter(options))):
        Sampling(**options)


def test_more_than_all_tokens_are_refused():
    for greedy in (True, False):
        with pytest.raises(BadInput, match="top_k 5 of 4 tokens"):
            draw(TABLE, Sampling(top_k=5, greedy=greedy), torch.zeros(1).double())
