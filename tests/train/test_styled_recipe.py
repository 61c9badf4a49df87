import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lascaux
from lascaux.cli.main import main
from lascaux.data.world import boxed
from lascaux.errors import BadInput
from lascaux.models.styled_vq import VARIANTS, StyledVq, StyledVqConfig
from lascaux.models.vqgan import VqGan, VqGanConfig
from lascaux.train import pictures, records, scenes, styling
from lascaux.train.checkpoint import latest
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.recipe import Moment, Share
from lascaux.train.recipes import ochre_styled
from lascaux.train.recipes import styled_vq as recipes
from lascaux.train.recipes.ochre_styled import OchreStyled
from lascaux.train.recipes.styled_vq import StyledVqTraining
from lascaux.train.styling import likeness

QUICK = Running(threads=1, workers=0, validate_every=6, log_every=2)
TINY = StyledVqConfig(
    image_size=16,
    patch_size=8,
    attributes=4,
    width=16,
    heads=2,
    mlp_width=16,
    plain_layers=1,
    expert_layers=1,
    latent_width=4,
    codes=0,
    decoder_width=16,
    decoder_heads=2,
    decoder_mlp_width=16,
    decoder_layers=1,
    pixel_width=4,
    pixel_kernel=3,
    pixel_groups=2,
)

# One code for 8 x 8 pixels, as the patches above.
VQGAN = VqGanConfig(
    codes=6,
    code_width=4,
    image_size=16,
    width=8,
    multiples=(1, 1, 1, 1),
    blocks=1,
    attention_sizes=(),
    latent_width=8,
    groups=4,
)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setitem(recipes.ARCHITECTURES, "tiny", TINY)
    yield
    torch.set_num_threads(threads)
    for kept in (records.source_of, pictures._kept, styling.pretrained):
        kept.cache_clear()


def recipe(data: Path, **changes) -> StyledVqTraining:
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
        "dead_after": 3,
        "averaging": 0.5,
        "weight_decay": 0.0,
        **changes,
    }
    return StyledVqTraining(**settings)


def held(folder: Path) -> dict[str, Tensor]:
    return torch.load(latest(folder), weights_only=True)["model"]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        {"prefixes": 0.5, "noise": 0.2, "decorrelation": 0.5},
        {"codebook": "average", "codes": 8, "through": "rotation"},
        {"codebook": "fsq", "levels": (3, 3)},
        {"adversarial_weight": 0.5, "discriminator_layers": 2, "discriminator_start": 5},
    ],
)
def test_a_stopped_run_ends_with_the_same_bits(data: Path, tmp_path: Path, changes):
    wanted = recipe(data, **changes)
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", QUICK, stop_after=7)
    assert train(wanted, tmp_path / "parts", QUICK)
    a, b = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_pictures_are_learnt_then_coded_then_learnt_behind_their_codes(
    data: Path, tmp_path: Path, capsys
):
    assert train(recipe(data, steps=60), tmp_path / "one", replace(QUICK, sample_every=30))
    first, *_, last = [line for line in lines(tmp_path / "one") if "validation_psnr" in line]
    assert last["validation_psnr"] > first["validation_psnr"] + 0.3
    assert "validation_codes_used" not in last
    assert len(list((tmp_path / "one" / "samples").glob("*.png"))) == 2

    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "05.png").write_bytes(b"no picture")
    model, coded = str(tmp_path / "one" / "model"), tmp_path / "coded"
    words = ["codebook", str(broken), "--model", model, "--codes", "12", "--out", str(coded)]
    assert main([*words, "--workers", "0", "--json"]) == 1  # of 24 one is broken
    told = json.loads(capsys.readouterr().out)
    assert (told["codes"], told["records"], told["features"]) == (12, 23, 92)
    assert 1 < told["used"] <= 12
    assert [one["source"] for one in told["skipped"]] == ["05.png"]
    assert not coded.with_name("coded.work").exists()
    styled = lascaux.load(coded)
    assert isinstance(styled, StyledVq)
    assert styled.codes == 12
    assert styled.mean.abs().sum() > 0

    assert main(words) == 1
    assert "is there already" in capsys.readouterr().err

    tuned = recipe(data, architecture="small", model=str(coded), learning_rate=1e-2)
    assert train(tuned, tmp_path / "two", QUICK)
    after = lascaux.load(tmp_path / "two" / "model").state_dict()
    before = styled.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split(".")[0] for key in moved} == {"decoder", "mixture", "mixture_norm"}
    assert 0 < lines(tmp_path / "two")[-1]["validation_codes_used"] <= 1


