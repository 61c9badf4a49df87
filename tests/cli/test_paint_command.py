import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lascaux
from lascaux.cli.main import main
from lascaux.images.labelled import read_label
from lascaux.tasks import Painter, PaintOptions
from painters import LABELS, tiny_painter


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("painters")
    for kind in ("map", "label", "boxes", "nothing"):
        lascaux.save(tiny_painter(kind), folder / kind)
    return folder


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chance = np.random.Generator(np.random.PCG64(3))
    Image.fromarray(chance.integers(0, LABELS, (8, 12), dtype=np.uint8)).save("seg.png")
    Image.fromarray(chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save("half.png")

    def of(*words):
        code = main(["paint", *(str(word) for word in words)])
        return code, *capsys.readouterr()

    return of


def written(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_pictures_of_a_map_are_written_with_how_they_were_made(run, models):
    words = (
        "--map",
        "seg.png",
        "--model",
        models / "map",
        "--n",
        3,
        "--seed",
        7,
        "--batch-size",
        2,
    )
    code, out, err = run(*words, "--out", "out", "--sheet")
    assert code == 0
    assert out.splitlines() == [f"out/seg-{seed}.png" for seed in (7, 8, 9)]
    assert err.startswith("lascaux: wrote 3 pictures to out; keys and values took ")
    names = ["seg-7.png", "seg-8.png", "seg-9.png", "seg-condition.png", "sheet.png"]
    assert written() == names
    label = read_label("out/seg-8.png", "paint")
    assert (label["seed"], label["prompt"]) == (8, "seg.png")
    assert label["settings"]["condition"]["source"] == "seg.png"
    options = PaintOptions(model=str(models / "map"), seed=8)
    (expected,) = Painter.from_options(options).paint(map="seg.png")
    with Image.open("out/seg-8.png") as picture:
        assert picture.size == (12, 8)
        assert picture.tobytes() == expected.image.tobytes()
    assert label["weights"] == expected.weights
    with Image.open("seg.png") as given, Image.open("out/seg-condition.png") as shown:
        assert shown.mode == "P"
        assert np.array_equal(np.asarray(given), np.asarray(shown))


def test_boxes_of_objects_are_painted_after_and_shown(run, models):
    what = [{"object": 3, "box": [0.2, 0.1, 0.5, 0.6]}]
    Path("park.json").write_text(json.dumps(what))
    code, out, _ = run("--boxes", "park.json", "--model", models / "boxes", "--out", "out")
    assert (code, out) == (0, "out/park-0.png\n")
    assert written() == ["park-0.png", "park-condition.png"]
    told = read_label("out/park-0.png", "paint")["settings"]["condition"]
    assert told == {"kind": "boxes", "objects": what, "shown": [0, 0, 1, 1]}
    options = PaintOptions(model=str(models / "boxes"))
    (expected,) = Painter.from_options(options).paint(boxes=told["objects"])
    with Image.open("out/park-0.png") as picture:
        assert picture.tobytes() == expected.image.tobytes()
    Path("park.json").write_text(json.dumps([{"object": "dog", "box": [0, 0, 1, 1]}]))
    code, _, err = run("--boxes", "park.json", "--model", models / "boxes", "--out", "no")
    assert code == 1
    assert "class 'dog'; the 7 classes of this model have no names that are known" in err
    assert not Path("no").exists()


def test_classes_are_painted_one_after_the_other(run, models):
    words = ("--class", 3, "--class", 5, "--class", 3, "--model", models / "label", "--n", 2)
    code, out, _ = run(*words, "--out", "a/b", "--json")
    assert code == 0
    told = json.loads(out)
    expected = [f"class-{label}-{seed}.png" for label in (3, 5) for seed in (0, 1)]
    assert [Path(one["out"]).name for one in told] == expected == written("a/b")
    assert [one["prompt"] for one in told] == ["3", "3", "5", "5"]
    assert told[0]["condition"] is None


@pytest.mark.parametrize(
    ("size", "every", "frames"), [("8x8", 5, [0, 5, 10, 15]), ("12x8", 10, [0, 10, 20])]
)
def test_an_animation_shows_every_so_many_codes_and_the_finished_picture(
    run, models, size, every, frames
):
    words = ("--model", models / "nothing", "--size", size, "--n", 2, "--animate")
    code, out, _ = run(*words, "--update-every", every, "--fps", 10, "--out", "out", "--json")
    assert code == 0
    assert written() == ["painted-0.gif", "painted-0.png", "painted-1.gif", "painted-1.png"]
    assert json.loads(out)[1]["animation"] == "out/painted-1.gif"
    with Image.open("out/painted-1.gif") as film:
        assert film.n_frames == len(frames) + 1
        assert film.info["duration"] == 100
        film.seek(film.n_frames - 1)
        with Image.open("out/painted-1.png") as picture:
            assert np.abs(np.asarray(film.convert("RGB")).astype(int) - picture).max() < 40


def test_half_a_picture_is_completed(run, models):
    words = ("--complete", "half.png", "--model", models / "nothing", "--keep", 0.75)
    code, _, _ = run(*words, "--out", "out")
    assert code == 0
    assert read_label("out/half-0.png")["settings"]["completed"]["rows_kept"] == 3
    assert written() == ["half-0.png"]


def test_who_is_interrupted_finds_whole_files_or_none(run, models, monkeypatch):
    words = ("--model", models / "nothing", "--n", 2, "--batch-size", 1, "--animate")
    step, count = Painter._growing, 0

    def interrupted(self, *arguments):
        nonlocal count
        count += 1
        if count > last:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(Painter, "_growing", interrupted)
    last = 24
    code, _, err = run(*words, "--out", "out")
    assert (code, err) == (130, "lascaux: interrupted\n")
    assert written() == ["painted-0.gif", "painted-0.png"]
    count, last = 0, 5
    assert run(*words, "--out", "other")[0] == 130
    assert not Path("other").exists()


def test_a_person_at_a_terminal_sees_the_unfinished_picture_and_nothing_of_it_stays(
    run, models, monkeypatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    seen, update = [], lascaux.cli.paint._Work._update

    def watched(self, *arguments):
        update(self, *arguments)
        with Image.open("out/unfinished.png") as picture:
            seen.append(picture.size)

    monkeypatch.setattr(lascaux.cli.paint._Work, "_update", watched)
    assert run("--model", models / "nothing", "--update-every", 8, "--out", "out")[0] == 0
    assert seen == [(8, 8)] * 2
    assert written() == ["painted-0.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: --out"),
        (("--model", "m"), "required: --out"),
        (("--model", "m", "--out", "out", "--map", "seg.png", "--class", "2"), "one of them"),
        (("--model", "m", "--out", "out", "--map", "no.png"), "--map no.png: there is no such"),
        (("--model", "m", "--out", "out", "--complete", "no.png"), "there is no such file"),
        (("--model", "m", "--out", "out", "--size", "big"), "expected WxH"),
        (("--model", "m", "--out", "out", "--fps", "0"), "fps is 0"),
        (("--model", "m", "--out", "out", "--update-every", "0"), "update_every is 0"),
        (("--model", "m", "--out", "out", "--animate", "avi"), "invalid choice: 'avi'"),
        (("--model", "m", "--out", "out", "--top-k", "0"), "top_k is 0"),
    ],
)
def test_wrong_use_is_told_before_any_work(run, words, message):
    code, _, err = run(*words)
    assert code == 2
    assert message in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--map", "half.png"), "a map of classes of mode RGB; expected an indexed or a grey PNG"),
        (("--map", "seg.png", "--top-k", 25), "top_k 25 of 24 tokens"),
        (("--map", "seg.png", "--label-shift", 3), "labels 5, 6, 7 after adding 3"),
        (("--map", "seg.png", "--scale-factor", 0.6), "7 x 4 pixels; both sides must be multiples"),
        (("--complete", "half.png"), "paints after a map of classes (--map FILE); what came is"),
    ],
)
def test_what_cannot_be_painted_is_told_and_nothing_is_written(run, models, words, message):
    code, _, err = run("--model", models / "map", "--out", "out", *words)
    assert code == 1
    assert message in err
    assert not Path("out").exists()


def test_mp4_without_its_extra_is_refused_before_any_work(run, models, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    code, _, err = run("--model", models / "nothing", "--animate", "mp4", "--out", "out")
    assert (code, Path("out").exists()) == (1, False)
    assert "pip install 'lascaux[video]'" in err
