from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.generate.sampling import Sampling
from lascaux.generate.tokens import begin, write
from lascaux.models.taming_transformer import (
    VARIANTS,
    TamingTransformer,
    TamingTransformerConfig,
    coordinate_map,
)
from lascaux.models.vqgan import VqGan, VqGanConfig

TINY = TamingTransformerConfig(codes=24, length=40, layers=2, heads=2, width=16)
AHEAD = replace(TINY, unmasked=6)
STAGE = VqGanConfig(
    codes=24, code_width=6, image_size=16, width=8, multiples=(1, 2), blocks=1,
    attention_sizes=(), latent_width=6, groups=4,
)  # fmt: skip


@pytest.fixture(autouse=True)
def the_same_numbers_each_time():
    torch.manual_seed(0)


def made(config: TamingTransformerConfig = TINY, **stages: nn.Module) -> TamingTransformer:
    torch.manual_seed(0)
    model = TamingTransformer(config, **stages).eval()
    for parameter in model.transformer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(24, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [TINY, AHEAD], ids=["causal", "ahead"])
@pytest.mark.parametrize("parts", [[12], [5, 7], [1] * 12, [6, 1, 4, 1], [2, 3, 7]])
def test_what_is_read_in_portions_is_what_is_read_at_once(
    config: TamingTransformerConfig, parts: list[int]
):
    model, ids = made(config), drawn(3, 12)
    with torch.no_grad():
        cache, start = model.new_cache(3, 12), 0
        for count in parts:
            kept = model.step(ids[:, start : start + count], cache)
            start += count
            whole = model.transformer(ids[:, :start])[:, -1]
            torch.testing.assert_close(kept, whole, rtol=1e-5, atol=1e-5)
    assert cache.length == 12


