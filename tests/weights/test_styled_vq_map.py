import json
from pathlib import Path

import pytest
import torch

from lascaux.errors import Unsupported, WrongKeys
from lascaux.models.styled_vq import VARIANTS, StyledVq, StyledVqConfig
from lascaux.weights.catalogue import find
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.keymap import require_shapes, translate, translate_back
from lascaux.weights.kinds import recognise
from lascaux.weights.load import load
from lascaux.weights.maps.styled_vq import adopt, rules
from lascaux.weights.published import Published
from lascaux.weights.save import save

CASE = Path(__file__).parents[1] / "golden" / "styled-vae-vq" / "tiny" / "manifest.json"
SMALL = StyledVqConfig(
    image_size=32,
    patch_size=16,
    attributes=4,
    width=64,
    heads=1,
    plain_layers=1,
    expert_layers=1,
    latent_width=8,
    codes=10,
    decoder_width=64,
    decoder_layers=1,
    pixel_width=8,
    pixel_kernel=5,
    quantised="mixture",
    distance="euclidean",
)


def published(config: StyledVqConfig = SMALL) -> tuple[StyledVq, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = StyledVq(config).eval()
    model.adopt(torch.randn(config.codes, config.latent_width))
    state = {key: tensor for key, tensor in model.state_dict().items() if key != "mean"}
    return model, translate_back(state, rules(config.attributes))


def test_recorded_keys_become_the_models_by_name_and_shape():
    recorded = json.loads(CASE.read_text(encoding="utf-8"))["state"]
    assert len(recorded) == 1730
    state = {key: torch.empty(entry["shape"], device="meta") for key, entry in recorded.items()}
    ours = adopt(Published(tensors=state))
    with torch.device("meta"):
        model = StyledVq(ours.config)
    require_shapes(ours.tensors, model.state_dict(), ours.rules)
    assert ours.config.codes == 194560
    assert (ours.config.quantised, ours.config.distance) == ("mixture", "euclidean")


def test_the_full_size_has_the_recorded_keys():
    recorded = json.loads(CASE.read_text(encoding="utf-8"))["state"]
    with torch.device("meta"):
        model = StyledVq(VARIANTS["styled-vq-768-128"])
    state = {key: tensor for key, tensor in model.state_dict().items() if key != "mean"}
    unused = {key for key in recorded if ".condition_linear." in key}
    assert len(unused) == 36
    assert translate_back(state, rules()).keys() | unused == recorded.keys()


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_file_answers_as_the_model_it_came_from(prefix: str, tmp_path: Path):
    model, state = published()
    torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    assert loaded.config == model.config
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.features(x), model.features(x))
    assert torch.equal(loaded.decode_ids(loaded.encode(x)), model.decode_ids(model.encode(x)))
    again = load(save(loaded, tmp_path / "folder"))
    assert again.config == model.config
    assert torch.equal(again.features(x), model.features(x))
    assert weights_hash(again) == weights_hash(loaded)


def test_a_model_without_a_codebook_comes_back(tmp_path: Path):
    model = StyledVq(StyledVqConfig.from_json({**SMALL.to_json(), "codes": 0}))
    loaded = load(save(model, tmp_path / "model"))
    assert loaded.codes == 0
    assert loaded.codebook.shape == (0, 8)


def test_the_released_first_version_is_refused_with_its_reason(tmp_path: Path):
    _, state = published()
    first = {f"module.{k}": v for k, v in state.items() if k != "V2" and "ln_cosin" not in k}
    torch.save(first, tmp_path / "model_11.pt")
    with pytest.raises(Unsupported, match=r"first version.*model\.py of that version"):
        load(tmp_path / "model_11.pt")
    with pytest.raises(Unsupported, match="first version"):
        adopt(Published(tensors=first, config=SMALL))
    entry = find("styled-vq-v1-768-128")
    assert "refused" in entry.notes
    assert "drive.google.com" in entry.files[0].by_hand


def test_an_early_draft_of_the_second_version_is_refused():
    _, state = published()
    state["V2"] = torch.zeros(8192, 8)
    with pytest.raises(Unsupported, match="V2 is 8192 x 8"):
        adopt(Published(tensors=state))


def test_keys_that_are_missing_or_strange_are_named():
    _, state = published()
    beside = {
        **{f"module.{key}": tensor for key, tensor in state.items()},
        "optimizer": state["V2"],
    }
    with pytest.raises(WrongKeys, match="1 not expected: optimizer"):
        adopt(Published(tensors=beside))
    del state["resblocks_exper.0.layers.2.c_fc.weight"]
    with pytest.raises(WrongKeys, match=r"missing.*resblocks_exper\.0\.layers\.2\.c_fc\.weight"):
        translate(state, rules(4))
    with pytest.raises(WrongKeys, match="without a config"):
        adopt(Published(tensors=dict(published()[0].state_dict())))


def test_the_file_is_known_by_its_keys():
    model, state = published()
    assert recognise([f"module.{key}" for key in state]) == "styled_vq"
    assert recognise(model.state_dict().keys()) == "styled_vq"
