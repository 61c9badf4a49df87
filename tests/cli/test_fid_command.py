import json

import pytest
from PIL import Image

from lascaux.cli.main import main


@pytest.fixture
def sets(tmp_path):
    folders = [tmp_path / "drawn", tmp_path / "made"]
    for shift, folder in enumerate(folders):
        folder.mkdir()
        for n in range(4):
            tone = (60 * n, 200 - 50 * n, 90 * shift)
            Image.new("RGB", (30 + n, 40), tone).save(folder / f"{n}.png")
    return folders


@pytest.fixture
def measure(model_folder, capsys):
    def run(*words, model=model_folder):
        code = main(["evaluate", "fid", *map(str, words), "--model", str(model)])
        return code, *capsys.readouterr()

    return run


def test_a_clip_stands_in_and_is_named(measure, sets, model_folder):
    code, out, err = measure(*sets)
    assert code == 0
    assert out.startswith(f"frechet: {model_folder}")
    assert f"Fréchet distance of {model_folder} features" in out
    assert "pictures: 4 and 4" in out
    assert "FID" not in out
    assert err.count("so that the covariance has not its full rank") == 2


def test_json_and_a_file_have_the_whole_report(measure, sets, tmp_path):
    code, out, err = measure(*sets, "--json", "--out", tmp_path / "r.json", "--size", 16)
    assert code == 0
    assert f"wrote {tmp_path / 'r.json'}" in err
    report = json.loads(out)
    assert report == json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["settings"]["first"]["pictures"] == 4
    assert json.loads(report["settings"]["preparing"])["size"] == 16
    assert len(report["warnings"]) == 2


def test_statistics_are_kept_and_taken_in_place_of_pictures(measure, sets, tmp_path):
    kept = tmp_path / "kept.safetensors"
    _, first, _ = measure(*sets, "--statistics", kept, "--json")
    _, second, _ = measure(kept, sets[1], "--json")
    assert json.loads(first)["figures"] == json.loads(second)["figures"]


def test_a_picture_that_cannot_be_read_is_told_and_the_command_fails(measure, sets):
    (sets[1] / "broken.png").write_bytes(b"no picture")
    code, out, err = measure(*sets)
    assert code == 1
    assert "pictures: 4 and 4" in out
    assert "left out broken.png: " in err


def test_wrong_use_is_told_before_any_work(measure, sets, tmp_path):
    for words in (
        (sets[0],),
        (*sets, "--batch-size", "0"),
        (*sets, "--size", "0"),
        (*sets, "--block", "4"),
        (*sets, "--statistics", tmp_path / "nowhere" / "kept.npz"),
    ):
        try:
            code, *_ = measure(*words)
        except SystemExit as ended:  # argparse's own
            code = ended.code
        assert code == 2
    code, _, err = measure(sets[0], "nothing-here")
    assert code in (1, 2)
    assert "nothing-here" in err


def test_without_network_a_model_that_stands_in_is_named(measure, sets, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "home"))
    code, _, err = measure(*sets, model="inception-fid")
    assert code == 1
    assert "--model ochre-clip stands in" in err