@pytest.mark.parametrize("config", [TINY, AHEAD], ids=["causal", "ahead"])
@pytest.mark.parametrize("before", [3, 8])
def test_candidates_of_one_beginning_are_as_if_read_by_themselves(
    config: TamingTransformerConfig, before: int
):
    model, ids = made(config), drawn(2, before)
    *_, many = write(model, begin(model, ids), 9, seeds=list(range(6)), candidates=3)
    for row in range(6):
        condition = ids[row // 3 : row // 3 + 1]
        *_, one = write(model, begin(model, condition), 9, seeds=[row])
        assert torch.equal(one.ids[0], many.ids[row])
    assert many.near_ties == ()


def test_no_position_sees_what_comes_after_it():
    model, ids = made(), drawn(1, 10)
    other = ids.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 24
    with torch.no_grad():
        first, second = model.transformer(ids), model.transformer(other)
        assert torch.equal(first[:, :6], second[:, :6])
        assert not torch.isclose(first[:, 6:], second[:, 6:]).all(-1).any()
        # But for those that are not masked: the first six see each other.
        ahead = made(AHEAD)
        other = ids.clone()
        other[:, 5] = (other[:, 5] + 1) % 24
        first, second = ahead.transformer(ids), ahead.transformer(other)
        assert not torch.isclose(first, second).all(-1).any()


def test_vectors_stand_before_tokens_as_tokens_would():
    model, ids = made(), drawn(2, 9)
    with torch.no_grad():
        vectors = model.transformer.tokens(ids[:, :4])
        whole = model.transformer(ids)
        torch.testing.assert_close(model.transformer(ids[:, 4:], vectors=vectors), whole)
        cache = model.new_cache(2, 9)
        model.step(vectors, cache)
        torch.testing.assert_close(
            model.step(ids[:, 4:], cache), whole[:, -1], rtol=1e-5, atol=1e-5
        )


def test_logits_and_loss_are_of_the_picture_alone():
    model, condition, ids = made(), drawn(2, 5), drawn(2, 7, seed=1)
    whole = model.transformer(torch.cat((condition, ids), 1))
    logits = model.logits(condition, ids)
    torch.testing.assert_close(logits, whole[:, 4:-1])
    expected = -logits.log_softmax(-1).gather(2, ids[:, :, None]).mean()
    torch.testing.assert_close(model.loss(condition, ids), expected)


def test_gradients_reach_every_parameter():
    model = made().train()
    model.loss(drawn(4, 20), drawn(4, 21, seed=1)).backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert lost == []


def test_codes_that_are_not_kept_are_read_as_others_in_training_alone():
    model = made(replace(TINY, keep=0.5))
    condition, ids = drawn(1, 3), drawn(8, 30, seed=1)
    changed = model.disturbed(ids, torch.Generator().manual_seed(0)) != ids
    assert 0.3 < changed.float().mean() < 0.65
    condition = condition.expand(8, 3)
    calm = model.loss(condition, ids)
    torch.testing.assert_close(made(TINY).loss(condition, ids), calm)
    chance = torch.Generator().manual_seed(0)
    assert model.train().loss(condition, ids, generator=chance) != calm


def test_pictures_become_codes_in_the_order_they_are_written_in_and_back():
    stage = VqGan(STAGE).eval()
    nn.init.normal_(stage.codebook.weight, std=0.3)
    model = made(replace(TINY, order="z-curve", order_grid=(4, 4)), first_stage=stage)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        rows, ids = stage.encode(x), model.encode(x)
        assert torch.equal(ids[:, :5], rows[:, [0, 1, 4, 5, 2]])
        assert torch.equal(model.in_rows(ids), rows)
        assert torch.equal(model.decode_ids(ids, (4, 4)), stage.decode_ids(rows, (4, 4)))
        with pytest.raises(BadInput, match="an order for 16"):
            model.ordered(drawn(1, 12))


def test_all_codes_at_once_read_the_condition_in_their_place():
    model, condition, start = made(replace(TINY, keep=0.0)), drawn(2, 8), drawn(2, 3, seed=1)
    sequence = torch.cat((condition, start, condition[:, 3:-1]), 1)
    expected = model.transformer(sequence)[:, 7:]
    torch.testing.assert_close(model.logits_at_once(condition, start), expected)
    with pytest.raises(BadInput, match="8 codes with a condition of 8"):
        model.logits_at_once(condition, condition)


def test_every_kind_of_condition_has_its_tokens():
    stage = VqGan(STAGE).eval()
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    by_stage = made(TINY, condition_stage=stage)
    by_first = made(replace(TINY, condition="first-stage"), first_stage=stage)
    assert torch.equal(by_stage.encode_condition(x), stage.encode(x))
    assert torch.equal(by_first.encode_condition(x), stage.encode(x))
    small = made(replace(TINY, condition_size=4), condition_stage=stage)
    assert torch.equal(small.encode_condition(x), stage.encode(x[:, :, ::2, ::2]))
    classes = made(replace(TINY, condition="class", classes=7))
    assert classes.encode_condition(torch.tensor([6, 0])).tolist() == [[6], [0]]
    start = made(replace(TINY, condition="start", start=3))
    assert start.encode_condition(torch.zeros(2)).tolist() == [[3], [3]]
    tokens = made(replace(TINY, condition="tokens"))
    assert torch.equal(tokens.encode_condition(drawn(2, 5)), drawn(2, 5))
    steps = {"coordinate_codes": 16, "coordinate_factor": 2}
    places = made(replace(TINY, codes=16, condition="coordinates", **steps))
    # 2.5, 4.5, 10.5 and 12.5 of 16, to the nearest even number.
    assert places.encode_condition(coordinate_map(4, 4)).tolist() == [[2, 4, 10, 12]]
    assert places.encode_condition(torch.ones(1, 1, 2, 2)).tolist() == [[15]]


@pytest.mark.parametrize(
    ("condition", "given", "message"),
    [
        ("class", torch.tensor([24]), "codes 0 to 23"),
        ("tokens", torch.tensor([[0, 24]]), "codes 0 to 23"),
        ("stage", torch.zeros(1, 3, 8, 8), "without its condition stage"),
        ("first-stage", torch.zeros(1, 3, 8, 8), "without its first stage"),
        ("coordinates", torch.zeros(3, 8), "expected b c y x"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(condition, given: Tensor, message: str):
    with pytest.raises(BadInput, match=message):
        made(replace(TINY, condition=condition)).encode_condition(given)


def test_too_many_tokens_and_unknown_ones_are_refused():
    model = made()
    for work in (
        lambda: model.transformer(drawn(1, 41)),
        lambda: model.new_cache(1, 41),
    ):
        with pytest.raises(BadInput, match="41 tokens; this model has positions for 40"):
            work()
    with pytest.raises(BadInput, match="codes 0 to 23"):
        model.transformer(torch.tensor([[24]]))
    with pytest.raises(BadInput, match="a cache for 3"):
        model.step(drawn(1, 4), model.new_cache(1, 3))


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 15},
        {"layers": 0},
        {"unmasked": 41},
        {"condition": "whatever"},
        {"order": "zigzag"},
        {"order": "random"},
        {"order_grid": (2, 2)},
        {"start": 24},
    ],
)
def test_a_config_that_cannot_be_is_refused(fields: dict):
    with pytest.raises(BadInput):
        TamingTransformerConfig.from_json({**TINY.to_json(), **fields})


def test_stages_must_fit():
    stage = VqGan(replace(STAGE, codes=25))
    with pytest.raises(BadInput, match="first stage has 25 codes"):
        TamingTransformer(TINY, first_stage=stage)
    with pytest.raises(BadInput, match="condition stage for a model of condition 'start'"):
        TamingTransformer(replace(TINY, condition="start"), condition_stage=VqGan(STAGE))


def test_a_config_survives_json():
    for config in (*VARIANTS.values(), replace(TINY, order="random", order_grid=(4, 4))):
        assert TamingTransformerConfig.from_json(config.to_json()) == config


# Millions of parameters, counted by hand: 12 width^2 a layer, and the tables.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("sflckr", 305), ("celebahq", 802), ("cin", 1411), ("coco", 651), ("scene-coco", 976)],
)
def test_published_sizes_have_their_parameters(name: str, millions: int):
    with torch.device("meta"):
        model = TamingTransformer(VARIANTS[name])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6) == millions


