"""Taming transformers of each kind, so small that a test saves them and paints in no time."""

from dataclasses import replace

import torch
from torch import nn

from lascaux.models.taming_transformer import TamingTransformer, TamingTransformerConfig
from lascaux.models.vqgan import VqGan, VqGanConfig

LABELS = 5
STAGE = VqGanConfig(
    codes=24, code_width=6, image_size=8, width=8, multiples=(1, 2), blocks=1,
    attention_sizes=(), latent_width=6, groups=4,
)  # fmt: skip
# Windows of 4 x 4 codes, which are 8 x 8 pixels.
CONFIG = TamingTransformerConfig(codes=24, length=31, layers=2, heads=2, width=16)
MAPS = replace(STAGE, in_channels=LABELS, out_channels=LABELS, labels=LABELS, mean=0.0, std=1.0)
DEPTH = replace(STAGE, in_channels=1, out_channels=1)
COORDINATES = {"coordinate_codes": 24, "coordinate_factor": 2}

KINDS = {
    "map": (CONFIG, MAPS),
    "depth": (CONFIG, DEPTH),
    "picture": (replace(CONFIG, condition="first-stage"), None),
    "label": (replace(CONFIG, length=16, condition="class", classes=7), None),
    "coordinates": (replace(CONFIG, condition="coordinates", **COORDINATES), None),
    # Of the 24 codes the last is no object; corners lie on 4 x 4 places.
    "boxes": (replace(CONFIG, length=23, condition="tokens", objects=2, classes=7), None),
    "nothing": (replace(CONFIG, length=16, condition="start"), None),
    "tokens": (replace(CONFIG, length=18, condition="tokens"), None),
}


def tiny_painter(
    kind: str, *, first: VqGanConfig | None = STAGE, stage: VqGanConfig | None = None, **fields
) -> TamingTransformer:
    """A model of random weights that gives several codes."""
    torch.manual_seed(0)
    config, own = KINDS[kind]
    stages = [None if each is None else VqGan(each) for each in (first, stage or own)]
    for each in stages:
        if each is not None:
            nn.init.normal_(each.codebook.weight, std=0.5)
            # Of random weights pictures would be grey.
            each.decoder.last.weight.data *= 8
    model = TamingTransformer(
        replace(config, **fields), first_stage=stages[0], condition_stage=stages[1]
    )
    for parameter in model.transformer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()
