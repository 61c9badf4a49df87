import json
import os
import shutil
import signal
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch

import lascaux
from killed import killed_after_the_first_batch
from lascaux.errors import BadInput
from lascaux.tasks.features import image_features, text_features
from lascaux.weights.fingerprint import weights_hash


@pytest.fixture
def embed(verb):
    return verb("embed")


@pytest.fixture
def model(model_folder):
    return lascaux.load(model_folder)


def expected(model, pictures, names):
    return image_features(model, [pictures / name for name in names], "photo")[0].numpy()


def test_parquet_holds_paths_vectors_and_what_made_them(
    embed, pictures, tmp_path, model, model_folder
):
    out = tmp_path / "vectors.parquet"
    code, printed, err = embed(pictures, "--out", out)
    assert (code, printed) == (1, "")
    assert f"left out: {pictures / 'z.png'}: " in err
    assert f"wrote {out}: 3 vectors of 16" in err
    table = pyarrow.parquet.read_table(out)
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), 16)
    names = ["a.png", "b.jpg", "c.webp"]
    assert table["path"].to_pylist() == [str(pictures / name) for name in names]
    found = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(found, expected(model, pictures, names), atol=1e-6)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about["format"] == "lascaux-vectors-1"
    assert about["model"] == str(model_folder)
    assert about["weights"] == weights_hash(model)
    assert json.loads(about["preprocessing"])["crop_size"] == {"height": 32, "width": 32}
    assert sorted(os.listdir(tmp_path)) == ["pictures", "vectors.parquet"]


def test_a_matrix_has_its_paths_beside_it(embed, pictures, tmp_path, model):
    out = tmp_path / "vectors.npy"
    names = ["c.webp", "a.png", "c.webp"]
    code, printed, _ = embed(*(pictures / name for name in names), "--out", out, "--json")
    assert code == 0
    np.testing.assert_allclose(np.load(out), expected(model, pictures, names), atol=1e-6)
    about = json.loads((tmp_path / "vectors.json").read_text(encoding="utf-8"))
    assert about["paths"] == [str(pictures / name) for name in names]
    assert about["weights"] == weights_hash(model)
    done = json.loads(printed)
    assert (done["rows"], done["encoded"], done["width"], done["failed"]) == (3, 2, 16, [])


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_lines_of_a_file_are_embedded_as_texts(embed, tmp_path, model, ending):
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\n\n红色 火车\na cat\n", encoding="utf-8")
    out = tmp_path / f"texts.{ending}"
    code, _, err = embed("--texts", texts, "--out", out)
    assert code == 0
    assert "3 vectors" in err
    lines = ["a cat", "红色 火车", "a cat"]
    if ending == "npy":
        found = np.load(out)
        assert json.loads(out.with_suffix(".json").read_text())["texts"] == lines
    else:
        table = pyarrow.parquet.read_table(out)
        found = np.array(table["vector"].to_pylist(), np.float32)
        assert table["text"].to_pylist() == lines
    np.testing.assert_allclose(found, text_features(model, lines).numpy(), atol=1e-6)


