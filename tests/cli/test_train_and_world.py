import json
from pathlib import Path

import pytest

from lascaux.cli.main import main


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--steps", "0"), "--steps is 0; it must be at least 1"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--seed", "-1"), "--seed is -1"),
        (("--threads", "0"), "--threads is 0"),
        (("--step", "5"), "unrecognized arguments: --step"),
    ],
)
def test_settings_that_make_no_run_are_wrong_use(words, reason, tmp_path: Path, capsys):
    assert main(["train", "ochre-judge", "--runs", str(tmp_path), *words]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_scenes_are_written_with_maps_and_captions(tmp_path: Path, capsys):
    assert main(["world", "--out", str(tmp_path), "--n", "2", "--maps", "--seed", "7"]) == 0
    names = ["train-000007.map.png", "train-000007.png", "train-000008.map.png", "train-000008.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("captions.jsonl", "labels.txt"),
        *names,
    ]
    told = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [each["file"] for each in told] == names[1::2]
    assert told[0]["caption"] in capsys.readouterr().out


def test_a_file_in_the_way_of_the_folder_of_scenes_is_wrong_use(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["world", "--out", str(tmp_path / "file")]) == 2
    assert "no folder can be made there" in capsys.readouterr().err


def test_a_model_of_another_kind_is_refused_by_each_benchmark(tmp_path: Path, capsys):
    import lascaux
    from lascaux.models.judge import Judge, JudgeConfig

    lascaux.save(Judge(JudgeConfig(objects=3, backgrounds=2)), tmp_path / "judge")
    assert main(["evaluate", "ochre-clip", "--model", str(tmp_path / "judge")]) == 1
    assert "is a Judge; this benchmark is of a CLIP" in capsys.readouterr().err
