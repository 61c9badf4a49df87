"""VQGAN: encoder, codes and decoder of CompVis's classes, and the vector quantiser by itself."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from einops import rearrange
from torch import Tensor

from golden.case import Case, filled_state


def check(case: Case, folder: Path) -> None:
    if case.config["class"].startswith("VectorQuantizer"):
        check_quantiser(case)
    else:
        check_model(case, folder)


def loaded(case: Case, folder: Path) -> Any:
    """The case's VQGAN from a file, with the yaml beside it that CompVis would put there."""
    from lascaux.models.vqgan import VqGanConfig
    from lascaux.weights.load import load

    told = dict(case.config)
    name, sizes = told.pop("class"), told["ddconfig"]
    state = filled_state(case)
    dropped = {"loss.discriminator.main.0.bias": torch.zeros(1)}
    torch.save({"state_dict": {**state, **dropped}, "global_step": 1}, folder / "last.ckpt")
    bare = load(folder / "last.ckpt")
    project = {"model": {"target": f"taming.models.vqgan.{name}", "params": told}}
    (folder / "model.yaml").write_text(yaml.safe_dump(project))
    model = load(folder / "last.ckpt")
    assert isinstance(model.config, VqGanConfig)
    assert model.config.image_size == sizes["resolution"]
    assert model.config.attention_sizes == tuple(sizes["attn_resolutions"])
    assert model.config.kl_weight == told.get("kl_weight", 1e-8)
    # The structure follows from the shapes alone, too.
    assert bare.state_dict().keys() == model.state_dict().keys()
    free = ("image_size", "attention_sizes", "kl_weight", "dropout", "unknown")
    assert replace(bare.config, **{n: getattr(model.config, n) for n in free}) == model.config
    return model


def model_input(case: Case) -> Tensor:
    if "segmentation" in case.inputs:
        seen = F.one_hot(case.inputs["segmentation"].long(), case.config["n_labels"])
        return rearrange(seen, "b y x l -> b l y x").float()
    return case.inputs["image"].float() / 127.5 - 1


def cut(name: str, value: Tensor, case: Case) -> Tensor:
    """A slice as the case took it: every n-th channel, row and column."""
    expected = case.outputs[name]
    if name.endswith("mean_std"):
        return torch.stack([value.mean((2, 3)), value.std((2, 3))])
    steps = [-(-have // want) for have, want in zip(value.shape, expected.shape, strict=True)]
    # Several steps may leave as many channels: the case says which it was.
    text = case.manifest["outputs"][name.replace("dec_code", "dec")]
    if told := re.search(r"every (\d+)\w* (?:channel|code)", text):
        steps[1] = 1 if value.shape[1] == expected.shape[1] else int(told.group(1))
    return value[tuple(slice(None, None, step) for step in steps)]


@torch.no_grad()
def check_model(case: Case, folder: Path) -> None:
    model, x = loaded(case, folder), model_input(case)
    rows, columns = model.grid(x)

    def as_map(features: Tensor) -> Tensor:
        return rearrange(features, "b (y x) d -> b d y x", y=rows)

    features = model.features(x)
    ids, found = model.quantise(features)
    assert torch.equal(model.encode(x), ids)
    assert torch.equal(model.lookup(ids), found)
    noise = case.inputs.get("gumbel")
    if noise is not None:
        noise = rearrange(noise, "b s y x -> b (y x) s")
    trained = model.train_quantise(features, noise=noise)
    code = case.inputs["code"]
    decoded = model.decode(trained.features, (rows, columns))
    from_code = model.decode_ids(code.flatten(1), code.shape[1:])
    if case.config["class"] == "GumbelVQ":
        logits = as_map(model.choice(features))
        scores = model.choice(features) + (0 if noise is None else noise)
    else:
        logits = torch.empty(0)
        scores = -torch.cdist(features.double(), model.codebook.weight.double()).square()
    assert noise is not None or torch.equal(trained.ids, ids)
    best = scores.topk(2, dim=-1).values
    whole = {
        "indices": trained.ids,
        "argmax": ids,
        "codebook_loss": trained.loss,
        "kl_loss": trained.loss,
        "min_margin": (best[..., 0] - best[..., 1]).min(),
        "h": as_map(features),
        "h_slice": as_map(features),
        "logits": logits,
        "logits_slice": logits,
        "quant": as_map(trained.features),
        "quant_slice": as_map(trained.features),
        "dec": decoded,
        "dec_strided": decoded,
        "dec_mean_std": decoded,
        "dec_code": from_code,
        "dec_code_strided": from_code,
    }
    answers: dict[str, Tensor] = {}
    for name, expected in case.outputs.items():
        value = whole[name]
        if value.ndim == expected.ndim == 4 or name == "dec_mean_std":
            value = cut(name, value, case)
        answers[name] = value.reshape(expected.shape)
    case.check(answers)


def quantiser(told: dict[str, Any], state: dict[str, Tensor], *, remapped: bool) -> Any:
    """A VQGAN whose codebook is the case's; nothing else of it is asked."""
    from lascaux.models.vqgan import VqGan, VqGanConfig

    used = state.get("used") if remapped else None
    config = VqGanConfig(
        codes=told["n_e"],
        code_width=told["e_dim"],
        beta=told["beta"],
        width=32,
        multiples=(1,),
        blocks=1,
        latent_width=told["e_dim"],
        used_codes=None if used is None else len(used),
        unknown=told.get("unknown_index", "random"),
    )
    model = VqGan(config)
    given = {"codebook.weight": state["embedding.weight"]} | (
        {} if used is None else {"used": used}
    )
    model.load_state_dict({**model.state_dict(), **given})
    return model


def check_quantiser(case: Case) -> None:
    from lascaux.nn.quantise import perplexity, quantisation_loss

    told, z = case.config, case.inputs["z"]
    batch, _, rows, columns = z.shape
    state = filled_state(case)
    flat = rearrange(z, "b d y x -> b (y x) d")
    model = quantiser(told, state, remapped=True)
    raw, _ = quantiser(told, state, remapped=False).quantise(flat)
    ids, found = model.quantise(flat)

    def as_map(x: Tensor) -> Tensor:
        return rearrange(x, "b (y x) d -> b d y x", y=rows)

    answers: dict[str, Tensor] = {}
    for term, name in (("codebook", "legacy"), ("commitment", "fixed")):
        features = flat.clone().requires_grad_()
        codebook = state["embedding.weight"].clone().requires_grad_()
        loss = quantisation_loss(features, codebook[raw], beta=told["beta"], weighs=term)
        loss.backward()
        assert features.grad is not None
        assert codebook.grad is not None
        answers[f"loss_{name}"] = loss
        answers[f"grad_z_{name}"] = as_map(features.grad)
        answers[f"grad_codebook_{name}"] = codebook.grad
    answers |= {
        "zq": as_map(found),
        "indices_remapped": ids.reshape(-1, 1),
        "indices_sane": ids.reshape(batch, rows, columns),
        "entry": as_map(model.lookup(ids)),
        "indices_raw": raw.flatten(),
        "old_loss": answers["loss_legacy"],
        "old_perplexity": perplexity(raw, told["n_e"]),
        "old_indices": raw.reshape(-1, 1),
    }
    asked = case.outputs.items()
    case.check({name: answers[name].detach().reshape(e.shape) for name, e in asked})
