import json
import re
from pathlib import Path

from lascaux.data.sources import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_page_names_every_kind_of_source():
    table = PAGE.partition("## Sources")[2].partition("**Tables.**")[0]
    told = re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\| (`.*?) \|", table)))
    assert sorted(told) == sorted(KINDS)


def test_the_examples_run(tmp_path, monkeypatch, png):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    for number in range(260):
        (tmp_path / "val2017" / f"{number}.png").write_bytes(png(number % 7))
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(260)],
        "annotations": [{"image_id": n, "caption": f"picture {n}"} for n in range(260)],
    }
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    opening, loading, preparing = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    loading = loading.replace("size=224", "size=8").replace("workers=2", "workers=0")
    names: dict = {}
    exec(opening, names)
    assert names["record"].captions == ("picture 17",)
    exec(f"{loading}    break\n", names)
    assert names["batch"]["picture"].shape == (256, 3, 8, 8)
    assert len(names["batch"]["caption"]) == 256
    exec(f"{preparing}    break\n", names)
    assert names["batch"]["features"].shape == (256, 256)
    assert len(names["batch"]["caption"]) == 256
    assert names["state"] == {"seed": 0, "epoch": 1, "position": 0, "world_size": 1}
