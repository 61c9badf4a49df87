"""Recipes so small that a test runs them from beginning to end."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from lascaux.train.recipe import Loss, Moment, Part, Recipe, Share


@dataclass(frozen=True, kw_only=True)
class Line(Recipe):
    """Fit a line: a recipe small enough for a test."""

    name: ClassVar[str] = "line"
    seed: int = 3
    steps: int = 40
    batch_size: int = 16
    warmup_steps: int = 5
    cooldown_steps: int = 10
    learning_rate: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    averaging: float = 0.9
    best: ClassVar[str | None] = "-validation_loss"

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def feed(self, part: Part) -> Iterator[Tensor]:
        return part.drawn(self, self.batch)

    def batch(self, share: Share) -> Tensor:
        time.sleep(float(os.environ.get("SECONDS_A_STEP", "0")))
        chance = torch.Generator().manual_seed(1000 * self.seed + share.number)
        return torch.randn(share.size, 3, generator=chance)

    def loss(self, model: nn.Module, batch: Tensor, moment: Moment) -> Loss:
        # Noise from torch's own generator: a resumed run must draw what it would have drawn.
        target = batch.sum(1, keepdim=True) + 0.1 * torch.randn(len(batch), 1)
        return Loss((model(batch) - target).square().mean(), {"extra": 1.0})

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {"validation_loss": float(model(torch.eye(3)).sum())}

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        folder.mkdir()
        torch.save(model.state_dict(), folder / "weights.pt")


class Deep(Line):
    """A line by way of blocks that can be sharded, and a single number that cannot."""

    def build(self) -> nn.Module:
        return Deeper()

    def loss(self, model: nn.Module, batch: torch.Tensor, moment: Moment) -> Loss:
        target = batch.sum(1, keepdim=True)
        return Loss((model(batch) - target).square().mean(), {"first": batch[0, 0]})


class Deeper(nn.Module):
    """Blocks and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.last = nn.Linear(8, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.scale * self.last(x)
