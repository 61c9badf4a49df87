import hashlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from lascaux.data.ahead import made_ahead
from lascaux.data.loading import Loader
from lascaux.data.order import Order, Place
from lascaux.data.samples import Samples
from lascaux.data.sources import open_source
from lascaux.errors import BadInput, BadPicture
from lascaux.images.augment import Augmentation
from lascaux.images.preprocess import Preprocessing

SAMPLES = Samples(
    Augmentation(size=8, area=(0.3, 1.0), hue=0.1, brightness=0.3), ("picture", "key")
)


def loader_of(folder, *, batch_size=3, seed=5, last="drop", world_size=1, **settings):
    source = open_source(folder)
    order = Order(records=len(source), batch_size=batch_size, last=last)
    settings = {"prepare": SAMPLES, **settings}
    return Loader(source, order=order, place=Place(seed=seed, world_size=world_size), **settings)


def digest(batch):
    keys = "\n".join(batch["key"]).encode()
    return hashlib.sha256(keys + batch["picture"].numpy().tobytes()).hexdigest()


def digests(loader, count):
    return [digest(batch) for batch in itertools.islice(loader, count)]


def test_batches_are_equal_whatever_the_number_of_workers(folder):
    plain = digests(loader_of(folder), 8)
    assert len(set(plain)) == 8
    for workers in (1, 2):
        assert digests(loader_of(folder, workers=workers), 8) == plain


