import pytest
import torch

from lascaux.nn.retoucher import Retoucher


def drawn(told: int = 6) -> Retoucher:
    torch.manual_seed(0)
    model = Retoucher(told, 16, (16, 24, 32))
    model.initialise()
    return model


def test_a_new_one_gives_the_sketch_back():
    sketch = torch.randn(2, 3, 32, 32)
    assert torch.equal(drawn()(torch.randn(2, 6), sketch), sketch)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_what_is_told_changes_what_is_made_of_one_sketch_at_any_size(side: int):
    model = drawn()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    sketch, told = torch.randn(2, 3, side, side), torch.randn(2, 6)
    made = model(told, sketch)
    assert made.shape == sketch.shape
    assert not torch.allclose(made[1], model(told.roll(1, 0), sketch)[1])
    torch.testing.assert_close(made[:1], model(told[:1], sketch[:1]), atol=1e-5, rtol=1e-5)


def test_every_weight_within_is_in_one_block_and_learns():
    model = drawn()
    torch.nn.init.normal_(model.last.weight)
    for block in model.modules():
        if hasattr(block, "change"):
            torch.nn.init.normal_(block.change.weight)
    model(torch.randn(2, 6), torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())
    inside = [id(weight) for block in model.blocks() for weight in block.parameters()]
    ends = (model.widen, model.deepen, model.first, model.last_norm, model.last)
    outside = [id(weight) for part in ends for weight in part.parameters()]
    assert len(set(inside)) == len(inside)
    assert set(inside + outside) == {id(weight) for weight in model.parameters()}
