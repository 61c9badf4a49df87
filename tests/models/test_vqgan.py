from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.images.preprocess import normalise
from lascaux.models.vqgan import VARIANTS, VqGan, VqGanConfig, deepened

TINY = VqGanConfig(
    codes=24,
    code_width=6,
    image_size=16,
    width=8,
    multiples=(1, 2, 2),
    blocks=1,
    attention_sizes=(8,),
    latent_width=6,
    groups=4,
)
KINDS = {
    "nearest": TINY,
    "gumbel": replace(TINY, quantiser="gumbel"),
    "averaging": replace(TINY, resampling_convolutions=False),
    "patches": replace(TINY, encoder="patches"),
    "middles": replace(TINY, middles=2),
    "double": replace(TINY, double_latent=True),
    "used": replace(TINY, used_codes=7),
    "used-gumbel": replace(TINY, quantiser="gumbel", used_codes=7),
    "one-channel": replace(TINY, in_channels=1, out_channels=1),
    "labels": replace(TINY, in_channels=5, out_channels=5, labels=5, mean=0.0, std=1.0),
}


@pytest.fixture(autouse=True)
def the_same_numbers_each_time():
    torch.manual_seed(0)


def made(config: VqGanConfig = TINY) -> VqGan:
    torch.manual_seed(0)
    model = VqGan(config).eval()
    # Codes as far from each other as features are, or all pictures would be one code.
    torch.nn.init.normal_(model.codebook.weight, std=0.3)
    return model


def pictures(model: VqGan, count: int = 2, height: int = 16, width: int = 16) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    shape = (count, model.config.in_channels, height, width)
    return torch.rand(shape, generator=chance) * 2 - 1


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> VqGan:
    return made(KINDS[request.param])


def test_every_step_has_its_shape_and_the_steps_make_the_whole(model: VqGan):
    x = pictures(model, height=12, width=20)
    with torch.no_grad():
        features = model.features(x)
        ids, found = model.quantise(features)
        assert features.shape == found.shape == (2, 15, 6)
        assert ids.dtype == torch.int64
        assert 0 <= ids.min() <= ids.max() < model.codes
        assert torch.equal(model.encode(x), ids)
        back = model.decode_ids(ids, model.grid(x))
        assert back.shape == (2, model.config.out_channels, 12, 20)
        assert torch.equal(back, model.decode(model.lookup(ids), (3, 5)))


def test_ids_survive_lookup_and_quantisation():
    model = made()
    ids = torch.arange(24).view(2, 12)
    again, found = model.quantise(model.lookup(ids))
    assert torch.equal(again, ids)
    assert torch.equal(found, model.lookup(ids))


def test_the_codes_of_a_batch_are_those_of_its_pictures(model: VqGan):
    x = pictures(model, 3)
    with torch.no_grad():
        together = model.features(x)
        apart = torch.cat([model.features(one[None]) for one in x])
        torch.testing.assert_close(together, apart)
        ids = model.encode(x)
        decoded = model.decode_ids(ids, (4, 4))
        each = torch.cat([model.decode_ids(one[None], (4, 4)) for one in ids])
    torch.testing.assert_close(decoded, each)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 28), (36, 4), (20, 24)])
def test_any_size_that_divides_is_read_and_written(height: int, width: int):
    model = made()
    with torch.no_grad():
        back = model(pictures(model, 1, height, width))
    assert back.x.shape == (1, 3, height, width)
    assert back.ids.shape == (1, height * width // 16)


def test_positions_are_read_and_written_row_by_row():
    model = made()
    x = pictures(model, height=8, width=20)
    encoded = model.to_code(model.encoder(x))
    features = model.features(x)
    assert torch.equal(features[:, 7], encoded[:, :, 1, 2])
    assert torch.equal(model.decode(features, (2, 5)), model.decoder(model.from_code(encoded)))


def test_gradients_reach_every_parameter(model: VqGan):
    model.train()
    back = model(pictures(model), generator=torch.Generator().manual_seed(0))
    loss = back.x.square().mean() + (1e3 if "gumbel" in model.config.quantiser else 1) * back.loss
    loss.backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert lost == []


def test_gradients_pass_the_codes_straight_through():
    model = made()
    features = torch.randn(1, 4, 6, requires_grad=True)
    _, found = model.quantise(features)
    assert torch.equal(found, model.lookup(model.quantise(features)[0]))
    (found * torch.arange(24.0).view(1, 4, 6)).sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, torch.arange(24.0).view(1, 4, 6))
    assert model.codebook.weight.grad is None


