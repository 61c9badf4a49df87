import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lascaux.errors import BadInput, WrongKeys
from lascaux.models.clip import Clip, ClipConfig
from lascaux.models.judge import Judge, JudgeConfig
from lascaux.text.clip_bpe import ClipTokenizer
from lascaux.weights import save as saving
from lascaux.weights.load import load
from lascaux.weights.save import save

CONFIG = ClipConfig(
    embed_width=16,
    image_size=32,
    vision_layers=(1, 1, 1, 1),
    vision_width=4,
    vision_heads=4,
    text_width=32,
    text_heads=4,
    text_layers=1,
    context_length=8,
    vocabulary_size=600,
    activation="gelu",
    mean=(0.5, 0.25, 0.125),
    reading="photo",
    calibration=(12.0, -3.25),
    templates="simple",
)
VIT = replace(CONFIG, vision_layers=1, vision_width=32, patch_size=8)


def clip(config: ClipConfig = CONFIG) -> Clip:
    torch.manual_seed(0)
    return Clip(config).eval()


@pytest.mark.parametrize("config", [CONFIG, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_saved_model_comes_back_bit_for_bit(config: ClipConfig, dtype: str, tmp_path: Path):
    model = clip(config).to(getattr(torch, dtype))
    loaded = load(save(model, tmp_path / "model"), dtype=dtype)
    assert loaded.config == model.config
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name]), name


def test_the_tokenizer_comes_back(tmp_path: Path):
    model = clip()
    model.tokenizer = ClipTokenizer.train(["a cat", "a cat and a dog"], 530, 8)
    loaded = load(save(model, tmp_path / "model"))
    assert loaded.tokenizer is not None
    assert torch.equal(loaded.tokenizer("a dog"), model.tokenizer("a dog"))


def test_the_folder_has_what_a_hub_expects(tmp_path: Path):
    model = clip()
    model.tokenizer = ClipTokenizer.train(["a cat"], 520, 8)
    folder = save(model, tmp_path / "deep" / "model")
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "README.md",
    }
    assert json.loads((folder / "config.json").read_text())["library_name"] == "lascaux"
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name: lascaux\n")
    assert save(model, folder, card="# Mine\n") == folder
    assert (folder / "README.md").read_text() == "# Mine\n"


def test_half_on_disk_halves_the_matrices_alone(tmp_path: Path):
    model = clip()
    folder = save(model, tmp_path / "half", dtype=torch.float16)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.is_floating_point():
            assert (tensor.dtype == torch.float16) == (tensor.ndim > 1), name
    loaded = load(folder)
    assert loaded.dtype == torch.float32
    expected = model.text.positions.half().float()
    assert torch.equal(loaded.text.positions, expected)
    assert torch.equal(loaded.logit_scale, model.logit_scale)


def test_a_model_can_be_saved_over_the_folder_it_came_from(tmp_path: Path):
    folder = save(clip(), tmp_path / "model")
    loaded = load(folder)
    save(loaded, folder)
    assert torch.equal(load(folder).text.positions, clip().text.positions)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_peoples_files_are_never_replaced(tmp_path: Path):
    folder = save(clip(), tmp_path / "model")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"notes\.txt"):
        save(clip(), folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="it is a file"):
        save(clip(), tmp_path / "file")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(BadInput, match="another library"):
        save(clip(), foreign)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = save(clip(), tmp_path / "model")

    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(BadInput, match="No space left"):
        save(clip(VIT), folder)
    with pytest.raises(BadInput, match="No space left"):
        save(clip(VIT), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert load(folder).config == CONFIG


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_mode_that_the_umask_asks_for(umask: int, tmp_path: Path):
    before = os.umask(umask)
    try:
        folder = save(clip(VIT), tmp_path / "model")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o666 & ~umask}


def test_an_empty_folder_is_filled(tmp_path: Path):
    assert load(save(clip(), tmp_path)).config == CONFIG


def test_what_is_no_model_of_this_library_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="cannot save a Linear"):
        save(torch.nn.Linear(2, 2), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_judge_comes_back(tmp_path: Path):
    judge = Judge(JudgeConfig(objects=5, backgrounds=3, widths=(4, 4, 4, 4, 4))).eval()
    loaded = load(save(judge, tmp_path / "judge"))
    assert isinstance(loaded, Judge)
    assert loaded.config == judge.config
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in judge.state_dict().items())
    torch.save({"hidden.weight": torch.zeros(1)}, tmp_path / "judge" / "model.safetensors")
    with pytest.raises(WrongKeys, match=r"missing: .*judge|judge: .*missing"):
        load(tmp_path / "judge")
