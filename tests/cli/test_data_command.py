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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(capsys):
    def run(*words):
        code = main(["data", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def drawn(number, size=(96, 80)):
    rng = np.random.Generator(np.random.PCG64([number]))
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """Twelve different pictures, with captions beside most."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        drawn(number).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"picture {number}\n", encoding="utf-8")
    return folder


@pytest.fixture
def mixed(photos):
    """The same with one of everything that is wrong."""
    (photos / "00.png").write_bytes((photos / "00.png").read_bytes()[:500])
    (photos / "copy.png").write_bytes((photos / "01.png").read_bytes())
    drawn(2).resize((120, 100)).save(photos / "near.jpg", quality=80)
    drawn(20, (40, 50)).save(photos / "small.png")
    drawn(21, (500, 80)).save(photos / "wide.png")
    drawn(22).save(photos / "lies.jpg", "PNG")
    for tone in ("red", "navy"):
        Image.new("RGB", (80, 80), tone).save(photos / f"{tone}.png")
    (photos / "lonely.txt").write_text("nothing")
    return photos


def test_a_check_finds_one_of_everything(data, mixed):
    code, out, _ = data("check", mixed, "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["kind"], found["records"]) == ("captioned", 19)
    assert [one["key"] for one in found["broken"]] == ["00.png"]
    assert "truncated" in found["broken"][0]["reason"]
    assert found["duplicates"] == [["01.png", "copy.png"]]
    assert found["near_duplicates"] == [["02.png", "near.jpg"]]
    assert found["tiny"] == [{"key": "small.png", "reason": "40 x 50"}]
    assert found["extreme"] == [{"key": "wide.png", "reason": "500 x 80"}]
    assert found["wrong_suffix"] == [{"key": "lies.jpg", "reason": "it is PNG"}]
    assert found["without_captions"] == sorted(
        f"{name}" for name in os.listdir(mixed) if name[0] not in "01" and name[-1] == "g"
    )
    assert found["texts_without_picture"] == ["lonely.txt"]


def test_a_check_tells_a_person_and_is_the_same_without_processes(data, mixed):
    code, out, _ = data("check", mixed)
    assert code == 1
    assert out.startswith(f"{mixed}: captioned, 19 records\n  broken                    1\n")
    assert "    01.png = copy.png\n" in out
    assert "    02.png ~ near.jpg\n" in out
    assert "  without captions          7\n" in out
    assert "    ...\n" in out
    assert data("check", mixed, "--workers", 0)[1] == out


def test_a_check_without_findings(data, photos):
    assert data("check", photos) == (
        0,
        f"{photos}: captioned, 12 records\n  nothing to remark\n",
        "",
    )
    assert "  tiny                     12\n" in data("check", photos, "--smallest", 81)[1]


def test_a_check_counts_absent_files(data, photos):
    table = photos / "t.csv"
    table.write_text("image,caption\n01.png,a\nno.png,b\n", encoding="utf-8")
    code, out, _ = data("check", table, "--json")
    assert (code, json.loads(out)["absent"], json.loads(out)["broken"]) == (1, ["no.png"], [])
    code, _, err = data("info", table)
    assert code == 1
    assert "names 1 pictures (of 2)" in err


def test_packing_keeps_bytes_and_leaves_out_broken_records(data, mixed, tmp_path):
    out = tmp_path / "packed"
    code, printed, err = data("pack", mixed, out, "--shard-size", 5)
    assert (code, printed) == (1, "")
    assert "left out: 00.png: truncated" in err
    assert f"wrote {out}: 18 records in 4 files" in err
    before, after = open_source(mixed), open_source(out)
    assert (after.kind, len(after)) == ("pack", 18)
    expected = [record for record in before if record.key != "00.png"]
    for ours, theirs in zip(after, expected, strict=True):
        assert (ours.key, ours.captions) == (theirs.key, theirs.captions)
        assert ours.picture == theirs.picture.read_bytes()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["finished"]
    assert manifest["shards"][0]["skipped"][0]["source"] == "00.png"


def test_packing_makes_pictures_smaller(data, photos, tmp_path):
    drawn(3, (30, 20)).save(photos / "03.png")
    assert data("pack", photos, tmp_path / "packed", "--size", 32)[0] == 0
    source = open_source(tmp_path / "packed")
    sizes = [record.image().size for record in source]
    assert sizes == [(38, 32)] * 3 + [(30, 20)] + [(38, 32)] * 8
    assert source[0].picture[:2] == b"\xff\xd8"
    assert source[3].picture == (photos / "03.png").read_bytes()
    difference = np.asarray(source[1].image(), float) - np.asarray(drawn(1).resize((38, 32)))
    assert np.abs(difference).mean() < 6


def test_classes_are_packed(data, tmp_path):
    for name in ("cat", "red_fox"):
        (tmp_path / "set" / name).mkdir(parents=True)
        drawn(len(name)).save(tmp_path / "set" / name / "a.png")
    assert data("pack", tmp_path / "set", tmp_path / "packed", "--workers", 0)[0] == 0
    source = open_source(tmp_path / "packed")
    assert source.classes == ("cat", "red fox")
    assert [(r.label, r.class_name) for r in source] == [(0, "cat"), (1, "red fox")]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_a_killed_packing_goes_on_and_keeps_finished_files(data, photos, tmp_path):
    for number in range(12, 160):
        drawn(number, (400, 400)).save(photos / f"{number:03d}.png", compress_level=0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ("--shard-size", "4", "--size", "200")
    assert data("pack", photos, whole, *words)[0] == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "lascaux.cli.main", "data", "pack", photos, killed, *words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (killed / "part-00004.parquet").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = json.loads((killed / "manifest.json").read_text())
    assert not kept["finished"]
    assert kept["shards"]
    code, _, err = data("info", killed)
    assert code == 1
    assert "is not finished" in err
    times = {s["file"]: (killed / s["file"]).stat().st_mtime_ns for s in kept["shards"]}
    code, _, err = data("pack", photos, killed, *words)
    assert (code, f", {len(times)} from before" in err) == (0, True)
    assert {name: (killed / name).stat().st_mtime_ns for name in times} == times
    assert contents(killed) == contents(whole)
    assert not list(killed.glob("*.part"))
    # And once more, where nothing is left to do.
    assert f"{len(contents(whole))} from before" in data("pack", photos, killed, *words)[2]


def test_packing_refuses_other_folders(data, photos, tmp_path):
    code, _, err = data("pack", photos, photos)
    assert (code, "holds other files" in err) == (1, True)
    out = tmp_path / "packed"
    assert data("pack", photos, out)[0] == 0
    code, _, err = data("pack", photos, out, "--size", 16)
    assert (code, "was begun with other settings" in err) == (1, True)
    drawn(30).save(photos / "00.png")
    code, _, err = data("pack", photos, out)
    assert (code, "was begun with other records" in err) == (1, True)
    (out / "part-00000.parquet").unlink()
    code, _, err = data("info", out)
    assert (code, "part-00000.parquet is missing" in err) == (1, True)


def test_info_tells_what_there_is(data, photos):
    (photos / "11.txt").unlink()
    code, out, _ = data("info", photos)
    assert code == 0
    assert out.splitlines() == [
        f"source     {photos}",
        "kind       captioned",
        "records    12",
        "captions   11 of 11 records",
        "first      00.png; picture 0",
        "note       1 of 12 pictures have no text file: 11.png",
    ]
    told = json.loads(data("info", photos, "--json", "--kind", "folder")[1])
    assert (told["kind"], told["records"], told["captions"]) == ("folder", 12, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data"], "name a command: info, check, pack, prepare"),
        (["data", "info", "x", "--kind", "zip"], "--kind zip: expected one of folder"),
        (["data", "check", "x", "--smallest", "0"], "smallest is 0; expected 1"),
        (["data", "pack", "x", "y", "--quality", "101"], "quality is 101; expected 1 to 100"),
    ],
)
def test_wrong_use_exits_with_2(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_what_is_missing_exits_with_1(data, tmp_path):
    code, _, err = data("check", tmp_path / "nothing")
    assert (code, "there is no file or folder" in err) == (1, True)
