import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.errors import BadInput, BadText, Unsupported
from lascaux.models.dalle import VARIANTS, Dalle, DalleConfig, _Reading
from lascaux.models.discrete_vae import DiscreteVae, DiscreteVaeConfig

TINY = DalleConfig(
    codes=11,
    grid=4,
    width=14,  # four does not divide it
    layers=2,
    text_tokens=9,
    text_length=5,
    heads=2,
    head_width=7,  # nor two this
    shift=False,
)
CYCLE = ("full", "axial_row", "axial_col", "conv_like")
CONFIGS = {
    "full": TINY,
    "row": replace(TINY, patterns=("axial_row",)),
    "column": replace(TINY, patterns=("axial_col",)),
    "convolution": replace(TINY, patterns=("conv_like",), window=3),
    "wide convolution": replace(TINY, patterns=("conv_like",), window=3, dilation=2),
    "centred convolution": replace(TINY, patterns=("conv_like",), window=3, centred_window=True),
    "all patterns, shift": replace(TINY, patterns=CYCLE, layers=5, shift=True),
    "no rotary": replace(TINY, patterns=CYCLE[:2], rotary=False),
    "no rotary, shift": replace(TINY, patterns=CYCLE[2:], rotary=False, shift=True),
    "reversible": replace(TINY, patterns=CYCLE, layers=4, reversible=True, shift=True),
    "stable sandwich": replace(TINY, stable=True, sandwich=True, head_width=8, width=16),
    "shared": replace(
        TINY,
        patterns=CYCLE[:2],
        layers=4,
        shared_attention=(7, 3),
        shared_mlp=(0, 0, 1, 1),
        shared_embeddings=True,
    ),
}

each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def painter(config: DalleConfig) -> Dalle:
    torch.manual_seed(0)
    model = Dalle(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("scale"):
                weight.fill_(0.7)  # so that blocks matter
    return model


def batch(config: DalleConfig, rows: int = 2) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    text = torch.randint(1, config.text_tokens, (rows, config.text_length), generator=draw)
    text[0, 3:] = 0
    codes = torch.randint(config.codes, (rows, config.image_length), generator=draw)
    return text, codes


def following(config: DalleConfig, logits: Tensor, place: int) -> Tensor:
    """What `step` gives after the token of that place."""
    classes = config.text_classes
    texts = place < config.text_length
    return logits[:, place, :classes] if texts else logits[:, place, classes:]


@each
@torch.no_grad()
def test_one_token_after_the_other_gives_the_logits_of_all_at_once(config: DalleConfig):
    model, (text, codes) = painter(config), batch(config)
    ids, logits = torch.cat((model.prefix(text), codes), dim=1), model(text, codes)
    for chunks in ([1, 1, 4] + [1] * 15, [3, 5, 4, 1, 7, 1]):
        cache, at = model.new_cache(2), 0
        assert sum(chunks) == config.length
        for count in chunks:
            found = model.step(ids[:, at : at + count], cache)
            at += count
            expected = following(config, logits, at - 1)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert cache.length == config.length


@each
@torch.no_grad()
def test_a_batch_equals_one_by_one(config: DalleConfig):
    model, (text, codes) = painter(config), batch(config, 3)
    whole = model(text, codes)
    for row in range(3):
        alone = model(text[row : row + 1], codes[row : row + 1])
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-5, atol=1e-5)


@each
@torch.no_grad()
def test_a_later_token_does_not_change_an_earlier_one(config: DalleConfig):
    model, (text, codes) = painter(config), batch(config)
    before = model(text, codes)
    other_text, other_codes = text.clone(), codes.clone()
    other_text[:, 2] = other_text[:, 2] % 8 + 1
    other_codes[:, 6] = (codes[:, 6] + 1) % config.codes
    torch.testing.assert_close(model(other_text, codes)[:, :3], before[:, :3])
    after = model(text, other_codes)
    place = config.text_length + 1 + 6
    torch.testing.assert_close(after[:, :place], before[:, :place])
    assert not torch.allclose(after[:, place], before[:, place])


