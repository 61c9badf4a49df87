"""A CLIP-GEN, a DALL-E and their CLIPs, so small that a test draws with them in no time."""

import torch
from torch import nn

from lascaux.models.clip import Clip
from lascaux.models.clip_gen import ClipGen, ClipGenConfig
from lascaux.models.dalle import Dalle, DalleConfig
from lascaux.models.dalle_clip import DalleClip, DalleClipConfig
from lascaux.text import ClipTokenizer
from lascaux.text.captions import CaptionTokenizer, WordPieces
from tiny import tiny_reader
from tokenisers import VQGAN, tiny_tokeniser

WORDS = ("[PAD]", "[UNK]", "a", "red", "blue", "apple", "boat", "on", "the", "table", "sea")
CODES = VQGAN.codes
SIDE = 16  # pixels: 4 x 4 codes of 4 pixels each


def spread(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights so large that what it is given matters."""
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if not name.startswith("tokeniser"):
            nn.init.normal_(weight, std=0.3)
    return model.eval()


def tiny_clip(seed: int = 3) -> Clip:
    """A CLIP that reads sentences of up to 30 pieces."""
    words = ["a red apple on a blue table", "a boat on the sea", "红色 火车"] * 3
    tokenizer = ClipTokenizer.train(words, 600, 32)
    model = spread(Clip(tiny_reader(tokenizer.vocabulary_size, context_length=32)), seed)
    assert isinstance(model, Clip)
    model.tokenizer = tokenizer
    return model


def tiny_clip_gen(clip: str | None = None, tokeniser: str | None = None, **fields) -> ClipGen:
    """A CLIP-GEN of pictures of 16 codes."""
    config = ClipGenConfig(
        codes=CODES,
        length=16,
        layers=2,
        heads=2,
        width=16,
        embedding_width=16,
        clip=clip,
        tokeniser=tokeniser,
        **fields,
    )
    torch.manual_seed(0)
    model = spread(ClipGen(config))
    assert isinstance(model, ClipGen)
    nn.init.normal_(model.condition.weight, std=2.0)
    return model


def tiny_dalle() -> Dalle:
    """A DALL-E of pictures of 16 codes and texts of 6 words."""
    config = DalleConfig(
        codes=CODES,
        grid=4,
        width=16,
        layers=2,
        text_tokens=len(WORDS),
        text_length=6,
        heads=2,
        head_width=8,
        patterns=("full", "axial_row"),
    )
    model = spread(Dalle(config, tiny_tokeniser("vqgan")))
    assert isinstance(model, Dalle)
    model.tokenizer = CaptionTokenizer(WordPieces(WORDS))
    return model


def tiny_dalle_clip() -> DalleClip:
    """DALLE-pytorch's CLIP for the same texts."""
    config = DalleClipConfig(
        text_width=16,
        image_width=16,
        embed_width=8,
        text_tokens=len(WORDS),
        text_length=6,
        text_layers=1,
        text_heads=1,
        image_layers=1,
        image_heads=1,
        image_size=SIDE,
        patch_size=8,
    )
    model = spread(DalleClip(config))
    assert isinstance(model, DalleClip)
    return model
