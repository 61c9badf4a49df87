import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lascaux.errors import Unsupported, WrongKeys
from lascaux.models.clip import VARIANTS, Clip, ClipConfig
from lascaux.weights.keymap import require_shapes, translate, translate_back
from lascaux.weights.maps.clip import (
    LAYOUTS,
    config_from_state,
    config_from_tensors,
    recognise,
    rename,
)
from lascaux.weights.maps.clip_config import config_from_huggingface, config_from_openclip
from tiny import tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "clip"
RECORDED = sorted(
    path
    for path in GOLDEN.glob("*/manifest.json")
    if "constructor" in json.loads(path.read_text(encoding="utf-8"))["config"]
)
SCALARS = {"input_resolution", "context_length", "vocab_size"}
TINY = tiny(vision_layers=2, text_layers=2, vocabulary_size=40)


def meta_state(config: ClipConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Clip(config).state_dict()


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_recorded_official_keys_become_exactly_the_model(path: Path):
    manifest = json.loads(path.read_text(encoding="utf-8"))
    with torch.device("meta"):
        state = {key: torch.empty(entry["shape"]) for key, entry in manifest["state"].items()}
        ours = rename(state)
        config = config_from_tensors(ours, activation="quick_gelu")
        expected = Clip(config).state_dict()
        require_shapes(ours, expected)
        back = translate_back(expected, recognise(state).rules)
    assert {key: tensor.shape for key, tensor in back.items()} == {
        key: tensor.shape for key, tensor in state.items() if key not in SCALARS
    }


def test_official_checkpoints_have_as_many_keys_as_published():
    # With the three scalars: 449 of ViT-L/14 and 492 of RN50.
    for name, layout, count in (("ViT-L/14", "openai", 449), ("RN50", "openai-resnet", 492)):
        keys = translate_back(meta_state(VARIANTS[name]), LAYOUTS[layout].rules)
        assert len(keys) + len(SCALARS) == count


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_follows_from_the_shapes_of_its_checkpoint(name: str):
    config = VARIANTS[name]
    layout = LAYOUTS["openai-resnet" if config.convolutional else "openai"]
    with torch.device("meta"):
        state = translate_back(Clip(config).state_dict(), layout.rules)
        assert recognise(state) is layout
        assert config_from_state(state, activation=config.activation) == config


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "resnet" not in name])
def test_every_layout_is_recognised_and_read(name: str):
    state = Clip(TINY).state_dict()
    layout = LAYOUTS[name]
    published = translate_back(state, layout.rules) if layout.rules else state
    assert recognise(published).name == name
    ours = rename(published)
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[key], state[key]) for key in state)


def test_no_recorded_key_meets_two_rules():
    for layout in LAYOUTS.values():
        config = VARIANTS["RN50" if "resnet" in layout.name else "ViT-B/32"]
        if layout.rules:
            for key, tensor in translate_back(meta_state(config), layout.rules).items():
                owners = 0
                for rule in layout.rules:
                    try:
                        translate({key: tensor}, (rule,))
                    except WrongKeys as error:
                        owners += "missing" in str(error) and "not expected" not in str(error)
                    else:
                        owners += 1
                assert owners == 1, f"{layout.name}: {key}"


def test_names_of_huggingface_are_the_published_ones():
    published = translate_back(meta_state(TINY), LAYOUTS["huggingface"].rules)
    assert published["vision_model.encoder.layers.1.self_attn.k_proj.weight"].shape == (64, 64)
    assert published["vision_model.pre_layrnorm.bias"].shape == (64,)
    assert published["text_model.embeddings.position_embedding.weight"].shape == (8, 64)
    assert published["visual_projection.weight"].shape == (16, 64)


def test_names_of_mmpretrain_are_the_published_ones():
    published = translate_back(meta_state(TINY), LAYOUTS["mmpretrain"].rules)
    assert published["visual.cls_token"].shape == (1, 1, 64)
    assert published["visual.pos_embed"].shape == (1, 5, 64)
    assert published["visual.layers.1.ffn.layers.0.0.weight"].shape == (256, 64)
    assert published["visual_proj.proj"].shape == (64, 16)


def test_buffers_that_follow_from_the_config_are_dropped():
    openai = translate_back(Clip(TINY).state_dict(), LAYOUTS["openai"].rules)
    openai.update({name: torch.tensor(8) for name in SCALARS}, attn_mask=torch.zeros(8, 8))
    assert rename(openai).keys() == Clip(TINY).state_dict().keys()
    huggingface = translate_back(Clip(TINY).state_dict(), LAYOUTS["huggingface"].rules)
    for tower in ("text_model", "vision_model"):
        huggingface[f"{tower}.embeddings.position_ids"] = torch.arange(8)[None]
    assert rename(huggingface).keys() == Clip(TINY).state_dict().keys()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("visual.trunk.blocks.0.norm1.weight", "timm"),
        ("text.transformer.embeddings.word_embeddings.weight", "language model"),
        ("logit_bias", "SigLIP"),
        ("text_decoder.ln_final.weight", "captioner"),
        ("module.visual.trunk.blocks.0.norm1.weight", "timm"),
    ],
)
def test_kin_of_clip_are_refused_with_the_reason(key: str, reason: str):
    with pytest.raises(Unsupported, match=reason):
        recognise([key, "token_embedding.weight"], source="x.pt")


def test_a_bare_backbone_is_one_without_a_text_tower():
    image = ["backbone.layers.0.ln1.weight", "backbone.cls_token"]
    with pytest.raises(Unsupported, match="without a text tower"):
        recognise(image, source="x.pt")
    with pytest.raises(WrongKeys, match="not the keys of a CLIP"):
        recognise([*image, "backbone.token_embedding.weight"], source="x.pt")


