import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lascaux.errors import BadInput, BrokenFile, TrainingStopped
from lascaux.train import checkpoint
from lascaux.train.checkpoint import latest
from lascaux.train.loop import train
from lascaux.train.optimisers import Group, Optimiser
from lascaux.train.options import Running
from lascaux.train.recipe import Loss, Moment, Sample, Share
from line import Line


class Refusing(Line):
    def batch(self, share: Share) -> Tensor:
        raise BadInput("no such data")


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "model" / "weights.pt", weights_only=True)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_ends_with_the_same_bits_as_one_never_stopped(tmp_path: Path):
    assert train(Line(), tmp_path / "whole")
    assert not train(Line(), tmp_path / "parts", stop_after=7)
    assert not train(Line(), tmp_path / "parts", stop_after=23)
    assert train(Line(), tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert train(Line(seed=4), tmp_path / "other")
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "other"))


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulation": 4},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"averaging": 0.0},
        {"schedule": "plateau", "patience": 0},
        {"schedule": "one-cycle"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_whatever_the_settings_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, changes):
    recipe, running = Line(**changes), Running(validate_every=6)
    assert train(recipe, tmp_path / "whole", running)
    assert not train(recipe, tmp_path / "parts", running, stop_after=19)
    assert train(recipe, tmp_path / "parts", running)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, how: signal.Signals):
    assert train(Line(), tmp_path / "whole", Running(threads=1))
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from line import Line\n"
        "from lascaux.train.loop import train\n"
        "from lascaux.train.options import Running\n"
        f"train(Line(), Path({str(tmp_path / 'killed')!r}), Running(threads=1, save_every=0.05))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"SECONDS_A_STEP": "0.1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while latest(tmp_path / "killed") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(random.uniform(0, 0.6))
    assert run.poll() is None
    os.killpg(run.pid, how)  # as a terminal and a batch system do: to the helper process too
    run.wait(30)
    if how == signal.SIGTERM:
        assert run.returncode == 0
    assert latest(tmp_path / "killed") is not None
    assert not (tmp_path / "killed" / "model").exists()
    assert train(Line(), tmp_path / "killed", Running(threads=1))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_micro_batches_give_the_step_of_the_whole_batch(tmp_path: Path):
    class Fixed(Line):
        def build(self) -> nn.Module:
            return nn.Linear(3, 1)

        def batch(self, share: Share) -> Tensor:
            parts = self.accumulation
            whole = Line.batch(self, Share(share.step, share.number // parts, self.batch_size))
            return whole.chunk(parts)[share.number % parts]

        def loss(self, model: nn.Module, batch: Tensor, moment: Moment) -> Loss:
            return Loss((model(batch) - batch.sum(1, keepdim=True)).square().mean())

    assert train(Fixed(), tmp_path / "whole")
    assert train(Fixed(accumulation=4), tmp_path / "parts")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker, self.critic = nn.Linear(3, 3), nn.Linear(3, 1)


class Adversaries(Line):
    turns: ClassVar[tuple[str, ...]] = ("maker", "critic")

    def build(self) -> nn.Module:
        return Pair()

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        named = list(model.named_parameters())
        return {
            turn: Optimiser("adam", [Group(turn, [n for n in named if n[0].startswith(turn)])])
            for turn in self.turns
        }

    def loss(self, model: nn.Module, batch: Tensor, moment: Moment) -> Loss:
        assert isinstance(model, Pair)
        if moment.turn == "maker":
            made = model.maker(batch)
            value = (made - batch).square().mean() - 0.1 * model.critic(made).mean()
            return Loss(value, {}, made.detach())
        real, fake = model.critic(batch), model.critic(moment.kept)
        value = (1 - real).relu().mean() + (1 + fake).relu().mean()
        return Loss(value, {"real_score": real.mean(), "fake_score": fake.mean()})

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {}


def test_two_optimisers_take_turns_and_each_moves_its_own_weights(tmp_path: Path):
    assert train(Adversaries(), tmp_path / "whole")
    assert not train(Adversaries(), tmp_path / "parts", stop_after=11)
    assert train(Adversaries(), tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    line = lines(tmp_path / "whole")[0]
    assert {"loss/maker", "loss/critic", "gradient_norm/critic", "real_score"} <= line.keys()
    assert line["loss"] == line["loss/maker"]


def test_only_the_weights_of_the_turn_have_gradients(tmp_path: Path):
    class Checked(Adversaries):
        def loss(self, model: nn.Module, batch: Tensor, moment: Moment) -> Loss:
            for name, parameter in model.named_parameters():
                assert parameter.requires_grad is name.startswith(moment.turn)
            return super().loss(model, batch, moment)

    assert train(Checked(steps=2), tmp_path)


def test_frozen_parts_stay_to_the_bit_statistics_included(tmp_path: Path):
    train(Line(freeze=("1",), averaging=0.0), tmp_path, stop_after=10)
    torch.manual_seed(3)
    begun = Line().build().state_dict()
    state = torch.load(latest(tmp_path), weights_only=True)
    for name, tensor in state["model"].items():
        assert torch.equal(tensor, begun[name]) is name.startswith("1."), name
    assert not any(name.startswith("1.") for name in state["optimisers"]["model"])


def test_a_part_to_freeze_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(BadInput, match=r"--freeze tower: no weight of that name; parts: 0, 1, 2"):
        train(Line(freeze=("tower",)), tmp_path)
    with pytest.raises(BadInput, match="nothing is left to train"):
        train(Line(freeze=("0", "1", "2")), tmp_path / "all")


def test_recomputed_blocks_give_the_same_bits(tmp_path: Path):
    class Blocks(Line):
        def build(self) -> nn.Module:
            block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.GELU())
            parts = nn.ModuleList([nn.Linear(3, 8), block, nn.Linear(8, 1)])
            return Chain(parts)

    assert train(Blocks(), tmp_path / "plain")
    assert train(Blocks(), tmp_path / "recomputed", Running(recompute=True))
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "recomputed"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, of its parts
def test_compiled_blocks_learn_nearly_the_same(tmp_path: Path):
    class Blocks(Line):
        def build(self) -> nn.Module:
            parts = [nn.Linear(3, 8), nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 1)]
            return Chain(nn.ModuleList(parts))

    assert train(Blocks(), tmp_path / "plain")
    assert train(Blocks(), tmp_path / "compiled", Running(compile=True))
    a, b = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_blocks_are_those_of_the_outermost_lists():
    inner = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    outer = nn.ModuleList([Chain(inner), nn.Linear(2, 2), nn.ReLU()])
    assert Line().blocks(Chain(outer)) == [outer[0], outer[1]]


class Chain(nn.Module):
    def __init__(self, parts: nn.ModuleList) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


def test_metrics_are_lines_of_json(tmp_path: Path):
    train(Line(), tmp_path, Running(validate_every=20))
    told = lines(tmp_path)
    assert [line["step"] for line in told if "loss" in line] == [10, 20, 30, 40]
    assert [line["step"] for line in told if "validation_loss" in line] == [20, 40]
    assert {"learning_rate", "gradient_norm", "minutes_left", "loader_share"} <= told[0].keys()


def test_metrics_of_steps_that_are_done_again_stand_there_once(tmp_path: Path):
    train(Line(), tmp_path, stop_after=25)
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 30, "loss": 1.0}\n{"step": 4')
    train(Line(), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40, 40]


def test_rates_of_groups_that_differ_are_told_apart(tmp_path: Path):
    class Grouped(Line):
        def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
            named = list(model.named_parameters())
            return {"model": Optimiser("sgd", [Group("first", named[:2], rate=0.1),
                                               Group("rest", named[2:])])}  # fmt: skip

    train(Grouped(clip_norm=0.5), tmp_path, stop_after=10)
    line = lines(tmp_path)[0]
    assert line["learning_rate/rest"] == pytest.approx(0.05)
    assert line["learning_rate/first"] == pytest.approx(0.005)


def test_the_latest_checkpoints_and_the_best_are_kept(tmp_path: Path):
    class Judged(Line):
        best: ClassVar[str | None] = "-validation_loss"

        def validate(self, model: nn.Module) -> dict[str, float]:
            next(scores_left)
            return {"validation_loss": next(scores)}

    scores, scores_left = iter([3.0, 1.0, 2.0, 2.5]), iter(range(4))
    train(Judged(), tmp_path, Running(validate_every=10, save_every=0.0, keep=2))
    names = sorted(path.name for path in (tmp_path / checkpoint.FOLDER).iterdir())
    assert names == ["best.pt", "step-00000039.pt", "step-00000040.pt"]
    best = torch.load(tmp_path / checkpoint.FOLDER / "best.pt", weights_only=True)
    assert best["step"] == 20
    assert best["best"] == 1.0


def test_the_best_weights_are_exported_where_that_is_asked_for(tmp_path: Path):
    class Judged(Line):
        best: ClassVar[str | None] = "-validation_loss"

        def validate(self, model: nn.Module) -> dict[str, float]:
            return {"validation_loss": next(scores)}

    scores = iter([2.0, 1.0, 3.0, 4.0, 5.0])
    train(Judged(exported="best"), tmp_path, Running(validate_every=10))
    best = torch.load(tmp_path / checkpoint.FOLDER / "best.pt", weights_only=True)
    assert same(weights(tmp_path), best["average"])
    assert best["step"] == 20


def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path: Path):
    train(Line(), tmp_path, stop_after=5)
    before = latest(tmp_path).read_bytes()
    with pytest.raises(BadInput, match=r"learning_rate was 0\.05, is 0\.1"):
        train(Line(learning_rate=0.1), tmp_path)
    assert latest(tmp_path).read_bytes() == before


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path):
    class Other(Line):
        name: ClassVar[str] = "other"

    train(Line(), tmp_path, stop_after=5)
    with pytest.raises(BadInput, match=r"checkpoint of recipe 'line', not of 'other'"):
        train(Other(), tmp_path)


