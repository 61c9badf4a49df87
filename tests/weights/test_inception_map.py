import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lascaux.errors import WrongKeys
from lascaux.models.inception import VARIANTS, Inception, InceptionConfig, StoredNorm
from lascaux.weights.catalogue import find
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.keymap import translate, translate_back
from lascaux.weights.load import load
from lascaux.weights.maps.inception import FEATURE_RULES, RULES, recognises
from lascaux.weights.save import save

TINY = replace(VARIANTS["inception-fid"], shrink=16)
# Of the sorted names and shapes of torchvision 0.29.1's Inception3(num_classes=...), without its
# counters and its auxiliary classifier.
LISTINGS = {
    "inception-fid": "d84f693f2abd7fea61cb31c87d3b2f268bf707c1bae1db219afdad3363959cb0",
    "inception-imagenet": "5beceaea5a4204b95b31a90a20ffc73700f8ebf7e925a3bacb6fbc3a52807c1d",
}


def inception(config: InceptionConfig = TINY) -> Inception:
    torch.manual_seed(0)
    model = Inception(config).eval()
    for module in model.modules():
        if isinstance(module, StoredNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return model


def published(model: Inception) -> dict[str, Tensor]:
    """As a trainer would save it: every normalisation counts its steps."""
    state = translate_back(model.state_dict(), RULES)
    counters = {
        key.replace("running_var", "num_batches_tracked"): torch.tensor(7)
        for key in state
        if key.endswith("running_var")
    }
    return state | counters


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, folder / "inception.pth")
    return folder / "inception.pth"


def assert_same(loaded: Inception, model: Inception) -> None:
    assert isinstance(loaded, Inception)
    assert loaded.config == model.config
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[k]) for k, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("name", LISTINGS)
def test_the_map_gives_every_published_name_and_shape(name: str):
    with torch.device("meta"):
        model = Inception(VARIANTS[name])
    state = translate_back(model.state_dict(), RULES)
    listed = "\n".join(sorted(f"{key} {tuple(tensor.shape)}" for key, tensor in state.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == LISTINGS[name]


def test_the_fid_file_has_566_entries():
    with torch.device("meta"):
        assert len(published(Inception())) == 566


def test_1008_classes_mean_tensorflow_s_pools(tmp_path: Path):
    model = inception()
    assert_same(load(saved(tmp_path, published(model))), model)


def test_other_classes_mean_torchvision_s_pools_and_its_auxiliary_classifier_is_dropped(
    tmp_path: Path,
):
    model = inception(replace(VARIANTS["inception-imagenet"], shrink=16))
    auxiliary = {
        "AuxLogits.conv0.conv.weight": torch.ones(1),
        "AuxLogits.conv1.bn.running_mean": torch.ones(1),
        "AuxLogits.fc.bias": torch.ones(1),
    }
    # This file has no counters, as old ones have none.
    state = translate_back(model.state_dict(), RULES)
    assert_same(load(saved(tmp_path, state | auxiliary)), model)


def test_the_features_inside_an_ar_ldm_are_read_without_classes(tmp_path: Path):
    model = inception(replace(TINY, classes=None))
    state = translate_back(model.state_dict(), FEATURE_RULES)
    assert {"blocks.0.2.bn.running_var", "blocks.1.0.conv.weight"} < set(state)
    assert "blocks.2.7.branch7x7dbl_5.conv.weight" in state
    assert "blocks.3.2.branch3x3dbl_3b.bn.bias" in state
    counters = {"blocks.0.0.bn.num_batches_tracked": torch.tensor(0)}
    inside = {f"inception.{key}": tensor for key, tensor in (state | counters).items()}
    path = saved(tmp_path, inside | {"unet.conv_in.weight": torch.ones(1)})
    assert_same(load(path, part="inception"), model)


def test_a_saved_folder_gives_the_same_model(tmp_path: Path):
    model = inception(replace(TINY, size=96, last_pool="average"))
    assert_same(load(save(model, tmp_path / "saved")), model)
    plain = inception()
    save(plain, tmp_path / "plain")
    assert_same(load(tmp_path / "plain" / "model.safetensors"), plain)


def test_a_key_too_few_or_too_many_is_refused():
    state = published(inception())
    with pytest.raises(WrongKeys, match=r"Mixed_8a\.conv\.weight"):
        translate(state | {"Mixed_8a.conv.weight": torch.ones(1)}, RULES)
    del state["Mixed_6e.branch7x7_2.conv.weight"]
    with pytest.raises(WrongKeys, match=r"Mixed_6e\.branch7x7_2\.conv\.\{p\}"):
        translate(state, RULES)
    assert not recognises([key for key in state if not key.startswith("fc")])


def test_pools_are_part_of_the_fingerprint():
    one, other = inception(), inception(replace(TINY, last_pool="average"))
    assert weights_hash(one) != weights_hash(other)


def test_the_catalogue_s_hash_begins_as_the_file_s_name_says():
    (file,) = find("inception-fid").files
    assert file.sha256 is not None
    assert file.name.endswith(f"-{file.sha256[:8]}.pth")
