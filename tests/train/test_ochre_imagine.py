from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lascaux
from lascaux.data.world.boxed import stacked
from lascaux.errors import BadInput
from lascaux.models.clip_gen import ClipGen, Denoiser
from lascaux.tasks.answerers import clip_embeddings
from lascaux.tasks.imagine import Imaginer
from lascaux.tasks.options import ImagineOptions
from lascaux.train.checkpoint import latest
from lascaux.train.clip_gen import clip_of
from lascaux.train.codes import estranged, tokeniser_of
from lascaux.train.denoising import learn_denoiser
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.recipe import Moment, Share
from lascaux.train.recipes import ochre_imagine
from lascaux.train.recipes.ochre_imagine import OCHRE, OchreImagine

QUICK = Running(threads=1, workers=0, validate_every=100, log_every=2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        ochre_imagine,
        "OCHRE",
        replace(OCHRE, layers=1, heads=2, width=16, code_width=8),
    )
    yield
    torch.set_num_threads(threads)


def recipe(**changes) -> OchreImagine:
    few = {"different": 64, "denoiser": 12, "denoiser_steps": 5}
    return OchreImagine(**{"steps": 4, "batch_size": 4, "warmup_steps": 1, **few, **changes})


def held(folder: Path) -> dict[str, Tensor]:
    return torch.load(latest(folder), weights_only=True)["model"]


def test_a_stopped_run_ends_with_the_same_bits_and_writes_pictures(tmp_path: Path):
    wanted = recipe(cooldown_steps=2)
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", QUICK, stop_after=2)
    assert train(wanted, tmp_path / "parts", QUICK)
    a, b = held(tmp_path / "whole"), held(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)
    model = lascaux.load(tmp_path / "whole" / "model")
    assert isinstance(model, ClipGen)
    assert (model.config.tokeniser, model.config.clip) == ("ochre-vq", "ochre-clip")
    (picture,) = Imaginer(model).imagine("a cat on a red background", options=ImagineOptions())
    assert picture.image.size == (64, 64)
    on = recipe(model=str(tmp_path / "whole" / "model")).build().state_dict()
    assert all(torch.equal(on[key], weight) for key, weight in model.state_dict().items())
    with pytest.raises(BadInput, match="expected what this recipe trains"):
        recipe(model=str(tmp_path / "whole" / "model"), denoiser=13).build()
    with pytest.raises(BadInput, match="is a Clip; expected a CLIP-GEN"):
        recipe(model="ochre-clip").build()
    shown = wanted.samples(model)
    assert {sample.picture.size for sample in shown} == {(128, 64)}


def test_the_loss_is_that_of_the_codes_after_the_pictures_embeddings(tmp_path: Path):
    plain = {"embedding_noise": 0.0, "null_condition": 0.0, "strange_codes": 0.0}
    wanted = recipe(**plain, precision="float32")
    torch.manual_seed(0)
    model = wanted.build()
    assert isinstance(model, ClipGen)
    pool = wanted.pool(tmp_path)
    batch = wanted.batch(pool, Share(0, 0, 4))
    assert set(batch) == {"tokens", "embedding"}, "no caption is read"
    pictures = stacked(pool.scenes([0, 1, 2, 3]))
    tokens = tokeniser_of("ochre-vq").encode(pictures.float() / 255)
    assert torch.equal(batch["tokens"], tokens)
    embeddings = clip_embeddings(clip_of("ochre-clip")).answers(pictures)
    torch.testing.assert_close(batch["embedding"], embeddings, atol=1e-5, rtol=0)
    value = wanted.loss(model, batch, Moment(0)).value
    torch.testing.assert_close(value, model.loss(tokens, embeddings))


def test_embeddings_left_away_are_zeros_and_the_model_says_that_it_learnt_them(tmp_path: Path):
    wanted = recipe(null_condition=1.0, strange_codes=0.0, precision="float32")
    model = wanted.build()
    assert isinstance(model, ClipGen)
    assert model.config.null_condition
    batch = wanted.batch(wanted.pool(tmp_path), Share(0, 0, 4))
    value = wanted.loss(model, batch, Moment(0)).value
    zeros = torch.zeros_like(batch["embedding"])
    torch.testing.assert_close(value, model.loss(batch["tokens"], zeros))
    torch.manual_seed(0)
    some = recipe(null_condition=0.5, embedding_noise=0.0)._left_away(torch.ones(400, 3))
    assert 150 < int((some == 0).all(dim=1).sum()) < 250
    assert set(some.sum(dim=1).tolist()) == {0.0, 3.0}
    assert not recipe(null_condition=0.0).build().config.null_condition
    with pytest.raises(BadInput, match=r"--null-condition is 2"):
        recipe(null_condition=2.0)


