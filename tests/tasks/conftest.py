"""A CLIP small enough to be trained while tests run: it knows colours, and nothing else."""

from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from lascaux.models.clip import Clip
from lascaux.text import ClipTokenizer
from tiny import tiny_reader

COLOURS = {
    "red": (210, 30, 40),
    "green": (40, 160, 60),
    "blue": (30, 60, 200),
    "yellow": (240, 220, 50),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}


def picture_of(colour: str, variant: int = 0) -> Image.Image:
    """A plain picture whose tone and size vary a little."""
    red, green, blue = COLOURS[colour]
    shift = 6 * (variant % 5) - 12
    tone = tuple(min(255, max(0, part + shift)) for part in (red, green, blue))
    return Image.new("RGB", (40 + variant, 48), tone)


@pytest.fixture(scope="session")
def picture():
    return picture_of


def _tiny(tokenizer: ClipTokenizer) -> Clip:
    config = tiny_reader(tokenizer.vocabulary_size, context_length=20, embed_width=24)
    torch.manual_seed(0)
    model = Clip(config)
    model.tokenizer = tokenizer
    return model


def _trained(model: Clip) -> Clip:
    """Contrastive steps on all colours at once, in several wordings."""
    from lascaux.images.preprocess import normalise, pixels

    how = model.config.preprocessing
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    assert model.tokenizer is not None
    for step in range(80):
        wording = ("a photo of a {}.", "{}", "the colour {}", "something {}")[step % 4]
        x, _ = pixels([picture_of(name, step) for name in COLOURS], how)
        ids = model.tokenizer([wording.replace("{}", name) for name in COLOURS])
        logits = model(normalise(x, how.mean, how.std), ids)
        truth = torch.arange(len(COLOURS))
        loss = torch.nn.functional.cross_entropy(logits, truth)
        loss = loss + torch.nn.functional.cross_entropy(logits.T, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="session")
def colour_clip() -> Iterator[Clip]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    texts = [f"a photo of a {name}. the colour {name} something" for name in COLOURS] * 3
    yield _trained(_tiny(ClipTokenizer.train(texts, 640, 20)))
    torch.set_num_threads(threads)
