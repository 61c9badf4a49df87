import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from lascaux.cli.main import main
from lascaux.cli.table import text_width
from lascaux.tasks import Classifier


@pytest.fixture
def classify(model_folder, capsys):
    def run(*words, model=True):
        chosen = ["--model", str(model_folder)] if model else []
        code = main(["classify", *map(str, words), *chosen])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_table_ranks_the_classes_of_each_picture(classify, pictures, model_folder):
    code, out, err = classify(pictures / "a.png", pictures / "b.jpg", "--classes", "cat, dog")
    assert code == 0
    assert err == ""
    blocks = out.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        str(pictures / "a.png"),
        str(pictures / "b.jpg"),
    ]
    found = Classifier("cat, dog", model_folder).classify(pictures / "a.png")
    first = blocks[0].splitlines()[1]
    assert first.split()[:3] == ["1", found.answer, f"{found.labels[0].score:.1%}"]


def test_a_table_fits_in_80_columns_whatever_the_names(classify, pictures):
    names = "红色的消防车, a very long name that goes on and on and on and on, cat"
    _, out, _ = classify(pictures / "a.png", "--classes", names, "--templates", "plain")
    lines = out.splitlines()[1:]
    assert max(map(text_width, lines)) <= 80
    assert len({text_width(line[: line.index("%")]) for line in lines}) == 1


def test_a_bad_picture_is_reported_in_its_place_and_exits_with_1(classify, pictures):
    code, out, err = classify(pictures, "--classes", "cat,dog", "--jsonl")
    assert code == 1
    assert "1 of 4 pictures could not be read" in err
    results = [json.loads(line) for line in out.splitlines()]
    assert [result["source"] for result in results] == [str(p) for p in sorted(pictures.iterdir())]
    assert ["reason" in result for result in results] == [False, False, False, True]


def test_json_is_one_list_with_all_that_python_gives(classify, pictures, model_folder):
    code, out, _ = classify(pictures / "b.jpg", "--classes", "cat,dog", "--json", "--top", "1")
    assert code == 0
    (result,) = json.loads(out)
    found = Classifier("cat,dog", model_folder).classify(pictures / "b.jpg", top_k=1)
    assert result["answer"] == found.answer
    assert result["labels"][0]["score"] == pytest.approx(found.labels[0].score, abs=1e-6)
    assert result["scores"] == "softmax"
    assert not result["none_of_these"]


