import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import lascaux
from codes import TINY
from lascaux.cli.main import main
from lascaux.data.maps import LabelMaps
from lascaux.data.prepared import PreparedFeatures
from lascaux.data.sources import open_source
from lascaux.errors import BadInput, BadPicture
from lascaux.images.preprocess import Preprocessing
from lascaux.models.taming_transformer import TamingTransformer, TamingTransformerConfig
from lascaux.models.vqgan import VqGan
from lascaux.tasks import Painter
from lascaux.train import codes as shared
from lascaux.train import records
from lascaux.train.checkpoint import latest
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.recipe import Moment
from lascaux.train.recipes import taming as recipes
from lascaux.train.recipes.taming import TamingTraining

QUICK = Running(threads=1, workers=0, validate_every=6, log_every=2)
CLASSES = ("boats", "cats", "7")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(recipes, "_SHOWN", 2)
    tiny = TamingTransformerConfig(codes=1, length=1, layers=2, heads=2, width=32)
    monkeypatch.setitem(recipes.ARCHITECTURES, "tiny", tiny)
    yield
    torch.set_num_threads(threads)
    kept = (records.source_of, recipes._kept, recipes._pretrained, recipes._stage)
    for each in (*kept, shared.tokeniser_of):
        each.cache_clear()


@pytest.fixture(scope="module")
def tokeniser(tmp_path_factory) -> str:
    """8 pixels as 16 codes."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    vqgan = VqGan(replace(TINY, image_size=8))
    with torch.no_grad():
        vqgan.codebook.weight.normal_()
    lascaux.save(vqgan, folder / "vqgan")
    return str(folder / "vqgan")


@pytest.fixture(scope="module")
def classes(data: Path, tmp_path_factory) -> Path:
    """The same pictures in a folder for each class."""
    folder = tmp_path_factory.mktemp("classes")
    for number, path in enumerate(sorted(data.iterdir())):
        inside = folder / CLASSES[number % 3]
        inside.mkdir(exist_ok=True)
        (inside / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def maps(data: Path, tmp_path_factory) -> Path:
    """A map of 300 classes beside each picture: 299 before 0."""
    folder = tmp_path_factory.mktemp("maps")
    for path in data.iterdir():
        with Image.open(path) as picture:
            numbers = np.zeros(picture.size[::-1], np.uint16)
        numbers[5:, 3:12] = 299
        Image.fromarray(numbers).save(folder / path.name)
    return folder


def recipe(data: Path, tokeniser: str, **changes) -> TamingTraining:
    settings = {
        "data": str(data),
        "tokeniser": tokeniser,
        "architecture": "tiny",
        "steps": 12,
        "batch_size": 6,
        "warmup_steps": 2,
        "learning_rate": 3e-3,
        "validation": 0.25,
        **changes,
    }
    return TamingTraining(**settings)


def held(folder: Path) -> dict[str, Tensor]:
    return torch.load(latest(folder), weights_only=True)["model"]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_ends_with_the_same_bits(classes: Path, tmp_path: Path, tokeniser: str):
    chance = {"codes_kept": 0.8, "dropout": 0.1, "views": 3, "flip": 0.5}
    wanted = recipe(classes, tokeniser, condition="class", averaging=0.5, **chance)
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", replace(QUICK, workers=1), stop_after=7)
    assert train(wanted, tmp_path / "parts", QUICK)
    a, b = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_pictures_after_nothing_are_learnt_in_any_order(data: Path, tmp_path: Path, tokeniser):
    wanted = recipe(data, tokeniser, steps=60, validation=0.0, order="z-curve", optimiser="muon")
    assert train(wanted, tmp_path, QUICK)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    model = lascaux.load(tmp_path / "model")
    assert isinstance(model, TamingTransformer)
    assert (model.codes, model.config.length, model.config.order_grid) == (64, 16, (4, 4))
    (picture,) = Painter(model).paint(seeds=[1])
    assert picture.image.size == (8, 8)


def test_classes_are_painted_by_the_names_of_their_folders(
    classes: Path, tmp_path: Path, tokeniser
):
    wanted = recipe(classes, tokeniser, condition="class")
    assert train(wanted, tmp_path, replace(QUICK, sample_every=12))
    told = [line for line in lines(tmp_path) if "validation_loss" in line]
    assert 0 < told[-1]["validation_loss"] < 10
    model, out = str(tmp_path / "model"), tmp_path / "out"
    words = ["paint", "--model", model, "--out", str(out), "--class"]
    assert main([*words, "cats"]) == 0
    assert (out / "cats-0.png").is_file()
    painter = Painter(lascaux.load(model))
    named = [painter.paint(label=label)[0].settings["condition"] for label in ("7", 0, "Boats")]
    # A name that is a number goes before the number of a class.
    assert [(each["number"], each["name"]) for each in named] == [
        (0, "7"), (0, "7"), (1, "boats"),
    ]  # fmt: skip
    assert main([*words, "cat"]) == 1


def test_maps_lie_beside_the_pictures(data: Path, maps: Path, tmp_path: Path, tokeniser: str):
    wanted = recipe(
        data, tokeniser, condition="map", maps=str(maps), labels=300, grounds=1, shapes=8
    )
    assert train(wanted, tmp_path / "run", replace(QUICK, sample_every=12))
    model = lascaux.load(tmp_path / "run" / "model")
    assert model.codes == 300 + model.condition_stage.config.shapes
    prepared = PreparedFeatures(tmp_path / "run" / "maps")
    assert prepared.shape == (32,)
    assert 299 in prepared.features(3)
    seg = maps / "07.png"
    words = ["paint", "--model", str(tmp_path / "run" / "model"), "--out", str(tmp_path / "out")]
    assert main([*words, "--map", str(seg), "--size", "8x8"]) == 0
    # A larger picture is seen through a window, in which each code has both tokens of its patch.
    assert main([*words, "--map", str(seg), "--size", "12x8", "--seed", "1"]) == 0
    with Image.open(tmp_path / "out" / "07-1.png") as picture:
        assert picture.size == (12, 8)


def test_maps_are_made_square_as_their_pictures_are(data: Path, maps: Path, tmp_path: Path):
    how = Preprocessing(size=16)
    found = LabelMaps(open_source(data), maps, how, 300)[20]
    numbers = found.numbers()
    assert numbers.shape == (16, 16)
    assert set(np.unique(numbers)) == {0, 299}
    with pytest.raises(BadPicture, match="numbers 0 to 299; expected 0 to 298"):
        LabelMaps(open_source(data), maps, how, 299)[0].numbers()
    with pytest.raises(BadInput, match="24 of 24 pictures have no map"):
        LabelMaps(open_source(data), tmp_path, how, 300)


def test_only_matrices_of_layers_decay(data: Path, tokeniser: str):
    model = recipe(data, tokeniser).build()
    groups = recipe(data, tokeniser).optimisers(model)["model"].groups
    decayed = {name for group in groups if group.weight_decay for name, _ in group.parameters}
    tables = {"transformer.tokens.weight", "transformer.positions"}
    wide = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert decayed == wide - tables
    muon = recipe(data, tokeniser, optimiser="muon").optimisers(model)["model"].groups
    names = [name for group in muon for name, _ in group.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert {name for name, _ in muon[0].parameters} == decayed - {"transformer.head.weight"}


def test_codes_that_are_not_kept_are_read_as_others_and_still_expected(data: Path, tokeniser):
    torch.manual_seed(0)
    wanted = recipe(data, tokeniser, codes_kept=0.5)
    model = wanted.build().train()
    batch = {"features": torch.randint(64, (4, 16))}
    losses = {wanted.loss(model, batch, Moment(0)).value.item() for _ in range(2)}
    assert len(losses) == 2
    model.eval()
    losses |= {wanted.loss(model, batch, Moment(0)).value.item() for _ in range(2)}
    assert len(losses) == 3


def test_what_does_not_fit_is_refused_in_words(
    data: Path, classes: Path, tmp_path, tokeniser, capsys
):
    words = ["train", "taming", "--runs", str(tmp_path), "--data", str(data)]
    assert main(words) == 2
    assert "--tokeniser is missing" in capsys.readouterr().err
    words += ["--tokeniser", tokeniser]
    assert main([*words, "--condition", "map"]) == 2
    assert "--maps names the folder" in capsys.readouterr().err
    assert main([*words, "--labels", "3"]) == 2
    assert "say --condition map as well" in capsys.readouterr().err
    assert main([*words, "--condition", "class"]) == 1
    assert "24 of 24 records" in capsys.readouterr().err
    assert main([*words, "--order", "sideways"]) == 1
    assert "--order sideways: expected one of identity" in capsys.readouterr().err
    other = TamingTransformer(
        TamingTransformerConfig(codes=9, length=4, layers=1, heads=1, width=4)
    )
    lascaux.save(other, tmp_path / "other")
    with pytest.raises(BadInput, match="has 9 tokens and 4 positions; wanted are 64 and 16"):
        recipe(data, tokeniser, model=str(tmp_path / "other")).build()
