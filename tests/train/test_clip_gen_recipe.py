import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lascaux
from codes import TINY
from lascaux.cli.main import main
from lascaux.data.paired import PairedFeatures, PairedSamples
from lascaux.data.prepared import PreparedFeatures
from lascaux.errors import BadInput
from lascaux.models.clip import Clip
from lascaux.models.clip_gen import ClipGen, ClipGenConfig
from lascaux.models.vqgan import VqGan
from lascaux.train import clip_gen as shared
from lascaux.train import records
from lascaux.train.checkpoint import latest
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.recipe import Moment
from lascaux.train.recipes import clip_gen as recipes
from lascaux.train.recipes.clip_gen import ClipGenTraining
from tiny import tiny_reader

QUICK = Running(threads=1, workers=0, validate_every=6, log_every=2)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    threads = torch.get_num_threads()
    tiny = ClipGenConfig(codes=1, layers=2, heads=2, width=32)
    monkeypatch.setitem(recipes.ARCHITECTURES, "tiny", tiny)
    yield
    torch.set_num_threads(threads)
    kept = (records.source_of, recipes._kept, recipes._pretrained)
    for each in (*kept, shared.tokeniser_of, shared.clip_of):
        each.cache_clear()


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, str]:
    """A tokeniser of 16 pixels as 64 codes, and a CLIP."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    vqgan = VqGan(TINY)
    with torch.no_grad():
        vqgan.codebook.weight.normal_()
    lascaux.save(vqgan, folder / "vqgan")
    lascaux.save(Clip(tiny_reader(600)), folder / "clip")
    return {"tokeniser": str(folder / "vqgan"), "clip": str(folder / "clip")}


def recipe(data: Path, parts: dict[str, str], **changes) -> ClipGenTraining:
    settings = {
        "data": str(data),
        "architecture": "tiny",
        "steps": 12,
        "batch_size": 6,
        "warmup_steps": 2,
        "learning_rate": 3e-3,
        "validation": 0.25,
        **parts,
        **changes,
    }
    return ClipGenTraining(**settings)


def held(folder: Path) -> dict[str, Tensor]:
    return torch.load(latest(folder), weights_only=True)["model"]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_ends_with_the_same_bits(data: Path, tmp_path: Path, parts):
    wanted = recipe(data, parts, views=3, flip=0.5, embedding_noise=0.3, averaging=0.5)
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", replace(QUICK, workers=1), stop_after=7)
    assert train(wanted, tmp_path / "parts", QUICK)
    a, b = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_codes_are_learnt_from_embeddings_without_captions(data: Path, tmp_path: Path, parts):
    wanted = recipe(data, parts, steps=60, validation=0.0, optimiser="muon")
    assert train(wanted, tmp_path, QUICK)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    model = lascaux.load(tmp_path / "model")
    assert isinstance(model, ClipGen)
    assert (model.config.codes, model.config.length) == (64, 64)
    assert model.config.tokeniser == parts["tokeniser"]
    assert model.config.clip == parts["clip"]


def test_what_is_kept_aside_is_measured_and_drawn(data: Path, tmp_path: Path, parts):
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "05.png").write_bytes(b"no picture")
    wanted = recipe(broken, parts)
    assert train(wanted, tmp_path / "run", replace(QUICK, sample_every=12))
    told = [line for line in lines(tmp_path / "run") if "validation_loss" in line]
    assert 0 < told[-1]["validation_loss"] < 10
    model = lascaux.load(tmp_path / "run" / "model")
    shown = wanted.samples(model)
    assert {sample.picture.size for sample in shown} == {(32, 16)}
    again = wanted.samples(model)
    assert np.array_equal(np.asarray(shown[0].picture), np.asarray(again[0].picture))


def test_both_kinds_of_features_are_of_the_same_cut_outs(data: Path, tmp_path: Path, parts):
    wanted = recipe(data, parts, views=2)
    wanted.prepare(tmp_path)
    tokens, embeddings = (PreparedFeatures(tmp_path / n) for n in ("tokens", "embeddings"))
    paired = PairedFeatures(tokens, embeddings)
    assert len(paired) == 24
    rng = np.random.Generator(np.random.PCG64([3]))
    views = set()
    for _ in range(20):
        sample = PairedSamples(("a", "b"))(paired[4], rng)
        (view,) = [v for v in range(2) if torch.equal(tokens.features(4, v), sample["a"])]
        assert torch.equal(embeddings.features(4, view), sample["b"])
        views.add(view)
    assert views == {0, 1}

    records.source_of.cache_clear()
    recipe(data, parts, views=2, area=0.5).prepare(tmp_path / "other")
    other = PreparedFeatures(tmp_path / "other" / "embeddings")
    with pytest.raises(BadInput, match="were not prepared alike"):
        PairedFeatures(tokens, other)


def test_the_second_term_of_the_loss_reaches_the_transformer_alone(data: Path, parts):
    wanted = recipe(data, parts, reconstruction_weight=1.0)
    torch.manual_seed(0)
    model = wanted.build().eval()  # without dropout
    batch = {
        "tokens": torch.randint(0, 64, (2, 64)),
        "embedding": torch.nn.functional.normalize(
            torch.randn(2, model.config.embedding_width), dim=-1
        ),
    }
    both = wanted.loss(model, batch, Moment(0, "model", None))
    alone = replace(wanted, reconstruction_weight=0.0).loss(model, batch, Moment(0, "model", None))
    apart = both.figures["embedding_distance"]
    assert both.value.item() == pytest.approx(alone.value.item() + float(apart), rel=1e-5)
    both.value.backward()
    assert model.head.weight.grad.abs().sum() > 0
    frozen = shared.tokeniser_of(parts["tokeniser"]).model
    assert all(p.grad is None for p in frozen.parameters())


def test_what_does_not_fit_is_refused_in_words(data: Path, tmp_path: Path, parts, capsys):
    words = ["train", "clip-gen", "--runs", str(tmp_path), "--data", str(data)]
    assert main(words) == 2
    assert "--tokeniser is missing" in capsys.readouterr().err
    assert main([*words, "--tokeniser", parts["clip"]]) == 1
    assert "what is wanted here is an image tokeniser" in capsys.readouterr().err
    with pytest.raises(BadInput, match="is a VqGan; expected a CLIP"):
        recipe(data, {**parts, "clip": parts["tokeniser"]}).build()
    other = lascaux.save(ClipGen(ClipGenConfig(codes=9, length=4, layers=1, heads=1, width=4)),
                         tmp_path / "other")  # fmt: skip
    with pytest.raises(BadInput, match="writes 4 of 9 codes"):
        recipe(data, parts, model=str(other)).build()


def test_a_denoiser_is_learnt_of_the_embeddings_of_what_is_trained_on(data, parts, tmp_path):
    few = {"denoiser": 16, "denoiser_steps": 3, "steps": 4, "warmup_steps": 1}
    wanted = recipe(data, parts, **few, views=2, embedding_noise=0.5)
    assert not train(wanted, tmp_path / "run", QUICK, stop_after=2)
    learnt = load_file(tmp_path / "run" / "denoiser.safetensors")
    assert learnt["down.weight"].any(), "a new one has zeros"
    assert train(wanted, tmp_path / "run", QUICK)
    assert train(wanted, tmp_path / "whole", QUICK)
    a, b = (
        torch.load(latest(tmp_path / name), weights_only=True)["model"] for name in ("run", "whole")
    )
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert all(torch.equal(a[f"denoiser.{key}"], each) for key, each in learnt.items())
    model = lascaux.load(tmp_path / "run" / "model")
    assert isinstance(model, ClipGen)
    assert model.config.denoiser == 16
    # One that has none can learn it later; one that has it keeps it.
    plain = recipe(data, parts, steps=2, warmup_steps=1)
    assert train(plain, tmp_path / "plain", QUICK)
    later = recipe(data, parts, **few, model=str(tmp_path / "plain" / "model"))
    assert later.lacks_denoiser(tmp_path, lascaux.load(tmp_path / "plain" / "model"))
    assert later.build().config.denoiser == 16
    assert not later.lacks_denoiser(tmp_path, model)
    assert replace(later, denoiser_anew=True).lacks_denoiser(tmp_path, model)
    anew = replace(wanted, denoiser_anew=True, seed=8, model=str(tmp_path / "run" / "model"))
    assert train(anew, tmp_path / "anew", QUICK)
    assert not anew.lacks_denoiser(tmp_path / "anew", model)
    other = load_file(tmp_path / "anew" / "denoiser.safetensors")
    assert not torch.equal(other["down.weight"], learnt["down.weight"])
    after = torch.load(latest(tmp_path / "anew"), weights_only=True)["model"]
    assert all(torch.equal(after[f"denoiser.{key}"], each) for key, each in other.items())
    with pytest.raises(BadInput, match=r"--denoiser-noise is -1\.0"):
        recipe(data, parts, denoiser_noise=-1.0)
    with pytest.raises(BadInput, match="--denoiser-steps is -1"):
        recipe(data, parts, denoiser_steps=-1)
