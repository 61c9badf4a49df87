import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lascaux
from codes import Codes
from lascaux.errors import BadInput
from lascaux.models.vqgan import VqGan
from lascaux.train.autoencoding import Trainee
from lascaux.train.checkpoint import latest
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.perceptual import StageDistance, perceptual_distance
from lascaux.train.recipe import Moment, Share
from lascaux.train.reconstructions import psnr

QUICK = Running(threads=1, workers=0, log_every=1)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def held(folder: Path) -> dict[str, Tensor]:
    return torch.load(latest(folder), weights_only=True)["model"]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a: dict[str, Tensor], b: dict[str, Tensor], part: str = "") -> bool:
    return all(torch.equal(a[key], b[key]) for key in a if key.startswith(part))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantiser": "gumbel", "adversarial": "vanilla"},
        {"codebook": "average", "accumulation": 2, "precision": "bfloat16"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "gradient",
)
def test_a_stopped_run_ends_with_the_same_bits_as_one_never_stopped(tmp_path: Path, changes):
    recipe = Codes(**changes)
    assert train(recipe, tmp_path / "whole", QUICK)
    assert not train(recipe, tmp_path / "parts", QUICK, stop_after=7)
    assert train(recipe, tmp_path / "parts", QUICK)
    assert same(held(tmp_path / "whole"), held(tmp_path / "parts"))
    if recipe.quantiser != "gumbel":  # codes were revived after the stop
        assert held(tmp_path / "whole")["tending.age"].min() < 5
    assert same(
        lascaux.load(tmp_path / "whole" / "model").state_dict(),
        lascaux.load(tmp_path / "parts" / "model").state_dict(),
    )


def test_what_is_exported_spells_pictures_and_loads(tmp_path: Path):
    assert train(Codes(steps=2), tmp_path, QUICK)
    model = lascaux.load(tmp_path / "model")
    assert isinstance(model, VqGan)
    pictures = Codes().batch(Share(0, 0, 2))["picture"].float() / 255
    ids = model.encode(model.normalise(pictures))
    assert ids.shape == (2, 64)
    assert model.decode_ids(ids, (8, 8)).shape == (2, 3, 16, 16)


def test_the_discriminator_has_no_effect_before_its_start(tmp_path: Path):
    for name, changes in {
        "late": {"discriminator_start": 100},
        "none": {"adversarial_weight": 0.0, "discriminator_start": 0},
        "early": {"discriminator_start": 0},
    }.items():
        assert train(Codes(steps=6, **changes), tmp_path / name, QUICK)
    late, none, early = (held(tmp_path / name) for name in ("late", "none", "early"))
    assert same(late, none)
    assert not same(late, early, "vqgan")
    torch.manual_seed(0)
    begun = {f"discriminator.{k}": v for k, v in Codes().build().discriminator.state_dict().items()}
    assert same(begun, late)
    watched = {"discriminator_loss", "real_score", "fake_score", "balance"}
    assert all(not watched & line.keys() for line in lines(tmp_path / "late"))
    told = [line for line in lines(tmp_path / "early") if "loss" in line]
    assert all(watched <= line.keys() for line in told)


def test_each_loss_moves_its_own_weights_alone(tmp_path: Path):
    still = Codes(steps=4, discriminator_start=0, discriminator_rate=0.0)
    assert train(still, tmp_path / "still", QUICK)
    torch.manual_seed(0)
    model = still.build()
    after = held(tmp_path / "still")
    for name, weight in model.named_parameters():
        assert torch.equal(after[name], weight) is name.startswith("discriminator"), name
    batch = still.batch(Share(0, 0, 4))
    first = still.loss(model, batch, Moment(0, "autoencoder"))
    judged = still.loss(model, batch, Moment(0, "discriminator", first.kept))
    judged.value.backward()
    assert all(weight.grad is None for weight in model.vqgan.parameters())
    assert all(weight.grad is not None for weight in model.discriminator.parameters())
    assert model.discriminator.first.weight.grad.any()
    first.value.backward()
    assert all(weight.grad is not None for weight in model.vqgan.parameters())


def test_averaged_codes_have_no_gradient_and_move_all_the_same(tmp_path: Path):
    recipe = Codes(codebook="average", dead_after=0, steps=2)
    torch.manual_seed(0)
    before = recipe.build().vqgan.codebook.weight
    assert not before.requires_grad
    assert train(recipe, tmp_path, QUICK)
    assert not torch.equal(held(tmp_path)["vqgan.codebook.weight"], before)