def test_a_run_may_be_made_longer_before_it_cools_down(tmp_path: Path):
    train(Line(steps=40), tmp_path / "longer", stop_after=20)
    assert train(Line(steps=60), tmp_path / "longer")
    assert train(Line(steps=60), tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "longer"))


@pytest.mark.parametrize(
    ("changes", "stopped"), [({}, 35), ({"schedule": "cosine"}, 10), ({"schedule": "one-cycle"}, 9)]
)
def test_a_run_that_cools_down_keeps_its_length(tmp_path: Path, changes, stopped):
    train(Line(steps=40, **changes), tmp_path, stop_after=stopped)
    with pytest.raises(BadInput, match=r"--steps was 40 and is 60 .* another learning rate"):
        train(Line(steps=60, **changes), tmp_path)
    assert train(Line(steps=40, **changes), tmp_path)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path):
    assert train(Line(), tmp_path)
    before = (tmp_path / "model" / "weights.pt").stat().st_mtime_ns
    assert train(Line(), tmp_path)
    assert (tmp_path / "model" / "weights.pt").stat().st_mtime_ns == before


def test_a_truncated_checkpoint_is_named_with_the_one_before(tmp_path: Path):
    train(Line(), tmp_path, stop_after=5)
    train(Line(), tmp_path, stop_after=9)
    path = latest(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BrokenFile, match=r"step-00000009\.pt: cannot be read.*step-00000005\.pt"):
        train(Line(), tmp_path)
    path.unlink()
    assert train(Line(), tmp_path)
    assert train(Line(), tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path))


