import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from lascaux.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for name, tones in {"cat": ("red", "navy"), "big_dog": ("green", "white", "black")}.items():
        (folder / name).mkdir(parents=True)
        for tone in tones:
            Image.new("RGB", (40, 50), tone).save(folder / name / f"{tone}.png")
    return folder


@pytest.fixture
def measure(model_folder, capsys):
    def run(*words, model=True):
        chosen = ["--model", str(model_folder)] if model else []
        code = main(["evaluate", "classify", *map(str, words), *chosen])
        return code, *capsys.readouterr()

    return run


def test_one_models_figures_are_a_table_with_what_they_depend_on(measure, data):
    code, out, err = measure(data)
    assert (code, err) == (0, "")
    assert "protocol folder: 5 pictures, 2 classes" in out
    assert "templates simple (1), reading official, crop to 32 px by bicubic" in out
    assert re.search(r"top-1 +\d+\.\d\d %  of 5", out)
    assert re.search(r"mean per class +\d+\.\d\d %  of 5  mean over 2 classes", out)


def test_json_and_a_file_have_the_whole_report(measure, data, tmp_path):
    code, out, err = measure(data, "--json", "--out", tmp_path / "r.json")
    assert code == 0
    assert f"wrote {tmp_path / 'r.json'}" in err
    report = json.loads(out)
    assert report == json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["settings"]["data"]["name"] == "data"
    assert [each["name"] for each in report["per_class"]] == ["big dog", "cat"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "r.json"]


def test_several_models_are_lines_of_one_table_and_reports_of_one_list(
    measure, data, model_folder, tmp_path
):
    features = tmp_path / "kept.safetensors"
    words = (data, "--model", model_folder, model_folder, "--features", features)
    code, out, _ = measure(*words, model=False)
    assert code == 0
    lines = [line for line in out.splitlines() if line.strip().startswith(str(model_folder))]
    assert len(lines) == 2
    assert len(set(lines)) == 1
    assert len(list(tmp_path.glob("kept-*tiny.safetensors"))) == 1
    code, out, _ = measure(*words, "--json", model=False)
    assert [report["model"] for report in json.loads(out)] == [str(model_folder)] * 2


def test_a_model_that_cannot_be_measured_does_not_keep_the_others_from_it(
    measure, data, model_folder
):
    code, out, err = measure(data, "--model", "nobody-knows", model_folder, model=False)
    assert code == 1
    assert "nobody-knows could not be measured: no model named" in err
    assert str(model_folder) in out
    code, out, err = measure(data, "--model", "nobody-knows", model=False)
    assert (code, out) == (1, "")


def test_pictures_that_cannot_be_read_are_listed_and_the_command_exits_with_1(measure, data):
    (data / "cat" / "zz.png").write_bytes(b"no picture")
    code, out, err = measure(data)
    assert code == 1
    assert "1 picture could not be read; the figures are of the other 5" in out
    assert "cat/zz.png: not a picture" in out
    assert "1 picture could not be read and left out" in err


def test_evidence_is_compared_with_a_warning_of_what_it_must_not_be_used_for(
    measure, data, tmp_path
):
    described = tmp_path / "d.json"
    described.write_text(json.dumps({"cat": "purrs", "big_dog": ["barks", "wags its tail"]}))
    code, out, _ = measure(data, "--describe", described)
    assert code == 0
    assert re.search(r"\n  names\+descriptions +\d", out)
    assert "would be choosing on the test set" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--limit", "0"), "limit is 0; it must be at least 1"),
        (("--batch-size", "0"), "batch_size is 0"),
        (("--seed", "-1"), "seed is -1"),
        (("--protocol", "mnist"), "invalid choice: 'mnist'"),
        (("--out", "nowhere/r.json"), "--out nowhere/r.json: expected a file in a folder"),
        (("--features", "."), "--features .: expected a file"),
        (("--published",), "so model cannot be given too"),
    ],
)
def test_words_that_make_no_sense_are_wrong_use(measure, data, words, reason):
    code, out, err = measure(data, *words)
    assert (code, out) == (2, "")
    assert reason in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--protocol", "cifar10"), "there is no cifar10 at"),
        (("--protocol", "imagenet"), "are no WordNet ids"),
        (("--split", "train"), "is there of CIFAR alone"),
        (("--labels", "x.txt"), "labels go with ImageNet's validation pictures"),
        (("--classes", "one, two, three"), "3 classes were given for the 2 of data"),
        (("--describe", "none.json"), "cannot read classes from none.json"),
        (("--templates", "nothing"), "no template set or readable file"),
    ],
)
def test_data_that_do_not_fit_fail_with_the_reason(measure, data, words, reason):
    code, out, err = measure(data, *words)
    assert (code, out) == (1, "")
    assert reason in err


def test_an_empty_class_and_a_folder_that_is_not_there_fail(measure, data, tmp_path):
    (data / "cow").mkdir()
    assert "have no pictures: cow" in measure(data)[2]
    code, _, err = measure(tmp_path / "none")
    assert code == 1
    assert "there is no file or folder" in err


def test_without_a_benchmark_they_are_named(capsys):
    assert main(["evaluate"]) == 2
    named = "imagine, ochre-clip, ochre-vq, ochre-styled, ochre-map, ochre-judge"
    assert named in capsys.readouterr().err
    assert main(["evaluate", "ochre-judge", "--glyphs", "x"]) == 2


def test_a_killed_run_goes_on_and_reports_the_same(measure, model_folder, tmp_path):
    data, kept = tmp_path / "data", tmp_path / "kept.safetensors"
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        for number in range(60):
            tone = (number, 255 - number, 7 * number % 256)
            Image.new("RGB", (500, 400), tone).save(data / name / f"{number}.png")
    words = [str(data), "--features", str(kept), "--batch-size", "4", "--json"]
    command = [sys.executable, "-m", "lascaux.cli.main", "evaluate", "classify", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    running = subprocess.Popen(
        [*command, "--model", str(model_folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    head = 8 + 600  # bytes, about; then 64 for each picture
    begun = time.monotonic()
    while not kept.exists() or kept.stat().st_size < head + 64 * 8:
        assert running.poll() is None
        assert time.monotonic() - begun < 60
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert kept.stat().st_size < 64 * 120  # it was stopped on the way
    code, out, _ = measure(*words)
    assert code == 0
    assert kept.stat().st_size > 64 * 120
    fresh = json.loads(measure(*words[:1], *words[3:])[1])
    assert json.loads(out) == fresh


def test_the_pages_example_runs_as_printed(tmp_path, monkeypatch, capsys):
    """The emoji world as a folder of folders, through the real command, a part of it for speed."""
    code = next(c for c in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
    monkeypatch.chdir(tmp_path)
    tested = code.replace('("test", "train")', '("test",)')
    assert tested != code
    exec(compile(tested, str(PAGE), "exec"), {})
    folders = list((tmp_path / "emoji" / "test").iterdir())
    assert len(folders) == 213
    words = ["emoji/test", "--classes", "world", "--limit", "40", "--json"]
    assert main(["evaluate", "classify", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["data"]["pictures"] == 389
    assert report["settings"]["data"]["classes"] == 325
    assert report["figures"][0]["value"] > 0.9