@each
@torch.no_grad()
def test_the_rows_of_a_cache_can_be_repeated_and_chosen(config: DalleConfig):
    model, (text, codes) = painter(config), batch(config)
    beginning = torch.cat((model.prefix(text), codes[:, :5]), dim=1)
    cache = model.new_cache(2, beginning.shape[1])
    model.step(beginning, cache)
    many = cache.repeat(3, length=config.length)
    assert many.batch == 6
    assert many.nbytes > 3 * cache.nbytes
    new = codes[:, 5:6].repeat_interleave(3, dim=0)
    logits = model.step(new, many)
    expected = model(text, codes[:, :6])[:, -1, config.text_classes :]
    torch.testing.assert_close(logits, expected.repeat_interleave(3, dim=0), rtol=1e-5, atol=1e-5)
    swapped = many.select([5, 0])
    logits = model.step(codes[[1, 0], 6:7], swapped)
    expected = model(text[[1, 0]], codes[[1, 0], :7])[:, -1, config.text_classes :]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert cache.length == beginning.shape[1]


@each
def test_gradients_reach_every_parameter(config: DalleConfig):
    model, (text, codes) = painter(config).train(), batch(config)
    model.loss(text, codes).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each
@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_masked_logits(config: DalleConfig):
    model, (text, codes) = painter(config), batch(config)
    logits = model(text, codes)
    texts = config.text_length
    labels = torch.where(text == 0, config.text_tokens + torch.arange(texts), text)
    of_text = F.cross_entropy(logits[:, :texts].flatten(0, 1), labels.flatten())
    drawn = (codes + config.text_classes).flatten()
    of_image = F.cross_entropy(logits[:, texts:].flatten(0, 1), drawn)
    loss = model.loss(text, codes)
    torch.testing.assert_close(loss.text, of_text)
    torch.testing.assert_close(loss.image, of_image)
    torch.testing.assert_close(loss.total, (of_text + 7 * of_image) / 8)


def test_what_a_code_sees_is_its_text_and_its_pattern():
    # Written out by hand, for the code in row 2 and column 1.
    def around(config: DalleConfig) -> list[tuple[int, int]]:
        table = getattr(painter(config), f"seen_{config.patterns[0]}")
        row = table[config.text_length + 1 + 2 * 4 + 1]
        assert row[: config.text_length + 1].all()
        places = row[config.text_length + 1 :].nonzero()[:, 0].tolist()
        return [divmod(place, 4) for place in places]

    assert around(CONFIGS["row"]) == [(2, 0), (2, 1)]
    assert around(CONFIGS["column"]) == [(0, 1), (1, 1), (2, 1)]
    behind = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert around(CONFIGS["convolution"]) == behind
    assert around(CONFIGS["wide convolution"]) == [(0, 1), (2, 1)]
    centred = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert around(CONFIGS["centred convolution"]) == centred


def test_shifted_channels_come_from_the_left_and_from_above():
    model = painter(CONFIGS["all patterns, shift"])
    # Token and channel can be read off the number.
    x = torch.arange(21.0)[None, :, None] * 100 + torch.arange(14.0)
    back = model._shifted(x, _Reading(0, 21), None)[0]
    assert (back[0, :7] == 0).all()
    assert back[4].tolist() == [*range(300, 307), *range(407, 414)]  # text: half
    code = 6 + 2 * 4 + 1  # row 2, column 1
    above, left, own = code - 4, code - 1, code
    expected = [*range(100 * above, 100 * above + 4), *range(100 * left + 4, 100 * left + 8)]
    assert back[code].tolist() == [*expected, *range(100 * own + 8, 100 * own + 14)]
    assert (back[6 + 4, 4:8] == 0).all()  # first column: nothing from the row before
    assert (back[6 + 1, :4] == 0).all()  # first row: nothing from the text


