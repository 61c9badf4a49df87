import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from codes import Codes
from lascaux.errors import BadInput, Unsupported
from lascaux.train.checkpoint import latest
from lascaux.train.contrastive import info_nce, sigmoid_pairs
from lascaux.train.loop import train
from lascaux.train.options import Running
from line import Deep

pytest.importorskip("accelerate")
HERE = Path(__file__).parent
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def words(what: str, folder: Path, told: dict, processes: int) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += [f"--nproc-per-node={processes}", str(HERE / "several.py")]
    return [*launch, what, str(folder), json.dumps(told)]


def run(what: str, folder: Path, processes: int = 2, **told) -> str:
    folder.mkdir(exist_ok=True)
    command = words(what, folder, told, processes)
    done = subprocess.run(
        command, env=os.environ | QUIET, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model" / "weights.pt", weights_only=True)


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "whole"
    assert "finished" in run("train", folder)
    return folder


def test_two_killed_processes_go_on_to_the_same_bits(tmp_path: Path, whole: Path):
    folder = tmp_path / "killed"
    told = {"running": {"save_every": 0.0}, "recipe": {}}
    process = subprocess.Popen(
        words("train", folder, told, 2),
        env=os.environ | QUIET | {"SECONDS_A_STEP": "0.1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while latest(folder) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(random.uniform(0, 1.0))
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    kill_descendants(folder)
    assert latest(folder) is not None
    assert not (folder / "model").exists()
    assert "finished" in run("train", folder, running={"save_every": 0.0})
    assert same(whole, folder)


def kill_descendants(folder: Path) -> None:
    """torchrun gives its processes sessions of their own."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in entry.read_bytes().decode(errors="replace"):
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def test_two_processes_learn_what_one_learns_from_their_shares_in_turn(tmp_path: Path, whole: Path):
    assert train(Deep(accumulation=2), tmp_path, Running(threads=1, workers=0))
    torch.testing.assert_close(weights(whole), weights(tmp_path), rtol=1e-3, atol=1e-4)


def test_shards_learn_what_copies_learn_and_go_on_to_the_same_bits(tmp_path: Path, whole: Path):
    sharded = {"shard": True}
    assert "finished" in run("train", tmp_path / "sharded", running=sharded)
    assert "stopped" in run("train", tmp_path / "parts", running=sharded, stop_after=13)
    assert "finished" in run("train", tmp_path / "parts", running=sharded)
    assert same(tmp_path / "sharded", tmp_path / "parts")
    torch.testing.assert_close(weights(whole), weights(tmp_path / "sharded"), rtol=1e-3, atol=1e-4)


def test_a_sharded_run_goes_on_in_one_process(tmp_path: Path):
    assert "stopped" in run("train", tmp_path, running={"shard": True}, stop_after=13)
    assert train(Deep(), tmp_path, Running(threads=1))


def test_gradients_of_several_processes_are_those_of_one(tmp_path: Path):
    run("contrasted", tmp_path)
    found = torch.load(tmp_path / "several.pt", weights_only=True)
    torch.manual_seed(0)
    pictures, texts = torch.randn(8, 5), torch.randn(8, 5)
    ids = torch.tensor([[0], [1], [2], [1], [4], [5], [0], [7]])
    weight = torch.randn(5, 5)
    for name, loss in (
        ("info_nce", lambda a, b: info_nce(a, b, torch.tensor(3.0), ids)),
        ("sigmoid", lambda a, b: sigmoid_pairs(a, b, torch.tensor(3.0), torch.tensor(-2.0), ids)),
    ):
        w = weight.clone().requires_grad_()
        value = loss(pictures @ w, texts @ w.T)
        value.backward()
        torch.testing.assert_close(found[f"{name}_value"], value.detach())
        torch.testing.assert_close(found[name], w.grad)


@pytest.mark.slow
def test_three_processes_go_on_to_the_same_bits(tmp_path: Path):
    # The order in which three numbers are added matters; that of two does not.
    batch = {"batch_size": 18}
    assert "finished" in run("train", tmp_path / "whole", 3, recipe=batch)
    assert "stopped" in run("train", tmp_path / "parts", 3, recipe=batch, stop_after=13)
    assert "finished" in run("train", tmp_path / "parts", 3, recipe=batch)
    assert same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_compressed_gradients_are_close_to_whole_ones(tmp_path: Path, whole: Path):
    assert "finished" in run("train", tmp_path / "half", running={"compress": "float16"})
    torch.testing.assert_close(weights(whole), weights(tmp_path / "half"), rtol=0.05, atol=0.02)


@pytest.mark.slow
def test_micro_batches_of_several_processes_are_one_step(tmp_path: Path):
    told = {"recipe": {"accumulation": 2}}
    assert "finished" in run("train", tmp_path / "whole", **told)
    assert "stopped" in run("train", tmp_path / "parts", **told, stop_after=13)
    assert "finished" in run("train", tmp_path / "parts", **told)
    assert same(tmp_path / "whole", tmp_path / "parts")


def codes(folder: Path) -> dict[str, torch.Tensor]:
    path = latest(folder)
    assert path is not None
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.parametrize("codebook", ["gradient", "average"])
def test_codes_of_two_processes_are_those_of_all_pictures(tmp_path: Path, codebook: str):
    # Before the discriminator's start, since its batch norms see the pictures of each alone.
    told = {"recipe": {"codebook": codebook, "discriminator_start": 50, "steps": 6}}
    assert "finished" in run("codes", tmp_path / "two", **told)
    one = Codes(**told["recipe"], accumulation=2)
    assert train(one, tmp_path / "one", Running(threads=1, workers=0))
    two, alone = codes(tmp_path / "two"), codes(tmp_path / "one")
    assert torch.equal(two["tending.idle"], alone["tending.idle"])
    torch.testing.assert_close(two, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("codebook", ["gradient", "average"])
def test_two_processes_of_a_vqgan_go_on_to_the_same_bits(tmp_path: Path, codebook: str):
    told = {"recipe": {"codebook": codebook}}
    assert "finished" in run("codes", tmp_path / "whole", **told)
    assert "stopped" in run("codes", tmp_path / "parts", **told, stop_after=7)
    assert "finished" in run("codes", tmp_path / "parts", **told)
    whole, parts = codes(tmp_path / "whole"), codes(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_what_one_process_cannot_do_is_refused(tmp_path: Path):
    with pytest.raises(Unsupported, match="--shard needs several processes"):
        train(Deep(), tmp_path, Running(shard=True))
    with pytest.raises(Unsupported, match="one process exchanges nothing"):
        train(Deep(), tmp_path, Running(compress="float16"))
    with pytest.raises(BadInput, match="does not divide into 3 micro-batches"):
        Deep(batch_size=16, accumulation=3)
