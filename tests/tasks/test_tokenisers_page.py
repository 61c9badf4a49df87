import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import lascaux
import lascaux.weights.load
from lascaux.models.vqgan import VqGan
from lascaux.weights import catalogue
from tokenisers import VQGAN, tiny_tokeniser

PAGE = (Path(__file__).parents[2] / "docs" / "tokenisers.md").read_text(encoding="utf-8")


@pytest.fixture
def small_models(monkeypatch):
    """Small models under the names of large ones."""

    def load(name, **_):
        if name == "vqgan-imagenet-f16-1024":
            # The page says how many ids there are.
            levels = {"multiples": (1,) * 5, "image_size": 256, "attention_sizes": (16,)}
            return VqGan(replace(VQGAN, codes=1024, width=4, **levels)).eval()
        return tiny_tokeniser({"vae.pt": "discrete-vae"}[name])

    # The front door first: it would fetch, and keep, what it finds in the house.
    monkeypatch.setattr(lascaux, "load", load)
    monkeypatch.setattr(lascaux.weights.load, "load", load)


def test_the_examples_run_and_say_what_is_written(small_models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 280), "navy").save("photo.jpg")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("(16, 16) (")
    assert printed[1] == "0.0390625"
    with Image.open("picture.png") as picture:
        assert picture.size == (256, 256)
    rows = [line for line in printed if line.startswith("| ")]
    assert len(rows) == 4
    assert "\n".join(rows) in PAGE
    assert names["back"].loss.isfinite()


def test_every_name_of_the_table_is_in_the_catalogue_with_its_codes():
    table = PAGE.partition("| model | one code for |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:-1]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        found = [catalogue.find(name) for name in re.findall(r"`([\w-]+)`", cells[0])]
        assert found
        if "to" in cells[2]:
            continue
        codes = [int(one.replace(",", "")) for one in cells[2].split(", ")]
        for entry, count in zip(found, codes * len(found), strict=False):
            if entry.embedded:
                config = lascaux.load(entry.name).config
            else:
                config = lascaux.weights.load.KINDS[entry.model].variants[entry.variant]
            assert config.codes == count
            assert f"{config.factor} x {config.factor}" in cells[1]
            assert str(config.image_size) == cells[3]
            by_hand = any(file.by_hand for file in entry.files)
            way = "in the package" if entry.embedded else "fetched once"
            assert cells[4] == ("by hand" if by_hand else way)
