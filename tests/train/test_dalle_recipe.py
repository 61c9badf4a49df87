import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import lascaux
from codes import TINY
from lascaux.cli.main import main
from lascaux.errors import BadInput
from lascaux.models.dalle import Dalle, DalleConfig
from lascaux.models.vqgan import VqGan
from lascaux.train import codes as shared
from lascaux.train import records
from lascaux.train.checkpoint import latest
from lascaux.train.codes import estranged
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.recipe import Moment, Part, Share
from lascaux.train.recipes import dalle as recipes
from lascaux.train.recipes import ochre_dalle
from lascaux.train.recipes.dalle import DalleTraining
from lascaux.train.recipes.ochre_dalle import OchreDalle

QUICK = Running(threads=1, workers=0, validate_every=6, log_every=2)
NAMES = ("apple", "boat", "cloud", "drum", "eagle", "fox")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    threads = torch.get_num_threads()
    tiny = DalleConfig(codes=1, grid=1, width=32, layers=2, heads=2, head_width=16, text_length=8)
    monkeypatch.setitem(recipes.ARCHITECTURES, "tiny", tiny)
    yield
    torch.set_num_threads(threads)
    kept = (
        records.source_of,
        recipes._captioned,
        recipes._kept,
        recipes._pretrained,
        recipes._vocabulary,
    )
    for each in (*kept, recipes._named, shared.tokeniser_of):
        each.cache_clear()