def test_csv_has_a_line_for_every_class_and_quotes_names(classify, pictures, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text('cat, "big"\ndog\n')
    code, out, _ = classify(pictures, "--classes-file", names, "--csv")
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 3 * 2 + 1
    assert {row["name"] for row in rows} == {'cat, "big"', "dog", ""}
    assert rows[-1]["note"].startswith("not read: ")


def test_output_goes_to_a_file_whole(classify, pictures, tmp_path):
    target = tmp_path / "found.jsonl"
    code, out, err = classify(
        pictures / "a.png", "--classes", "cat,火车", "--jsonl", "--out", target
    )
    assert (code, out) == (0, "")
    assert f"wrote {target}" in err
    assert json.loads(target.read_text(encoding="utf-8"))["labels"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["found.jsonl", "pictures"]


def test_a_sheet_is_drawn_with_a_card_for_every_picture(classify, pictures, tmp_path):
    target = tmp_path / "sheet.png"
    code, _, err = classify(pictures, "--classes", "cat,dog", "--sheet", target)
    assert code == 1
    assert f"drew {target}" in err
    with Image.open(target) as sheet:
        assert sheet.format == "PNG"
        colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert {(0, 0, 128), (0, 128, 0)} <= colours


def test_descriptions_examples_and_names_are_put_together(classify, pictures, tmp_path):
    described = tmp_path / "d.json"
    described.write_text(json.dumps({"dog": ["it barks"], "cow": "it moos"}))
    examples = tmp_path / "examples"
    (examples / "red_thing").mkdir(parents=True)
    shutil.copy(pictures / "b.jpg", examples / "red_thing")
    code, out, _ = classify(
        pictures / "b.jpg", "--classes", "cat,dog", "--describe", described,
        "--examples", examples, "--json", "--top", "9",
    )  # fmt: skip
    assert code == 0
    labels = json.loads(out)[0]["labels"]
    assert {label["name"]: label["index"] for label in labels} == {
        "cat": 0,
        "dog": 1,
        "cow": 2,
        "red_thing": 3,
    }


def test_classes_by_example_name_other_pictures_of_the_kind(classify, pictures, tmp_path):
    for name, tones in (("warm", ("red", "orange")), ("cold", ("navy", "blue"))):
        (tmp_path / "examples" / name).mkdir(parents=True)
        for tone in tones:
            Image.new("RGB", (40, 40), tone).save(tmp_path / "examples" / name / f"{tone}.png")
    given = ("--examples", tmp_path / "examples", "--name-weight", "0", "--jsonl")
    _, out, _ = classify(pictures / "b.jpg", pictures / "a.png", *given)
    assert [json.loads(line)["answer"] for line in out.splitlines()] == ["warm", "cold"]


def test_encoded_classes_are_kept_and_used_again(classify, pictures, tmp_path):
    kept = tmp_path / "kept.safetensors"
    _, first, _ = classify(
        pictures / "a.png", "--classes", "cat,dog,cow", "--save-classes", kept, "--json"
    )
    # The file names its model, so --model is not needed.
    code, again, _ = classify(pictures / "a.png", "--use-classes", kept, "--json", model=False)
    assert code == 0
    assert json.loads(again) == json.loads(first)


def test_none_of_these_is_learnt_from_a_folder_and_kept(classify, pictures, tmp_path):
    shown = {"red": ("red", "crimson"), "navy": ("navy", "darkblue"), "none": ("white", "yellow")}
    for name, tones in shown.items():
        (tmp_path / "learn" / name).mkdir(parents=True)
        for tone in tones:
            Image.new("RGB", (40, 40), tone).save(tmp_path / "learn" / name / f"{tone}.png")
    examples = tmp_path / "examples"
    shutil.copytree(tmp_path / "learn", examples, ignore=shutil.ignore_patterns("none"))
    kept = tmp_path / "kept.safetensors"
    Image.new("RGB", (30, 30), "white").save(tmp_path / "white.png")
    code, out, _ = classify(
        tmp_path / "white.png", pictures / "b.jpg", "--examples", examples, "--name-weight", "0",
        "--learn-from", tmp_path / "learn", "--save-classes", kept, "--scores", "independent",
    )  # fmt: skip
    assert code == 0
    white, red = out.split("\n\n")
    assert "none of these" in white
    assert "none of these" not in red
    _, out, _ = classify(tmp_path / "white.png", "--use-classes", kept, "--json", model=False)
    assert json.loads(out)[0]["none_of_these"]
    assert json.loads(out)[0]["answer"] is None


def test_unreadable_pictures_to_learn_from_are_named_and_left_out(classify, pictures, tmp_path):
    for name, tone in (("red", "red"), ("navy", "navy"), ("none", "white")):
        (tmp_path / "learn" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), tone).save(tmp_path / "learn" / name / "good.png")
    examples = tmp_path / "examples"
    shutil.copytree(tmp_path / "learn", examples, ignore=shutil.ignore_patterns("none"))
    bad = tmp_path / "learn" / "red" / "bad.png"
    bad.write_bytes(b"no picture")
    code, _, err = classify(
        pictures / "a.png", "--examples", examples, "--name-weight", "0",
        "--learn-from", tmp_path / "learn",
    )  # fmt: skip
    assert code == 0
    (line,) = err.splitlines()
    assert line.startswith("lascaux: note: ")
    assert str(bad) in line


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("a.png", "--classes", "cat", "--top", "0"),
        ("a.png", "--classes", "cat", "--json", "--csv"),
        ("a.png", "--classes", " , "),
        ("a.png", "--classes", "cat", "--colour"),
        ("a.png", "--classes", "cat", "--sheet", "s.gif"),
        ("a.png", "--classes", "cat", "--out", "no/such/folder/f"),
        ("a.png", "--classes", "cat", "--use-classes", "f"),
        ("a.png", "--classes", "cat", "--name-weight", "-1"),
        ("a.png", "--model", "ViT-B/32"),
    ],
)
def test_wrong_use_exits_with_2_and_says_so(words, capsys):
    assert main(["classify", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "lascaux" in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--model", "/no/such/model", "--classes", "cat"), "/no/such/model"),
        (("--classes-file", "none.txt"), "none.txt"),
        (("--classes", "cat", "--templates", "imagnet"), "imagnet"),
        (("--use-classes", "none.safetensors"), "none.safetensors"),
    ],
)
def test_work_that_fails_exits_with_1_and_names_what(words, reason, pictures, model_folder, capsys):
    given = [*words] if "--model" in words else [*words, "--model", str(model_folder)]
    assert main(["classify", str(pictures / "a.png"), *given]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err
    assert "Traceback" not in err


def test_a_folder_without_pictures_is_reported_before_any_work(classify, tmp_path):
    (tmp_path / "sub").mkdir()
    code, _, err = classify(tmp_path, "--classes", "cat")
    assert code == 1
    assert "--recursive" in err
    assert len(err.splitlines()) == 1


def test_a_folder_without_pictures_fails_beside_others(classify, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = classify(
        tmp_path / "empty", pictures / "a.png", "--classes", "cat,dog", "--jsonl"
    )
    assert code == 1
    assert err == "lascaux: 1 of 2 pictures could not be read\n"
    assert [json.loads(line).get("reason", "")[:11] for line in out.splitlines()] == [
        "no pictures",
        "",
    ]


def test_too_long_texts_are_noted_in_one_line_without_a_traceback(classify, pictures):
    code, _, err = classify(pictures / "a.png", "--classes", "cat,dog" + " and cat" * 60)
    assert code == 0
    assert len(err.strip().splitlines()) == 1
    assert "note: text" in err


def test_a_terminal_without_unicode_gets_plain_bars(pictures, model_folder):
    done = subprocess.run(
        [sys.executable, "-m", "lascaux.cli.main", "classify", str(pictures / "a.png"),
         "--classes", "火车,cat", "--model", str(model_folder)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True,
    )  # fmt: skip
    assert b"#" in done.stdout
    assert b"?" in done.stdout


def test_an_interrupted_command_exits_with_130(monkeypatch, pictures, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lascaux.tasks.classify.load_clip", interrupted)
    assert main(["classify", str(pictures / "a.png"), "--classes", "cat"]) == 130
    assert capsys.readouterr().err == "lascaux: interrupted\n"


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes of POSIX")
def test_a_reader_that_has_seen_enough_causes_no_complaint(pictures, model_folder):
    command = (
        f"{sys.executable} -m lascaux.cli.main classify {pictures} --classes imagenet --top 1000 "
        f"--templates plain --model {model_folder} | head -c 10"
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert len(done.stdout) == 10
    assert "BrokenPipe" not in done.stderr
