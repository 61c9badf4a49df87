"""A CLIP of random weights, and pictures in folders, for measuring without meaning."""

import pytest
import torch
from PIL import Image

from lascaux.models.clip import Clip
from lascaux.text import ClipTokenizer
from tiny import tiny_reader

TONES = {"red": (210, 30, 40), "green": (40, 160, 60), "blue": (30, 60, 200), "grey": (90, 90, 90)}


@pytest.fixture(scope="session")
def random_clip() -> Clip:
    tokenizer = ClipTokenizer.train(["a photo of a red green blue grey thing."] * 3, 600, 77)
    torch.manual_seed(11)
    model = Clip(tiny_reader(tokenizer.vocabulary_size, context_length=77))
    model.tokenizer = tokenizer
    return model.eval()


def _paint(folder, tones=tuple(TONES), count=3, shift=0):
    """Pictures of tones, in one subfolder for each."""
    for name in tones:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            tone = tuple(min(255, part + 9 * number + shift) for part in TONES[name])
            Image.new("RGB", (30 + number, 34), tone).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def paint():
    return _paint


@pytest.fixture
def painted(tmp_path):
    return _paint(tmp_path / "painted")
