"""A saved model of random weights, and a folder of pictures, for commands to work on."""

import pytest
import torch
from PIL import Image

from lascaux.cli.main import main
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


@pytest.fixture
def verb(model_folder, capsys):
    """Runs of a verb with the tiny model: exit code, what it printed, what it remarked."""

    def of(name):
        def run(*words):
            code = main([name, *map(str, words), "--model", str(model_folder)])
            out, err = capsys.readouterr()
            return code, out, err

        return run

    return of


@pytest.fixture
def many(tmp_path):
    """Pictures that take some milliseconds each to decode, no two alike."""
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(240):
        tone = (n, 255 - n, 37 * n % 256)
        picture = Image.linear_gradient("L").resize((500, 500)).convert("RGB")
        picture.paste(tone, (2 * n, 0, 2 * n + 20, 500))
        picture.save(folder / f"{n:03d}.png", compress_level=1)
    return folder
