"""Styled VAE-VQ and its k-means; what is recorded has (36, B, ...) for our b n ...."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.case import Case, filled_state


def check(case: Case, folder: Path) -> None:
    if "kwargs" in case.config:
        check_model(case, folder)
    elif "init" in case.inputs:
        check_kmeans(case)
    else:
        pytest.fail(f"{case.name}: the project does not have this part of Styled VAE-VQ")


@torch.no_grad()
def check_model(case: Case, folder: Path) -> None:
    model = loaded(case, folder)
    inputs = case.inputs
    x = inputs["image"].float() / 127.5 - 1
    features = model.features(x)
    ids, codes = model.quantise(features)
    whole = model.decode(features)
    pictures: dict[str, Callable[[], Tensor]] = {
        "rec": lambda: whole,
        "rec_quantised": lambda: model.decode(codes),
        "rec_codes": lambda: model.decode_ids(inputs["codes"].T.long()),
        "rec_features": lambda: model.decode(inputs["features"].transpose(0, 1)),
    }
    answers: dict[str, Callable[[], Tensor]] = {
        "tokens": lambda: model.encoder.tokens(x)[:, ::16, ::4].transpose(0, 1),
        "mu": lambda: model.encoder(x).transpose(0, 1),
        "features": lambda: features.transpose(0, 1),
        "codes": lambda: ids.T,
        "min_margin": lambda: _margin(features, model.codebook),
        "rec_mean_std": lambda: _moments(whole),
        "mse": lambda: (whole - x).square().mean()[None],
        **{name: lambda make=make: make()[..., ::8, ::8] for name, make in pictures.items()},
    }
    case.check({name: answers[name]() for name in case.outputs})


def loaded(case: Case, folder: Path) -> Any:
    """The case's model, through the loader, from a file as the author's training saves it."""
    from lascaux.models.styled_vq import StyledVqConfig
    from lascaux.weights.load import load

    path = folder / "weights.pt"
    state = filled_state(case)
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, path)
    told = case.config["kwargs"]
    width, decoder_width = told["width"], told.get("decoder_dim", 768)
    mlp_width = int(width * told.get("mlp_ratio", 4.0))
    expected = StyledVqConfig(
        width=width,
        heads=told.get("heads", 16),
        mlp_width=None if mlp_width == 4 * width else mlp_width,
        latent_width=told.get("emb_dim", 128),
        decoder_width=decoder_width,
        quantised="mixture",
        distance="euclidean",
    )
    # Shapes do not tell the heads; the author has one for 64 channels.
    model = load(path, config=None if expected.heads == max(1, width // 64) else expected)
    assert model.config == expected
    return model


def check_kmeans(case: Case) -> None:
    from lascaux.nn.kmeans import assign, centres_of

    x = case.inputs["x"].float()
    centres = x[case.inputs["init"].long()]
    ids = torch.zeros(0)
    for _ in range(int(case.inputs["iters"]) + 1):
        ids = assign(x, centres).ids
        centres = centres_of(x, ids, centres)
    answers = {
        "assignment": ids,
        "centres": centres,
        "centres_dist": centres,
        "predict": assign(x, centres).ids,
    }
    case.check({name: answers[name] for name in case.outputs})


def _margin(features: Tensor, codebook: Tensor) -> Tensor:
    rows = features.flatten(0, 1)
    squares = rows.square().sum(1, keepdim=True) + codebook.square().sum(1)
    best = (squares - 2 * rows @ codebook.T).topk(2, largest=False).values
    return (best[:, 1] - best[:, 0]).min()[None]


def _moments(x: Tensor) -> Tensor:
    return torch.stack((x.mean((2, 3)), x.std((2, 3))))
