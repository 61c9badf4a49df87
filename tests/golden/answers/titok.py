"""TiTok: latents, codes and pictures; what is recorded has (B, width, 1, tokens) for our b n d."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from golden.case import Case, filled_state


@torch.no_grad()
def check(case: Case, folder: Path) -> None:
    model = loaded(case, folder)
    inputs = case.inputs
    x = inputs["image"].float() / 255 if "image" in inputs else None
    given = _decoded(model, x, inputs.get("noise")) if x is not None else torch.zeros(0)
    answers: dict[str, Callable[[], Tensor]] = {
        "z": lambda: _published(model.encoder(x)),
        "mean": lambda: _published(model.distribution(x)[0]),
        "mode": lambda: _published(model.distribution(x)[0]),
        "logvar": lambda: _published(model.distribution(x)[1]),
        "std": lambda: _published((0.5 * model.distribution(x)[1]).exp()),
        "var": lambda: _published(model.distribution(x)[1].exp()),
        "kl": lambda: _divergence(*model.distribution(x)),
        "zq": lambda: _published(given),
        "indices": lambda: model.encode(x)[:, None],
        "min_margin": lambda: _margin(model, x),
        "decoder_out": lambda: _decoder_out(model, given),
        "rec": lambda: _sliced(_picture(model, given)),
        "rec_mean_std": lambda: _moments(_picture(model, given)),
        "rec_mean": lambda: _sliced(model.decode(model.features(x))),
        "rec_tokens": lambda: _sliced(_picture(model, _of_tokens(model, inputs["tokens"]))),
    }
    case.check({name: answers[name]() for name in case.outputs})


def loaded(case: Case, folder: Path) -> Any:
    """The case's TiTok, as a folder of the hub through the loader."""
    from lascaux.weights.load import load

    save_file(filled_state(case), folder / "model.safetensors")
    published = {
        "model": {"vq_model": case.config["vq_model"]},
        "dataset": {"preprocessing": {"crop_size": case.config["crop_size"]}},
    }
    (folder / "config.json").write_text(json.dumps(published), encoding="utf-8")
    return load(folder)


def _published(features: Tensor) -> Tensor:
    return rearrange(features, "b n d -> b d 1 n")


def _decoded(model: Any, x: Tensor, noise: Tensor | None) -> Tensor:
    """What the decoder is given: codes' vectors, or a variational TiTok's means, or draws."""
    if not model.config.variational:
        return model.quantise(model.features(x))[1]
    mean, log_variance = model.distribution(x)
    if noise is None:
        return mean
    return mean + (0.5 * log_variance).exp() * rearrange(noise, "b d 1 n -> b n d")


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=2)


def _of_tokens(model: Any, tokens: Tensor) -> Tensor:
    if model.config.variational:
        return rearrange(tokens, "b d 1 n -> b n d")
    return model.lookup(tokens[:, 0].long())


def _picture(model: Any, features: Tensor) -> Tensor:
    unfinished = model.config.legacy and model.pixel_decoder is None
    return model.decoder(features) if unfinished else model.decode(features)


def _decoder_out(model: Any, features: Tensor) -> Tensor:
    out = model.decoder(features)
    return out[:, ::16, ::2, ::2] if model.config.legacy else _sliced(out)


def _margin(model: Any, x: Tensor | None) -> Tensor:
    rows = model.codebook
    if model.config.unit_length:
        rows = torch.nn.functional.normalize(rows, dim=-1)
    features = model.features(x).flatten(0, 1)
    squares = features.square().sum(1, keepdim=True) + rows.square().sum(1)
    best = (squares - 2 * features @ rows.T).topk(2, largest=False).values
    return (best[:, 1] - best[:, 0]).min()[None]


def _sliced(x: Tensor) -> Tensor:
    return x[..., ::8, ::8]


def _moments(x: Tensor) -> Tensor:
    return torch.stack((x.mean((2, 3)), x.std((2, 3))))