@pytest.fixture(scope="module")
def captioned(data: Path, tmp_path_factory) -> Path:
    """The pictures with two captions each."""
    folder = tmp_path_factory.mktemp("captioned") / "blocks"
    shutil.copytree(data, folder)
    for number, picture in enumerate(sorted(folder.glob("*.png"))):
        name, other = NAMES[number % 6], NAMES[number // 6]
        picture.with_suffix(".txt").write_text(f"{name} and {other}\na {name} beside {other}\n")
    return folder


@pytest.fixture(scope="module")
def vqgan(tmp_path_factory) -> str:
    """A tokeniser of 16 pixels as 64 codes."""
    torch.manual_seed(0)
    model = VqGan(TINY)
    with torch.no_grad():
        model.codebook.weight.normal_()
    return str(lascaux.save(model, tmp_path_factory.mktemp("parts") / "vqgan"))


def recipe(data: Path, vqgan: str, **changes) -> DalleTraining:
    settings = {
        "data": str(data),
        "tokeniser": vqgan,
        "architecture": "tiny",
        "vocabulary": 560,
        "steps": 8,
        "batch_size": 6,
        "warmup_steps": 2,
        "learning_rate": 3e-3,
        "validation": 0.25,
        **changes,
    }
    return DalleTraining(**settings)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def held(folder: Path) -> dict[str, Tensor]:
    return torch.load(latest(folder), weights_only=True)["model"]


def test_a_stopped_run_ends_with_the_same_bits(captioned, tmp_path, vqgan):
    changes = {"views": 2, "null_condition": 0.3, "dropout": 0.1, "averaging": 0.5}
    wanted = recipe(captioned, vqgan, reversible=True, **changes)
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", replace(QUICK, workers=1), stop_after=5)
    assert train(wanted, tmp_path / "parts", QUICK)
    a, b = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_codes_and_captions_are_learnt_and_the_model_names_its_tokeniser(
    captioned, tmp_path, vqgan
):
    wanted = recipe(captioned, vqgan, steps=50, validation=0.0, optimiser="muon", image_weight=3.0)
    assert train(wanted, tmp_path, QUICK)
    told = [line for line in lines(tmp_path) if "loss" in line]
    assert told[-1]["image_loss"] < 0.6 * told[0]["image_loss"]
    assert told[-1]["text_loss"] < 0.4 * told[0]["text_loss"]
    both = (told[-1]["text_loss"] + 3 * told[-1]["image_loss"]) / 4
    assert told[-1]["loss"] == pytest.approx(both, rel=1e-4)
    model = lascaux.load(tmp_path / "model")
    assert isinstance(model, Dalle)
    config = model.config
    assert (config.codes, config.grid, config.text_length, config.image_weight) == (64, 8, 8, 3)
    assert config.tokeniser == vqgan
    assert model.tokenizer.vocabulary_size == config.text_tokens


def test_what_is_kept_aside_is_measured_and_painted(captioned, tmp_path, vqgan):
    changed = tmp_path / "data"
    shutil.copytree(captioned, changed)
    (changed / "05.png").write_bytes(b"no picture")
    (changed / "06.txt").unlink()
    wanted = recipe(changed, vqgan)
    assert train(wanted, tmp_path / "run", replace(QUICK, sample_every=8))
    figures = [line for line in lines(tmp_path / "run") if "validation_loss" in line][-1]
    text, image = (figures[f"validation_{kind}_loss"] for kind in ("text", "image"))
    assert figures["validation_loss"] == pytest.approx((text + 7 * image) / 8)
    shown = wanted.samples(lascaux.load(tmp_path / "run" / "model"))
    assert {sample.picture.size for sample in shown} == {(32, 16)}
    assert all(" and " in sample.title for sample in shown)


def test_one_of_a_pictures_captions_is_drawn_each_time(captioned, tmp_path, vqgan):
    wanted = recipe(captioned, vqgan, batch_size=24, validation=0.0)
    wanted.prepare(tmp_path)
    said, spelt = set(), set()
    for batch, _ in zip(wanted.feed(Part(0, folder=tmp_path)), range(8), strict=False):
        said |= {wanted._tokenizer().decode(row) for row in batch["text"]}
        spelt |= {tuple(row.tolist()) for row in batch["tokens"]}
    assert {"apple and apple ", "a apple beside apple "} <= said
    assert len(said) > 40
    assert len(spelt) == 24


def test_a_caption_that_is_left_away_is_the_null_condition_of_guidance(captioned, vqgan):
    wanted = recipe(captioned, vqgan, null_condition=1.0)
    torch.manual_seed(0)
    model = wanted.build().eval()
    batch = {"text": torch.randint(1, 500, (3, 8)), "tokens": torch.randint(0, 64, (3, 64))}
    found = wanted.loss(model, batch, Moment(0))
    none = model.loss(torch.zeros(3, 8, dtype=torch.int64), batch["tokens"])
    assert found.value.item() == pytest.approx(none.total.item())
    every = replace(wanted, null_condition=0.0).loss(model, batch, Moment(0))
    assert every.value.item() == pytest.approx(model.loss(**_named(batch)).total.item())
    assert every.value.item() != pytest.approx(none.total.item())


def test_flags_say_what_the_model_sees_and_by_which_words(captioned, vqgan):
    changes = {"patterns": ("axial_row", "conv_like"), "reversible": True, "text_length": 12}
    model = recipe(captioned, vqgan, text_tokenizer="ochre-clip", dropout=0.2, **changes).build()
    config = model.config
    assert (config.patterns, config.reversible) == (changes["patterns"], True)
    assert (config.text_length, config.text_tokens) == (12, 2048)
    assert (config.attention_dropout, config.mlp_dropout) == (0.2, 0.2)


def test_a_trained_model_is_trained_on_with_its_own_words(captioned, tmp_path, vqgan):
    first = recipe(captioned, vqgan)
    torch.manual_seed(3)
    model = first.build()
    model.tokeniser = VqGan(TINY)  # as published files have one inside
    lascaux.save(model, tmp_path / "first")
    again = recipe(captioned, vqgan, model=str(tmp_path / "first"), image_weight=2.0).build()
    assert again.tokeniser is None
    assert again.config.image_weight == 2
    assert again.tokenizer.vocabulary_size == model.config.text_tokens
    ours = again.state_dict()
    assert all(torch.equal(x, model.state_dict()[key]) for key, x in ours.items())
    with pytest.raises(BadInput, match=r"has text_tokens .* it would be 2048"):
        recipe(captioned, vqgan, model=str(tmp_path / "first"), text_tokenizer="ochre-clip").build()


def test_a_trained_folder_imagines_from_the_command_line(captioned, tmp_path, vqgan, capsys):
    words = ["--data", captioned, "--tokeniser", vqgan, "--architecture", "tiny", "--steps", 4]
    words += ["--vocabulary", 560, "--batch-size", 6, "--runs", tmp_path, "--workers", 0]
    words += ["--threads", 1, "--null-condition", 0.2, "--patterns", "full", "axial_col"]
    assert main(["train", "dalle", *map(str, words)]) == 0
    folder, out = tmp_path / "dalle-0" / "model", tmp_path / "out"
    words = ["fox and drum", "--model", folder, "--n", 2, "--guidance", 3, "--out", out]
    assert main(["imagine", *map(str, words)]) == 0
    pictures = sorted(path.name for path in out.glob("fox-and-drum-*.png"))
    assert len(pictures) == 2
    with Image.open(out / pictures[0]) as picture:
        assert picture.size == (16, 16)
    again = tmp_path / "again"
    assert main(["imagine", "--from", str(out / pictures[0]), "--out", str(again)]) == 0
    assert "others" not in capsys.readouterr().err


def test_what_does_not_fit_is_refused_in_words(data, captioned, tmp_path, vqgan, capsys):
    words = ["train", "dalle", "--runs", str(tmp_path), "--data", str(captioned)]
    assert main(words) == 2
    assert "--tokeniser is missing" in capsys.readouterr().err
    assert main([*words, "--tokeniser", "ochre-clip"]) == 1
    assert "what is wanted here is an image tokeniser" in capsys.readouterr().err
    with pytest.raises(BadInput, match="has no captions"):
        recipe(data, vqgan).build()
    with pytest.raises(BadInput, match="is a VqGan; expected a DALL-E"):
        recipe(captioned, vqgan, model=vqgan).build()
    with pytest.raises(BadInput, match="leave --patterns"):
        recipe(captioned, vqgan, model=vqgan, patterns=("full",))
    with pytest.raises(BadInput, match="has no text tokeniser with it"):
        recipe(captioned, vqgan, text_tokenizer="ochre-vq").build()
    with pytest.raises(BadInput, match="--null-condition is 2"):
        recipe(captioned, vqgan, null_condition=2.0)


# The emoji world


@pytest.fixture
def few(monkeypatch):
    """A validation of six scenes, and a network that is quickly computed."""
    monkeypatch.setattr(ochre_dalle, "_VALIDATED", 6)
    monkeypatch.setattr(
        ochre_dalle, "OCHRE", replace(ochre_dalle.OCHRE, width=32, layers=2, head_width=8)
    )
    ochre_dalle._kept.cache_clear()
    yield
    ochre_dalle._kept.cache_clear()


def test_captions_are_worded_by_their_share(tmp_path):
    wanted = OchreDalle(chinese=0.5, different=64)
    pool = wanted.pool(tmp_path)
    first, again, later = (wanted.batch(pool, Share(n, n, 64)) for n in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    order = [pool.numbers(Share(1, 1, 64)).index(number) for number in range(64)]
    assert torch.equal(later["tokens"][order], first["tokens"]), "the same scenes"
    assert not torch.equal(later["text"][order], first["text"]), "in other words"
    said = "".join(ochre_dalle.tokenizer().decode(row) for row in first["text"])
    assert any("\u4e00" <= letter <= "\u9fff" for letter in said)
    assert any("a" <= letter <= "z" for letter in said)


def test_codes_are_also_learnt_after_those_of_other_pictures(tmp_path):
    torch.manual_seed(0)
    wanted = OchreDalle(strange_codes=1.0, null_condition=0.0, different=64)
    model = wanted.build()
    batch = wanted.batch(wanted.pool(tmp_path), Share(0, 0, 4))
    torch.manual_seed(5)
    found = wanted.loss(model, batch, Moment(0))
    torch.manual_seed(5)
    read = estranged(batch["tokens"], 1.0)
    assert not torch.equal(read, batch["tokens"])
    logits = model(batch["text"], read)[:, -64:].float()
    expected = torch.nn.functional.cross_entropy(
        logits[..., -4096:].flatten(0, 1), batch["tokens"].flatten()
    )
    torch.testing.assert_close(found.figures["image_loss"], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadInput, match=r"--strange-codes is -1\.0; expected 0 to 1"):
        OchreDalle(strange_codes=-1.0)


def test_the_embedded_size_is_kept_and_every_weight_has_a_gradient(tmp_path):
    torch.manual_seed(0)
    wanted = OchreDalle(null_condition=0.0)
    model = wanted.build().train()
    assert sum(p.numel() for p in model.parameters()) <= 3_900_000
    wanted.loss(
        model, wanted.batch(wanted.pool(tmp_path), Share(0, 0, 2)), Moment(0)
    ).value.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    wanted.export(model.eval(), tmp_path / "model", {"validation_loss": 1.0})
    assert (tmp_path / "model" / "model.safetensors").stat().st_size <= 8_000_000
    loaded = lascaux.load(tmp_path / "model")
    assert loaded.config.tokeniser == "ochre-vq"
    words = "一个苹果 on a red background"
    ids = loaded.tokenizer.encoder.encode(words)
    assert ids == ochre_dalle.tokenizer().encoder.encode(words)


def test_a_stopped_run_on_scenes_ends_with_the_same_bits(tmp_path, few):
    wanted = OchreDalle(different=64, steps=6, batch_size=4, warmup_steps=2, cooldown_steps=2)
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", QUICK, stop_after=3)
    assert train(wanted, tmp_path / "parts", QUICK)
    a, b = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)
    figures = [line for line in lines(tmp_path / "whole") if "validation_image_loss" in line][-1]
    assert 0 < figures["validation_image_loss"] < 9
    shown = wanted.samples(lascaux.load(tmp_path / "whole" / "model"))
    assert {sample.picture.size for sample in shown} == {(128, 64)}


def test_a_tokeniser_of_another_size_is_refused(vqgan, tmp_path):
    wanted = OchreDalle(tokeniser=vqgan)
    with pytest.raises(BadInput, match="reads pictures of 16 pixels; scenes have 64"):
        wanted.batch(wanted.pool(tmp_path), Share(0, 0, 2))


def _named(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"text": batch["text"], "codes": batch["tokens"]}
