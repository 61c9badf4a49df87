import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dall_e_pickles import LEGACY, saved_halves
from lascaux.errors import BadInput, LascauxError, UnknownModel, UnsafeFile, Unsupported, WrongKeys
from lascaux.models import dvae as dvae_model
from lascaux.models.dvae import VARIANTS, Dvae, DvaeConfig
from lascaux.weights.convert import convert
from lascaux.weights.keymap import translate, translate_back
from lascaux.weights.load import load
from lascaux.weights.maps.dvae import LAYOUTS, recognises, rules_of
from lascaux.weights.reading import read_tensors
from lascaux.weights.save import save

TINY = DvaeConfig(
    codes=30,
    encoder_width=8,
    encoder_blocks=1,
    decoder_width=4,
    decoder_blocks=2,
    first_width=6,
    groups=2,
)
ATTRIBUTES = {
    "Encoder": {"n_hid": 8, "n_blk_per_group": 1, "input_channels": 3, "vocab_size": 30},
    "Decoder": {"n_init": 6, "n_hid": 4, "n_blk_per_group": 2, "output_channels": 3},
}
FULL = Path(__file__).parents[1] / "golden" / "openai-dvae" / "full" / "manifest.json"

both = pytest.mark.parametrize("how", [{}, LEGACY], ids=["zip", "legacy"])


def dvae(config: DvaeConfig = TINY) -> Dvae:
    torch.manual_seed(0)
    return Dvae(config).eval()


def published(model: Dvae, layout: str = "dalle-pytorch") -> dict[str, Tensor]:
    return translate_back(model.state_dict(), rules_of(model.config, layout))


def assert_same(loaded: Any, model: Dvae) -> None:
    assert isinstance(loaded, Dvae)
    assert loaded.config == model.config
    expected = model.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[k]) for k, tensor in loaded.state_dict().items())


@both
def test_two_modules_saved_whole_make_one_dvae(tmp_path: Path, how: dict):
    model = dvae()
    saved_halves(tmp_path, published(model), ATTRIBUTES, **how)
    for named in (".", "encoder.pkl", "decoder.pkl"):
        assert_same(load(tmp_path / named), model)


@both
def test_a_module_saved_whole_reads_as_dotted_names_its_class_and_its_plain_attributes(
    tmp_path: Path, how: dict
):
    state = published(dvae())
    saved_halves(tmp_path, state, ATTRIBUTES, **how)
    read = read_tensors(tmp_path / "encoder.pkl")
    assert list(read.tensors) == [k.removeprefix("enc.") for k in state if k.startswith("enc.")]
    assert "blocks.group_1.block_1.res_path.conv_1.w" in read.tensors
    assert read.metadata == {**ATTRIBUTES["Encoder"], "class": "dall_e.encoder.Encoder"}
    assert read.container == ("torch-legacy" if how else "torch-zip")
    other = read_tensors(tmp_path / "decoder.pkl")
    assert other.metadata == {**ATTRIBUTES["Decoder"], "class": "dall_e.decoder.Decoder"}


