"""What VQGANs are trained with: discriminator, LPIPS, and the losses of both sides."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golden.case import Case, filled_state


def check(case: Case, folder: Path) -> None:
    told = case.config
    if told.get("class") == "NLayerDiscriminator":
        check_discriminator(case, folder)
    elif told.get("class") == "VQLPIPSWithDiscriminator":
        check_losses(case, folder)
    elif "prediction" in case.inputs:
        check_maps(case)
    else:
        pytest.fail(f"{case.name}: the project does not have this part of VQGAN's losses")


def part(case: Case, folder: Path, name: str) -> Any:
    """A part of the checkpoint that the case's weights make."""
    from lascaux.weights.load import load

    path = folder / "last.ckpt"
    if not path.is_file():
        torch.save({"state_dict": filled_state(case)}, path)
    return load(path, part=f"loss.{name}")


def check_discriminator(case: Case, folder: Path) -> None:
    told = case.config
    model = part(case, folder, "discriminator").train(told["train"])
    sizes = told["kwargs"]
    assert model.config.width == sizes["ndf"]
    assert model.config.layers == sizes["n_layers"]
    assert model.config.channels == sizes["input_nc"]
    with torch.no_grad():
        answers = {"logits": model(case.inputs["x"])}
    state = model.state_dict()
    names = {"loc": "shift", "initialized": "initialised"}
    for name, expected in case.outputs.items():
        if name.startswith("after.main."):
            number, what = name.removeprefix("after.main.").split(".")
            ours = f"layers.{int(number) // 3 - 1}.norm.{names.get(what, what)}"
            answers[name] = state[ours].reshape(expected.shape)
    case.check(answers)


def check_losses(case: Case, folder: Path) -> None:
    from lascaux.train import adversarial as losses

    told = case.config["kwargs"]
    options = losses.AdversarialOptions(
        start=told["disc_start"],
        kind=told.get("disc_loss", "hinge"),
        perceptual_weight=told.get("perceptual_weight", 1.0),
        codebook_weight=told.get("codebook_weight", 1.0),
        adversarial_weight=told.get("disc_weight", 1.0),
        factor=told.get("disc_factor", 1.0),
    )
    lpips = part(case, folder, "perceptual_loss").requires_grad_(False)
    x, bias = case.inputs["image"], case.inputs["bias"]
    condition = case.inputs.get("cond")
    answers: dict[str, Tensor] = {}

    def discriminator() -> Any:
        return part(case, folder, "discriminator").train()

    def rebuilt() -> tuple[Tensor, Tensor]:
        last = case.inputs["last_layer"].clone().requires_grad_()
        return last, F.conv2d(case.inputs["features"], last, bias, padding=1)

    for name in ("on", "off"):
        text = case.manifest["outputs"][f"gen_{name}.total_loss"]
        step = int(re.findall(r"global_step (\d+)", text)[0])
        last, back = rebuilt()
        made = losses.generator_terms(
            x,
            back,
            case.inputs["codebook_loss"],
            options=options,
            step=step,
            discriminator=discriminator(),
            last_layer=last,
            perceptual=lpips,
            condition=condition,
        )
        (gradient,) = torch.autograd.grad(made.total, last)
        answers |= {
            f"gen_{name}.total_loss": made.total,
            f"gen_{name}.quant_loss": made.quantisation,
            f"gen_{name}.nll_loss": made.reconstruction,
            f"gen_{name}.rec_loss": made.reconstruction,
            f"gen_{name}.p_loss": made.perceptual,
            f"gen_{name}.d_weight": made.balance,
            f"gen_{name}.disc_factor": torch.tensor(made.factor),
            f"gen_{name}.g_loss": made.adversarial,
            f"gen_{name}.grad_last_layer": gradient,
        }
        told_apart = losses.discriminator_terms(
            x,
            back,
            options=options,
            step=step,
            discriminator=discriminator(),
            condition=condition,
        )
        answers |= {
            f"disc_{name}.disc_loss": told_apart.total,
            f"disc_{name}.logits_real": told_apart.real,
            f"disc_{name}.logits_fake": told_apart.fake,
        }
    _, back = rebuilt()
    judge = discriminator()
    seen = (x,) if condition is None else (x, condition)
    real, fake = judge(*seen), judge(back, *seen[1:])
    *_, deepest = lpips.features(x)
    answers |= {
        "reconstruction": back,
        "lpips": lpips(x, back),
        "lpips_layers": lpips.by_stage(x, back),
        "vgg_relu5_3": deepest[:, ::16],
        "logits_real": real,
        "logits_fake": fake,
        "hinge_d": losses.hinge(real, fake),
        "vanilla_d": losses.vanilla(real, fake),
    }
    asked = case.outputs.items()
    case.check({name: answers[name].detach().reshape(e.shape) for name, e in asked})


def check_maps(case: Case) -> None:
    from lascaux.train.adversarial import map_terms

    given = case.inputs
    total, crossed = map_terms(
        given["prediction"],
        given["target"],
        given["qloss"],
        codebook_weight=case.config["codebook_weight"],
    )
    answers = {"total_loss": total, "bce_loss": crossed, "quant_loss": given["qloss"]}
    case.check({name: answers[name].reshape(e.shape) for name, e in case.outputs.items()})