def test_frozen_codes_stay_whatever_the_settings(tmp_path: Path):
    for number, codebook in enumerate(("gradient", "average")):
        recipe = Codes(codebook=codebook, dead_after=1, steps=3, freeze=("vqgan.codebook",))
        assert train(recipe, tmp_path / str(number), QUICK)
        torch.manual_seed(0)
        before = recipe.build().vqgan.codebook.weight
        assert torch.equal(held(tmp_path / str(number))["vqgan.codebook.weight"], before)


class Collapsed(Codes):
    """All codes but one lie out of reach."""

    def build(self) -> Trainee:
        model = super().build()
        torch.nn.init.constant_(model.vqgan.codebook.weight[1:], 1e3)
        return model


def test_a_collapse_raises_the_alarm(tmp_path: Path):
    recipe = Collapsed(steps=18, dead_after=0, adversarial_weight=0.0, learning_rate=1e-5)
    assert train(recipe, tmp_path, QUICK)
    signs = {line["sign"] for line in lines(tmp_path) if "sign" in line}
    assert {"codebook collapses", "codes say nothing", "codes are dead"} <= signs
    assert train(replace(recipe, dead_after=1), tmp_path / "revived", QUICK)
    told = [line for line in lines(tmp_path / "revived") if "codes_used" in line]
    assert told[-1]["codes_used"] > 0.5


def test_temperature_and_divergence_go_by_a_cosine():
    recipe = Codes(temperature=2.0, least_temperature=1.0, temperature_steps=10)
    found = [recipe.temperature_at(step) for step in (0, 5, 10, 99)]
    assert found == pytest.approx([2.0, 1.5, 1.0, 1.0])
    torch.manual_seed(0)
    recipe = Codes(quantiser="gumbel", divergence_steps=4)
    model, batch = recipe.build(), recipe.batch(Share(0, 0, 4))
    losses = []
    for step in (0, 2, 4):
        torch.manual_seed(0)
        told = recipe.loss(model, batch, Moment(step, "autoencoder")).figures
        losses.append(float(told["quantisation"]))
    assert losses[0] == 0
    assert losses[1] == pytest.approx(losses[2] / 2)


def test_psnr_is_that_of_the_equation():
    x = torch.zeros(2, 3, 4, 4)
    assert psnr(x, x + 0.1).tolist() == pytest.approx([20.0, 20.0])
    assert psnr(x, x).tolist() == [100.0, 100.0]
    assert psnr(x, x + torch.tensor([1.0, 0.5]).view(2, 1, 1, 1))[1] == pytest.approx(
        20 * math.log10(2)
    )


def test_the_embedded_distance_is_nought_for_equals_and_grows_with_blur():
    distance = perceptual_distance("ochre-clip")
    assert isinstance(distance, StageDistance)
    assert perceptual_distance("ochre-clip") is distance
    x = Codes().batch(Share(0, 0, 2))["picture"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = x.float() / 127.5 - 1
    blurred = [
        torch.nn.functional.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)
        for side in (3, 7)
    ]
    found = torch.stack([distance(x, other) for other in (x, *blurred)])
    assert (found[0] == 0).all()
    assert (found.diff(dim=0) > 0).all()
    torch.testing.assert_close(found[1], distance(blurred[0], x))
    other = blurred[0].requires_grad_()
    distance(x, other).sum().backward()
    assert other.grad is not None
    assert all(weight.grad is None for weight in distance.parameters())


def test_a_step_with_the_embedded_distance_has_gradients_everywhere():
    torch.manual_seed(0)
    recipe = Codes(perceptual_weight=1.0, discriminator_start=0)
    model = recipe.build()
    loss = recipe.loss(model, recipe.batch(Share(0, 0, 2)), Moment(0, "autoencoder"))
    loss.value.backward()
    assert loss.figures["perceptual_distance"] > 0
    assert [n for n, p in model.vqgan.named_parameters() if p.grad is None] == []
    assert not any("tower" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"codebook_decay": 1.0}, "--codebook-decay is 1.0"),
        ({"temperature": 0.01}, "expected 0 < least <= first"),
        ({"discriminator_start": -1}, "--discriminator-start is -1"),
        ({"quantiser": "gumbel", "codebook": "average"}, "learns its codes by gradient"),
        ({"discriminator_layers": 3}, "of 16 pixels no patch is left"),
        ({"freeze": ("vqgan.decoder",)}, "must be trained"),
        ({"perceptual_weight": 1.0, "perceptual": "ochre-judge"}, "is a Judge; expected LPIPS"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused_in_words(tmp_path: Path, changes, reason):
    with pytest.raises(BadInput, match=reason):
        train(Codes(**changes), tmp_path, QUICK)
