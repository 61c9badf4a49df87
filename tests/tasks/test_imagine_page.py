import re
from pathlib import Path

from PIL import Image

import lascaux.weights.load
from imaginers import tiny_clip, tiny_clip_gen
from tokenisers import tiny_tokeniser

PAGE = (Path(__file__).parents[2] / "docs" / "imagine.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path, monkeypatch):
    models = {
        "ochre-imagine": tiny_clip_gen("ViT-B/32", "clip-gen-vqgan-coco"),
        "clip-gen-vqgan-coco": tiny_tokeniser("vqgan"),
        "ViT-B/32": tiny_clip(),
    }
    monkeypatch.setattr(lascaux.weights.load, "load", lambda name, **_: models[name])
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 280), "navy").save("photo.jpg")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        f"apple-{seed}.png" for seed in range(1, 9)
    ]
    assert len(names["way"]) == 12
