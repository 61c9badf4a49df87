import torch
from torch import nn

from lascaux.train.muon import Muon, orthogonal
from lascaux.train.optimisers import Optimiser, build_optimiser, within_blocks


def test_singular_values_come_near_one_and_directions_stay():
    x = torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(0))
    found = orthogonal(x)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() <= values.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    nearest = u @ v
    assert torch.cosine_similarity(found.flatten(1), nearest.flatten(1)).min() > 0.97


STACK = {"stack.experts", "stack.kernels"}


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
    stack = nn.Module()
    stack.experts = nn.Parameter(torch.randn(4, 6, 5))
    stack.kernels = nn.Parameter(torch.randn(5, 2, 3, 3))
    return nn.ModuleDict({"first": nn.Linear(3, 6), "block": block, "stack": stack})


def groups(of: nn.ModuleDict) -> Optimiser:
    blocks = [of["block"], of["stack"]]
    return Optimiser("muon", within_blocks(of.named_parameters(), blocks, 0.0))


def test_matrices_of_blocks_take_steps_of_one_size_and_all_else_is_adamws():
    of, same = model(), model()
    optimiser = build_optimiser(groups(of), 1e-3)
    assert isinstance(optimiser, Muon)
    told = {group["name"]: set(group["weights"]) for group in optimiser.param_groups}
    assert told["matrices"] == {"block.0.weight", "block.2.weight", *STACK}
    others = [p for n, p in same.named_parameters() if n not in told["matrices"]]
    plain = torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    before = {name: p.detach().clone() for name, p in of.named_parameters()}
    for each in (of, same):
        chance = torch.Generator().manual_seed(1)
        for p in each.parameters():
            p.grad = 1e3 * torch.randn(p.shape, generator=chance)
    optimiser.step()
    plain.step()
    theirs = dict(same.named_parameters())
    for name, p in of.named_parameters():
        if name not in told["matrices"]:
            assert torch.equal(p, theirs[name])
            continue
        moved = (before[name] - p).detach()
        if p.ndim == 4:  # a kernel is one matrix, a row an output
            moved = moved.flatten(1)
        size = max(1.0, moved.shape[-2] / moved.shape[-1]) ** 0.5
        values = torch.linalg.svdvals(moved) / (0.02 * size)
        assert 0.6 < values.min() <= values.max() < 1.3


def test_a_quadratic_is_descended():
    of = model()
    optimiser = build_optimiser(groups(of), 1e-3)
    goal = torch.randn(12, 6, generator=torch.Generator().manual_seed(3)) / 4
    weight = of["block"][0].weight
    first = (weight - goal).square().sum().item()
    for _ in range(60):
        optimiser.zero_grad()
        (weight - goal).square().sum().backward()
        optimiser.step()
    assert (weight - goal).square().sum().item() < 0.2 * first
