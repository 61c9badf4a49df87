import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lascaux
from codes import TINY
from lascaux.cli.main import main
from lascaux.data.records import Part as Some
from lascaux.data.sources import open_source
from lascaux.errors import BadInput
from lascaux.models.clip import Clip
from lascaux.models.vqgan import VARIANTS, VqGan
from lascaux.train import pictures, records, scenes
from lascaux.train.aside import kept_aside, trained_on, validated_on
from lascaux.train.checkpoint import latest
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.recipe import Share
from lascaux.train.recipes import ochre_vq
from lascaux.train.recipes import vqgan as recipes
from lascaux.train.recipes.ochre_vq import OchreVq
from lascaux.train.recipes.vqgan import VqGanTraining
from tiny import tiny_reader

QUICK = Running(threads=1, workers=0, validate_every=6, log_every=2)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setitem(recipes.ARCHITECTURES, "tiny", TINY)
    yield
    torch.set_num_threads(threads)
    for kept in (records.source_of, pictures._kept, recipes._pretrained):
        kept.cache_clear()


def recipe(data: Path, **changes) -> VqGanTraining:
    settings = {
        "data": str(data),
        "architecture": "tiny",
        "steps": 12,
        "batch_size": 6,
        "warmup_steps": 2,
        "cooldown_steps": 4,
        "learning_rate": 5e-3,
        "aside": 0.25,
        "perceptual_weight": 0.0,
        "discriminator_start": 4,
        "discriminator_width": 4,
        "discriminator_layers": 1,
        "dead_after": 3,
        "averaging": 0.5,
        **changes,
    }
    return VqGanTraining(**settings)


def held(folder: Path) -> dict[str, Tensor]:
    return torch.load(latest(folder), weights_only=True)["model"]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_on_files_ends_with_the_same_bits(data: Path, tmp_path: Path):
    wanted = recipe(data, codebook="average")
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", replace(QUICK, workers=1), stop_after=7)
    assert train(wanted, tmp_path / "parts", QUICK)
    a, b = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_pictures_without_captions_are_learnt_shown_and_spelt(data: Path, tmp_path: Path):
    wanted = recipe(data, steps=40, learning_rate=3e-3, adversarial_weight=0.0, averaging=0.0)
    assert train(wanted, tmp_path, replace(QUICK, sample_every=20))
    first, *_, last = [line for line in lines(tmp_path) if "validation_psnr" in line]
    assert last["validation_psnr"] > first["validation_psnr"] + 0.5
    assert 0 < last["validation_codes_used"] <= 1
    assert last["validation_l1"] < first["validation_l1"]
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2
    model = lascaux.load(tmp_path / "model")
    assert isinstance(model, VqGan)
    assert model.config == replace(TINY, kl_weight=wanted.divergence_weight)
    assert model.encode(torch.zeros(1, 3, 16, 16)).shape == (1, 64)
    assert "recipe `vqgan`" in (tmp_path / "model" / "README.md").read_text()


def test_a_sheet_shows_originals_beside_their_reconstructions(data: Path):
    wanted = recipe(data)
    model = wanted.build().eval()
    shown = wanted.samples(model)
    assert len(shown) == 6
    assert all(sample.picture.size == (32, 16) for sample in shown)
    assert shown[0].title.endswith(" dB")
    left = np.asarray(shown[0].picture)[:, :16]
    assert (left == wanted.kept[0].permute(1, 2, 0).numpy()).all()


def test_a_run_begins_with_the_weights_of_a_model(data: Path, tmp_path: Path):
    torch.manual_seed(7)
    before = VqGan(TINY)
    lascaux.save(before, tmp_path / "before")
    wanted = recipe(data, model=str(tmp_path / "before"), learning_rate=0.0, averaging=0.0)
    assert train(wanted, tmp_path / "run", QUICK)
    after = lascaux.load(tmp_path / "run" / "model").state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.state_dict().items()
               if not key.startswith("codebook"))  # fmt: skip
    torch.manual_seed(0)
    built = wanted.build().vqgan.codebook.weight
    assert torch.equal(built, before.codebook.weight)


def test_records_are_kept_aside_by_their_keys(data: Path):
    source = open_source(str(data))
    kept = kept_aside(source, 0.25)
    assert len(kept) == 6
    rest, aside = trained_on(source, 0.25), validated_on(source, 0.25)
    keys = [{part.key(i) for i in range(len(part))} for part in (rest, aside)]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == 24
    # Records that come later leave those before where they were.
    fewer = Some(source, range(20))
    there = {fewer.key(i) for i in kept_aside(fewer, 0.25)}
    assert there <= keys[1] | {source.key(i) for i in kept_aside(source, 0.5)}
    assert len(validated_on(source, 0.25, other=fewer)) == 20