def test_half_precision_keeps_and_answers():
    model = made().to(torch.bfloat16)
    cache = model.new_cache(1, 8)
    assert cache.keys.dtype == torch.bfloat16
    with torch.no_grad():
        logits = model.step(drawn(1, 5), cache)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_guidance_takes_both_rows_in_one_batch():
    model = made()
    condition, null = drawn(2, 5), torch.zeros(2, 5, dtype=torch.int64)
    sampling = Sampling(guidance=2.0, greedy=True)
    *_, both = write(model, begin(model, condition, null=null), 6, sampling=sampling)
    ids = torch.empty(2, 0, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(6):
            c, n = (model.transformer(torch.cat((x, ids), 1))[:, -1] for x in (condition, null))
            ids = torch.cat((ids, (n + 2 * (c - n)).argmax(-1, keepdim=True)), 1)
    assert torch.equal(both.ids, ids)


class Doubled(nn.Module):
    """A stage that gives two tokens for each of three places."""

    codes, depth = 5, 2

    def encode(self, x: Tensor) -> Tensor:
        return torch.tensor([[4, 0, 1, 3, 2, 2]]).expand(len(x), -1)


def test_tokens_of_one_place_are_read_as_one():
    model = made(replace(TINY, pairs=5), condition_stage=Doubled())
    condition = model.encode_condition(torch.zeros(2, 1, 4, 4))
    assert condition.tolist() == [[24 + 5 * 4, 24 + 5 + 3, 24 + 5 * 2 + 2]] * 2
    vectors = model.transformer.tokens.weight[torch.tensor([[4, 1, 2], [0, 3, 2]])].sum(0)
    ids = drawn(2, 7)
    with torch.no_grad():
        read = model.transformer(ids, vectors=vectors.expand(2, -1, -1))
        torch.testing.assert_close(model.logits(condition, ids), read[:, 2:-1])
        beginning = begin(model, condition[:1])
        *_, last = write(model, beginning, 4, sampling=Sampling(top_k=3), seeds=[1])
    assert last.ids.shape == (1, 4)
    assert last.ids.max() < 24


def test_pairs_fit_the_stage_that_gives_them():
    with pytest.raises(BadInput, match="the condition stage pairs 5 tokens; the model 0"):
        made(TINY, condition_stage=Doubled())
    with pytest.raises(BadInput, match="the condition stage pairs 0 tokens; the model 5"):
        made(replace(TINY, pairs=5), condition_stage=VqGan(STAGE))
    with pytest.raises(BadInput, match="pairs of 5 tokens after 'start'"):
        replace(TINY, pairs=5, condition="start")
    with pytest.raises(BadInput, match="ids from 0 to 5"):
        made(replace(TINY, pairs=5)).paired(torch.tensor([[0, 5]]))
