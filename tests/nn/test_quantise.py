import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lascaux.nn.quantise import (
    at_levels,
    bounded,
    divergence_from_uniform,
    gumbel_choice,
    gumbel_noise,
    ids_of_levels,
    levels_of_ids,
    likeliest,
    nearest,
    perplexity,
    quantisation_loss,
    rotated_through,
    straight_through,
)


@pytest.fixture(autouse=True)
def the_same_numbers_each_time():
    torch.manual_seed(0)


@pytest.mark.parametrize(("positions", "codes"), [(1, 1), (7, 5), (1000, 3), (4, 1000)])
def test_comparing_in_parts_gives_the_same_codes(positions: int, codes: int):
    chance = torch.Generator().manual_seed(0)
    # Whole numbers: no rounding, and many ties.
    x = torch.randint(-3, 4, (3, 11, 4), generator=chance).float()
    codebook = torch.randint(-3, 4, (90, 4), generator=chance).float()
    bias = torch.randint(-1, 2, (90,), generator=chance).float()
    far = (x[:, :, None] - codebook).square().sum(-1)
    assert torch.equal(nearest(x, codebook, positions=positions, codes=codes), far.argmin(-1))
    logits = x @ codebook.T + bias
    found = likeliest(x, codebook, bias, positions=positions, codes=codes)
    assert torch.equal(found, logits.argmax(-1))


def test_of_equal_codes_the_first_is_taken_across_parts():
    codebook = torch.tensor([[9.0], [1.0], [1.0], [9.0], [1.0]])
    assert nearest(torch.ones(3, 1), codebook, codes=2).tolist() == [1, 1, 1]
    assert likeliest(torch.ones(2, 1), codebook, torch.zeros(5), codes=1).tolist() == [0, 0]


def test_no_vectors_have_no_codes():
    assert nearest(torch.zeros(2, 0, 4), torch.ones(3, 4)).shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_codes_are_found_in_any_dtype(dtype: torch.dtype):
    codebook = torch.eye(6, dtype=dtype)
    assert nearest(codebook, codebook).tolist() == list(range(6))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.gpu
def test_codes_are_the_same_on_an_accelerator():
    chance = torch.Generator().manual_seed(0)
    x, codebook = torch.randn(64, 8, generator=chance), torch.randn(300, 8, generator=chance)
    assert torch.equal(nearest(x.cuda(), codebook.cuda()).cpu(), nearest(x, codebook))


