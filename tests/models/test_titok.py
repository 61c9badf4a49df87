from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.errors import BadInput, Unsupported
from lascaux.models.titok import VARIANTS, TiTok, TiTokConfig, of_sizes

VQ = TiTokConfig(
    image_size=32,
    encoder_patch_size=16,
    decoder_patch_size=8,
    encoder_width=32,
    encoder_layers=1,
    encoder_heads=2,
    decoder_width=24,
    decoder_layers=2,
    decoder_heads=2,
    latents=5,
    token_width=6,
    codes=40,
)
LEGACY = replace(VQ, legacy=True, unit_length=True, encoder_patch_size=16, decoder_patch_size=16)
PIXELS = replace(LEGACY, pixel_decoder=True)
VAE = replace(VQ, codes=0)
KINDS = {"vq": VQ, "legacy": PIXELS, "vae": VAE}


def titok(config: TiTokConfig) -> TiTok:
    torch.manual_seed(0)
    model = TiTok(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [
        ("titok-b64", 819),
        ("titok-s128", 335),
        ("titok-bl64-vq8k", 1560),
        ("titok-sl256-vq8k", 1321),
    ],
)
def test_a_full_size_has_as_many_weights_as_its_file_on_the_hub(name: str, megabytes: int):
    with torch.device("meta"):
        model = TiTok(VARIANTS[name])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(4 * count / 1e6) == megabytes


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vq", "vae"])
def test_a_batch_is_its_pictures_one_by_one(kind: str):
    model, x = titok(KINDS[kind]), pictures()
    features = model.features(x)
    decoded = model.decode(features)
    for row in range(len(x)):
        torch.testing.assert_close(
            model.features(x[row : row + 1])[0], features[row], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            model.decode(features[row : row + 1])[0], decoded[row], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str):
    model = titok(KINDS[kind])
    if model.config.variational:
        model.decode(model.sample(pictures())).square().mean().backward()
    else:
        model(pictures()).square().mean().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Codes are moved by losses of their own, not by what is made of them.
    assert without == {"codebook"}


@torch.no_grad()
def test_codes_stand_for_themselves():
    model = titok(VQ)
    ids = torch.arange(10).reshape(2, 5)
    assert torch.equal(model.quantise(model.lookup(ids))[0], ids)
    assert torch.equal(model.decode_ids(ids), model.decode(model.lookup(ids)))
    assert model.encode(pictures()).shape == (2, 5)
    assert (model.codes, model.length) == (40, 5)


@torch.no_grad()
def test_of_unit_length_all_vectors_are():
    model = titok(LEGACY)
    features = model.features(pictures())
    ids, found = model.quantise(3 * features)
    for vectors in (features, found, model.lookup(ids)):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 5))
    assert torch.equal(ids, model.encode(pictures()))
    cosines = features @ F.normalize(model.codebook, dim=-1).T
    assert torch.equal(ids, cosines.argmax(-1))


@torch.no_grad()
def test_a_legacy_encoder_reads_its_latents_across():
    model = titok(LEGACY)
    plain = replace(LEGACY, legacy=False)
    read: list[Tensor] = []
    model.encoder.last_norm.register_forward_hook(lambda _, __, out: read.append(out))
    z = model.encoder(pictures())
    weight, bias = model.encoder.project.weight, model.encoder.project.bias
    as_convolution = F.conv2d(read[0].reshape(2, 32, 5, 1), weight[:, :, None, None], bias)
    torch.testing.assert_close(z, as_convolution.reshape(2, 6, 5).mT)
    assert not torch.allclose(z, F.linear(read[0], weight, bias))
    assert plain.legacy is False


@torch.no_grad()
def test_a_variational_titok_gives_distributions_and_no_codes():
    model, x = titok(VAE), pictures()
    mean, log_variance = model.distribution(x)
    assert torch.equal(mean, model.features(x))
    assert log_variance.shape == mean.shape
    assert -30 <= log_variance.min() <= log_variance.max() <= 20
    seeds = [model.sample(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])
    for refused in (model.encode, lambda x: model.quantise(model.features(x))):
        with pytest.raises(Unsupported, match="has no codes"):
            refused(x)
    with pytest.raises(Unsupported, match="no distribution"):
        titok(VQ).distribution(x)


@torch.no_grad()
def test_a_first_stage_names_codes_and_gives_no_pixels():
    model = titok(LEGACY)
    features = model.features(pictures())
    assert model.decoder(features).shape == (2, 1024, 2, 2)
    assert titok(replace(LEGACY, pixel_codes=9)).decoder(features).shape == (2, 9, 2, 2)
    with pytest.raises(Unsupported, match="first stage"):
        model.decode(features)


@torch.no_grad()
def test_bad_input_is_refused_in_words():
    model = titok(VQ)
    with pytest.raises(BadInput, match="takes b x 3 x 32 x 32"):
        model.encode(torch.zeros(1, 3, 32, 48))
    with pytest.raises(BadInput, match="ids from 0 to 40; this model has 0 to 39"):
        model.decode_ids(torch.tensor([[0, 1, 2, 3, 40]]))
    with pytest.raises(BadInput, match="4 tokens; this model decodes 5"):
        model.decode_ids(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(BadInput, match="lie in no grid"):
        model.decode(torch.zeros(1, 5, 6), (1, 5))
    with pytest.raises(BadInput, match="expected b n 6"):
        model.decode(torch.zeros(1, 5, 7))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 40}, "no multiple"),
        ({"encoder_heads": 5}, "does not divide"),
        ({"latents": 0}, "at least one"),
        ({"pixel_decoder": True}, "only a legacy"),
        ({"codes": 0, "unit_length": True}, "without codes"),
        ({"legacy": True, "pixel_decoder": True, "pixel_codes": 9}, "pixel_codes=9"),
    ],
)
def test_an_impossible_config_is_refused(change: dict, words: str):
    with pytest.raises(BadInput, match=words):
        replace(VQ, **change)


def test_a_config_comes_back_from_json():
    for config in (VQ, *VARIANTS.values()):
        assert TiTokConfig.from_json(config.to_json()) == config
    with pytest.raises(BadInput, match=r"unknown fields.*depth"):
        TiTokConfig.from_json({"depth": 3})
    with pytest.raises(BadInput, match="fields missing from a TiTok config"):
        TiTokConfig.from_json({"latents": 3})
    with pytest.raises(BadInput, match="size 'huge'"):
        of_sizes("huge", "large", latents=1, token_width=1, codes=1)