def test_decoding_is_differentiable_in_the_features():
    model = made()
    features = torch.randn(1, 4, 6, requires_grad=True)
    model.decode(features, (2, 2)).square().sum().backward()
    assert features.grad is not None
    assert (features.grad != 0).all()


def test_a_gumbel_quantiser_draws_in_training_and_is_certain_otherwise():
    model = made(KINDS["gumbel"])
    features = model.features(pictures(model)).detach()

    def drawn(seed: int) -> Tensor:
        return model.train_quantise(features, generator=torch.Generator().manual_seed(seed)).ids

    assert torch.equal(drawn(0), drawn(1))
    assert torch.equal(drawn(0), model.quantise(features)[0])
    model.train()
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert torch.equal(model.quantise(features)[0], model.quantise(features)[0])


def test_a_soft_gumbel_choice_mixes_codes_in_training_alone():
    model = made(replace(KINDS["gumbel"], straight_through=False))
    features = torch.randn(1, 4, 6)
    noise = torch.zeros(1, 4, 24)
    hard = model.train_quantise(features, noise=noise)
    torch.testing.assert_close(hard.features, model.lookup(hard.ids))
    soft = model.train().train_quantise(features, noise=noise)
    assert not torch.allclose(soft.features, model.lookup(soft.ids))
    mixed = model.choice(features).softmax(-1) @ model.codebook.weight
    torch.testing.assert_close(soft.features, mixed)


@pytest.mark.parametrize(("unknown", "codes", "expected"), [("extra", 4, 3), (1, 3, 1)])
def test_codes_out_of_use_have_the_id_that_is_asked_for(unknown, codes, expected):
    model = made(replace(TINY, used_codes=3, unknown=unknown))
    model.used.copy_(torch.tensor([2, 7, 11]))
    assert model.codes == codes
    ids, found = model.quantise(model.codebook.weight[None, [11, 5, 2]])
    assert ids.tolist() == [[2, expected, 0]]
    assert torch.equal(found, model.codebook.weight[None, [11, 5, 2]])
    back = model.lookup(ids)
    assert torch.equal(back, model.codebook.weight[None, [11, 2 if unknown == "extra" else 7, 2]])


def test_codes_out_of_use_have_some_id_that_stays_the_same():
    model = made(replace(TINY, used_codes=3))
    ids, _ = model.quantise(model.codebook.weight[None])
    assert ids.max() < 3
    assert torch.equal(ids, model.quantise(model.codebook.weight[None])[0])
    assert len(ids[0, 3:].unique()) > 1


def test_a_gumbel_quantiser_chooses_among_the_codes_in_use():
    model = made(KINDS["used-gumbel"])
    model.used.copy_(torch.arange(7) * 3)
    features = torch.randn(2, 9, 6)
    ids, found = model.quantise(features)
    logits = model.choice(features)[..., ::3][..., :7]
    assert torch.equal(ids, logits.argmax(-1))
    assert torch.equal(found, model.codebook.weight[ids * 3])
    assert torch.equal(model.train_quantise(features).ids, ids)


