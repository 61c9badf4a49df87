from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lascaux.errors import BadInput, Unsupported
from lascaux.models.styled_vq import VARIANTS, Experts, StyledVq, StyledVqConfig, exchange

SMALL = StyledVqConfig(
    image_size=32,
    patch_size=8,
    attributes=6,
    width=32,
    heads=4,
    mlp_width=48,
    plain_layers=1,
    expert_layers=2,
    latent_width=8,
    codes=20,
    decoder_width=24,
    decoder_heads=2,
    decoder_layers=1,
    pixel_width=8,
    pixel_kernel=5,
    pixel_groups=2,
)
MIXTURE = replace(SMALL, quantised="mixture", distance="euclidean")
SCALARS = replace(SMALL, levels=(4, 3, 3), codes=36)


def styled(config: StyledVqConfig = SMALL) -> StyledVq:
    """A model with every parameter drawn, none of them at a neutral start, and a codebook."""
    torch.manual_seed(0)
    model = StyledVq(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        if config.codes and not config.levels:
            found = model.features(pictures(config, 32)).flatten(0, 1)
            model.adopt(found[torch.randperm(len(found))[: config.codes]])
    return model.eval()


def pictures(config: StyledVqConfig = SMALL, count: int = 3) -> Tensor:
    size = config.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("styled-vq-768-128", 2366),
        ("styled-vq-768-64", 2353),
        ("styled-vq-512-128", 2242),
        ("styled-vq-512-64", 2229),
    ],
)
def test_a_full_size_has_as_many_weights_as_published(name: str, millions: int):
    config = VARIANTS[name]
    with torch.device("meta"):
        model = StyledVq(config)
    # As published, each conditioned block has a matrix besides that nothing reads.
    unused = config.attributes // 2 * config.decoder_width * (config.decoder_width + 1)
    count = sum(p.numel() for p in model.parameters()) + model.codebook.numel() + unused
    assert round(count / 1e6) == millions