def test_codes_that_are_learnt_at_once_are_used_and_lie_at_the_latents(data: Path, tmp_path: Path):
    wanted = recipe(data, codebook="average", codes=8, steps=30, averaging=0.0)
    assert train(wanted, tmp_path, QUICK)
    assert lines(tmp_path)[-1]["validation_codes_used"] > 0.4
    styled = lascaux.load(tmp_path / "model")
    x = styled.normalise(wanted.kept.float() / 255)
    with torch.no_grad():
        _, found = styled.quantise(features := styled.features(x))
    assert torch.cosine_similarity(found, features, dim=-1).mean() > 0.8


def test_numbers_that_are_rounded_need_no_codebook(data: Path, tmp_path: Path):
    wanted = recipe(data, codebook="fsq", levels=(3, 3, 2), steps=48)
    assert train(wanted, tmp_path, replace(QUICK, validate_every=24))
    first, *_, last = [line for line in lines(tmp_path) if "validation_psnr" in line]
    assert last["validation_psnr"] > first["validation_psnr"]
    assert last["validation_codes_used"] > 0.15
    styled = lascaux.load(tmp_path / "model")
    assert (styled.codes, styled.config.levels) == (18, (3, 3, 2))
    assert styled.encode(styled.normalise(wanted.kept.float() / 255)).shape[1] == 4
    with pytest.raises(BadInput, match="--codebook fsq begins from nothing"):
        recipe(data, codebook="fsq", model=str(tmp_path / "model")).build()


def test_a_decoder_learns_a_tokenisers_codes_which_are_drawn(data: Path, tmp_path: Path, capsys):
    torch.manual_seed(0)
    vqgan = VqGan(VQGAN)
    drawer = str(lascaux.save(vqgan, tmp_path / "vqgan"))
    wanted = recipe(data, predicts="tokens", drawer=drawer, steps=24)
    assert train(wanted, tmp_path / "run", QUICK)
    told = [line for line in lines(tmp_path / "run") if "codes_named" in line]
    assert told[-1]["loss"] < told[0]["loss"]
    styled = lascaux.load(tmp_path / "run" / "model")
    assert isinstance(styled, StyledVq)
    assert styled.config.drawn_codes == 6
    kept = vqgan.state_dict()
    assert all(torch.equal(kept[key], x) for key, x in styled.drawer.state_dict().items())
    x = styled.normalise(wanted.kept.float() / 255)
    assert styled(x).shape == x.shape

    coded = str(tmp_path / "coded")
    words = ["codebook", str(data), "--model", str(tmp_path / "run" / "model"), "--workers", "0"]
    assert main([*words, "--codes", "12", "--out", coded]) == 0
    tuned = recipe(data, model=coded, steps=3, cooldown_steps=1)
    assert train(tuned, tmp_path / "two", QUICK)
    after = lascaux.load(tmp_path / "two" / "model").state_dict()
    before = lascaux.load(coded).state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split(".")[0] for key in moved} == {"decoder", "mixture", "mixture_norm"}

    with pytest.raises(BadInput, match="one code for 8 x 8 pixels; this model needs one for 16"):
        recipe(data, predicts="tokens", drawer=drawer, architecture="styled-vq-512-64").build()


def test_only_the_first_attributes_of_some_pictures_are_decoded(data: Path, monkeypatch):
    wanted = recipe(data, prefixes=0.5, noise=0.0)
    torch.manual_seed(0)
    model = wanted.build()
    model.styled.mean.fill_(7.0)
    decoded = []
    real = model.styled.decode
    monkeypatch.setattr(model.styled, "decode", lambda f: decoded.append(f) or real(f))
    batch = {"picture": torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)}
    wanted.loss(model, batch, Moment(0, "model", None))
    away = (decoded[0] - model.styled.mean).abs().amax(-1) == 0  # b n
    kept = (~away).sum(1)
    assert (kept[4:] == 4).all()
    assert ((kept[:4] >= 1) & (kept[:4] < 4)).all()
    assert (away[:4].int().diff(dim=1) >= 0).all()  # what is left out is behind
    assert (model.styled.mean < 7).all()  # and follows the features


