import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from imaginers import CODES, SIDE, tiny_clip, tiny_clip_gen, tiny_dalle, tiny_dalle_clip
from lascaux.cli.main import main
from lascaux.images.labelled import read_label
from lascaux.tasks import ImagineOptions, Imaginer
from tokenisers import tiny_tokeniser

SENTENCE = "a red apple on the table"
FILES = [f"a-red-apple-on-the-table-{seed}.png" for seed in range(1, 5)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A CLIP-GEN with its parts inside, a DALL-E, and its own small CLIP."""
    folder = tmp_path_factory.mktemp("models")
    lascaux.save(tiny_clip_gen(), folder / "clip-gen")
    lascaux.save(tiny_clip(), folder / "clip-gen" / "clip")
    lascaux.save(tiny_tokeniser("vqgan"), folder / "clip-gen" / "tokeniser")
    lascaux.save(tiny_dalle(), folder / "dalle")
    lascaux.save(tiny_dalle_clip(), folder / "dalle-clip")
    return folder


@pytest.fixture
def imagine(models, capsys, tmp_path, monkeypatch):
    """Runs of the verb: exit code, what it printed, what it remarked."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.Generator(np.random.PCG64([1]))
    Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save("photo.png")

    def run(*words, model: str | None = "clip-gen", out: str = "out"):
        chosen = () if model is None else ("--model", models / model)
        code = main(["imagine", *map(str, (*words, *chosen)), "--out", out])
        return code, *capsys.readouterr()

    return run


def written(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize("model", ["clip-gen", "dalle"])
def test_pictures_say_how_they_were_made_and_are_made_again(imagine, models, model):
    code, out, err = imagine(SENTENCE, "--n", 4, "--seed", 1, model=model)
    assert (code, err) == (0, "lascaux: wrote 4 pictures and contact.png to out\n")
    assert out.splitlines() == [f"out/{name}" for name in FILES]
    assert written() == [*FILES, "contact.png"]
    label = read_label(f"out/{FILES[2]}", "imagine")
    assert (label["prompt"], label["seed"]) == (SENTENCE, 3)
    assert label["model"] == str(models / model)
    assert label["weights"] == Imaginer(models / model).weights
    code, out, err = imagine("--from", f"out/{FILES[2]}", model=None, out="again")
    assert (code, out, err) == (0, f"again/{FILES[2]}\n", f"lascaux: wrote again/{FILES[2]}\n")
    first, again = (Image.open(f"{folder}/{FILES[2]}") for folder in ("out", "again"))
    assert first.size == (SIDE, SIDE)
    assert first.tobytes() == again.tobytes()
    assert read_label(f"again/{FILES[2]}") == label


def test_the_command_gives_what_the_class_gives(imagine, models):
    words = ("--n", 3, "--top-k", 7, "--temperature", 0.7, "--batch-size", 2)
    code, out, _ = imagine(SENTENCE, *words, "--json")
    assert code == 0
    told = json.loads(out)
    options = ImagineOptions(n=3, top_k=7, temperature=0.7)
    expected = list(Imaginer(models / "clip-gen").imagine(SENTENCE, options=options))
    assert [one["seed"] for one in told] == [0, 1, 2]
    assert told[0]["settings"]["top_k"] == 7
    assert set(told[0]) == {
        *("out", "seed", "prompt", "model", "settings", "score", "weights", "caption")
    }
    for one, picture in zip(told, expected, strict=True):
        assert Image.open(one["out"]).tobytes() == picture.image.tobytes()


def test_the_best_are_kept_best_first(imagine):
    code, out, err = imagine(SENTENCE, "--n", 6, "--keep", 2, "--json")
    assert (code, err) == (0, "lascaux: wrote 2 pictures and contact.png to out\n")
    first, second = json.loads(out)
    assert first["score"] >= second["score"]
    assert first["settings"]["scored_by"] == "its own"
    assert len(written()) == 3
    words = ("--n", 4, "--keep", 1, "--rerank")
    assert imagine("a boat", *words, "./nowhere", model="dalle")[0] == 1


def test_a_dalle_completes_is_guided_primed_and_ordered(imagine, models):
    words = ("--complete-text", "--guidance", 3, "--prime", "photo.png", "--prime-share", 0.5)
    rerank = ("--n", 3, "--keep", 3, "--rerank", models / "dalle-clip")
    code, out, _ = imagine("a boat", *words, *rerank, model="dalle")
    assert code == 0
    for line in out.splitlines():
        path, _, score_and_caption = line.partition("  ")
        assert "a boat" in score_and_caption
        label = read_label(path)
        assert (label["record"]["primed"], label["settings"]["prime"]) == (8, "photo.png")
        assert imagine("--from", path, model=None, out="again")[0] == 0
        again = Image.open(Path("again") / Path(path).name)
        assert again.tobytes() == Image.open(path).tobytes()


def test_pictures_are_made_of_pictures_and_on_the_way_to_them(imagine):
    assert imagine("--image", "photo.png", "--n", 2)[0] == 0
    assert imagine(SENTENCE, out="plain")[0] == 0
    code, _, err = imagine("--between", SENTENCE, "photo.png", "--steps", 3, out="way")
    assert (code, err) == (0, "lascaux: wrote 3 pictures and contact.png to way\n")
    stem = "a-red-apple-on-the-t-to-photo"
    assert written("way") == [*(f"{stem}-{n:02d}-0.png" for n in range(3)), "contact.png"]
    for end, plain in ((0, "plain/a-red-apple-on-the-table-0.png"), (2, "out/photo-0.png")):
        found = Image.open(f"way/{stem}-{end:02d}-0.png")
        assert found.tobytes() == Image.open(plain).tobytes()
    label = read_label(f"way/{stem}-01-0.png")
    assert label["settings"]["between"] == [SENTENCE, "photo.png"]
    assert label["settings"]["share"] == 0.5


def test_a_sentence_of_ten_thousand_words_is_cut_in_words(imagine):
    code, _, err = imagine("a red boat on " * 2500, model="dalle")
    assert code == 0
    assert "10000 tokens, and " in err
    assert "reads 6: what comes behind them is left away" in err
    assert imagine("a red boat on " * 2500, "--too-long", "error")[0] == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("a", "--top-k", CODES + 1), 1, f"of {CODES} tokens"),
        (("--image", "none.png"), 1, "none.png: no file at"),
        (("--image", "notes.png"), 1, "notes.png: not a picture"),
        (("a", "--prime", "notes.png"), 1, "notes.png: not a picture"),
        (("a", "--guidance", "2"), 1, "leave guidance away"),
        (("--between", "a", "none.png"), 1, "none.png: no file at"),
        (("",), 2, "the sentence is empty"),
        (("--between", "a", " "), 2, "the sentence is empty"),
        ((), 2, "nothing to imagine; give one of"),
        (("a", "--image", "photo.png"), 2, "a sentence and --image"),
        (("a", "--top-k", "0"), 2, "top_k is 0"),
        (("a", "--n", "2", "--keep", "3"), 2, "of n = 2 pictures"),
        (("--from", "photo.png"), 1, "does not say how it was made"),
        (("--from", "a.png", "--top-k", "3"), 2, "leave away --top-k"),
    ],
)
def test_bad_input_is_told_and_writes_nothing(imagine, words, code, message):
    Path("notes.png").write_text("no picture", encoding="utf-8")
    found, out, err = imagine(*words)
    assert (found, out) == (code, "")
    assert message in err
    assert list(Path("out").iterdir() if Path("out").exists() else []) == []