def test_experts_in_one_product_are_experts_in_a_loop():
    torch.manual_seed(0)
    experts = Experts(5, 8, 12)
    experts.initialise()
    x = torch.randn(3, 5, 8, requires_grad=True)
    one_by_one = torch.stack(
        [
            F.gelu(x[:, i] @ experts.up_weight[i] + experts.up_bias[i]) @ experts.down_weight[i]
            + experts.down_bias[i]
            for i in range(5)
        ],
        dim=1,
    )
    torch.testing.assert_close(experts(x), one_by_one)
    grads = torch.autograd.grad(experts(x).square().sum(), [x, *experts.parameters()])
    expected = torch.autograd.grad(one_by_one.square().sum(), [x, *experts.parameters()])
    torch.testing.assert_close(grads, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_batch_is_its_pictures_one_by_one():
    model, x = styled(), pictures()
    features, ids = model.features(x), model.encode(x)
    for row in range(len(x)):
        one = x[row : row + 1]
        torch.testing.assert_close(model.features(one)[0], features[row], rtol=1e-4, atol=1e-5)
        assert torch.equal(model.encode(one)[0], ids[row])
        torch.testing.assert_close(
            model.decode(features[row : row + 1])[0],
            model.decode(features)[row],
            rtol=1e-4,
            atol=1e-5,
        )


def test_without_gradients_the_answer_is_the_same():
    model, x = styled(), pictures()
    with torch.no_grad():
        short = model.features(x)
    torch.testing.assert_close(short, model.features(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [SMALL, MIXTURE, SCALARS, replace(SCALARS, quantised="mixture")],
    ids=["bottleneck", "mixture", "scalars", "scalars of the mixture"],
)
def test_gradients_reach_every_parameter(config: StyledVqConfig):
    model = styled(config)
    model(pictures(config)).square().mean().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # As published: what the last block does to patches is read by nothing.
    last = f"encoder.expert_blocks.{config.expert_layers - 1}.plain.mlp."
    assert without == {last + name for name in ("up.weight", "up.bias", "down.weight", "down.bias")}


def test_the_cosine_layer_is_its_equation():
    model = styled()
    mu, rows = torch.randn(2, 6, 8), model.mixture
    weights = F.cosine_similarity(mu[:, :, None], rows, dim=-1) + 1
    mixed = (weights / weights.sum(-1, keepdim=True)) @ rows
    norm = model.mixture_norm
    expected = F.layer_norm(mixed, (8,), norm.weight, norm.bias)
    torch.testing.assert_close(model.mix(mu), expected)
    torch.testing.assert_close(model.mix(7 * mu), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_is_quantised_is_before_or_behind_the_cosine_layer():
    before, x = styled(SMALL), pictures()
    behind = StyledVq(MIXTURE)
    behind.load_state_dict(before.state_dict())
    assert torch.equal(before.features(x), before.encoder(x))
    assert torch.equal(behind.features(x), before.mix(before.features(x)))
    assert torch.equal(behind.decode(behind.features(x)), before.decode(before.features(x)))


@torch.no_grad()
@pytest.mark.parametrize(
    "config", [SMALL, MIXTURE, SCALARS], ids=["bottleneck", "mixture", "scalars"]
)
def test_codes_stand_for_themselves(config: StyledVqConfig):
    model = styled(config)
    ids = torch.arange(18).reshape(3, 6)
    assert torch.equal(model.quantise(model.lookup(ids))[0], ids)
    assert torch.equal(model.decode_ids(ids), model.decode(model.lookup(ids)))


@torch.no_grad()
def test_by_cosine_the_length_of_a_feature_changes_no_code():
    model = styled()
    f = model.features(pictures())
    cosines = F.normalize(f, dim=-1) @ F.normalize(model.codebook, dim=-1).T
    assert torch.equal(model.quantise(f)[0], cosines.argmax(-1))
    assert torch.equal(model.quantise(f * 5)[0], model.quantise(f)[0])


def test_gradients_go_straight_through_to_the_features():
    model = styled()
    f = torch.randn(2, 6, 8, requires_grad=True)
    _, found = model.quantise(f)
    assert torch.equal(found.detach(), model.codebook[model.quantise(f)[0]])
    (found * 3).sum().backward()
    assert torch.equal(f.grad, torch.full_like(f, 3.0))


@torch.no_grad()
def test_noise_is_a_part_of_each_latents_size_and_repeats_by_its_seed():
    model, x = styled(), pictures(count=8)
    plain = model.features(x)
    drawn = [
        model.features(x, noise=0.1, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    size = plain.square().mean(-1, keepdim=True).sqrt()
    assert ((drawn[0] - plain) / size).std().item() == pytest.approx(0.1, rel=0.1)


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, MIXTURE], ids=["bottleneck", "mixture"])
def test_the_first_attributes_are_decoded_with_means_for_the_rest(config: StyledVqConfig):
    model = styled(config)
    features = model.features(pictures(config))
    nothing = model.mix(torch.zeros(1, 6, 8)) if config is MIXTURE else torch.zeros(1, 6, 8)
    assert torch.equal(model.complete(features[:, :2])[:, 2:], nothing[:, 2:].expand(3, -1, -1))
    model.adopt(model.codebook, mean=features.mean(0))
    whole = model.complete(features[:, :2])
    assert torch.equal(whole[:, :2], features[:, :2])
    assert torch.equal(whole[:, 2:], features.mean(0)[2:].expand(3, -1, -1))
    assert model.decode(whole).shape == (3, 3, 32, 32)
    assert torch.equal(model.complete(features), features)


@torch.no_grad()
def test_attributes_are_exchanged_between_pictures():
    model = styled()
    ids = model.encode(pictures(count=2))
    first, second = exchange(ids[:1], ids[1:], [0, 3])
    for number in range(6):
        swapped = number in (0, 3)
        assert first[0, number] == ids[int(swapped), number]
        assert second[0, number] == ids[int(not swapped), number]
    f, g = model.lookup(ids[:1]), model.lookup(ids[1:])
    assert torch.equal(exchange(f, g, [0, 3])[0], model.lookup(first))


@torch.no_grad()
def test_a_codebook_is_adopted():
    model = styled(replace(SMALL, codes=0))
    assert model.codes == 0
    with pytest.raises(BadInput, match=r"no codebook yet.*lascaux\.tasks\.codebook"):
        model.encode(pictures())
    model.adopt(torch.randn(7, 8))
    assert (model.codes, model.config.codes, model.length) == (7, 7, 6)
    assert int(model.encode(pictures()).max()) < 7
    for codebook in (torch.randn(7, 9), torch.zeros(0, 8), torch.full((3, 8), torch.nan)):
        with pytest.raises(BadInput, match="codebook"):
            model.adopt(codebook)


@torch.no_grad()
def test_bad_input_is_refused_in_words():
    model = styled()
    with pytest.raises(BadInput, match="takes b x 3 x 32 x 32"):
        model.features(torch.zeros(1, 3, 32, 40))
    with pytest.raises(BadInput, match="ids from -1 to 20; this codebook has 0 to 19"):
        model.decode_ids(torch.tensor([[0, 1, 2, 3, -1, 20]]))
    with pytest.raises(BadInput, match=r"5 attributes; this model decodes 6.*complete"):
        model.decode_ids(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(BadInput, match="lie in no grid"):
        model.decode(torch.zeros(1, 6, 8), (2, 3))
    with pytest.raises(BadInput, match="expected b n 8"):
        model.quantise(torch.zeros(1, 6, 9))
    with pytest.raises(BadInput, match="7 attributes"):
        model.complete(torch.zeros(1, 7, 8))
    with pytest.raises(BadInput, match="no attribute 6"):
        exchange(torch.zeros(1, 6), torch.zeros(1, 6), [6])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 30}, "no multiple"),
        ({"attributes": 5}, "two a block"),
        ({"heads": 5}, "does not divide"),
        ({"pixel_kernel": 4}, "no middle"),
        ({"pixel_groups": 3}, "groups"),
        ({"codes": -1}, "codes=-1"),
        ({"levels": (4, 6)}, "codes=20; levels"),
        ({"levels": (20, 1)}, "at least two"),
        ({"drawn_codes": -1}, "drawn_codes=-1"),
    ],
)
def test_an_impossible_config_is_refused(change: dict, words: str):
    with pytest.raises(BadInput, match=words):
        replace(SMALL, **change)


