import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lascaux.cli.main import main
from lascaux.data.sources import open_source
from lascaux.tasks.features import load_clip
from lascaux.weights.fingerprint import weights_hash


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "cache"))
    # Two processes that measure which way is faster may not find the same.
    monkeypatch.setenv("LASCAUX_LINEAR", "torch")


@pytest.fixture
def data(capsys):
    def run(*words):
        code = main(["data", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def prepare(data, model_folder):
    return lambda *words: data("prepare", *words, "--model", model_folder, "--workers", 0)


def drawn(folder, count):
    folder.mkdir()
    for number in range(count):
        rng = np.random.Generator(np.random.PCG64([number]))
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((120, 90)).save(folder / f"{number:03d}.png")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_features_are_written_and_told_of(prepare, data, tmp_path, model_folder):
    photos, out = drawn(tmp_path / "photos", 6), tmp_path / "out"
    (photos / "001.txt").write_text("a cat")
    (photos / "004.png").write_bytes(b"no picture")
    words = ("--views", 3, "--augment-area", 0.4, 0.9, "--seed", 7, "--shard-size", 4)
    code, printed, err = prepare(photos, out, *words)
    assert (code, printed) == (1, "")
    assert "left out: 004.png: " in err
    assert f"wrote {out}: 5 records in 2 files, 0.0 MB" in err
    source = open_source(out)
    source.require_model(weights_hash(load_clip(model_folder, "cpu", "float32")))
    assert (len(source), source.views, source.model) == (5, 3, str(model_folder))
    code, printed, _ = data("info", out)
    assert code == 0
    assert printed.splitlines() == [
        f"source     {out}",
        "kind       prepared",
        "records    5",
        "captions   1 of 1 records",
        "first      000.png",
        "features   embeddings of 16 numbers, float16",
        "views      3: as it is, and cut-outs of 0.4 to 0.9 of the picture, mirrored by a chance "
        "of 0.5, seed 7",
        f"model      {model_folder}, weights {source.weights_hash[:12]}",
        f"prepared   from {photos} (captioned)",
        "size       0.0 MB in 2 files",
        f"note       1 records of {photos} could not be read",
    ]
    told = json.loads(data("info", out, "--json")[1])
    assert (told["kind"], told["records"], told["captions"]) == ("prepared", 5, 1)
    assert told["prepared"]["settings"]["augmentation"]["area"] == [0.4, 0.9]
    assert told["prepared"]["skipped"][0]["source"] == "004.png"
    assert prepare(photos, out, *words)[2].endswith(", 2 from before\n")


def test_the_result_is_told_as_json(prepare, tmp_path):
    code, printed, _ = prepare(drawn(tmp_path / "photos", 3), tmp_path / "out", "--json")
    told = json.loads(printed)
    assert code == 0
    assert (told["kind"], told["views"], told["records"], told["shards"]) == ("embedding", 1, 3, 1)
    assert told["skipped"] == []


def test_a_check_of_features_is_one_of_their_files(prepare, data, tmp_path):
    out = tmp_path / "out"
    prepare(drawn(tmp_path / "photos", 3), out)
    assert data("check", out)[:2] == (0, f"{out}: prepared, 3 records\n  nothing to remark\n")
    shard = out / "part-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    code, printed, _ = data("check", out)
    assert (code, "damaged files: part-00000.safetensors" in printed) == (1, True)
    assert json.loads(data("check", out, "--json")[1])["damaged"] == ["part-00000.safetensors"]


def test_features_are_neither_packed_nor_prepared(prepare, data, tmp_path):
    photos, out = drawn(tmp_path / "photos", 2), tmp_path / "out"
    prepare(photos, out)
    for code, _, err in (data("pack", out, tmp_path / "a"), prepare(out, tmp_path / "a")):
        assert code == 1
        assert f"holds features and no pictures; name what it was prepared from, {photos}" in err
    assert not (tmp_path / "a").exists()


# Reading processes notice after some seconds that they are alone, and hold the lock until then.
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_work_goes_on_to_the_same_bytes(data, model_folder, tmp_path, workers):
    photos = drawn(tmp_path / "photos", 160)
    words = ("--model", model_folder, "--views", "4", "--shard-size", "4", "--workers", workers)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "lascaux.cli.main", "data", "prepare", photos, killed]
        + [str(word) for word in words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (killed / "part-00004.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = json.loads((killed / "manifest.json").read_text())
    assert not kept["finished"]
    code, _, err = data("info", killed)
    assert (code, "is not finished" in err) == (1, True)
    times = {s["file"]: (killed / s["file"]).stat().st_mtime_ns for s in kept["shards"]}
    code, _, err = data("prepare", photos, killed, *words)
    assert (code, f", {len(times)} from before" in err) == (0, True)
    assert {name: (killed / name).stat().st_mtime_ns for name in times} == times
    assert data("prepare", photos, whole, *words)[0] == 0
    assert contents(killed) == contents(whole)
    assert not list(killed.glob(".*.part"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--views", "0"], "views is 0; expected 1 to 1024"),
        (["--augment-area", "0.9", "0.3"], "augment_area is 0.9 0.3; expected 0 < from"),
        (["--augment-flip", "2"], "augment_flip is 2.0; expected 0 to 1"),
        (["--seed", "-1"], "seed is -1; expected 0 to"),
    ],
)
def test_wrong_use_exits_with_2(words, said, capsys):
    assert main(["data", "prepare", "x", "y", *words]) == 2
    assert said in capsys.readouterr().err