def test_rotary_positions_turn_pairs_by_the_published_angles():
    config = replace(TINY, head_width=12, grid=3)
    model = painter(config)
    x = torch.randn(3, 1, 1, 1, 12)
    turned = model._turned(x, _Reading(6 + 5, 1))  # row 1, column 2
    angles = [8192.0, 8192.0 * 10000**-0.5, 0.0, 0.0, math.pi, 5 * math.pi]
    for pair, angle in enumerate(angles):
        a, b = x[..., 2 * pair], x[..., 2 * pair + 1]
        cosine, sine = math.cos(angle), math.sin(angle)
        expected = torch.stack((a * cosine - b * sine, b * cosine + a * sine), dim=-1)
        torch.testing.assert_close(
            turned[..., 2 * pair : 2 * pair + 2], expected, atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_undoing_blocks_gives_the_gradients_of_keeping_everything(dropout: float):
    config = replace(
        CONFIGS["reversible"],
        attention_dropout=dropout,
        mlp_dropout=dropout,
        shared_mlp=(0, 1, 0, 1),
    )
    model, (text, codes) = painter(config).double().train(), batch(config)
    torch.manual_seed(5)
    model.loss(text, codes).total.backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()

    def kept(x: Tensor, pairs: Any, **_: Any) -> Tensor:
        one = two = x
        for f, g in pairs:
            one = one + f.function(two)
            two = two + g.function(one)
        return (one + two) / 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lascaux.models.dalle.reversible", kept)
        torch.manual_seed(5)
        model.loss(text, codes).total.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(
            found[name], weight.grad, msg=lambda text, name=name: name + text
        )


def test_what_reversible_blocks_keep_does_not_grow_with_their_number():
    def kept(layers: int) -> int:
        config = replace(CONFIGS["reversible"], layers=layers)
        model, (text, codes) = painter(config).train(), batch(config)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: saved.append(x.numel()) or x, lambda x: x
        ):
            model.loss(text, codes)
        return sum(saved)

    assert kept(8) == kept(2)


@torch.no_grad()
def test_a_text_is_completed_and_painted_as_if_it_had_been_given():
    model = painter(CONFIGS["all patterns, shift"])
    text, _ = batch(model.config, 1)
    cache = model.new_cache(1)
    logits = model.step(model.prefix(text[:, :2], whole=False), cache)
    written = text[:, :2]
    while cache.length <= model.config.text_length:
        assert logits.shape[1] == model.config.text_classes
        written = torch.cat((written, logits.argmax(dim=-1, keepdim=True)), dim=1)
        logits = model.step(written[:, -1:], cache)
    assert logits.shape[1] == model.config.codes
    # A token that fills is as good as 0 at its place.
    at = model.config.text_tokens + torch.arange(5)
    own = torch.where(written >= 9, at == written, torch.ones_like(written, dtype=torch.bool))
    if own.all():
        plain = model.plain_text(written)
        expected = model(plain)[:, -1, model.config.text_classes :]
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert model.plain_text(torch.tensor([[3, 9, 13]])).tolist() == [[3, 0, 0]]


@torch.no_grad()
def test_zero_fills_a_text_as_the_token_of_its_place_does():
    model = painter(TINY)
    zero, filled = torch.tensor([[0, 3, 4, 0, 0, 0]]), torch.tensor([[0, 3, 4, 11, 12, 13]])
    both = [model.step(ids, model.new_cache(1)) for ids in (zero, filled)]
    assert torch.equal(*both)
    assert torch.equal(model.prefix(torch.tensor([[3, 4]])), zero)
    assert torch.equal(model.prefix(torch.tensor([[3, 4]]), whole=False), zero[:, :3])


@torch.no_grad()
def test_without_its_text_a_row_counts_as_one_that_has_none():
    model, (text, codes) = painter(TINY), batch(TINY)
    none = torch.stack((text[0], torch.zeros_like(text[1])))
    expected = model.loss(none, codes)
    assert torch.equal(model.loss(text, codes, null=torch.tensor([False, True])).total, expected[0])
    assert (text > 0).sum() == 8  # what was given is left as it was


def test_stable_embeddings_get_a_tenth_of_their_gradient():
    config = replace(TINY, stable=True)
    model, (text, codes) = painter(config), batch(config)
    model.loss(text, codes).total.backward()
    slow = model.image_embedding.weight.grad
    model.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dalle, "_embedded", _embedded_with_whole_gradients)
        model.loss(text, codes).total.backward()
    whole = model.image_embedding.weight.grad
    assert slow is not None
    assert whole is not None
    torch.testing.assert_close(slow, 0.1 * whole)


_EMBEDDED = Dalle._embedded


