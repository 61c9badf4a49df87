from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lascaux.train import scenes


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """24 pictures of coloured blocks, without captions, of several shapes."""
    folder = tmp_path_factory.mktemp("data") / "blocks"
    folder.mkdir()
    rng = np.random.Generator(np.random.PCG64([5]))
    for number in range(24):
        blocks = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        blocks.resize((20 + number, 20), Image.Resampling.NEAREST).save(
            folder / f"{number:02d}.png"
        )
    return folder


@pytest.fixture
def few_scenes(monkeypatch) -> Iterator[None]:
    """Validation of the embedded models on six scenes."""
    monkeypatch.setattr(scenes, "_VALIDATED", 6)
    scenes.validation.cache_clear()
    yield
    scenes.validation.cache_clear()
