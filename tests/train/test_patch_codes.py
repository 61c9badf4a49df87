from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.vqgan import VqGan, VqGanConfig
from lascaux.train.patch_codes import begin_with_decoder, learn_patch_codes

TINY = VqGanConfig(
    codes=24,
    code_width=6,
    encoder="patches",
    image_size=16,
    width=8,
    multiples=(1, 2, 2),
    blocks=1,
    attention_sizes=(),
    latent_width=8,
    groups=4,
)


def made(config: VqGanConfig = TINY) -> VqGan:
    torch.manual_seed(0)
    return VqGan(config).eval()


def drawn(count: int = 40) -> Tensor:
    """Pictures of sixteen patches, each of one of twenty-four flat colours."""
    chance = torch.Generator().manual_seed(1)
    colours = torch.randint(0, 256, (24, 3), generator=chance)
    chosen = colours[torch.randint(0, 24, (count, 4, 4), generator=chance)]
    return chosen.permute(0, 3, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3).byte()


def test_codes_are_those_of_the_patches_that_there_are():
    model, pictures = made(replace(TINY, code_width=3)), drawn()
    learn_patch_codes(model, pictures, torch.ones(40, 1, 16, 16), seed=3)
    x = model.normalise(pictures.float() / 255)
    features = model.features(x)
    ids, codes = model.quantise(features)
    assert len(ids.unique()) == 24
    # Three directions hold all that flat colours differ in: nothing is lost.
    torch.testing.assert_close(codes, features, atol=1e-3, rtol=1e-3)
    assert features.mean().abs() < 0.05
    assert features.var(unbiased=False).item() == pytest.approx(1.0, abs=0.1)
    # Distances are those of pixels but for one scale.
    apart = [
        torch.cdist(each, each).flatten() for each in (x[0, :, ::4, ::4].flatten(1).T, features[0])
    ]
    share = apart[1][apart[0] > 0.1] / apart[0][apart[0] > 0.1]
    assert (share / share.mean() - 1).abs().max() < 1e-3


def test_what_is_learnt_depends_on_the_seed_alone_and_on_what_pixels_count():
    pictures, weight = drawn(), torch.ones(40, 1, 16, 16)
    found = []
    for seed, of_right in ((3, 1.0), (3, 1.0), (4, 1.0), (3, 0.0)):
        weight[..., 8:] = of_right
        model = made(replace(TINY, codes=8))
        learn_patch_codes(model, pictures, weight, seed=seed)
        found.append(model.codebook.weight.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])
    # What counts nothing is not seen at all.
    weight[..., 8:] = 0.0
    pictures[..., 8:] = 0
    learn_patch_codes(model, pictures, weight, seed=3)
    assert torch.equal(model.codebook.weight, found[3])


def test_too_few_patches_are_refused():
    with pytest.raises(BadInput, match="16 patches of 1 pictures for 24 codes"):
        learn_patch_codes(made(), drawn(1), torch.ones(1, 1, 16, 16), seed=3)


def test_another_s_decoder_is_taken_with_codes_fitted_to_it():
    pictures = drawn()
    mine, theirs = made(replace(TINY, code_width=3)), made(replace(TINY, code_width=5, codes=24))
    for model in (mine, theirs):
        learn_patch_codes(model, pictures, torch.ones(40, 1, 16, 16), seed=3)
    torch.nn.init.normal_(theirs.decoder.last.weight)
    # Theirs has every feature of mine, turned and scaled.
    begin_with_decoder(mine, theirs, pictures)
    x = mine.normalise(pictures.float() / 255)
    for model in (mine, theirs):
        model.requires_grad_(False)
    decoded = [m.decode(m.quantise(m.features(x))[1], (4, 4)) for m in (mine, theirs)]
    torch.testing.assert_close(decoded[0], decoded[1], atol=2e-2, rtol=2e-2)
    other = made(replace(TINY, width=16))
    with pytest.raises(BadInput, match="its decoder has another shape"):
        begin_with_decoder(mine, other, pictures)