def test_averages_halve_and_repetition_doubles():
    model = made(KINDS["averaging"])
    x = torch.randn(1, 8, 4, 4)
    halved, doubled = model.encoder.levels[0].resample(x), model.decoder.levels[1].resample(x)
    torch.testing.assert_close(halved[0, :, 1, 0], x[0, :, 2:, :2].mean((1, 2)))
    assert torch.equal(doubled[0, :, 6:, 2:4], x[0, :, 3:, 1:2].expand(8, 2, 2))


def test_convolutions_halve_with_zeros_to_the_right_and_below():
    model = made()
    down = model.encoder.levels[0].resample
    x = torch.randn(1, 8, 4, 6)
    wide = F.pad(x, (1, 1, 1, 1))
    plain = F.conv2d(wide, down.conv.weight, down.conv.bias)[:, :, 1::2, 1::2]
    torch.testing.assert_close(down(x), plain[:, :, :2, :3])


def test_equal_patches_have_equal_codes_wherever_they_are():
    model = made(replace(TINY, encoder="patches"))
    first, other = pictures(model, count=2, height=8, width=12)
    other[:, 4:, 8:] = first[:, :4, 4:8]
    ids = model.encode(torch.stack([first, other]))
    assert ids[1, 5] == ids[0, 1]
    # Their neighbours have no part in it: not so where the encoder is one of convolutions.
    wide = made(TINY).eval()
    features = wide.features(torch.stack([first, other]))
    assert not torch.allclose(features[1, 5], features[0, 1], atol=1e-3)


def test_a_deepened_decoder_computes_the_same_and_can_learn():
    model = made(TINY)
    ids = torch.randint(0, TINY.codes, (2, 12))
    before = model.decode_ids(ids, (3, 4))
    deeper = deepened(model, 3).eval()
    assert deeper.config == replace(TINY, middles=3)
    assert torch.equal(deeper.decode_ids(ids, (3, 4)), before)
    deeper.decode_ids(ids, (3, 4)).square().sum().backward()
    last = deeper.decoder.more[1].second.conv2.weight
    assert last.grad is not None
    assert last.grad.abs().max() > 0
    assert deepened(deeper, 3) is deeper
    with pytest.raises(BadInput, match="2 middles; the decoder has 3 already"):
        deepened(deeper, 2)


def test_dropout_acts_in_training_alone():
    model = made(replace(TINY, dropout=0.5))
    x = pictures(model)
    assert torch.equal(model.features(x), model.features(x))
    model.train()
    assert not torch.equal(model.features(x), model.features(x))


def test_attention_is_that_of_the_equation():
    attention = made().encoder.middle.attention
    x = torch.randn(2, 16, 3, 5)
    flat = attention.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (flat @ attention.qkv.weight.T + attention.qkv.bias).split(16, dim=-1)
    mixed = (q @ k.transpose(1, 2) * 16**-0.5).softmax(-1) @ v
    mixed = mixed @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(attention(x), x + mixed.transpose(1, 2).reshape(x.shape))


def test_where_it_attends_follows_the_published_way_of_halving_and_doubling():
    even = replace(TINY, image_size=32, attention_sizes=(16, 8))
    assert even.attends(encoder=True) == even.attends(encoder=False) == (False, True, True)
    odd = replace(TINY, image_size=50, attention_sizes=(25, 24))
    assert odd.attends(encoder=True) == (False, True, False)
    assert odd.attends(encoder=False) == (False, True, False)
    lost = replace(TINY, image_size=50, attention_sizes=(25,))
    assert lost.attends(encoder=False) == (False, False, False)
    with torch.device("meta"):
        assert len(VqGan(lost).decoder.levels[1].attention) == 0


def test_colours_of_a_map_span_the_whole_range():
    model = made(KINDS["labels"])
    shown = model.to_rgb(torch.rand(2, 5, 4, 6))
    assert shown.shape == (2, 3, 4, 6)
    assert (shown.min().item(), shown.max().item()) == (-1, 1)
    with pytest.raises(BadInput, match="no colours"):
        made().to_rgb(torch.rand(1, 5, 4, 4))


