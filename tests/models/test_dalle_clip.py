from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.dalle_clip import DalleClip, DalleClipConfig

TINY = DalleClipConfig(
    text_width=12,
    image_width=8,
    embed_width=6,
    text_tokens=9,
    text_length=5,
    text_layers=2,
    text_heads=1,
    image_layers=1,
    image_heads=1,
    image_size=8,
    patch_size=4,
)


def clip() -> DalleClip:
    torch.manual_seed(0)
    return DalleClip(TINY).eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    text = torch.randint(1, 9, (3, 5), generator=draw)
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    return text, torch.rand(3, 3, 8, 8, generator=draw), mask


@torch.no_grad()
def test_a_batch_equals_one_by_one():
    model, (text, x, mask) = clip(), batch()
    scores = model.score(text, x, mask)
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(model.score(text[one], x[one], mask[one])[0], scores[row])
    torch.testing.assert_close(model(text, x, mask).diagonal(), scores)


@torch.no_grad()
def test_what_the_mask_leaves_out_changes_nothing():
    model, (text, x, mask) = clip(), batch()
    other = torch.where(mask, text, 0)
    assert torch.equal(model.score(text, x, mask), model.score(other, x, mask))
    assert not torch.allclose(model.score(text, x), model.score(other, x))
    short = model.encode_text(text[1:2, :2])
    torch.testing.assert_close(model.encode_text(text, mask)[1:2], short)


def test_gradients_reach_every_parameter_and_training_finds_the_pairs():
    model, (text, x, mask) = clip().train(), batch()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = model.loss(text, x, mask)
    first.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for _ in range(20):
        optimiser.zero_grad()
        model.loss(text, x, mask).backward()
        optimiser.step()
    assert model.loss(text, x, mask) < first / 2


@torch.no_grad()
def test_the_loss_asks_both_ways():
    model, (text, x, mask) = clip(), batch()
    logits, own = model(text, x, mask), torch.arange(3)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(model.loss(text, x, mask), expected)


def test_what_does_not_fit_is_refused():
    model, (text, x, _) = clip(), batch()
    with pytest.raises(BadInput, match="6 text ids; this model reads 5"):
        model.encode_text(F.pad(text, (0, 1)))
    with pytest.raises(BadInput, match=r"\(3, 8, 4\); this model reads 3 x 8 x 8"):
        model.encode_image(x[..., :4])
    with pytest.raises(BadInput, match="8 pixels do not divide into 3"):
        replace(TINY, patch_size=3)
    with pytest.raises(BadInput, match="text_heads 0"):
        replace(TINY, text_heads=0)


def test_a_config_survives_json():
    assert DalleClipConfig.from_json(TINY.to_json()) == TINY
