import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lascaux
from lascaux.cli.main import main
from lascaux.data.sources import open_source
from lascaux.tasks import Speller, read_spellings
from lascaux.weights.fingerprint import weights_hash
from tokenisers import tiny_tokeniser


@pytest.fixture(scope="module")
def vqgan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-vqgan"
    lascaux.save(tiny_tokeniser("vqgan"), folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        rng = np.random.Generator(np.random.PCG64([number]))
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((70, 60)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def of(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return of


def test_ids_are_printed_in_rows_or_as_json(run, photos, vqgan):
    code, out, err = run("spell", photos / "0.png", "--model", vqgan)
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head == f"{photos / '0.png'}: 8 x 8 codes of 24"
    ids = [int(one) for row in rows for one in row.split()]
    assert len(rows) == 8
    assert ids == list(Speller(vqgan).spell(photos / "0.png").ids)
    code, out, _ = run("spell", photos / "0.png", "--model", vqgan, "--json")
    (entry,) = json.loads(out)
    assert (entry["ids"], entry["grid"], entry["model"]) == (ids, [8, 8], str(vqgan))


def test_pictures_go_to_one_file_and_come_back(run, photos, vqgan):
    code, _, err = run("spell", photos, "--model", vqgan, "--out", "ids.json")
    assert (code, err) == (0, "lascaux: wrote ids.json: 3 pictures, 192 ids of 24 codes\n")
    code, out, _ = run("unspell", "ids.json", "--out", "back", "--json")
    assert code == 0
    assert [Path(one["out"]).name for one in json.loads(out)] == [
        f"{number}-unspelt.png" for number in range(3)
    ]
    expected = Speller(vqgan).reconstruct(photos / "1.png").picture
    assert Image.open("back/1-unspelt.png").tobytes() == expected.tobytes()


def test_what_json_prints_is_a_file_of_ids(run, photos, vqgan):
    (photos / "1.png").write_bytes(b"no picture")
    code, out, _ = run("spell", photos, "--model", vqgan, "--json")
    assert code == 1
    Path("ids.json").write_text(out, encoding="utf-8")
    code, _, err = run("unspell", "ids.json", "--out", "back")
    assert code == 1
    assert "left out: " in err
    assert sorted(path.name for path in Path("back").iterdir()) == [
        "0-unspelt.png",
        "2-unspelt.png",
    ]


def test_one_picture_goes_to_a_binary_file_and_comes_back(run, photos, vqgan):
    out = ("--model", vqgan, "--out", "ids.safetensors")
    assert run("spell", photos / "2.png", *out)[0] == 0
    assert run("unspell", "ids.safetensors", "--model", vqgan, "--out", "2.png")[0] == 0
    expected = Speller(vqgan).reconstruct(photos / "2.png").picture
    assert Image.open("2.png").tobytes() == expected.tobytes()


def test_a_folder_gets_a_file_for_each_picture_no_two_of_one_name(run, photos, vqgan):
    (photos / "more").mkdir()
    Image.open(photos / "0.png").save(photos / "more" / "0.png")
    Image.open(photos / "0.png").save(photos / "0.bmp")
    words = ("--model", vqgan, "--out", "spelt", "--recursive", "--binary")
    assert run("spell", photos, *words)[0] == 0
    names = {path.name for path in Path("spelt").iterdir()}
    assert names == {f"{name}.safetensors" for name in ("0", "0-2", "0-3", "1", "2")}
    found = [read_spellings(path)[0] for path in sorted(Path("spelt").iterdir())]
    assert len({spelling.source for spelling in found}) == 5


def test_broken_pictures_are_reported_and_the_rest_go_on(run, photos, vqgan):
    (photos / "1.png").write_bytes(b"no picture")
    for verb, out in (("spell", "spelt"), ("reconstruct", "again")):
        code, _, err = run(verb, photos, "--model", vqgan, "--out", out)
        assert code == 1
        assert f"left out: {photos / '1.png'}: not a picture" in err
        assert len(list(Path(out).iterdir())) == 2


def test_ids_of_another_model_are_left_out_with_the_reason(run, photos, vqgan):
    assert run("spell", photos / "0.png", "--model", vqgan, "--out", "ids.json")[0] == 0
    lascaux.save(tiny_tokeniser("dvae"), "dvae")
    code, _, err = run("unspell", "ids.json", "--model", "dvae", "--out", "picture.png")
    assert code == 1
    assert re.search(r"spelt by .*tiny-vqgan with weights \w{12}; dvae has \w{12}", err)
    assert not Path("picture.png").exists()
    entry = json.loads(Path("ids.json").read_text(encoding="utf-8"))
    entry["ids"][5] = 24
    Path("ids.json").write_text(json.dumps(entry), encoding="utf-8")
    code, _, err = run("unspell", "ids.json", "--out", "picture.png")
    assert code == 1
    assert "to 24; " in err
    assert "has 24 codes, from 0 to 23" in err


def test_pictures_are_shown_beside_their_reconstructions(run, photos, vqgan):
    words = ("--model", vqgan, "--out", "a/b", "--plain", "--batch-size", 1)
    code, out, err = run("reconstruct", photos, *words)
    assert code == 0
    assert err == "lascaux: wrote 3 pictures to a/b\n"
    assert re.fullmatch(
        r".*/0\.png: 8 x 8 codes of 24, 0\.2866 bits per pixel, PSNR [\d.]+ dB, SSIM -?[\d.]+",
        out.splitlines()[0],
    )
    found = Speller(vqgan).reconstruct(photos / "0.png")
    plain = Image.open("a/b/0-reconstructed.png")
    assert plain.tobytes() == found.picture.tobytes()
    page = np.asarray(Image.open("a/b/0-compared.png").convert("RGB"))
    # Eight times as large, side by side on the card.
    side = np.asarray(found.seen.resize((256, 256), Image.Resampling.NEAREST))
    again = np.asarray(found.picture.resize((256, 256), Image.Resampling.NEAREST))
    assert np.array_equal(page[52:308, 52:308], side)
    assert np.array_equal(page[52:308, 320:576], again)


def test_one_picture_may_go_into_a_file_and_several_may_not(run, photos, vqgan):
    code, _, err = run("reconstruct", photos / "0.png", "--model", vqgan, "--out", "beside.png")
    assert (code, "wrote 1 picture to beside.png" in err) == (0, True)
    assert run("reconstruct", photos / "0.png", "--model", vqgan, "--out", "again")[0] == 0
    assert Path("beside.png").read_bytes() == Path("again/0-compared.png").read_bytes()
    for words in ((photos,), (photos / "0.png", "--plain")):
        code, _, err = run("reconstruct", *words, "--model", vqgan, "--out", "two.png")
        assert (code, "expected a folder" in err) == (2, True)
    assert not Path("two.png").exists()
    code, _, err = run("reconstruct", photos / "0.png", "--model", vqgan, "--out", "no/b.png")
    assert (code, "expected a file in a folder that exists" in err) == (2, True)


def test_figures_of_reconstructions_are_json_too(run, photos, vqgan):
    words = ("--model", vqgan, "--out", "again", "--json", "--tile")
    code, out, _ = run("reconstruct", photos / "0.png", *words)
    assert code == 0
    (told,) = json.loads(out)
    assert (told["grid"], told["pixels"], told["plain"]) == ([15, 17], [68, 60], None)
    assert told["seams"]["ratio"] == pytest.approx(
        told["seams"]["across"] / told["seams"]["inside"]
    )
    code, out, _ = run("reconstruct", photos / "0.png", *words[:4], "--tile")
    assert re.search(r"steps across tile borders [\d.]+ of 255, inside tiles [\d.]+: [\d.]+", out)


def test_a_data_set_is_measured(run, photos, vqgan):
    (photos / "1.png").write_bytes(b"no picture")
    words = ("evaluate", "reconstruct", photos, "--model", vqgan)
    code, out, err = run(*words, "--out", "report.json")
    assert code == 1
    assert re.search(r"thumbnail, PSNR +[\d.]+ dB  of 2", out)
    assert "left out: 1.png: not a picture" in err
    code, out, _ = run(*words, "--json")
    assert json.loads(out) == json.loads(Path("report.json").read_text(encoding="utf-8"))


def test_a_set_of_pictures_is_prepared_as_ids(run, photos, vqgan):
    words = ("prepare", photos, "prepared", "--model", vqgan, "--workers", 0)
    code, _, err = run("data", *words)
    assert code == 0, err
    source = open_source("prepared")
    source.require_model(weights_hash(lascaux.load(vqgan)))
    expected = list(Speller(vqgan).spell_many(photos))
    assert [source[n].features[0].tolist() for n in range(3)] == [
        list(spelling.ids) for spelling in expected
    ]


def test_without_a_model_the_embedded_one_spells(photos, run):
    code, out, err = run("spell", photos / "0.png", "--json")
    assert code == 0, err
    (told,) = json.loads(out)
    assert (told["model"], told["codes"], len(told["ids"])) == ("ochre-vq", 4096, 64)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("spell", "a.png", "--model", "m", "--out", "ids.txt"), "named .json, .safetensors"),
        (("spell", "a.png", "--model", "m", "--out", "no/ids.json"), "a folder that exists"),
        (("spell", "a.png", "--model", "m", "--binary"), "--binary is of files in a folder"),
        (("spell", "a.png", "--model", "m", "--size", "0"), "size is 0"),
        (("unspell", "ids.json"), "required: --out"),
        (("unspell", "two.json", "--out", "a.png"), "is one picture; there are ids of 2"),
        (("unspell", "two.json", "--out", "a.txt"), "a file is named .png"),
        (("unspell", "two.json", "--out", "back"), "do not name their model"),
        (("reconstruct", "a.png", "--model", "m", "--out", "two.json"), "expected a folder"),
        (("evaluate", "reconstruct", ".", "--model", "m", "--limit", "0"), "limit is 0"),
    ],
)
def test_wrong_use_is_told_before_any_work(run, words, message):
    entry = {"source": "a", "model": "", "weights": "0", "codes": 2, "grid": None, "ids": [1]}
    Path("two.json").write_text(json.dumps([entry, entry]), encoding="utf-8")
    code, _, err = run(*words)
    assert code == 2
    assert message in err
