"""DALLE-pytorch: its DiscreteVAE, its DALL-E and its CLIP, from files as its scripts write them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from golden.case import Case, filled_state
from lascaux.models.dalle import Dalle
from lascaux.models.discrete_vae import DiscreteVae, DiscreteVaeConfig
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
_MASKED = -1e4  # as which a case holds the lowest number there is
_SCALE = 3  # of guidance, in every case


def check(case: Case, folder: Path) -> None:
    state = case.manifest["state"]
    if "codebook.weight" in state:
        check_discrete_vae(case, folder)
    elif "to_logits.1.weight" in state:
        check_dalle(case, folder)
    elif "to_visual_latent.weight" in state:
        check_clip(case, folder)
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


@torch.no_grad()
def check_clip(case: Case, folder: Path) -> None:
    torch.save(filled_state(case), folder / "clip.pt")
    model = load(folder / "clip.pt")
    text, x, mask = case.inputs["text"], case.inputs["image"], case.inputs["mask"].bool()
    answers = {
        "scores": model.score(text, x, mask),
        "scores_nomask": model.score(text, x),
        "loss": model.loss(text, x, mask)[None],
    }
    case.check({name: answers[name] for name in case.outputs})


@torch.no_grad()
def check_dalle(case: Case, folder: Path) -> None:
    vae = case.config["vae"]
    content = {
        "hparams": case.config["kwargs"],
        "vae_params": vae["kwargs"] if vae["type"] == "DiscreteVAE" else None,
        "vae_class_name": vae["type"],
        "version": "1.6.6",
        "weights": filled_state(case),
    }
    torch.save(content, folder / "dalle.pt")
    model: Dalle = load(folder / "dalle.pt")
    assert model.config.grid == vae["fmap"]
    text, codes = case.inputs["text"], case.inputs["image_tokens"]
    answers = {
        **of_forward(model, text, codes),
        **of_painting(model, text, codes, case),
        **of_sampling(case),
        **of_tokeniser(model, codes, case),
    }
    shaped = {}
    for name, expected in case.outputs.items():
        have = answers[name].shape
        steps = [-(-size // want) for size, want in zip(have, expected.shape, strict=True)]
        shaped[name] = answers[name][tuple(slice(None, None, step) for step in steps)]
    case.check(shaped)


def of_forward(model: Dalle, text: Tensor, codes: Tensor) -> dict[str, Tensor]:
    def last(logits: Tensor) -> Tensor:
        return logits[:, -1].clamp(min=_MASKED)

    texts, classes = model.config.text_length, model.config.text_classes
    logits = model(text, codes)
    best = logits.topk(2, dim=-1)
    return {
        "logits": logits.clamp(min=_MASKED),
        "lse_text": logits[:, :texts, :classes].logsumexp(dim=-1),
        "lse_image": logits[:, texts:, classes:].logsumexp(dim=-1),
        "argmax": best.indices[..., 0],
        "argmax_margin": best.values[..., 0] - best.values[..., 1],
        "null_logits_last": last(model(torch.zeros_like(text), codes)),
        "text_only_last": last(model(text)),
        "partial": last(model(text, codes[:, :5])),
        "loss": model.loss(text, codes).total[None],
    }


def of_painting(model: Dalle, text: Tensor, codes: Tensor, case: Case) -> dict[str, Tensor]:
    nothing = torch.zeros_like(text)
    count = case.outputs["greedy"].shape[1]
    greedy, margins = painted(model, text, count)
    guided, guided_margins = painted(model, text, count, scale=_SCALE)
    given = int(case.manifest["outputs"]["greedy_primed"].split("from ")[1].split()[0])
    left = case.outputs["greedy_primed"].shape[1] - given
    primed, primed_margins = painted(model, text, left, given=codes[:, :given])
    # What is published forgets the text after the first code.
    first = guided[:, :1]
    rest, _ = painted(model, nothing, count - 1, given=first)
    return {
        "greedy": greedy,
        "greedy_cfg": guided,
        "greedy_primed": primed,
        "greedy_cfg_official": rest,
        "greedy_cached_same": torch.tensor(
            [int(torch.equal(greedy, uncached(model, text, count)))]
        ),
        "greedy_margin": torch.stack([margins, guided_margins, primed_margins]).min()[None],
    }


def painted(
    model: Dalle,
    text: Tensor,
    count: int,
    *,
    given: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Codes by the likeliest, those given in front, and the smallest gap of a choice."""
    texts = text if scale is None else torch.cat((text, torch.zeros_like(text)))
    new = model.prefix(texts)
    codes = text[:, :0] if given is None else given
    if given is not None:
        new = torch.cat((new, given if scale is None else given.repeat(2, 1)), dim=1)
    cache, gaps = model.new_cache(len(texts)), []
    for _ in range(count):
        logits = model.step(new, cache)
        if scale is not None:
            said, null = logits.chunk(2)
            logits = null + (said - null) * scale
        best = logits.topk(2, dim=-1)
        gaps.append((best.values[:, 0] - best.values[:, 1]).min())
        codes = torch.cat((codes, best.indices[:, :1]), dim=1)
        new = codes[:, -1:] if scale is None else codes[:, -1:].repeat(2, 1)
    return codes, torch.stack(gaps).min()


def uncached(model: Dalle, text: Tensor, count: int) -> Tensor:
    codes = text[:, :0]
    for _ in range(count):
        logits = model(text, codes)[:, -1, model.config.text_classes :]
        codes = torch.cat((codes, logits.argmax(dim=-1, keepdim=True)), dim=1)
    return codes


def of_sampling(case: Case) -> dict[str, Tensor]:
    logits, u = case.inputs["flogits"], case.inputs["u"]
    kept = max(int(0.5 * logits.shape[-1]), 1)
    order = logits.argsort(dim=-1, descending=True)
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[:, :kept], True)
    noise = -torch.log(-torch.log(u))
    return {"topk_filter": chosen, "gumbel_pick": (logits / 0.8 + noise).argmax(dim=-1)}


def of_tokeniser(model: Dalle, codes: Tensor, case: Case) -> dict[str, Tensor]:
    if "picture" not in case.inputs:
        return {}
    tokeniser: Any = model.tokeniser
    x = tokeniser.normalise(case.inputs["picture"])
    features = tokeniser.features(x)
    back = tokeniser.decode_ids(codes, (model.config.grid, model.config.grid))
    if not isinstance(tokeniser, DiscreteVae):
        back = tokeniser.denormalise(back).clamp(0, 1)
    answers = {"vae_codes": tokeniser.encode(x), "vae_decode": back}
    if isinstance(tokeniser, DiscreteVae):
        best = features.topk(2, dim=-1).values
    else:
        far = torch.cdist(features.double(), tokeniser.codebook.weight.double())
        best = -far.square().topk(2, dim=-1, largest=False).values
    return {**answers, "vae_margin": (best[..., 0] - best[..., 1]).min()[None]}
