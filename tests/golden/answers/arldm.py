"""AR-LDM: so far the distance that its stories are measured by, from features to the figure."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden.case import Case


def check(case: Case, folder: Path) -> None:
    if "feat1" not in case.inputs:
        pytest.fail(f"{case.name}: the project does not have this part of AR-LDM yet")
    check_distance(case, folder)


def check_distance(case: Case, folder: Path) -> None:
    from lascaux.evaluate.frechet import (
        RunningStatistics,
        frechet_distance,
        read_statistics,
        write_statistics,
    )

    def kept(features: Tensor, name: str):
        """Statistics that came in batches and went through a file, as those of pictures do."""
        running = RunningStatistics(features.shape[1])
        for batch in features.split(7):
            running.add(batch)
        write_statistics(running.statistics(), folder / name)
        return read_statistics(folder / name)

    answers: dict[str, Tensor] = {}
    # The published code keeps features in one precision or the other; statistics here never do.
    for name, dtype in {"fid": torch.float64, "fid32": torch.float32}.items():
        if name not in case.outputs:
            continue
        first, second = (case.inputs[key].to(dtype) for key in ("feat1", "feat2"))
        distance = frechet_distance(
            kept(first, f"{name}-first.safetensors"), kept(second, f"{name}-second.npz")
        )
        answers[name] = torch.tensor([distance])
    case.check(answers)