def test_a_discriminator_takes_part_from_its_start_and_is_weighed_by_gradients(data: Path):
    plain = recipe(data, averaging=0.0)
    wanted = recipe(
        data,
        averaging=0.0,
        adversarial_weight=0.5,
        discriminator_start=4,
        discriminator_layers=2,
    )
    assert (plain.turns, wanted.turns) == (("model",), ("model", "discriminator"))
    model = wanted.build()
    batch = {"picture": torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)}
    torch.manual_seed(0)
    early = wanted.loss(model, batch, Moment(3, "model", None))
    torch.manual_seed(0)
    late = wanted.loss(model, batch, Moment(4, "model", None))
    torch.manual_seed(0)
    assert torch.equal(plain.loss(model.requires_grad_(True), batch, Moment(3)).value, early.value)
    last = model.styled.decoder.pixels.last.weight
    logits = model.discriminator(late.kept).mean()
    expected = early.value - 0.5 * late.figures["balance"] * logits
    torch.testing.assert_close(late.value, expected)
    (own,) = torch.autograd.grad(early.value, last)
    (both,) = torch.autograd.grad(late.value, last)
    assert (both - own).norm().item() == pytest.approx(0.5 * own.norm().item(), rel=0.02)
    judged = wanted.loss(model, batch, Moment(4, "discriminator", late.kept))
    judged.value.backward()
    assert all(weight.grad is None for weight in model.styled.parameters())
    assert model.discriminator.first.weight.grad.any()
    assert judged.figures["real_score"] != judged.figures["fake_score"]
    groups = wanted.optimisers(model)
    named = {name for each in groups["model"].groups for name, _ in each.parameters}
    assert named
    assert not any(name.startswith("discriminator") for name in named)
    model.styled.decoder.requires_grad_(False)
    with pytest.raises(BadInput, match="freeze less"):
        wanted.optimisers(model)
    with pytest.raises(BadInput, match="of 16 pixels no patch is left"):
        recipe(data, adversarial_weight=0.5).build()
    with pytest.raises(BadInput, match="a discriminator sees pictures"):
        recipe(data, adversarial_weight=0.5, predicts="tokens")


def test_pixels_count_as_much_as_their_weight_says(data: Path):
    wanted = recipe(data, noise=0.0)
    torch.manual_seed(0)
    model = wanted.build()
    picture = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    top = torch.zeros(2, 1, 16, 16)
    top[:, :, :8] = 2.0
    told = {}
    for name, weight in (("top", top), ("bottom", 2 - top), ("even", torch.ones_like(top))):
        batch = {"picture": picture, "weight": weight}
        told[name] = wanted.loss(model, batch, Moment(0)).value
    torch.testing.assert_close((told["top"] + told["bottom"]) / 2, told["even"])
    assert told["top"] != told["bottom"]
    torch.testing.assert_close(
        wanted.loss(model, {"picture": picture}, Moment(0)).value, told["even"]
    )


def test_published_sizes_can_be_begun_from_nothing(data: Path):
    for name in VARIANTS:
        wanted = recipe(data, architecture=name)
        assert wanted.side == 256
        with torch.device("meta"):
            model = wanted.build().styled
        assert (model.codes, model.config.quantised) == (0, "bottleneck")
        assert sum(p.numel() for p in model.parameters()) > 2e9


def test_settings_that_contradict_each_other_are_wrong_use(data: Path, tmp_path: Path, capsys):
    for words, reason in (
        ([], "--data is missing"),
        (["--data", str(data), "--architecture", "f17"], "expected one of small, styled-vq-768"),
        (["--data", str(data), "--codes", "9"], "--codebook average and a number of --codes"),
        (["--data", str(data), "--codebook", "average"], "and a number of --codes"),
        (["--data", str(data), "--codebook", "fsq", "--codes", "9"], "as many as --levels make"),
        (["--data", str(data), "--prefixes", "2"], "--prefixes is 2.0; expected 0 to 1"),
    ):
        assert main(["train", "styled-vq", "--runs", str(tmp_path), *words]) == 2
        assert reason in capsys.readouterr().err
    assert not list(tmp_path.glob("*/checkpoints"))


def test_what_is_no_stage_one_gets_no_codes(data: Path, tmp_path: Path, capsys):
    words = ["codebook", str(data), "--out", str(tmp_path / "coded"), "--workers", "0"]
    assert main([*words, "--model", "ochre-clip", "--codes", "4"]) == 1
    assert "is a Clip; k-means makes the codes of a Styled VAE-VQ" in capsys.readouterr().err
    stage_one = lascaux.save(StyledVq(TINY), tmp_path / "one")
    assert main([*words, "--model", str(stage_one), "--codes", "97"]) == 1
    assert "97 codes from 96 features" in capsys.readouterr().err
    assert not (tmp_path / "coded").exists()