def test_codes_are_also_learnt_after_those_of_other_pictures(tmp_path: Path):
    torch.manual_seed(0)
    wanted = recipe(strange_codes=0.8, null_condition=0.0, embedding_noise=0.0)
    ids = torch.arange(200)[:, None].expand(200, 63)
    read = estranged(ids, wanted.strange_codes)
    strange = (read != ids).float()
    assert set((read - ids)[strange.bool()].tolist()) == {-1, 199}, "those of a neighbour"
    shares = strange.mean(dim=1)
    assert strange.mean().item() == pytest.approx(0.4, abs=0.05)
    assert shares.min() < 0.1
    assert 0.7 < shares.max() < 1
    # What is to be written stays the picture's own.
    model = wanted.build()
    batch = wanted.batch(wanted.pool(tmp_path), Share(0, 0, 4))
    torch.manual_seed(5)
    value = wanted.loss(model, batch, Moment(0)).value
    torch.manual_seed(5)
    logits = model(estranged(batch["tokens"][:, :-1], wanted.strange_codes), batch["embedding"])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["tokens"].flatten())
    torch.testing.assert_close(value, expected)
    with pytest.raises(BadInput, match=r"--strange-codes is 1\.5; expected 0 to 1"):
        recipe(strange_codes=1.5)


def test_pictures_embeddings_are_found_again_from_noise(tmp_path: Path):
    chance = torch.Generator().manual_seed(1)
    # Sixteen directions, as those of pictures of sixteen things.
    things = torch.linalg.qr(torch.randn(24, 16, generator=chance))[0].T
    x = torch.nn.functional.normalize(things.repeat(8, 1) + 0.1 * torch.randn(128, 24), dim=-1)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    denoiser = Denoiser(24, 32)
    new = {"noise": 1.0, "seed": 2, "steps": 1}
    # A new one leaves the noise: 45 degrees.
    assert learn_denoiser(denoiser, x, **new) == pytest.approx(0.5**0.5, abs=0.02)
    torch.random.set_rng_state(before)
    other = Denoiser(24, 32)
    after = torch.random.get_rng_state()
    found = learn_denoiser(other, x, noise=1.0, seed=2, steps=150)
    assert found > 0.85
    assert torch.equal(torch.random.get_rng_state(), after), "its chance is its own"


def test_a_run_learns_its_denoiser_before_the_first_step_and_keeps_it(tmp_path: Path):
    wanted = recipe(steps=2)
    told = []
    assert wanted.prepare(tmp_path, sample=True) == 1.0, "there are few scenes"
    assert not (tmp_path / "denoiser.safetensors").exists()
    assert wanted.prepare(tmp_path, progress=lambda *now: told.append(now)) == 1.0
    assert ("scenes", 64, 64) in told
    assert ("denoiser", 5, 5) in told
    learnt = wanted.begin(wanted.build(), tmp_path).denoiser.state_dict()
    assert learnt["down.weight"].any(), "a new one has zeros"
    assert train(wanted, tmp_path, QUICK)
    kept = held(tmp_path)
    assert all(torch.equal(kept[f"denoiser.{name}"], each) for name, each in learnt.items())
    # Who goes on with it, keeps it too.
    on = recipe(model=str(tmp_path / "model"))
    assert on.prepare(tmp_path / "on") == 1.0
    assert not (tmp_path / "on").exists()


def test_weights_without_a_denoiser_and_with_wide_codes_can_be_gone_on_with(tmp_path: Path):
    torch.manual_seed(0)
    before = ClipGen(replace(recipe().build().config, denoiser=0, code_width=0))
    with torch.no_grad():
        # Of so few directions that nothing is lost.
        low = torch.randn(4096, 8) @ torch.randn(8, 16)
        before.tokens.weight.copy_(low)
    lascaux.save(before, tmp_path / "before")
    after = recipe(model=str(tmp_path / "before")).build().eval()
    ids, given = torch.randint(4096, (2, 63)), torch.nn.functional.normalize(torch.randn(2, 256))
    torch.testing.assert_close(after(ids, given), before.eval()(ids, given), atol=1e-3, rtol=1e-3)


def test_the_embedded_model_fits_into_its_file():
    whole = ClipGen(replace(OCHRE, length=64, embedding_width=256, denoiser=480))
    weights = sum(weight.numel() for weight in whole.parameters())
    assert 2 * weights < 7_950_000