class Largest(TorchDispatchMode):
    """Notes the most numbers that any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        if isinstance(given, torch.Tensor):
            self.numbers = max(self.numbers, given.numel())
        return given


def test_memory_stays_bounded_for_many_positions_and_codes():
    x, codebook = torch.full((1500, 2), 0.5), torch.zeros(9_000, 2)
    codebook[8_000] = 0.4
    with Largest() as largest:
        assert nearest(x, codebook).unique().tolist() == [8_000]
    assert largest.numbers <= 1024 * 4096


def test_straight_through_has_the_one_s_values_and_the_other_s_gradients():
    hard, soft = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    both = straight_through(hard, soft)
    assert torch.equal(both, hard)
    (both * torch.arange(12.0).view(4, 3)).sum().backward()
    assert hard.grad is None
    assert soft.grad is not None
    assert torch.equal(soft.grad, torch.arange(12.0).view(4, 3))


@pytest.mark.parametrize(
    ("weighs", "on_codes", "on_vectors"),
    [
        ("codebook", 0.25, 1.0),
        ("commitment", 1.0, 0.25),
    ],
)
def test_each_term_of_the_loss_moves_one_side(weighs, on_codes, on_vectors):
    x, codes = torch.zeros(5, 2, requires_grad=True), torch.ones(5, 2, requires_grad=True)
    loss = quantisation_loss(x, codes, beta=0.25, weighs=weighs)
    assert loss.item() == pytest.approx(1.25)
    loss.backward()
    torch.testing.assert_close(codes.grad, torch.full((5, 2), 2 * on_codes / 10))
    torch.testing.assert_close(x.grad, torch.full((5, 2), -2 * on_vectors / 10))


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.tensor([[3, 3], [3, 3]]), 9).item() == pytest.approx(1, abs=1e-4)
    assert perplexity(torch.arange(8).view(2, 4), 9).item() == pytest.approx(8, abs=1e-4)


def test_noisy_choices_follow_the_softmax():
    logits = torch.log(torch.tensor([0.1, 0.2, 0.7])).expand(20_000, 3)
    noise = gumbel_noise(logits, torch.Generator().manual_seed(0))
    chosen = gumbel_choice(logits, noise, temperature=0.5, hard=True)
    assert set(chosen.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(chosen.mean(0), torch.tensor([0.1, 0.2, 0.7]), atol=0.01, rtol=0)


def test_soft_choices_sharpen_as_the_temperature_falls():
    logits = torch.randn(6, 5)
    quiet = torch.zeros_like(logits)
    warm = gumbel_choice(logits, quiet, temperature=1.0, hard=False)
    torch.testing.assert_close(warm, logits.softmax(-1))
    cold = gumbel_choice(logits, quiet, temperature=1e-3, hard=False)
    assert cold.max(-1).values.min() > 0.9


def test_the_divergence_is_zero_for_equal_chances_and_the_logarithm_for_certainty():
    assert divergence_from_uniform(torch.zeros(3, 8), 8).item() == pytest.approx(0, abs=1e-5)
    certain = torch.full((3, 8), -1e4).index_fill(1, torch.tensor([2]), 0.0)
    assert divergence_from_uniform(certain, 8).item() == pytest.approx(2.0794415)


def test_gradients_turn_with_the_vectors_that_are_rotated():
    soft = torch.randn(5, 7, 6, dtype=torch.float64, requires_grad=True)
    hard = torch.randn(5, 7, 6, dtype=torch.float64)
    y = rotated_through(hard, soft)
    torch.testing.assert_close(y, hard)
    towards = torch.randn_like(hard)
    (found,) = torch.autograd.grad(y, soft, towards)
    # The map is a rotation and a stretch: lengths change by the stretch, angles are kept.
    stretch = hard.norm(dim=-1) / soft.norm(dim=-1)
    torch.testing.assert_close(found.norm(dim=-1), towards.norm(dim=-1) * stretch)
    angle = torch.cosine_similarity(towards, hard, dim=-1)
    torch.testing.assert_close(torch.cosine_similarity(found, soft, dim=-1), angle)


@pytest.mark.parametrize("levels", [(2,), (3, 2), (8, 5, 5), (7, 5, 5, 5, 5)])
def test_every_code_of_finite_scalars_is_a_point_of_the_grid_and_the_other_way(levels):
    ids = torch.arange(math.prod(levels))
    points = levels_of_ids(ids, levels)
    assert len(points.unique(dim=0)) == len(ids)
    assert torch.equal(ids_of_levels(points, levels), ids)
    assert torch.equal(at_levels(points, levels), points)
    for number, count in enumerate(levels):
        steps = points[:, number].unique() * (count // 2)
        assert steps.tolist() == list(range(-(count // 2), (count + 1) // 2))


@pytest.mark.parametrize("levels", [(2, 3), (8, 5), (4, 7)])
def test_bounded_numbers_reach_all_levels_and_no_others(levels):
    x = torch.linspace(-9, 9, 4001)[:, None].expand(-1, 2)
    found = bounded(x, levels)
    assert (found.diff(dim=0) >= 0).all()
    ids = torch.stack([ids_of_levels(found[:, n : n + 1], levels[n : n + 1]) for n in (0, 1)], 1)
    assert [len(ids[:, n].unique()) for n in (0, 1)] == list(levels)
    assert (ids >= 0).all()
    assert (ids < torch.tensor(levels)).all()


def test_numbers_are_bounded_as_the_equation_has_it():
    # Mentzer et al. 2023, appendix A.1, written out for one number at a time.
    x = torch.randn(50, dtype=torch.float64) * 2
    for count in (5, 8):
        half, aside = (count - 1) * (1 - 1e-3) / 2, 0.0 if count % 2 else 0.5
        expected = [math.tanh(one + math.tan(aside / half)) * half - aside for one in x.tolist()]
        found = bounded(x[:, None], (count,))[:, 0] * (count // 2)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_rounding_to_levels_passes_gradients_through():
    x = torch.randn(6, 3, requires_grad=True)
    found = at_levels(bounded(x, (8, 5, 5)), (8, 5, 5))
    (given,) = torch.autograd.grad(found.sum(), x, retain_graph=True)
    (plain,) = torch.autograd.grad(bounded(x, (8, 5, 5)).sum(), x)
    torch.testing.assert_close(given, plain)
