"""DALLE-pytorch: its DiscreteVAE, from a file as train_vae.py writes it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange

from golden.case import Case, filled_state
from lascaux.models.discrete_vae import DiscreteVaeConfig
from lascaux.weights.load import load

_FIELDS = {
    "image_size": "image_size",
    "num_tokens": "codes",
    "codebook_dim": "code_width",
    "num_layers": "layers",
    "num_resnet_blocks": "blocks",
    "hidden_dim": "width",
    "channels": "channels",
    "temperature": "temperature",
    "straight_through": "straight_through",
    "reinmax": "reinmax",
    "kl_div_loss_weight": "kl_weight",
}


def check(case: Case, folder: Path) -> None:
    if "codebook.weight" in case.manifest["state"]:
        check_discrete_vae(case, folder)
    else:
        pytest.fail(f"{case.name}: the project does not have this part of DALLE-pytorch")


def expected_config(arguments: dict[str, Any]) -> DiscreteVaeConfig:
    fields = {_FIELDS[name]: value for name, value in arguments.items() if name in _FIELDS}
    channels = arguments.get("channels", 3)
    default = ((0.5, 0.5, 0.5, 0.0), (0.5, 0.5, 0.5, 1.0))
    given = arguments.get("normalization", default) or (None, None)
    mean, std = (values and tuple(values)[:channels] for values in given)
    smooth = arguments.get("smooth_l1_loss", False)
    return DiscreteVaeConfig(**fields, mean=mean, std=std, error="smooth_l1" if smooth else "mse")


@torch.no_grad()
def check_discrete_vae(case: Case, folder: Path) -> None:
    arguments = case.config["kwargs"]
    torch.save({"hparams": arguments, "weights": filled_state(case)}, folder / "vae.pt")
    model = load(folder / "vae.pt")
    assert model.config == expected_config(arguments)
    x = model.normalise(case.inputs["picture"])
    rows, columns = x.shape[2] // model.factor, x.shape[3] // model.factor
    logits = model.features(x)
    noise = rearrange(case.inputs["gumbel"], "b s y x -> b (y x) s")
    back = model(x, noise=noise)
    ids = case.inputs["codes"].long()
    side = int(ids.shape[1] ** 0.5)
    best = logits.topk(2, dim=-1).values
    answers = {
        "logits": rearrange(logits, "b (y x) s -> b s y x", y=rows, x=columns),
        "codes": model.encode(x),
        "margin": (best[..., 0] - best[..., 1]).min()[None],
        "rec": back.pictures,
        "loss": back.loss[None],
        "decode": model.decode_ids(ids, (side, side)),
    }
    case.check({name: answers[name] for name in case.outputs})
