import json

import pytest
import torch

from lascaux.cli.main import main
from lascaux.weights.catalogue import ENTRIES, find
from lascaux.weights.download import sha256_of
from lascaux.weights.load import load


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LASCAUX_MIRROR", raising=False)


def test_the_list_has_a_line_for_every_model(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "where", "licence", "source"]
    assert [line.split()[0] for line in lines[1 : len(ENTRIES) + 1]] == [e.name for e in ENTRIES]


def test_the_list_as_json_says_where_a_model_comes_from(capsys):
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["RN50"]["where"] == "download"
    assert rows["openai/clip-vit-base-patch32"]["where"] == "hub"
    assert rows["ochre-clip"]["where"] in ("embedded", "not installed")


def test_a_fetched_model_is_listed_as_in_the_cache(capsys, tmp_path):
    folder = tmp_path / "home" / "openai-clip"
    folder.mkdir(parents=True)
    (folder / "RN50.pt").touch()
    (folder / "bpe_simple_vocab_16e6.txt.gz").touch()
    main(["models", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["RN50"]["where"] == "in cache"
    assert rows["RN101"]["where"] == "download"


def test_info_tells_files_hashes_and_sizes(capsys, tmp_path):
    assert main(["models", "info", "vit_b_32"]) == 0
    told = capsys.readouterr().out
    (file,) = find("ViT-B/32").files
    for expected in (file.url, file.sha256, str(tmp_path / "home"), "MIT", "patch_size 32"):
        assert expected in told


def test_info_as_json_is_one_object(capsys):
    assert main(["models", "info", "RN50x4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "RN50x4"
    assert told["config"]["image_size"] == 288
    assert told["files"][0]["in_cache"] is False


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_model_can_be_told_about(capsys, entry):
    assert main(["models", "info", entry.name]) == 0
    assert entry.name in capsys.readouterr().out


def test_an_unknown_name_exits_with_1_and_its_nearest(capsys):
    assert main(["models", "info", "ViT-B/23"]) == 1
    assert "nearest: ViT-B/32" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["info"], ["list", "RN50"], ["show", "RN50"]])
def test_wrong_use_exits_with_2(capsys, words):
    assert main(["models", *words]) == 2
    assert capsys.readouterr().err


def test_convert_prints_layout_dtype_hashes_and_tokenizer(capsys, tmp_path, model_folder):
    file = model_folder / "model.safetensors"
    assert main(["convert", str(model_folder), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert f"sha256 {sha256_of(file)}" in told
    assert "lascaux: " in told
    assert "keys matched, 0 dropped" in told
    assert "float32" in told
    assert f"tokenizer  {model_folder / 'tokenizer.json'}" in told
    assert str(tmp_path / "out" / "config.json") in told
    one, other = load(model_folder).state_dict(), load(tmp_path / "out").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_convert_as_json_has_the_same_facts(capsys, tmp_path, model_folder):
    words = ["convert", str(model_folder), "--out", str(tmp_path / "out"), "--dtype", "float16"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dtype"] == "float16"
    assert told["matched"] > 10
    assert told["sources"][0]["sha256"] == sha256_of(model_folder / "model.safetensors")


def test_convert_refuses_a_full_folder_and_a_missing_file(capsys, tmp_path, model_folder):
    assert main(["convert", str(model_folder), "--out", str(model_folder)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "absent.pt"), "--out", str(tmp_path / "out")]) == 1
    assert "absent.pt" in capsys.readouterr().err
    assert main(["convert", str(model_folder)]) == 2


def test_a_checkpoint_that_would_run_code_exits_with_1_and_says_so(capsys, tmp_path):
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert main(["convert", str(tmp_path / "evil.pt"), "--out", str(tmp_path / "out")]) == 1
    assert "os.system" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