def _embedded_with_whole_gradients(self: Dalle, ids: Tensor, start: int) -> Tensor:
    x = _EMBEDDED(self, ids, start)
    return 10 * x - 9 * x.detach()


@torch.no_grad()
def test_bfloat16_stays_near_float32():
    model = painter(CONFIGS["all patterns, shift"])
    text, codes = batch(model.config)
    expected = model.loss(text, codes).total
    narrow = model.bfloat16()
    assert narrow.loss(text, codes).total.item() == pytest.approx(expected.item(), rel=0.05)
    cache = narrow.new_cache(2)
    assert cache.kept.keys.dtype == torch.bfloat16
    assert narrow.step(narrow.prefix(text), cache).dtype == torch.float32


def test_published_sizes_have_the_published_number_of_parameters():
    with torch.device("meta"):
        model = Dalle(VARIANTS["coco_512_16_16D_16H_80TSL"])
    # 16 layers of attention, MLP, norms and scales; embeddings; norm and logits.
    attention = 512 * 3 * 1024 + 1024 * 512 + 512
    mlp = 512 * 4096 + 4096 + 2048 * 512 + 512
    ends = (8272 + 1024) * 512 * 2 + (8272 + 1024) + 2 * 512
    assert sum(p.numel() for p in model.parameters()) == 16 * (attention + mlp + 6 * 512) + ends


def test_the_filter_counts_text_classes_as_published():
    config = VARIANTS["coco_512_16_16D_16H_80TSL"]
    assert config.top_k(0.9) == 929
    assert config.top_k(0.5) == 1024
    assert config.top_k(1.0) == 1
    with pytest.raises(BadInput, match=r"threshold 50.0; expected a share"):
        config.top_k(50.0)


@each
def test_a_config_survives_json(config: DalleConfig):
    assert DalleConfig.from_json(config.to_json()) == config


def test_impossible_configs_are_refused():
    for change in (
        {"layers": 0},
        {"window": 4},
        {"patterns": ()},
        {"patterns": ("diagonal",)},
        {"head_width": 5},
        {"image_weight": -1.0},
        {"shared_mlp": ()},
    ):
        with pytest.raises(BadInput):
            replace(TINY, **change)
    with pytest.raises(BadInput, match="layer 1 shares its attention with one that sees 'full'"):
        replace(TINY, patterns=("full", "axial_row"), shared_attention=(0,))


def test_patterns_that_cannot_be_had_are_refused_with_the_reason():
    with pytest.raises(Unsupported, match=r"'sparse' is refused: its random blocks"):
        replace(TINY, patterns=("full", "sparse"))
    with pytest.raises(Unsupported, match="gated MLPs"):
        replace(TINY, patterns=("mlp",))


def test_a_picture_tokeniser_of_other_codes_is_refused():
    vae = DiscreteVae(DiscreteVaeConfig(image_size=16, codes=12, code_width=4, layers=2, width=4))
    with pytest.raises(BadInput, match="has 12 codes, the model 11"):
        Dalle(TINY, vae)


def test_ids_that_are_none_and_sequences_that_do_not_fit_are_refused():
    model, (text, codes) = painter(TINY), batch(TINY)
    with pytest.raises(BadText, match=r"6 text tokens; this model reads 5"):
        model.prefix(torch.ones(1, 6, dtype=torch.long))
    with pytest.raises(BadText, match="text ids from 1 to 9; this model has 0 to 8"):
        model(torch.tensor([[1, 9]]), codes[:1])
    with pytest.raises(BadInput, match="this model has codes 0 to 10"):
        model(text, codes + 1)
    with pytest.raises(BadInput, match="17 codes; a picture of this model has 16"):
        model(text, F.pad(codes, (0, 1)))
    with pytest.raises(BadInput, match="pictures of 15 codes; 16 are expected"):
        model.loss(text, codes[:, :15])
    with pytest.raises(BadInput, match="a cache of 1 rows"):
        model.step(model.prefix(text), model.new_cache(1))
    cache = model.new_cache(2)
    model.step(torch.cat((model.prefix(text), codes[:, :15]), dim=1), cache)
    with pytest.raises(BadInput, match="after 21 the picture is whole"):
        model.step(codes[:, :1], cache)
