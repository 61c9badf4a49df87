import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.cli.main import main
from lascaux.data.world import BACKGROUNDS, MAP_NAMES
from lascaux.data.world.boxed import stacked
from lascaux.errors import WrongHash
from lascaux.models.label_patches import LabelPatches
from lascaux.tasks.tokenisers import image_tokeniser
from lascaux.train.checkpoint import latest
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.recipe import Share
from lascaux.train.recipes import ochre_map
from lascaux.train.recipes.ochre_map import OchreMap
from lascaux.train.scenes import maps_of
from lascaux.weights.fingerprint import weights_hash

QUICK = Running(threads=1, workers=0, validate_every=6, log_every=2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    threads = torch.get_num_threads()
    tiny = {"_OUTLINED": 20, "OUTLINES": 50, "_VALIDATED": 4, "_SHOWN": 1}
    for name, value in tiny.items():
        monkeypatch.setattr(ochre_map, name, value)
    monkeypatch.setattr(ochre_map, "OCHRE", replace(ochre_map.OCHRE, layers=1, heads=2, width=16))
    caches = (ochre_map._patches, ochre_map._kept)
    for each in caches:
        each.cache_clear()
    yield
    torch.set_num_threads(threads)
    for each in caches:
        each.cache_clear()


def test_the_embedded_sizes_stay_below_eight_megabytes(monkeypatch):
    monkeypatch.undo()
    fields = {"codes": 4096, "length": 127, "pairs": 2045}
    model = ochre_map.TamingTransformer(replace(ochre_map.OCHRE, **fields))
    numbers = sum(p.numel() for p in model.parameters())
    assert 2 * numbers + 64 * ochre_map.OUTLINES < 7_900_000


def test_scenes_are_painted_after_maps_of_the_world(tmp_path: Path, capsys):
    wanted = OchreMap(
        different=64, steps=8, batch_size=4, warmup_steps=2, cooldown_steps=2, averaging=0.5
    )
    running = replace(QUICK, sample_every=8)
    assert train(wanted, tmp_path / "run", running)
    told = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["validation_loss"] for line in told if "validation_loss" in line]
    assert main(["world", "--out", str(tmp_path / "world"), "--n", "1", "--maps"]) == 0
    folder = str(tmp_path / "run" / "model")
    words = ["paint", "--map", str(tmp_path / "world" / "train-000000.map.png")]
    assert main([*words, "--model", folder, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "train-000000.map-0.png") as picture:
        assert picture.size == (64, 64)

    model = lascaux.load(folder)
    assert isinstance(model.condition_stage, LabelPatches)
    assert weights_hash(model.first_stage) == weights_hash(lascaux.load("ochre-vq"))
    stored = (tmp_path / "run" / "model" / "model.safetensors").stat().st_size
    inside = sum(p.numel() for p in model.transformer.parameters())
    assert stored < 3 * inside + 20_000  # of half precision, without the 5.8 MB of ochre-vq

    config = tmp_path / "run" / "model" / "config.json"
    told = json.loads(config.read_text())
    assert told["elsewhere"]["first_stage"]["name"] == "ochre-vq"
    told["elsewhere"]["first_stage"]["weights"] = "0" * 64
    config.write_text(json.dumps(told))
    with pytest.raises(WrongHash, match="was trained with ochre-vq of weights 000000000000"):
        lascaux.load(folder)


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path):
    wanted = OchreMap(different=64, steps=4, batch_size=2, warmup_steps=1, codes_kept=0.8)
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", QUICK, stop_after=2)
    ochre_map._patches.cache_clear()
    assert train(wanted, tmp_path / "parts", QUICK)
    a, b = (
        torch.load(latest(tmp_path / name), weights_only=True)["model"]
        for name in ("whole", "parts")
    )
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_batches_hold_the_codes_of_scenes_and_of_their_maps(tmp_path: Path):
    wanted = OchreMap(different=64)
    pool = wanted.pool(tmp_path)
    batch = wanted.batch(pool, Share(1, 1, 3))
    drawn = pool.scenes([3, 4, 5])
    tokens = image_tokeniser("ochre-vq").encode(stacked(drawn).float() / 255)
    assert torch.equal(batch["tokens"], tokens)
    maps = maps_of(drawn)
    model = wanted.build()
    assert torch.equal(batch["condition"], model.condition_stage.encode_numbers(maps))


def test_the_numbers_of_maps_have_names(tmp_path: Path):
    assert MAP_NAMES[: len(BACKGROUNDS)] == BACKGROUNDS
    assert len(set(MAP_NAMES)) == len(MAP_NAMES) == 345
    assert main(["world", "--out", str(tmp_path), "--n", "1", "--maps", "--seed", "3"]) == 0
    listed = (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert listed == [f"{number}\t{name}" for number, name in enumerate(MAP_NAMES)]
    told = json.loads((tmp_path / "captions.jsonl").read_text())
    with Image.open(tmp_path / "train-000003.map.png") as drawn:
        shown = {MAP_NAMES[number] for number in np.unique(np.asarray(drawn))}
    assert shown == {told["background"], *told["objects"]}
