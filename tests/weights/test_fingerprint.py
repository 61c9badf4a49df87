from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lascaux.models.clip import Clip
from lascaux.models.judge import Judge, JudgeConfig
from lascaux.weights.convert import convert
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.keymap import translate_back
from lascaux.weights.load import DTYPES, load
from lascaux.weights.maps.clip import LAYOUTS
from lascaux.weights.save import save
from tiny import TINY


@pytest.mark.parametrize("kind", ["clip", "judge"])
def test_one_folder_has_one_hash_in_every_dtype(kind: str, tmp_path: Path):
    sizes = JudgeConfig(objects=5, backgrounds=3, widths=(4, 4, 4, 4, 4))
    model = Clip(TINY) if kind == "clip" else Judge(sizes)
    folder = save(model, tmp_path / "model")
    assert {weights_hash(load(folder, dtype=d)) for d in DTYPES} == {weights_hash(model)}


def test_a_half_precision_file_and_its_folder_have_one_hash(tmp_path: Path):
    state = translate_back(Clip(TINY).state_dict(), LAYOUTS["openai"].rules)
    half = {k: v.half() if v.ndim > 1 else v + 1e-4 for k, v in state.items()}
    torch.save(half, tmp_path / "clip.pt")
    convert(tmp_path / "clip.pt", tmp_path / "folder")
    sources = (tmp_path / "clip.pt", tmp_path / "folder")
    assert len({weights_hash(load(s, dtype=d)) for s in sources for d in DTYPES}) == 1


def test_changed_weights_and_other_activations_have_another_hash(tmp_path: Path):
    folder = save(Clip(TINY), tmp_path / "model")
    loaded = load(folder, dtype="float16")
    before = weights_hash(loaded)
    with torch.no_grad():
        loaded.text.positions.mul_(2)
    assert weights_hash(loaded) != before
    plain = Clip(replace(TINY, activation="gelu"))
    plain.load_state_dict(load(folder).state_dict())
    assert weights_hash(plain) != before
