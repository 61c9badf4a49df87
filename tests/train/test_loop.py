import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from lascaux.errors import BadInput, BrokenFile
from lascaux.train.loop import CHECKPOINT, learning_rate, train


@dataclass(frozen=True, kw_only=True)
class Line:
    """Fit a line: a recipe small enough for a test."""

    name: ClassVar[str] = "line"
    seed: int = 3
    steps: int = 40
    warmup_steps: int = 5
    cooldown_steps: int = 10
    learning_rate: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    averaging: float = 0.9

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def batch(self, step: int) -> Tensor:
        time.sleep(float(os.environ.get("SECONDS_A_STEP", "0")))
        return torch.randn(16, 3, generator=torch.Generator().manual_seed(1000 * self.seed + step))

    def loss(self, model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        # Noise from torch's own generator: a resumed run must draw what it would have drawn.
        target = batch.sum(1, keepdim=True) + 0.1 * torch.randn(len(batch), 1)
        return (model(batch) - target).square().mean(), {"extra": 1.0}

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {"validation_loss": float(model(torch.eye(3)).sum())}

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        folder.mkdir()
        torch.save(model.state_dict(), folder / "weights.pt")


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Refusing(Line):
    def batch(self, step: int) -> Tensor:
        raise BadInput("no such data")


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "model" / "weights.pt", weights_only=True)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_stopped_run_ends_with_the_same_bits_as_one_never_stopped(tmp_path: Path):
    assert train(Line(), tmp_path / "whole")
    assert not train(Line(), tmp_path / "parts", stop_after=7)
    assert not train(Line(), tmp_path / "parts", stop_after=23)
    assert train(Line(), tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert train(Line(seed=4), tmp_path / "other")
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "other"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, how: signal.Signals):
    assert train(Line(), tmp_path / "whole", threads=1)
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_loop import Line, train\n"
        "from pathlib import Path\n"
        f"train(Line(), Path({str(tmp_path / 'killed')!r}), save_every_seconds=0.05, threads=1)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"SECONDS_A_STEP": "0.1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert run.poll() is None
    os.killpg(run.pid, how)  # as a terminal and a batch system do: to the helper process too
    run.wait(30)
    if how == signal.SIGTERM:
        assert run.returncode == 0
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    assert not (tmp_path / "killed" / "model").exists()
    assert train(Line(), tmp_path / "killed", threads=1)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_metrics_are_lines_of_json(tmp_path: Path):
    train(Line(), tmp_path, validate_every=20)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30, 40]
    assert [line["step"] for line in lines if "validation_loss" in line] == [20, 40]


def test_metrics_of_steps_that_are_done_again_stand_there_once(tmp_path: Path):
    train(Line(), tmp_path, stop_after=25)
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 30, "loss": 1.0}\n{"step": 4')
    train(Line(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 40]


def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path: Path):
    train(Line(), tmp_path, stop_after=5)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(BadInput, match=r"learning_rate was 0\.05, is 0\.1"):
        train(Line(learning_rate=0.1), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_truncated_checkpoint_is_named(tmp_path: Path):
    train(Line(), tmp_path, stop_after=5)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BrokenFile, match=r"checkpoint\.pt: cannot be read"):
        train(Line(), tmp_path)


def test_the_learning_rate_rises_holds_and_falls():
    recipe = Line(steps=100)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[4] == rates[89] == pytest.approx(0.05)
    assert rates[99] == pytest.approx(0.005)


def test_a_diverging_loss_stops_the_run_in_words(tmp_path: Path):
    class Diverging(Line):
        def loss(self, model, batch):
            loss, figures = super().loss(model, batch)
            return loss * float("nan"), figures

    with pytest.raises(BadInput, match=r"step 0: the loss is nan; lower learning_rate"):
        train(Diverging(), tmp_path)


def test_what_a_batch_refuses_is_said_in_its_own_words(tmp_path: Path):
    with pytest.raises(BadInput, match=r"^no such data$"):
        train(Refusing(), tmp_path)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path):
    torch.save({"state_dict": {}}, tmp_path / CHECKPOINT)
    with pytest.raises(BrokenFile, match="is no checkpoint of a training run"):
        train(Line(), tmp_path)


def test_a_run_where_no_folder_can_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="no folder can be made there"):
        train(Line(), tmp_path / "file" / "run")