def test_another_number_of_threads_goes_on_and_says_so(tmp_path: Path, caplog):
    train(Line(), tmp_path, Running(threads=1), stop_after=5)
    assert train(Line(), tmp_path, Running(threads=2))
    assert "threads 1, now 2: the run goes on, but not to the same bits" in caplog.text


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_diverging_loss_stops_the_run_in_words_and_keeps_the_last_checkpoint(
    tmp_path: Path, precision
):
    class Diverging(Line):
        def loss(self, model: nn.Module, batch: Tensor, moment: Moment) -> Loss:
            loss = super().loss(model, batch, moment)
            return loss if moment.step < 7 else loss._replace(value=loss.value * float("nan"))

    train(Line(precision=precision), tmp_path, stop_after=5)
    with pytest.raises(
        TrainingStopped, match=r"step 7: the loss is nan; step-00000005\.pt is whole"
    ):
        train(Diverging(precision=precision), tmp_path, Running(save_every=1e9))
    assert latest(tmp_path).name == "step-00000005.pt"
    assert train(Line(precision=precision), tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch):
    train(Line(), tmp_path, stop_after=5)
    before = latest(tmp_path).read_bytes()

    def full(state, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(
            TrainingStopped, match=r"the disk is full; step-00000005\.pt is whole\. Make room"
        ):
            train(Line(), tmp_path, stop_after=9)
    assert [p.name for p in (tmp_path / checkpoint.FOLDER).iterdir()] == ["step-00000005.pt"]
    assert latest(tmp_path).read_bytes() == before
    assert train(Line(), tmp_path)
    assert train(Line(), tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path))


def test_what_a_batch_refuses_is_said_in_its_own_words(tmp_path: Path):
    with pytest.raises(BadInput, match=r"^no such data$"):
        train(Refusing(), tmp_path)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path):
    (tmp_path / checkpoint.FOLDER).mkdir()
    torch.save({"state_dict": {}}, tmp_path / checkpoint.FOLDER / "step-00000001.pt")
    with pytest.raises(BrokenFile, match="is no checkpoint of a training run"):
        train(Line(), tmp_path)


def test_a_run_where_no_folder_can_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="no folder can be made there"):
        train(Line(), tmp_path / "file" / "run")


def test_validations_and_samples_leave_chance_where_it_was(tmp_path: Path):
    class Drawing(Line):
        def validate(self, model: nn.Module) -> dict[str, float]:
            return {"validation_loss": float(torch.randn(()))}

        def samples(self, model: nn.Module) -> list[Sample]:
            torch.randn(7)
            return [Sample(Image.new("RGB", (8, 8), "red"), "red")]

    assert train(Drawing(), tmp_path / "often", Running(validate_every=3, sample_every=20))
    assert train(Drawing(), tmp_path / "once")
    assert same(weights(tmp_path / "often"), weights(tmp_path / "once"))
    sheets = sorted(path.name for path in (tmp_path / "often" / "samples").iterdir())
    assert sheets == ["step-00000020.png", "step-00000040.png"]


def test_tensorboard_gets_the_same_figures(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Line(), tmp_path, Running(tensorboard=True))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    told = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(told)