def test_without_a_model_the_embedded_one_writes(imagine):
    code, *_ = imagine("a cat on a red background", model=None)
    assert code == 0
    with Image.open("out/a-cat-on-a-red-background-0.png") as picture:
        assert picture.size == (64, 64)
        assert json.loads(picture.info["lascaux"])["model"] == "ochre-imagine"


def test_the_folder_must_be_none_of_a_file(imagine):
    code, _, err = imagine("a", out="photo.png")
    assert code == 2
    assert "--out photo.png: expected a folder" in err


def test_broken_weights_stop_with_the_step_named(imagine, models, tmp_path):
    model = tiny_dalle()
    torch.nn.init.constant_(model.head.bias, float("nan"))
    lascaux.save(model, models / "broken")
    code, _, err = imagine("a boat", model="broken")
    assert code == 1
    assert "the logits of step 0 are no numbers" in err
    assert written() == []


def test_an_interrupt_leaves_whole_pictures_and_says_how_many(models, tmp_path):
    words = ("imagine", "a boat", "--model", models / "dalle", "--out", tmp_path, "--n", "100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "lascaux.cli.main", *map(str, words), "--batch-size", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        while len(list(tmp_path.glob("*.png"))) < 3:
            assert process.poll() is None, "ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    whole = list(tmp_path.iterdir())
    assert {path.suffix for path in whole} == {".png"}
    for path in whole:
        Image.open(path).load()
        assert read_label(path)["prompt"] == "a boat"
    assert f"lascaux: {len(whole)} of 100000 pictures are whole, in {tmp_path}" in err
    assert err.endswith("lascaux: interrupted\n")