def test_ochre_styled_ends_with_a_codebook_from_the_train_split(
    tmp_path: Path, few_scenes, monkeypatch
):
    monkeypatch.setattr(ochre_styled, "_CORPUS", 16)
    monkeypatch.setattr(ochre_styled, "_AT_ONCE", 8)
    seen = []
    real = scenes.sample
    for module in (scenes, boxed):
        monkeypatch.setattr(module, "sample", lambda *a, **k: seen.append(a[1]) or real(*a, **k))
    wanted = OchreStyled(encoder="transformer", codes=32)
    model = wanted.build().eval()
    figures = wanted.validate(model)
    assert set(seen) == {"validation"}
    seen.clear()
    wanted.export(model, tmp_path / "model", figures)
    assert set(seen) == {"train"}
    file = tmp_path / "model" / "model.safetensors"
    assert file.stat().st_size < 8e6
    styled = lascaux.load(tmp_path / "model")
    assert styled.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 36)
    assert "by codes" in (tmp_path / "model" / "README.md").read_text()

    tuned = OchreStyled(model=str(tmp_path / "model")).build()
    assert not any(p.requires_grad for p in tuned.styled.encoder.parameters())
    loss = wanted.loss(tuned, wanted.batch(Share(0, 0, 2)), Moment(0, "model", None))
    loss.value.backward()
    with pytest.raises(BadInput, match="is a Clip; expected a Styled VAE-VQ"):
        OchreStyled(model="ochre-clip").build()


def test_ochre_styled_begins_with_a_linear_encoder_whose_codes_stay(
    tmp_path: Path, few_scenes, monkeypatch
):
    monkeypatch.setattr(ochre_styled, "_AT_ONCE", 8)
    seen = []
    real = scenes.sample
    monkeypatch.setattr(scenes, "sample", lambda *a, **k: seen.append(a[1]) or real(*a, **k))
    wanted = OchreStyled(
        learnt_from=96, codes=32, steps=4, batch_size=2, warmup_steps=1, cooldown_steps=1
    )
    learnt = wanted.build()
    assert set(seen) == {"train"}
    assert len(seen) == 96
    figures = wanted.validate(learnt.eval())
    assert 0 < figures["validation_codes_used"] <= 6 / 32, "six scenes have six codes a place"
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", QUICK, stop_after=2)
    assert train(wanted, tmp_path / "parts", QUICK)
    whole, parts = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    model = lascaux.load(tmp_path / "whole" / "model")
    assert (tmp_path / "whole" / "model" / "model.safetensors").stat().st_size < 8e6
    kept = learnt.styled.state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith(("encoder.", "codebook")):
            torch.testing.assert_close(tensor, kept[name], atol=2e-3, rtol=1e-3)
    first = (each.decoder.first.weight for each in (model, learnt.styled))
    assert not torch.equal(next(first), next(first).half().float()), "the decoder learns"
    told = json.loads((tmp_path / "whole" / "model" / "config.json").read_text())
    assert told["elsewhere"]["reader"]["name"] == "ochre-clip"
    for key, value in lascaux.load("ochre-clip").state_dict().items():
        assert torch.equal(model.reader.state_dict()[key], value), "who reads is left as it is"
    on = OchreStyled(model=str(tmp_path / "whole" / "model")).build()
    assert not any(p.requires_grad for p in on.styled.encoder.parameters())
    for change, words in (
        ({"codebook": "fsq"}, "name --encoder transformer"),
        ({"predicts": "tokens"}, "name --encoder transformer"),
        ({"learnt_from": 0}, "--learnt-from is 0"),
    ):
        with pytest.raises(BadInput, match=words):
            OchreStyled(**change)


def test_another_size_of_pictures_than_the_models_is_refused(data: Path):
    with pytest.raises(BadInput, match="--image-size 32: this model takes 16"):
        recipe(data, image_size=32).build()


def test_latents_in_one_direction_are_alike_and_those_in_all_are_not():
    torch.manual_seed(0)
    line = torch.randn(12, 1, 1) * torch.randn(1, 6, 8)
    assert likeness(line + 0.3 * torch.randn(1, 6, 8)).item() > 0.5
    assert likeness(torch.randn(12, 6, 8)).item() < 0.05
