import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lascaux.errors import Unsupported, WrongKeys
from lascaux.models.discrete_vae import DiscreteVae, DiscreteVaeConfig
from lascaux.weights.keymap import translate_back
from lascaux.weights.load import load
from lascaux.weights.maps.discrete_vae import config_from_hparams, recognises, rules_of
from lascaux.weights.save import save

TINY = DiscreteVaeConfig(image_size=32, codes=12, code_width=10, layers=2, blocks=2, width=8)
HPARAMS = {
    "image_size": 32,
    "num_layers": 2,
    "num_tokens": 12,
    "codebook_dim": 10,
    "hidden_dim": 8,
    "num_resnet_blocks": 2,
}


def vae(config: DiscreteVaeConfig = TINY) -> DiscreteVae:
    torch.manual_seed(0)
    return DiscreteVae(config).eval()


def published(model: DiscreteVae) -> dict[str, Tensor]:
    return translate_back(model.state_dict(), rules_of(model.config))


def assert_same(loaded: Any, model: DiscreteVae) -> None:
    assert isinstance(loaded, DiscreteVae)
    assert loaded.config == model.config
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[k]) for k, tensor in loaded.state_dict().items())


def saved(folder: Path, model: DiscreteVae, **hparams: Any) -> Path:
    content = {"hparams": {**HPARAMS, **hparams}, "weights": published(model)}
    torch.save(content, folder / "vae.pt")
    return folder / "vae.pt"


def test_a_file_of_train_vae_is_read_with_its_hparams(tmp_path: Path):
    assert_same(load(saved(tmp_path, vae())), vae())


def test_every_argument_of_the_constructor_is_understood(tmp_path: Path):
    config = replace(
        TINY,
        channels=1,
        error="smooth_l1",
        temperature=0.5,
        straight_through=True,
        reinmax=True,
        kl_weight=1.0,
        mean=(0.0,),
        std=(2.0,),
    )
    hparams = {
        "channels": 1,
        "smooth_l1_loss": True,
        "temperature": 0.5,
        "straight_through": True,
        "reinmax": True,
        "kl_div_loss_weight": 1,
        "normalization": ((0, 0.5, 0.5), (2, 0.5, 0.5)),
    }
    model = vae(config)
    assert_same(load(saved(tmp_path, model, **hparams)), model)


@pytest.mark.parametrize(("layers", "blocks"), [(1, 0), (3, 0), (1, 1), (2, 3)])
def test_shapes_alone_tell_layers_and_blocks(tmp_path: Path, caplog, layers: int, blocks: int):
    model = vae(replace(TINY, image_size=256, layers=layers, blocks=blocks))
    torch.save(published(model), tmp_path / "bare.pt")
    with caplog.at_level(logging.WARNING):
        assert_same(load(tmp_path / "bare.pt"), model)
    assert "does not tell the size of its pictures" in caplog.text


def test_published_names_count_on_through_the_sequences():
    names = set(published(vae()))
    assert {"encoder.0.0.weight", "encoder.1.0.bias", "encoder.2.net.4.weight"} < names
    assert {"encoder.4.weight", "decoder.0.weight", "decoder.2.net.0.weight"} < names
    assert {"decoder.3.0.weight", "decoder.4.0.weight", "decoder.5.bias"} < names
    plain = set(published(vae(replace(TINY, blocks=0))))
    assert {"encoder.2.weight", "decoder.0.0.weight", "decoder.2.weight"} < plain
    assert recognises(names)
    assert not recognises([*names, "transformer.layers.0"])


def test_no_normalisation_stays_none():
    config = config_from_hparams({"normalization": None})
    assert config.mean is None
    assert config.std is None


def test_four_channels_are_normalised_as_rgba():
    config = config_from_hparams({"channels": 4})
    assert config.mean == (0.5, 0.5, 0.5, 0.0)
    assert config.std == (0.5, 0.5, 0.5, 1.0)


def test_arguments_that_are_not_known_or_impossible_are_refused(tmp_path: Path):
    with pytest.raises(Unsupported, match=r"vae\.pt: hparams has dropout = 0\.1"):
        load(saved(tmp_path, vae(), dropout=0.1))
    with pytest.raises(WrongKeys, match="channels 0"):
        config_from_hparams({"channels": 0})
    with pytest.raises(WrongKeys, match="missing"):
        load(saved(tmp_path, vae(), num_layers=3))
    with pytest.raises(WrongKeys, match="of another shape"):
        load(saved(tmp_path, vae(), num_tokens=13))


def test_a_saved_folder_gives_the_same_model(tmp_path: Path):
    model = vae(replace(TINY, straight_through=True, mean=None, std=None))
    assert_same(load(save(model, tmp_path / "saved")), model)
    bare = load(tmp_path / "saved" / "model.safetensors")
    assert_same(bare, model)


def test_the_one_inside_a_dall_e_is_read_with_its_own_arguments(tmp_path: Path):
    model = vae()
    weights = {f"vae.{key}": tensor for key, tensor in published(model).items()}
    content = {
        "hparams": {"dim": 64, "depth": 2},
        "vae_params": HPARAMS,
        "weights": {**weights, "text_emb.weight": torch.ones(3, 2)},
    }
    torch.save(content, tmp_path / "dalle.pt")
    assert_same(load(tmp_path / "dalle.pt", part="vae"), model)