def test_a_config_comes_back_from_json():
    for config in (SMALL, SCALARS, *VARIANTS.values()):
        assert StyledVqConfig.from_json(config.to_json()) == config
    with pytest.raises(BadInput, match=r"unknown fields.*depth"):
        StyledVqConfig.from_json({"depth": 3})


@torch.no_grad()
def test_pictures_go_to_the_models_range_and_back():
    model, x = styled(), torch.rand(2, 3, 32, 32)
    assert model.normalise(torch.ones(1, 3, 1, 1)).flatten().tolist() == [1, 1, 1]
    torch.testing.assert_close(model.denormalise(model.normalise(x)), x)


@torch.no_grad()
def test_half_precision_answers_nearly_the_same():
    model, x = styled(), pictures()
    whole = model.decode(model.features(x))
    half = styled().bfloat16()
    found = half.decode(half.features(x)).float()
    assert (found - whole).abs().max() < 0.1 * whole.abs().max()


@torch.no_grad()
def test_scalars_are_codes_without_a_codebook():
    model = styled(SCALARS)
    features = model.features(pictures(count=8))
    assert features.shape == (8, 6, 3)
    assert features.abs().max() <= 1
    ids, found = model.quantise(features)
    assert torch.equal(ids, model.encode(pictures(count=8)))
    assert torch.equal(found, model.lookup(ids))
    assert len(ids.unique()) > 4
    assert (model.codes, model.codebook.numel()) == (36, 0)
    assert model.complete(found[:, :2]).shape == (8, 6, 3)
    with pytest.raises(BadInput, match="takes no codebook"):
        model.adopt(torch.randn(36, 8))


@torch.no_grad()
def test_scalars_of_one_direction_are_decoded_apart():
    model = styled(replace(SMALL, levels=(5, 5), codes=25))
    near, far = (torch.full((1, 6, 2), size) for size in (0.5, 1.0))
    assert (model.decode(near) - model.decode(far)).abs().max() > 1e-4


class FourColours(nn.Module):
    """A tokeniser of four codes, each a flat square of one shade, in its own range 0 to 255."""

    codes, factor = 4, 8

    def __init__(self) -> None:
        super().__init__()
        self.shades = nn.Parameter(torch.tensor([[0.0], [80.0], [160.0], [240.0]]))

    def lookup(self, ids: Tensor) -> Tensor:
        return self.shades[ids]

    def decode(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        squares = features[..., 0].reshape(-1, 1, *grid)
        return F.interpolate(squares, scale_factor=8.0).expand(-1, 3, -1, -1)

    def denormalise(self, x: Tensor) -> Tensor:
        return x / 255


def test_a_decoder_that_names_codes_has_its_pictures_drawn():
    config = replace(SMALL, drawn_codes=4)
    torch.manual_seed(0)
    model = StyledVq(config, FourColours())
    features = model.features(pictures())
    logits = model.named(features)
    assert logits.shape == (3, 4, 4, 4)
    back = model.decode(features)
    assert back.shape == (3, 3, 32, 32)
    assert back.requires_grad
    certain = F.one_hot(torch.arange(16).reshape(1, 4, 4) % 4, 4).movedim(-1, 1) * 1e4
    drawn = model.denormalise(model.drawn(certain)) * 255
    torch.testing.assert_close(drawn[0, 0, ::8, ::8].unique(), torch.tensor([0.0, 80, 160, 240]))
    with pytest.raises(Unsupported, match="came without it"):
        StyledVq(config).decode(features)
    with pytest.raises(BadInput, match="drawn_codes=5; the tokeniser that draws them has 4"):
        StyledVq(replace(config, drawn_codes=5), FourColours())
