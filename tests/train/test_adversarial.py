import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.train.adversarial import (
    AdversarialOptions,
    balance,
    discriminator_terms,
    generator_terms,
    hinge,
    map_terms,
    vanilla,
)


def rebuilt() -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 6, 6, generator=chance)
    x = torch.randn(2, 3, 6, 6, generator=chance)
    layer = torch.randn(3, 4, 1, 1, generator=chance).requires_grad_()
    return x, F.conv2d(features, layer), layer


def judged(x: Tensor) -> Tensor:
    return x.square().mean((1, 2, 3))


def distance(x: Tensor, other: Tensor) -> Tensor:
    return (x - other).square().mean((1, 2, 3))


def test_good_logits_cost_nothing_by_the_hinge_and_little_otherwise():
    assert hinge(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, -9.0])).item() == 0
    assert hinge(torch.tensor([0.0]), torch.tensor([0.0])).item() == 1
    unsure = vanilla(torch.tensor([0.0]), torch.tensor([0.0])).item()
    assert unsure == pytest.approx(0.6931472)
    assert vanilla(torch.tensor([20.0]), torch.tensor([-20.0])).item() < 1e-6


def test_balanced_terms_have_gradients_of_one_length():
    x, back, layer = rebuilt()
    loss, adversarial = (x - back).abs().mean(), -judged(back).mean()
    weight = balance(loss, adversarial, layer)
    (own,) = torch.autograd.grad(loss, layer, retain_graph=True)
    (other,) = torch.autograd.grad(weight * adversarial, layer, retain_graph=True)
    torch.testing.assert_close(own.norm(), other.norm(), atol=1e-3, rtol=1e-3)
    assert not weight.requires_grad
    assert balance(1e9 * loss, 1e-9 * adversarial, layer).item() == 1e4


def terms(step: int, **fields):
    x, back, layer = rebuilt()
    options = AdversarialOptions(start=5, adversarial_weight=0.5, codebook_weight=2.0, **fields)
    return generator_terms(
        x,
        back,
        torch.tensor(0.25),
        options=options,
        step=step,
        discriminator=judged,
        last_layer=layer,
        perceptual=distance,
    )


def test_the_discriminator_takes_part_from_its_start():
    before, after = terms(4), terms(5)
    assert (before.factor, after.factor) == (0, 1)
    assert before.total.item() == pytest.approx(before.reconstruction.item() + 0.5)
    expected = after.reconstruction + 0.5 + after.balance * after.adversarial
    assert after.total.item() == pytest.approx(expected.item())
    assert after.balance.item() == pytest.approx(before.balance.item())


def test_what_counts_nothing_before_the_start_can_be_left_out():
    lean, full = terms(4, early=False), terms(4)
    assert lean.total.item() == pytest.approx(full.total.item())
    assert lean.adversarial.item() == lean.balance.item() == 0
    assert terms(5, early=False).total.item() == pytest.approx(terms(5).total.item())


def test_validation_leaves_the_adversarial_term_out_of_the_total():
    x, back, layer = rebuilt()
    made = generator_terms(
        x,
        back.detach(),
        torch.tensor(0.0),
        options=AdversarialOptions(perceptual_weight=0.0),
        step=0,
        discriminator=judged,
        last_layer=layer,
    )
    assert made.balance.item() == 0
    assert made.total.item() == pytest.approx((x - back).abs().mean().item())


def test_a_perceptual_weight_needs_a_distance():
    x, back, layer = rebuilt()
    with pytest.raises(BadInput, match="needs a perceptual distance"):
        generator_terms(
            x,
            back,
            torch.tensor(0.0),
            options=AdversarialOptions(),
            step=0,
            discriminator=judged,
            last_layer=layer,
        )


def test_the_discriminator_s_loss_does_not_reach_the_autoencoder():
    x, back, layer = rebuilt()
    judge = nn.Conv2d(3, 1, 1)
    made = discriminator_terms(
        x, back, options=AdversarialOptions(start=2), step=2, discriminator=judge
    )
    made.total.backward()
    assert layer.grad is None
    assert judge.weight.grad is not None
    early = discriminator_terms(
        x, back, options=AdversarialOptions(start=2), step=1, discriminator=judge
    )
    assert early.total.item() == 0


def test_a_condition_is_shown_to_the_discriminator():
    x, back, _ = rebuilt()
    seen: list[int] = []

    def judge(picture: Tensor, condition: Tensor) -> Tensor:
        seen.append(condition.shape[1])
        return judged(picture)

    discriminator_terms(
        x,
        back,
        options=AdversarialOptions(),
        step=0,
        discriminator=judge,
        condition=torch.zeros(2, 7, 6, 6),
    )
    assert seen == [7, 7]


def test_maps_cost_their_binary_cross_entropy_and_the_codes():
    target = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    total, crossed = map_terms(
        torch.zeros(1, 2, 1, 1), target, torch.tensor(0.5), codebook_weight=2.0
    )
    assert crossed.item() == pytest.approx(0.6931472)
    assert total.item() == pytest.approx(1.6931472)
