"""OpenAI's dVAE: codes, logits and pictures, from the two files that its code saved."""

import re
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from dall_e_pickles import saved_halves
from golden.case import Case, filled_state
from lascaux.models.dvae import VARIANTS, Dvae, DvaeConfig, map_pixels, unmap_pixels
from lascaux.weights.load import load

_FIELDS = {
    "encoder": {
        "n_hid": "encoder_width",
        "n_blk_per_group": "encoder_blocks",
        "vocab_size": "codes",
        "group_count": "groups",
        "input_channels": "in_channels",
    },
    "decoder": {
        "n_init": "first_width",
        "n_hid": "decoder_width",
        "n_blk_per_group": "decoder_blocks",
        "vocab_size": "codes",
        "group_count": "groups",
        "output_channels": "out_channels",
    },
}


def expected_config(case: Case) -> DvaeConfig:
    changes = {
        _FIELDS[half][name]: value
        for half in ("encoder", "decoder")
        for name, value in case.config[half].items()
        if name in _FIELDS[half]
    }
    return replace(VARIANTS["openai-dvae"], **changes)


@torch.no_grad()
def check(case: Case, folder: Path) -> None:
    expected = expected_config(case)
    attributes = {
        half.capitalize(): {
            name: getattr(expected, field)
            for name, field in names.items()
            if name != "group_count" or name in case.config[half]
        }
        for half, names in _FIELDS.items()
    }
    model = load(saved_halves(folder, filled_state(case), attributes))
    assert model.config == expected
    case.check(answered(case, model))


def answered(case: Case, model: Dvae) -> dict[str, Tensor]:
    x = map_pixels(case.inputs["image"].float() / 255)
    given = case.inputs["code"].long()
    grid = (x.shape[2] // model.factor, x.shape[3] // model.factor)
    logits = model.features(x)
    codes, vectors = model.quantise(logits)
    assert torch.equal(codes, model.encode(x))
    statistics = model.statistics(vectors, grid)
    their_grid = (given.shape[1], given.shape[2])
    their_ids = rearrange(given, "b y x -> b (y x)")
    their_statistics = model.statistics(model.lookup(their_ids), their_grid)
    best = logits.topk(2, dim=-1).values
    whole = {
        "codes": rearrange(codes, "b (y x) -> b y x", y=grid[0]),
        "logits": rearrange(logits, "b (y x) s -> b s y x", y=grid[0]),
        "min_margin": (best[..., 0] - best[..., 1]).min()[None],
        "mapped_mean_std": torch.stack((x.mean(), x.std())),
        "map_check": map_pixels(case.inputs["ramp"]),
        "unmap_check": unmap_pixels(case.inputs["ramp"]),
        "stats": statistics,
        "rec": unmap_pixels(model.decode(vectors, grid)),
        "rec_code": unmap_pixels(model.decode_ids(their_ids, their_grid)),
        "stats_code_mean_std": torch.stack(
            (their_statistics.mean(dim=(2, 3)), their_statistics.std(dim=(2, 3)))
        ),
    }
    codes_apart = recorded_step(case, "logits")
    pixels_apart = recorded_step(case, "stats")
    whole["logits"] = whole["logits"][:, ::codes_apart]
    for name in ("stats", "rec", "rec_code"):
        whole[name] = whole[name][..., ::pixels_apart, ::pixels_apart]
    return {name: whole[name] for name in case.outputs}


def recorded_step(case: Case, name: str) -> int:
    """Of an output that is recorded at every so many places."""
    described = re.search(r"every (\d+)th", case.manifest["outputs"].get(name, ""))
    return int(described[1]) if described else 1