def test_what_is_no_clip_is_refused_with_its_keys():
    with pytest.raises(WrongKeys, match=r"x\.pt.*2 keys, the first of them conv\.weight, fc\.bias"):
        recognise(["conv.weight", "fc.bias"], source="x.pt")


def test_a_bare_checkpoint_warns_of_its_activation(caplog: pytest.LogCaptureFixture):
    state = translate_back(Clip(TINY).state_dict(), LAYOUTS["openai"].rules)
    assert config_from_state(state, source="x.pt").activation == "quick_gelu"
    assert "x.pt does not tell its activation: taken as quick_gelu" in caplog.text
    caplog.clear()
    assert config_from_state(state, activation="gelu").activation == "gelu"
    official = {**state, **{name: torch.tensor(8) for name in SCALARS}}
    assert config_from_state(official).activation == "quick_gelu"
    assert not caplog.text


def test_widths_that_only_openclip_has_tell_their_heads(caplog: pytest.LogCaptureFixture):
    for name in ("openclip-ViT-H-14", "openclip-ViT-bigG-14"):
        config = replace(VARIANTS[name], image_size=378)
        with torch.device("meta"):
            state = translate_back(Clip(config).state_dict(), LAYOUTS["openai"].rules)
            assert config_from_state(state) == config
    assert "taken as gelu" in caplog.text


def test_widths_that_tell_no_heads_warn(caplog: pytest.LogCaptureFixture):
    config = replace(TINY, vision_width=96, vision_heads=4)
    state = translate_back(Clip(config).state_dict(), LAYOUTS["openai"].rules)
    assert config_from_state(state, activation="gelu").vision_heads == 1
    assert "does not tell its heads" in caplog.text


HUGGINGFACE = {
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": {"eos_token_id": 2},
    "vision_config": {"patch_size": 16},
}


def test_huggingface_configs_are_completed_with_their_defaults():
    config = config_from_huggingface(HUGGINGFACE, source="config.json")
    assert config == VARIANTS["ViT-B/16"]


def test_huggingface_configs_of_exact_gelu():
    published = {
        "model_type": "clip",
        "projection_dim": 1024,
        "text_config": {
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
        },
        "vision_config": {
            "hidden_act": "gelu",
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 16,
            "num_hidden_layers": 32,
            "patch_size": 14,
        },
    }
    config = config_from_huggingface(published, source="config.json")
    assert config == VARIANTS["openclip-ViT-H-14"]


def test_huggingface_end_of_text_below_the_highest_id_is_kept():
    published = {**HUGGINGFACE, "text_config": {"vocab_size": 49410, "eos_token_id": 49407}}
    assert config_from_huggingface(published, source="config.json").end_id == 49407


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "siglip"}, "'siglip' model"),
        ({"text_config": {"hidden_act": "gelu"}}, "same in both towers"),
        ({"text_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps differs"),
        ({"vision_config": {"num_channels": 4}}, "4 channels"),
    ],
)
def test_huggingface_configs_beyond_clip_are_refused(change: dict, reason: str):
    with pytest.raises(Unsupported, match=reason):
        config_from_huggingface({**HUGGINGFACE, **change}, source="config.json")


OPENCLIP = {
    "embed_dim": 1024,
    "vision_cfg": {
        "image_size": 224,
        "layers": 40,
        "width": 1408,
        "head_width": 88,
        "mlp_ratio": 4.3637,
        "patch_size": 14,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 1024,
        "heads": 16,
        "layers": 24,
    },
}


def test_openclip_configs_with_uncommon_ratios():
    assert config_from_openclip(OPENCLIP, source="x") == VARIANTS["openclip-ViT-g-14"]
    assert config_from_openclip({"model_cfg": OPENCLIP}, source="x").activation == "gelu"
    quick = {**OPENCLIP, "quick_gelu": True}
    assert config_from_openclip(quick, source="x").activation == "quick_gelu"


def test_openclip_configs_of_resnets():
    published = {
        "embed_dim": 1024,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
        "text_cfg": {"width": 512, "heads": 8, "layers": 12},
    }
    assert config_from_openclip(published, source="x") == VARIANTS["RN50"]


@pytest.mark.parametrize(
    ("tower", "fields"),
    [
        ("vision_cfg", {"timm_model_name": "convnext_base"}),
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"ls_init_value": 1e-4}),
        ("vision_cfg", {"qk_norm": True}),
        ("text_cfg", {"hf_model_name": "roberta-base"}),
        ("text_cfg", {"no_causal_mask": True}),
        ("text_cfg", {"something_new": 3}),
    ],
)
def test_openclip_configs_beyond_clip_are_refused(tower: str, fields: dict):
    published = {**OPENCLIP, tower: {**OPENCLIP[tower], **fields}}
    with pytest.raises(Unsupported, match=f"{tower}.{next(iter(fields))}"):
        config_from_openclip(published, source="x")


def test_openclip_fields_that_change_nothing_are_taken():
    vision = {**OPENCLIP["vision_cfg"], "patch_dropout": 0.5, "qk_norm": False}
    text = {**OPENCLIP["text_cfg"], "pool_type": "argmax", "proj_bias": False, "pad_id": 1}
    published = {**OPENCLIP, "vision_cfg": vision, "text_cfg": text}
    assert config_from_openclip(published, source="x") == VARIANTS["openclip-ViT-g-14"]