def test_pictures_go_to_the_model_s_range_and_back():
    model, rgb = made(), torch.rand(1, 3, 4, 4)
    x = model.normalise(rgb)
    torch.testing.assert_close(x, rgb * 2 - 1)
    torch.testing.assert_close(model.denormalise(x), rgb)
    labels = made(KINDS["labels"])
    assert torch.equal(labels.normalise(rgb), rgb)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: m.encode(torch.zeros(1, 3, 18, 16)), r"18 x 16 .* multiples of 4.* 16 x 16"),
        (lambda m: m.encode(torch.zeros(1, 3, 0, 16)), r"multiples of 4"),
        (lambda m: m.encode(torch.zeros(1, 1, 16, 16)), r"1 channels; this model takes 3"),
        (
            lambda m: m.lookup(torch.tensor([[0, 24]])),
            r"from 0 to 24; this model has codes 0 to 23",
        ),
        (lambda m: m.lookup(torch.tensor([[-1, 3]])), r"from -1 to 3"),
        (lambda m: m.decode_ids(torch.zeros(1, 5, dtype=torch.int64), (2, 3)), r"5 tokens.* 6"),
        (lambda m: m.decode(torch.zeros(1, 4, 6), (-2, -2)), r"4 tokens"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_do(call, match):
    with pytest.raises(BadInput, match=match):
        call(made())


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"quantiser": "gumbel", "latent_width": 8}, "latent_width 8"),
        ({"width": 9}, "4 groups"),
        ({"quantiser": "soft"}, "quantiser"),
        ({"weighs": "both"}, "weighs"),
        ({"unknown": "none"}, "unknown"),
        ({"used_codes": 25}, "25 of 24"),
        ({"blocks": 0}, "at least one"),
        ({"middles": 0}, "at least one"),
    ],
)
def test_an_impossible_config_is_refused(fields, match):
    with pytest.raises(BadInput, match=match):
        VqGanConfig.from_json({**TINY.to_json(), **fields})


def test_a_config_survives_json_and_unknown_fields_are_named():
    for config in (*KINDS.values(), *VARIANTS.values()):
        assert VqGanConfig.from_json(config.to_json()) == config
    with pytest.raises(BadInput, match="colour"):
        VqGanConfig.from_json({"codes": 3, "colour": 1})
    with pytest.raises(BadInput, match="codes"):
        VqGanConfig.from_json({})


# Counted by hand from CompVis's classes; the cases of tests/golden have the same numbers.
PUBLISHED = {
    "imagenet-f16-1024": 72_141_699,
    "imagenet-f16-16384": 76_073_859,
    "gumbel-f8": 68_995_971,
    "faceshq": 72_141_699,
    "depth": 72_137_089,
    "ade20k": 72_928_131,
    "coco-8k": 73_976_707,
    "sflckr-labels": 72_554_294,
    "coco-labels": 72_556_599,
    "ade20k-labels": 72_482_839,
    "vq-f8": 67_717_295,
    "vq-f8-n256": 67_652_783,
    "clip-gen-coco": 76_073_859,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_as_many_parameters_as_published(name: str):
    with torch.device("meta"):
        model = VqGan(VARIANTS[name])
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]
    assert model.factor == (8 if "f8" in name else 16)


def test_half_precision_gives_nearly_the_same():
    model = made()
    x = pictures(model)
    with torch.no_grad():
        whole = model.features(x)
        half = model.to(torch.bfloat16).features(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0.05)


def test_pictures_are_prepared_as_in_the_reconstruction_notebook():
    how = VARIANTS["imagenet-f16-1024"].preprocessing
    assert how is not None
    assert (how.size, how.resize, how.filter) == (256, "crop", "lanczos")
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(normalise(x, how.mean, how.std), made().normalise(x))
    assert VARIANTS["depth"].preprocessing is None
    assert VARIANTS["coco-labels"].preprocessing is None