class Runs:
    """Pickles as a call that leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@both
@pytest.mark.parametrize("half", ["Encoder", "Decoder"])
def test_a_module_that_would_run_code_is_refused_and_nothing_is_run(
    tmp_path: Path, how: dict, half: str
):
    trace = tmp_path / "trace"
    attributes = {**ATTRIBUTES, half: {**ATTRIBUTES[half], "n_layers": Runs(trace)}}
    saved_halves(tmp_path, published(dvae()), attributes, **how)
    with pytest.raises(UnsafeFile, match=rf"{half.lower()}\.pkl.*mkdir.*nothing was executed"):
        load(tmp_path)
    assert not trace.exists()


def test_a_hidden_call_in_the_place_of_a_class_of_dall_e_is_refused(tmp_path: Path):
    # A lower-case name of an unknown package, called: a function, not a class.
    (tmp_path / "encoder.pkl").write_bytes(b"\x80\x02cdall_e.encoder\nload_model\n)R.")
    (tmp_path / "decoder.pkl").write_bytes(b"\x80\x02cdall_e.decoder\nDecoder\n)\x81}b.")
    with pytest.raises(UnsafeFile, match=r"encoder\.pkl.*load_model"):
        load(tmp_path)


def test_the_name_loads_both_files_of_a_mirror(tmp_path: Path, monkeypatch):
    mirror, model = tmp_path / "mirror", dvae()
    mirror.mkdir()
    saved_halves(mirror, published(model), ATTRIBUTES)
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LASCAUX_MIRROR", str(mirror))
    monkeypatch.setitem(dvae_model.VARIANTS, "openai-dvae", TINY)
    assert_same(load("openai-dvae"), model)
    kept = {path.name for path in (tmp_path / "home" / "openai-dall-e").glob("*.pkl")}
    assert kept == {"encoder.pkl", "decoder.pkl"}


@pytest.mark.parametrize("prefix", ["", "vae.", "module.model."])
def test_the_state_dict_of_dalle_pytorch_s_class_is_read(tmp_path: Path, prefix: str):
    model = dvae()
    state = {prefix + key: tensor for key, tensor in published(model).items()}
    torch.save(state, tmp_path / "vae.pt")
    assert_same(load(tmp_path / "vae.pt"), model)
    assert not recognises([*state, "transformer.layers.0.weight"])


def test_two_state_dicts_in_one_file_are_read(tmp_path: Path):
    model = dvae()
    state = published(model)
    halves = {
        name: {k[4:]: v for k, v in state.items() if k.startswith(prefix)}
        for name, prefix in (("encoder", "enc."), ("decoder", "dec."))
    }
    torch.save(halves, tmp_path / "both.pt")
    assert_same(load(tmp_path / "both.pt"), model)


def test_a_saved_folder_gives_the_same_model_and_a_bare_file_of_it_too(tmp_path: Path):
    model = dvae(replace(TINY, margin=0.2, image_size=64))
    folder = save(model, tmp_path / "saved")
    assert_same(load(folder), model)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "bare.safetensors")
    bare = load(tmp_path / "bare.safetensors")
    assert bare.config == TINY  # shapes do not tell the rest
    assert_same(load(tmp_path / "bare.safetensors", config=model.config), model)


def test_both_files_are_converted_into_one_folder(tmp_path: Path):
    model = dvae()
    saved_halves(tmp_path, published(model), ATTRIBUTES)
    report = convert(tmp_path, tmp_path / "converted")
    assert report.layout == "openai"
    assert report.matched == len(model.state_dict())
    assert [Path(file.path).name for file in report.sources] == ["encoder.pkl", "decoder.pkl"]
    assert (tmp_path / "converted" / "model.safetensors").is_file()
    assert_same(load(tmp_path / "converted"), model)


def test_exchanged_files_are_noticed(tmp_path: Path):
    saved_halves(tmp_path, published(dvae()))
    (tmp_path / "encoder.pkl").rename(tmp_path / "other")
    (tmp_path / "decoder.pkl").rename(tmp_path / "encoder.pkl")
    (tmp_path / "other").rename(tmp_path / "decoder.pkl")
    with pytest.raises(WrongKeys, match="exchanged"):
        load(tmp_path)


@pytest.mark.parametrize("named", [".", "encoder.pkl"])
def test_one_half_alone_is_refused_with_advice(tmp_path: Path, named: str):
    saved_halves(tmp_path, published(dvae()))
    (tmp_path / "decoder.pkl").unlink()
    with pytest.raises(Unsupported, match=r"one half of OpenAI's dVAE.*one folder"):
        load(tmp_path / named)


def test_a_folder_of_something_else_under_these_names_is_refused(tmp_path: Path):
    for name in ("encoder.pkl", "decoder.pkl"):
        torch.save({"weight": torch.ones(1)}, tmp_path / name)
    with pytest.raises(WrongKeys, match=r"not of both|not the keys"):
        load(tmp_path)


def test_a_module_whose_attributes_and_tensors_disagree_is_refused(tmp_path: Path):
    attributes = {"Encoder": {**ATTRIBUTES["Encoder"], "n_hid": 256}}
    saved_halves(tmp_path, published(dvae()), attributes)
    with pytest.raises(WrongKeys, match=r"encoder\.n_hid = 256, its tensors are those of 8"):
        load(tmp_path)


def test_missing_and_extra_tensors_are_named_as_the_file_has_them(tmp_path: Path):
    state = published(dvae())
    absent = "enc.blocks.group_2.block_1.res_path.conv_3.b"
    torch.save({k: v for k, v in state.items() if k != absent}, tmp_path / "short.pt")
    with pytest.raises(WrongKeys, match=f"missing: {absent}"):
        load(tmp_path / "short.pt")
    torch.save({**state, "dec.blocks.more": torch.ones(1)}, tmp_path / "long.pt")
    with pytest.raises(WrongKeys, match=r"not expected: dec\.blocks\.more"):
        load(tmp_path / "long.pt")
    shortcut = "enc.blocks.group_2.block_1.id_path.w"
    torch.save({k: v for k, v in state.items() if k != shortcut}, tmp_path / "direct.pt")
    with pytest.raises(WrongKeys, match=f"missing: {shortcut}"):
        load(tmp_path / "direct.pt")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_published_names_and_shapes_are_those_recorded(layout: str):
    recorded = json.loads(FULL.read_text(encoding="utf-8"))["state"]
    encoder, decoder = LAYOUTS[layout]
    with torch.device("meta"):
        state = published(Dvae(VARIANTS["openai-dvae"]), layout)
    named = {
        key.replace("enc.", encoder, 1).replace("dec.", decoder, 1): tuple(entry["shape"])
        for key, entry in recorded.items()
    }
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == named
    assert recognises(state)
    again = translate(state, rules_of(VARIANTS["openai-dvae"], layout))
    assert len(again) == len(recorded)


def test_a_config_of_another_model_is_refused(tmp_path: Path):
    torch.save(published(dvae()), tmp_path / "vae.pt")
    with pytest.raises(WrongKeys, match="of another shape"):
        load(tmp_path / "vae.pt", config=replace(TINY, codes=31))
    with pytest.raises(LascauxError):
        load(tmp_path / "vae.pt", config={"codes": 30})


def test_a_folder_that_is_not_there_is_no_dvae(tmp_path: Path):
    with pytest.raises(UnknownModel):
        load(tmp_path)
    with pytest.raises(BadInput):
        DvaeConfig.from_json({"codes": 30})