def test_names_that_are_no_unicode_are_escaped(embed, pictures, tmp_path):
    try:
        shutil.copy(pictures / "a.png", pictures / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system has only Unicode names")
    for out in (tmp_path / "v.parquet", tmp_path / "v.npy"):
        embed(pictures, "--out", out)
    paths = pyarrow.parquet.read_table(tmp_path / "v.parquet")["path"].to_pylist()
    assert str(pictures / "caf\\xe9.png") in paths
    assert json.loads((tmp_path / "v.json").read_text())["paths"] == paths


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a signal of POSIX")
def test_a_killed_command_goes_on_where_it_was(embed, model, model_folder, many, tmp_path):
    out = tmp_path / "v.npy"
    words = ["embed", many, "--out", out, "--batch-size", 4, "--model", model_folder]
    there = killed_after_the_first_batch(tmp_path / ".v.npy.unfinished", *words)
    assert 4 <= there < 240
    assert not out.exists()
    code, printed, err = embed(many, "--out", out, "--batch-size", "4", "--json")
    assert code == 0
    assert json.loads(printed)["encoded"] == 240 - there
    assert f"{240 - there} encoded now" in err
    names = sorted(os.listdir(many))
    np.testing.assert_allclose(np.load(out), expected(model, many, names), atol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["many", "v.json", "v.npy"]


def test_what_another_command_left_is_neither_continued_nor_lost(
    embed, pictures, tmp_path, model_folder
):
    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        raise Stopped

    from lascaux.tasks import embed_pictures

    torch.manual_seed(9)
    other = lascaux.load(model_folder)
    torch.nn.init.normal_(next(other.image.parameters()))
    out = tmp_path / "v.npy"
    with pytest.raises(Stopped):
        embed_pictures([pictures], out, other, batch_size=1, progress=stop)
    left = tmp_path / ".v.npy.unfinished"
    code, _, err = embed(pictures, "--out", out)
    assert code == 1
    assert "other weights" in err
    assert "delete the file" in err
    assert left.exists()
    done = embed_pictures([pictures], out, other, batch_size=1)
    assert (done.rows, done.encoded) == (3, 2)
    assert not left.exists()


def test_a_second_command_leaves_the_first_one_s_work_alone(pictures, tmp_path, monkeypatch):
    from lascaux.tasks import embed_pictures, ledger

    monkeypatch.setattr(ledger, "_WAIT", 0.1)
    out = tmp_path / "v.npy"
    refused = []

    def meanwhile(stage, done, total):
        with pytest.raises(BadInput, match="another process is writing"):
            embed_pictures([pictures], out)
        refused.append(done)

    assert embed_pictures([pictures], out, batch_size=1, progress=meanwhile).rows == 3
    assert refused


def test_files_of_others_are_not_written_over(embed, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text("a cat\n")
    code, _, err = embed("--texts", captions, "--out", tmp_path / "captions.npy")
    assert code == 1
    assert "choose another name" in err
    assert captions.read_text() == "a cat\n"
    assert embed("--texts", captions, "--out", tmp_path / "other.npy")[0] == 0
    assert embed("--texts", captions, "--out", tmp_path / "other.npy")[0] == 0


def test_nothing_is_left_where_nothing_can_be_read(embed, pictures, tmp_path):
    code, _, err = embed(pictures / "z.png", "--out", tmp_path / "v.parquet")
    assert code == 1
    assert "none of the 1 pictures" in err
    assert os.listdir(tmp_path) == ["pictures"]


def test_without_pyarrow_a_matrix_is_offered_before_any_work(
    embed, pictures, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = embed(pictures, "--out", tmp_path / "v.parquet")
    assert code == 1
    assert "lascaux[data]" in err
    assert ".npy" in err
    assert embed(pictures / "a.png", "--out", tmp_path / "v.npy")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{pictures}",), "--out"),
        (("--out", "v.npy"), "what to encode"),
        (("{pictures}", "--out", "v.csv"), ".parquet or .npy"),
        (("{pictures}", "--out", "no/such/folder/v.npy"), "--out"),
        (("{pictures}", "--out", "v.npy", "--texts", "t.txt"), "not both"),
        (("{pictures}", "--out", "v.npy", "--batch-size", "0"), "batch_size"),
    ],
)
def test_wrong_use_exits_with_2_and_says_so(embed, pictures, words, said):
    code, out, err = embed(*(word.replace("{pictures}", str(pictures)) for word in words))
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(("content", "said"), [(b"\n \n", "no text"), (b"\xff\xfe", "cannot read")])
def test_files_without_texts_say_so(embed, tmp_path, content, said):
    (tmp_path / "t.txt").write_bytes(content)
    code, _, err = embed("--texts", tmp_path / "t.txt", "--out", tmp_path / "v.npy")
    assert code == 1
    assert said in err
