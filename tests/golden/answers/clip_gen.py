"""clip-gen: its VQGAN with the discriminator inside."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor

from golden.case import Case, filled_state


def check(case: Case, folder: Path) -> None:
    if "codebook_size" in case.config:
        check_vqgan(case, folder)
    else:
        pytest.fail(f"{case.name}: the project does not have this part of clip-gen")


@torch.no_grad()
def check_vqgan(case: Case, folder: Path) -> None:
    from lascaux.models.vqgan import VARIANTS
    from lascaux.weights.load import load

    path = folder / "vqgan.pt"
    torch.save({"model": filled_state(case), "epoch": 3}, path)
    model, discriminator = load(path), load(path, part="discriminator").train()
    told = replace(
        VARIANTS["clip-gen-coco"],
        codes=case.config["codebook_size"],
        code_width=case.config["n_embed"],
        latent_width=case.config["n_embed"],
    )
    if codec := case.config.get("codec"):
        told = replace(
            told,
            width=codec["ch"],
            multiples=tuple(codec["ch_mult"]),
            blocks=codec["num_res_blocks"],
            in_channels=codec["in_c"],
            image_size=codec["resolution"],
            attention_sizes=tuple(codec["attn_resolutions"]),
        )
    free = {name: getattr(told, name) for name in ("image_size", "attention_sizes")}
    assert model.config.attends(encoder=True) == told.attends(encoder=True)
    assert replace(model.config, **free) == told
    x, code = case.inputs["image"].float() / 127.5 - 1, case.inputs["code"]
    rows, columns = model.grid(x)
    features = model.features(x)
    trained = model.train_quantise(features)
    assert torch.equal(model.encode(x), trained.ids)
    far = torch.cdist(features.double(), model.codebook.weight.double())
    best = far.topk(2, dim=-1, largest=False).values
    back = model.decode(trained.features, (rows, columns))
    maps = {
        "z": rearrange(features, "b (y x) d -> b d y x", y=rows),
        "zq": rearrange(trained.features, "b (y x) d -> b d y x", y=rows),
        "rec": back,
        "rec_code": model.decode_ids(code.flatten(1), (code.shape[1], code.shape[2])),
    }
    answers: dict[str, Tensor] = {
        "indices": trained.ids,
        "min_margin": (best[..., 1] - best[..., 0]).min(),
        "loss_q": trained.loss,
        "stage0_logits_fake": discriminator(back),
        "stage1_logits_real": discriminator(x),
        "stage1_logits_fake": discriminator(back),
    }
    for name, whole in maps.items():
        wanted = case.outputs[name].shape
        steps = [-(-have // want) for have, want in zip(whole.shape, wanted, strict=True)]
        answers[name] = whole[tuple(slice(None, None, step) for step in steps)]
    case.check({name: answers[name].reshape(e.shape) for name, e in case.outputs.items()})