def test_tars_and_parquet_give_the_same_batches_to_any_number_of_workers(tmp_path, shard, png):
    shard("a.tar", {f"{n}.png": png(n) for n in range(12)})
    rows = [{"image": png(n), "key": str(n)} for n in range(12)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    pictures = []
    for name in ("a.tar", "a.parquet"):
        plain = digests(loader_of(tmp_path / name), 9)
        assert all(digests(loader_of(tmp_path / name, workers=w), 9) == plain for w in (1, 2))
        batches = itertools.islice(loader_of(tmp_path / name), 4)
        pictures.append(torch.cat([batch["picture"] for batch in batches]))
    assert torch.equal(*pictures)


def test_batches_are_equal_after_going_on_at_any_step(folder):
    whole = digests(loader_of(folder), 8)
    for step in range(8):
        stopped = loader_of(folder)
        assert digests(stopped, step) == whole[:step]
        state = json.loads(json.dumps(stopped.state_dict()))
        assert state.keys() == {"seed", "epoch", "position", "world_size"}
        going_on = loader_of(folder, seed=99, workers=step % 2)
        going_on.load_state_dict(state)
        assert digests(going_on, 8 - step) == whole[step:]


def test_one_loader_goes_on_where_it_was_left(folder):
    loader = loader_of(folder)
    assert digests(loader, 2) + digests(loader, 3) == digests(loader_of(folder), 5)


_PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_loading import digest, loader_of
loader = loader_of(Path(sys.argv[2]), workers=1)
out = Path(sys.argv[3])
state = out / "state.json"
if state.exists():
    loader.load_state_dict(json.loads(state.read_text()))
for batch in loader:
    with (out / "digests").open("a") as file:
        file.write(digest(batch) + "\\n")
    (out / "part").write_text(json.dumps(loader.state_dict()))
    (out / "part").replace(state)
"""


def test_a_killed_process_goes_on_to_the_same_batches(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    log = out / "digests"
    for wanted in (4, 9):
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(Path(__file__).parent), folder, out],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )
        deadline = time.monotonic() + 60
        while not log.exists() or len(log.read_text().split()) < wanted:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # What it did after its last state is done again.
        done = json.loads((out / "state.json").read_text())
        steps = done["epoch"] * 3 + done["position"] // 3
        lines = log.read_text().split()[:steps]
        log.write_text("".join(f"{line}\n" for line in lines))
    assert len(lines) >= 8
    assert lines == digests(loader_of(folder), len(lines))


def test_ranks_share_the_batches_of_one(folder):
    whole = [batch["key"] for batch in itertools.islice(loader_of(folder, batch_size=4), 5)]
    shares = [
        [
            b["key"]
            for b in itertools.islice(loader_of(folder, batch_size=4, world_size=2, rank=r), 5)
        ]
        for r in range(2)
    ]
    assert [first + second for first, second in zip(*shares, strict=True)] == whole


def test_it_goes_on_with_another_number_of_ranks(folder):
    loader = loader_of(folder, batch_size=2, world_size=2, rank=1)
    digests(loader, 3)
    alone = loader_of(folder, batch_size=2)
    alone.load_state_dict(loader.state_dict())
    assert alone.place == Place(seed=5, position=6)
    assert digests(alone, 4) == digests(loader_of(folder, batch_size=2), 7)[3:]


def test_an_epoch_can_be_taken_alone(folder):
    loader = loader_of(folder, batch_size=4, last="keep")
    assert [len(batch["key"]) for batch in loader.epoch()] == [4, 4, 2]
    assert loader.place == Place(seed=5, epoch=1)
    keys = [key for batch in loader.epoch() for key in batch["key"]]
    assert sorted(keys) == [record.key for record in open_source(folder)]


def test_each_epoch_draws_anew_for_each_record(folder):
    loader = loader_of(folder, batch_size=10)
    first, second = itertools.islice(loader, 2)
    for key in first["key"]:
        pictures = [b["picture"][b["key"].index(key)] for b in (first, second)]
        assert not torch.equal(*pictures)


def test_a_broken_record_is_replaced_and_named(folder, caplog):
    (folder / "03.png").write_bytes(b"no picture")
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:60])
    with caplog.at_level(logging.WARNING):
        loader = loader_of(folder, batch_size=5)
        plain = digests(loader, 6)
    assert {one.key for one in loader.skipped} == {"03.png", "05.png"}
    assert all(one.reason for one in loader.skipped)
    assert len(caplog.messages) == 2
    assert "left out 0" in caplog.messages[0]
    for workers in (1, 2):
        again = loader_of(folder, batch_size=5, workers=workers)
        assert digests(again, 6) == plain
        assert again.skipped == loader.skipped
    # Batches stay as they are but for the broken records.
    keys = [key for batch in loader_of(folder, batch_size=5).epoch() for key in batch["key"]]
    order = loader.order.at(Place(seed=5)).tolist()
    for index, key in zip(order, keys, strict=False):
        assert (loader.source.key(index) == key) is (index not in (3, 5))


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_records_end_the_work(folder, workers):
    for number in (1, 2, 3, 4):
        (folder / f"0{number}.png").write_bytes(b"")
    loader = loader_of(folder, most_skipped=3, workers=workers)
    with pytest.raises(BadInput, match=r"4 records of .* at most 3 may be: 0\d.png: empty"):
        digests(loader, 12)
    assert len(loader.skipped) == 4


def test_nothing_but_broken_records_ends_the_work(folder):
    def refuse(record, rng):
        raise BadPicture("broken")

    with pytest.raises(BadInput, match=r"100 records of .* one after the other"):
        digests(loader_of(folder, prepare=refuse), 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_that_are_no_bad_input_come_through(folder, workers):
    def fail(record, rng):
        raise ZeroDivisionError("a mistake in the program")

    with pytest.raises(ZeroDivisionError, match="a mistake in the program"):
        digests(loader_of(folder, prepare=fail, workers=workers), 1)


def test_the_share_of_waiting_is_told(folder):
    def slow(record, rng):
        time.sleep(0.01)
        return 0

    loader = loader_of(folder, prepare=slow, batch_size=2)
    assert loader.waited == 0
    for _ in itertools.islice(loader, 5):
        time.sleep(0.02)
    assert 0.2 < loader.waited < 0.8


def test_the_callers_draws_are_left_alone(folder):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    digests(loader_of(folder, workers=1), 2)
    assert torch.equal(torch.rand(3), expected)


def test_samples_have_what_is_asked_for(folder):
    (folder / "00.txt").write_text("one\ntwo", encoding="utf-8")
    record = open_source(folder)[0]
    how = Preprocessing(size=8)
    samples = Samples(how, ("picture", "caption", "key"))
    made = [samples(record, np.random.Generator(np.random.PCG64([n]))) for n in range(20)]
    assert {sample["caption"] for sample in made} == {"one", "two"}
    assert made[0]["key"] == "00.png"
    assert made[0]["picture"].shape == (3, 8, 8)
    assert made[0]["picture"].dtype == torch.uint8
    assert torch.equal(made[0]["picture"], made[1]["picture"])
    rng = np.random.Generator(np.random.PCG64([0]))
    with pytest.raises(BadInput, match="it has no class"):
        Samples(how, ("label",))(record, rng)
    with pytest.raises(BadInput, match="it has no caption"):
        samples(open_source(folder)[1], rng)


def test_wrong_places_are_refused(folder):
    loader = loader_of(folder)
    with pytest.raises(BadInput, match="position 11 of 10 records"):
        loader.load_state_dict({"seed": 1, "epoch": 0, "position": 11, "world_size": 1})
    with pytest.raises(BadInput, match="expected epoch, position, seed, world_size"):
        loader.load_state_dict({"step": 3})
    with pytest.raises(BadInput, match="an order of 3 records for a source of 10"):
        Loader(loader.source, SAMPLES, Order(records=3, batch_size=1), Place(seed=0))
    with pytest.raises(BadInput, match="rank 1 of 1"):
        loader_of(folder, rank=1)


def test_work_ahead_keeps_its_order_and_its_errors():
    def slow_first(number):
        time.sleep(0.05 if number == 0 else 0)
        if number == 5:
            raise BadInput("five")
        return number * number

    made = made_ahead(slow_first, itertools.count(), 2)
    assert [next(made) for _ in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(BadInput, match=r"^five$"):
        next(made)
    with pytest.raises(BadInput, match="workers=-1"):
        next(made_ahead(abs, [1], -1))


_CRASH = """
import itertools
from lascaux.data.ahead import made_ahead
made = made_ahead(abs, itertools.count(), 2)
next(made)
1 / 0
"""


def test_a_program_that_fails_ends_although_workers_are_busy():
    done = subprocess.run(
        [sys.executable, "-c", _CRASH],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
