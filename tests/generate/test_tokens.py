"""The sampler against a model of a few lines, whose logits depend on everything it has read."""

import pytest
import torch
from torch import Tensor

from lascaux.errors import BadInput, GenerationFailed
from lascaux.generate.sampling import Sampling
from lascaux.generate.tokens import Beginning, Progress, begin, write

TOKENS = 9


class Memory:
    """What has been read, as it was read."""

    def __init__(self, ids: Tensor, length: int) -> None:
        self.ids, self.length = ids, length
        self.nbytes = len(ids) * length

    def select(self, rows) -> "Memory":
        return Memory(self.ids[torch.as_tensor(rows)], self.length)

    def repeat(self, times: int, *, length: int | None = None) -> "Memory":
        return Memory(self.ids.repeat_interleave(times, 0), length or self.length)


class Reader:
    """Logits are a fixed random mixture of how often and where each token was read."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(3)
        self.table = torch.randn(32, TOKENS, TOKENS, generator=chance)
        self.steps: list[tuple[int, int]] = []
        self.broken_at: int | None = None

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Memory:
        return Memory(torch.empty(batch, 0, dtype=torch.int64), length)

    def step(self, new_ids: Tensor, cache: Memory) -> Tensor:
        self.steps.append((new_ids.shape[0], new_ids.shape[1]))
        cache.ids = torch.cat((cache.ids, new_ids), 1)
        assert cache.ids.shape[1] <= cache.length
        logits = self.table[torch.arange(cache.ids.shape[1]), cache.ids].sum(1)
        if cache.ids.shape[1] == self.broken_at:
            logits[-1, 0] = float("nan")
        return logits


PREFIX = torch.tensor([[1, 2, 3], [4, 4, 0]])


def begun(model: Reader, prefix: Tensor = PREFIX, null: Tensor | None = None) -> Beginning:
    return begin(model, prefix, null=null)


def last(*args, **options) -> Progress:
    *_, final = write(*args, **options)
    return final


def test_every_token_is_read_once():
    model = Reader()
    told = list(write(model, begun(model), 6, seeds=[0, 1]))
    assert model.steps == [(2, 3)] + 5 * [(2, 1)]
    assert [each.done for each in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1].finished
    assert not told[-2].finished
    for each in told:
        assert torch.equal(each.ids, told[-1].ids[:, : each.done])
    assert told[0].cache_bytes == 2 * (3 + 5)


def test_a_picture_is_the_same_in_whichever_batch():
    model = Reader()
    together = last(model, begun(model), 8, seeds=[5, 6], sampling=Sampling(top_k=5))
    for row, seed in enumerate((5, 6)):
        alone = last(
            model, begun(model, PREFIX[row : row + 1]), 8, seeds=[seed], sampling=Sampling(top_k=5)
        )
        assert torch.equal(alone.ids[0], together.ids[row])
    again = last(model, begun(model), 8, seeds=[5, 7], sampling=Sampling(top_k=5))
    assert torch.equal(again.ids[0], together.ids[0])
    assert not torch.equal(again.ids[1], together.ids[1])


def test_candidates_share_what_was_read_before_them():
    model = Reader()
    beginning = begun(model)
    model.steps.clear()
    many = last(model, beginning, 5, seeds=list(range(6)), candidates=3)
    assert model.steps == 4 * [(6, 1)]
    repeated = PREFIX.repeat_interleave(3, 0)
    assert torch.equal(last(model, begun(model, repeated), 5, seeds=list(range(6))).ids, many.ids)
    # The beginning is left as it was, for the next batch of candidates.
    assert torch.equal(last(model, beginning, 5, seeds=list(range(6)), candidates=3).ids, many.ids)


def test_a_beginning_in_parts_is_the_beginning():
    model = Reader()
    parts = begin(model, PREFIX[:, :1], PREFIX[:, 1:])
    assert torch.equal(parts.logits, begun(model).logits)
    assert model.steps[:2] == [(2, 1), (2, 2)]


def test_guidance_asks_for_both_rows_at_once():
    model = Reader()
    null = torch.zeros_like(PREFIX)
    sampling = Sampling(guidance=3.0, greedy=True)
    found = last(model, begun(model, null=null), 6, sampling=sampling, candidates=2)
    assert model.steps[1:] == 5 * [(8, 1)]
    model = Reader()
    for row in range(2):
        ids = torch.empty(1, 0, dtype=torch.int64)
        for _ in range(6):
            c = begun(model, torch.cat((PREFIX[row : row + 1], ids), 1)).logits
            n = begun(model, torch.cat((null[:1], ids), 1)).logits
            ids = torch.cat((ids, (n + 3 * (c - n)).argmax(-1, keepdim=True)), 1)
        assert torch.equal(found.ids[2 * row], ids[0])
        assert torch.equal(found.ids[2 * row + 1], ids[0])


def test_given_uniform_numbers_are_used_as_they_are():
    model = Reader()
    u = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = last(model, begun(model), 4, uniforms=u).ids
    first = begun(model).logits.softmax(-1).double().cumsum(-1)
    assert torch.equal(found[:, 0], (first <= u[:, :1]).sum(-1))
    with pytest.raises(BadInput, match="uniform numbers of shape"):
        last(model, begun(model), 5, uniforms=u)


def test_it_stops_when_asked():
    model = Reader()
    asked = iter([False, False, True])
    told = list(write(model, begun(model), 6, seeds=[0, 1], stop=lambda: next(asked)))
    assert [each.done for each in told] == [1, 2, 2]
    assert not told[-1].finished


def test_reports_come_as_often_as_asked_and_at_the_end():
    model = Reader()
    told = list(write(model, begun(model), 7, seeds=[0, 1], every=3))
    assert [each.done for each in told] == [3, 6, 7]


def test_a_draw_near_a_boundary_is_recorded():
    model = Reader()
    logits = begun(model).logits
    ends = logits.softmax(-1).double().cumsum(-1)
    u = torch.full((2, 1), 0.5, dtype=torch.float64)
    u[1, 0] = ends[1, 4] + 3e-6
    (tie,) = last(model, begun(model), 1, uniforms=u).near_ties
    assert (tie.row, tie.place) == (1, 0)
    assert 1e-6 < tie.margin < 1e-5


def test_logits_that_are_no_numbers_stop_the_run_with_the_step_named():
    model = Reader()
    model.broken_at = 3 + 4
    with pytest.raises(GenerationFailed, match=r"step 4 .* row 1"):
        last(model, begun(model), 8, seeds=[0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "1 seeds for 2 pictures"),
        ({}, "no seeds for 2 pictures"),
        ({"seeds": [1, 2], "candidates": 0}, "0 candidates"),
        ({"seeds": [1, 2], "every": 0}, "every 0"),
        ({"seeds": [1, 2], "sampling": Sampling(guidance=2.0)}, "guidance 2.0 needs"),
        ({"seeds": [1, 2], "sampling": Sampling(top_k=10)}, "top_k 10 of 9"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, message: str):
    model = Reader()
    with pytest.raises(BadInput, match=message):
        last(model, begun(model), 3, **options)


def test_a_beginning_must_have_tokens_and_equal_shapes():
    model = Reader()
    for parts in ((), (PREFIX[:, :0],), (PREFIX, PREFIX[:1])):
        with pytest.raises(BadInput, match="a beginning of parts"):
            begin(model, *parts)
    with pytest.raises(BadInput, match="null condition"):
        begun(model, null=PREFIX[:, :2])
    with pytest.raises(BadInput, match="does not take"):
        last(model, begun(model, null=PREFIX), 3, seeds=[0, 1])