def test_every_published_size_of_pictures_is_one_to_begin_with(data: Path):
    small = recipe(data, architecture="small", discriminator_layers=3)
    assert 2e6 < sum(p.numel() for p in small.build().vqgan.parameters()) < 3.5e6
    assert recipes.SMALL.image_size // recipes.SMALL.factor == 8
    assert {"depth", "coco-labels"} & recipes.ARCHITECTURES.keys() == set()
    for name in ("imagenet-f16-1024", "gumbel-f8", "vq-f8"):
        wanted = recipe(data, architecture=name)
        with torch.device("meta"):
            model = wanted.build().vqgan
        assert model.config == replace(VARIANTS[name], kl_weight=wanted.divergence_weight)


def test_codes_and_quantiser_can_be_others(data: Path):
    model = recipe(data, codes=32, quantiser="gumbel").build().vqgan
    assert model.codebook.weight.shape == (32, 8)
    assert model.config.quantiser == "gumbel"


def saved(model: torch.nn.Module, folder: Path) -> str:
    return str(lascaux.save(model, folder))


def test_what_cannot_be_learnt_from_is_refused_in_words(data: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    other = saved(Clip(tiny_reader(600)), tmp_path / "clip")
    depth = saved(VqGan(replace(TINY, in_channels=1, out_channels=1)), tmp_path / "depth")
    for changes, reason in (
        ({"data": str(tmp_path / "nowhere")}, "there is no file or folder"),
        ({"data": str(tmp_path / "empty")}, "no pictures"),
        ({"batch_size": 64}, "a batch of 64 is never filled by 18 records"),
        ({"image_size": 17}, "--image-size 17: expected a multiple of 2"),
        ({"model": other}, "is a Clip; expected a VQGAN"),
        ({"model": depth}, "expected a VQGAN of RGB pictures"),
    ):
        with pytest.raises(BadInput, match=reason):
            train(recipe(**{"data": data, **changes}), tmp_path / "run", QUICK)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_settings_that_contradict_each_other_are_wrong_use(data: Path, tmp_path: Path, capsys):
    for words, reason in (
        ([], "--data is missing"),
        (["--data", str(data), "--architecture", "f17"], "expected one of small, imagenet-f16"),
        (["--data", str(data), "--model", "x", "--codes", "9"], "leave --codes and --quantiser"),
        (["--data", str(data), "--area", "0"], "--area is 0.0; expected 0.001 to 1"),
    ):
        assert main(["train", "vqgan", "--runs", str(tmp_path), *words]) == 2
        assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_broken_pictures_are_left_out(data: Path, tmp_path: Path, caplog):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for number in range(24):
        if number % 4 == 0:
            (copy / f"{number:02d}.png").write_bytes(b"no picture")
    assert train(recipe(copy, aside=0.5, steps=4), tmp_path / "run", QUICK)
    assert "left out of the validation" in caplog.text
    assert lines(tmp_path / "run")[-1]["step"] == 4


def test_ochre_vq_draws_a_batch_by_its_step_alone_from_the_train_split(monkeypatch):
    seen = []
    real = scenes.sample
    monkeypatch.setattr(scenes, "sample", lambda *a, **k: seen.append(a[1]) or real(*a, **k))
    wanted = OchreVq()
    first, again, other = (wanted.batch(Share(n, n, 5))["picture"] for n in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (5, 3, 64, 64)
    assert set(seen) == {"train"}
    weight = wanted.batch(Share(3, 3, 5))["weight"]
    assert weight.shape == (5, 1, 64, 64)
    assert weight.mean().item() == pytest.approx(1.0)
    assert (weight.max() / weight.min()).item() == pytest.approx(wanted.things_weight)
    seen.clear()
    full = OchreVq(crowded=1.0).batch(Share(3, 3, 5))["weight"]
    assert full.shape == weight.shape
    assert (full > 1).float().mean() > (weight > 1).float().mean()
    with pytest.raises(BadInput, match="it must be above 0"):
        OchreVq(things_weight=0.0)
    with pytest.raises(BadInput, match=r"--crowded is 1\.5"):
        OchreVq(crowded=1.5)


@pytest.fixture
def few_codes(monkeypatch):
    """The recipe with a hundredth of its codes, learnt from a few scenes."""
    monkeypatch.setattr(ochre_vq, "OCHRE", replace(ochre_vq.OCHRE, codes=40))
    yield lambda **changes: OchreVq(**{"learnt_from": 8, **changes})
    for kept in (ochre_vq._learnt, ochre_vq._pretrained):
        kept.cache_clear()


def test_ochre_vq_measures_the_box_of_the_object(
    tmp_path: Path, few_scenes, few_codes, monkeypatch
):
    wanted = few_codes(averaging=0.0)
    model = wanted.build().eval()
    monkeypatch.setattr(ochre_vq, "reconstructed", _spoilt)
    found = wanted.validate(model)
    # The object is right and all else is black.
    assert found["validation_psnr_of_object"] == 100.0
    assert found["validation_psnr"] < 30
    assert found["validation_codes_used"] == 1 / ochre_vq.OCHRE.codes
    wanted.export(model, tmp_path / "model", found)
    spelt = lascaux.load(tmp_path / "model").encode(torch.zeros(1, 3, 64, 64))
    assert spelt.shape == (1, 64)


def test_ochre_vq_begins_with_codes_of_patches_which_stay(tmp_path: Path, few_codes, few_scenes):
    torch.manual_seed(0)
    run = {"steps": 3, "batch_size": 2, "warmup_steps": 0, "cooldown_steps": 0, "averaging": 0.0}
    wanted = few_codes(**run, dead_after=1)
    begun = wanted.build().vqgan
    assert train(wanted, tmp_path / "run", QUICK)
    after = lascaux.load(tmp_path / "run" / "model")
    for name, value in begun.state_dict().items():
        kept = name.startswith(("encoder.", "to_code.", "codebook."))
        if kept:
            torch.testing.assert_close(after.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert (after.last_layer - begun.last_layer).abs().max() > 1e-3
    # As good as a mean colour of each patch before the decoder has learnt anything.
    x = begun.normalise(scenes.validation().pictures.float() / 255)
    features = begun.features(x)
    codes = begun.quantise(features)[1]
    assert (codes - features).square().mean() < 0.3 * features.var()
    again = few_codes(model=str(tmp_path / "run" / "model")).build().vqgan.state_dict()
    assert all(torch.equal(again[key], value) for key, value in after.state_dict().items())


def test_ochre_vq_takes_over_a_decoder(tmp_path: Path, few_codes):
    torch.manual_seed(0)
    convolving = replace(ochre_vq.OCHRE, encoder="convolutions", code_width=8, middles=1)
    other = VqGan(convolving)
    found = few_codes(decoder=saved(other, tmp_path / "other")).build().vqgan
    assert torch.equal(found.last_layer, other.last_layer)
    assert found.config == ochre_vq.OCHRE
    shallow = VqGan(replace(ochre_vq.OCHRE, middles=1))
    deeper = few_codes(model=saved(shallow, tmp_path / "shallow")).build().vqgan
    assert deeper.config == ochre_vq.OCHRE
    assert torch.equal(deeper.last_layer, shallow.last_layer)
    narrow = saved(VqGan(replace(convolving, blocks=1)), tmp_path / "narrow")
    clip = saved(Clip(tiny_reader(600)), tmp_path / "clip")
    for changes, reason in (
        ({"decoder": narrow}, "its decoder has another shape"),
        ({"decoder": clip}, "is a Clip; expected a VQGAN"),
        ({"model": narrow}, "expected what this recipe trains"),
        ({"model": narrow, "decoder": narrow}, "leave --decoder out"),
        ({"quantiser": "gumbel"}, "codes are the nearest"),
        ({"codebook": "average"}, "stay as they are learnt"),
        ({"decorrelation": 0.1}, "stay as they are learnt"),
        ({"learnt_from": 0}, "--learnt-from is 0"),
        ({"learnt_from": 1}, "learn them from more pictures"),
    ):
        with pytest.raises(BadInput, match=reason):
            few_codes(**changes).build()


def test_the_embedded_ochre_vq_fits_into_its_file():
    weights = sum(weight.numel() for weight in VqGan(ochre_vq.OCHRE).parameters())
    assert 2 * weights < 7_950_000


def _spoilt(vqgan: VqGan, pictures: Tensor) -> tuple[Tensor, Tensor]:
    back = torch.zeros(pictures.shape)
    for row, (top, bottom, left, right) in enumerate(scenes.validation().boxes):
        box = (row, slice(None), slice(top, bottom), slice(left, right))
        back[box] = pictures[box].float() / 255
    return back, torch.zeros(len(pictures), 64, dtype=torch.int64)
