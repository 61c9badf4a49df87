import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lascaux.errors import Unsupported, WrongKeys
from lascaux.models.titok import VARIANTS, TiTok, TiTokConfig
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.keymap import require_shapes, translate_back
from lascaux.weights.kinds import recognise
from lascaux.weights.load import load
from lascaux.weights.maps.titok import TITOK, TITOK_LEGACY, adopt, config_from_published
from lascaux.weights.published import Published
from lascaux.weights.save import save

CASES = Path(__file__).parents[1] / "golden" / "titok"
SMALL = TiTokConfig(
    image_size=32,
    encoder_width=64,
    encoder_layers=1,
    encoder_heads=1,
    decoder_width=64,
    decoder_layers=1,
    decoder_heads=1,
    latents=4,
    token_width=6,
    codes=10,
)


def published(config: TiTokConfig) -> tuple[TiTok, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = TiTok(config).eval()
    state = dict(model.state_dict())
    if config.variational:
        del state["codebook"]
    return model, translate_back(state, TITOK_LEGACY if config.legacy else TITOK)


def hub_config(**vq: object) -> dict:
    return {
        "experiment": {"output_dir": "x"},
        "model": {
            "vq_model": {
                "codebook_size": 4096,
                "token_size": 12,
                "use_l2_norm": True,
                "commitment_cost": 0.25,
                "vit_enc_model_size": "large",
                "vit_dec_model_size": "large",
                "vit_enc_patch_size": 16,
                "vit_dec_patch_size": 16,
                "num_latent_tokens": 32,
                "finetune_decoder": True,
                **vq,
            },
            "generator": {"hidden_size": 768},
        },
        "dataset": {"preprocessing": {"crop_size": 256}},
    }


@pytest.mark.parametrize("case", ["s128", "small_vq8k"])
def test_recorded_keys_become_the_models_by_name_and_shape(case: str):
    manifest = json.loads((CASES / case / "manifest.json").read_text(encoding="utf-8"))
    state = {
        key: torch.empty(entry["shape"], device="meta") for key, entry in manifest["state"].items()
    }
    ours = adopt(Published(tensors=state))
    told = {
        "model": {"vq_model": manifest["config"]["vq_model"]},
        "dataset": {"preprocessing": {"crop_size": manifest["config"]["crop_size"]}},
    }
    assert ours.config == config_from_published(told)
    with torch.device("meta"):
        model = TiTok(ours.config)
    require_shapes(ours.tensors, model.state_dict(), ours.rules)
    back = translate_back(model.state_dict(), ours.rules)
    assert {k: list(v.shape) for k, v in back.items()} == {
        k: list(v.shape) for k, v in state.items()
    }


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, codes=0),
        replace(SMALL, legacy=True, unit_length=True),
        replace(SMALL, legacy=True, unit_length=True, pixel_decoder=True),
    ],
    ids=["vq", "vae", "legacy-first-stage", "legacy"],
)
def test_an_older_single_file_answers_as_the_model_it_came_from(
    config: TiTokConfig, tmp_path: Path
):
    model, state = published(config)
    torch.save(state, tmp_path / "tokenizer.bin")
    loaded = load(tmp_path / "tokenizer.bin")
    assert loaded.config == config
    x = torch.rand(2, 3, 32, 32)
    features = model.features(x)
    assert torch.equal(loaded.features(x), features)
    assert torch.equal(loaded.decoder(features), model.decoder(features))
    again = load(save(loaded, tmp_path / "folder"))
    assert again.config == config
    assert torch.equal(again.features(x), features)
    assert weights_hash(again) == weights_hash(loaded)


def test_a_hub_config_is_the_variant_it_stands_for():
    assert config_from_published(hub_config()) == VARIANTS["titok-l32"]
    vq8k = hub_config(
        codebook_size=8192,
        token_size=64,
        use_l2_norm=False,
        vit_enc_model_size="base",
        num_latent_tokens=64,
        finetune_decoder=False,
        is_legacy=False,
        clustering_vq=True,
    )
    assert config_from_published(vq8k) == VARIANTS["titok-bl64-vq8k"]
    vae = {
        "quantize_mode": "vae",
        "token_size": 16,
        "vit_enc_model_size": "base",
        "vit_dec_model_size": "large",
        "vit_enc_patch_size": 16,
        "vit_dec_patch_size": 16,
        "num_latent_tokens": 128,
        "finetune_decoder": False,
        "is_legacy": False,
    }
    published = {"model": {"vq_model": vae}, "dataset": {"preprocessing": {"crop_size": 256}}}
    assert config_from_published(published) == VARIANTS["titok-bl128-vae-c16"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_context_length": 77}, "asks for text_context_length"),
        ({"quantize_mode": "fsq"}, "quantize_mode 'fsq'"),
        ({"vit_enc_model_size": "huge"}, "'huge'"),
        ({"is_legacy": False}, "only a legacy TiTok"),
    ],
)
def test_a_hub_config_that_asks_for_more_is_refused(change: dict, words: str):
    with pytest.raises(Unsupported, match=words):
        config_from_published(hub_config(**change))


def test_a_generators_folder_is_refused_with_its_reason(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(hub_config()), encoding="utf-8")
    save_file({"model.lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(Unsupported, match="generator_titok"):
        load(tmp_path)


def test_a_text_aware_titok_is_refused():
    _, state = published(SMALL)
    state["decoder.text_guidance_proj.weight"] = torch.zeros(2, 2)
    with pytest.raises(Unsupported, match="text-aware"):
        adopt(Published(tensors=state))


def test_how_often_codes_were_used_is_left_out():
    _, state = published(SMALL)
    state["quantize.embed_prob"] = torch.zeros(10)
    assert list(adopt(Published(tensors=state)).dropped) == ["quantize.embed_prob"]


def test_keys_that_are_missing_are_named():
    model, state = published(SMALL)
    del state["encoder.ln_post.weight"], state["encoder.ln_post.bias"]
    with pytest.raises(WrongKeys, match=r"encoder\.ln_post"):
        adopt(Published(tensors=state))
    del state["encoder.ln_pre.weight"]
    with pytest.raises(WrongKeys, match=r"encoder\.ln_pre\.weight.*fixes the sizes"):
        adopt(Published(tensors=state))
    with pytest.raises(WrongKeys, match="without a config"):
        adopt(Published(tensors=dict(model.state_dict())))


def test_the_file_is_known_by_its_keys():
    model, state = published(SMALL)
    assert recognise(state.keys()) == "titok"
    assert recognise(model.state_dict().keys()) == "titok"
