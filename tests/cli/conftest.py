"""A saved model of random weights, and a folder of pictures, for commands to work on."""

import pytest
import torch
from PIL import Image

from lascaux.models.clip import Clip
from lascaux.text import ClipTokenizer
from tiny import tiny_reader


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    from lascaux.weights.save import save

    words = ["a photo of a cat.", "a photo of a dog.", "红色 火车"] * 3
    tokenizer = ClipTokenizer.train(words, 600, 32)
    torch.manual_seed(3)
    model = Clip(tiny_reader(tokenizer.vocabulary_size, context_length=32))
    model.tokenizer = tokenizer
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(model, folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Three pictures and one that is none, last in order."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("a.png", "navy"), ("b.jpg", "red"), ("c.webp", "green")):
        Image.new("RGB", (50, 40), colour).save(folder / name, lossless=True)
    (folder / "z.png").write_bytes(b"no picture")
    return folder
