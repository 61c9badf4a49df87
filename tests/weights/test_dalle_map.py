import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lascaux.errors import BadInput, BrokenFile, DownloadFailed, Unsupported, WrongKeys
from lascaux.models.dalle import VARIANTS, Dalle, DalleConfig, rotary_angles
from lascaux.models.dalle_clip import DalleClip, DalleClipConfig
from lascaux.models.discrete_vae import DiscreteVae, DiscreteVaeConfig
from lascaux.models.dvae import Dvae, DvaeConfig
from lascaux.models.vqgan import VqGan, VqGanConfig
from lascaux.text.captions import CaptionTokenizer
from lascaux.weights.convert import convert
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.keymap import translate_back
from lascaux.weights.load import load
from lascaux.weights.maps import discrete_vae, dvae, vqgan
from lascaux.weights.maps.dalle import Wrapped, recognises, rules_of
from lascaux.weights.maps.dalle_clip import DALLE_CLIP
from lascaux.weights.save import save
from words import MODEL

VAE = DiscreteVaeConfig(image_size=16, codes=11, code_width=4, layers=2, width=4)
VAE_PARAMS = {
    "image_size": 16,
    "num_tokens": 11,
    "codebook_dim": 4,
    "num_layers": 2,
    "hidden_dim": 4,
}
TINY = DalleConfig(
    codes=11,
    grid=4,
    width=8,
    layers=2,
    text_tokens=34,
    text_length=5,
    heads=2,
    head_width=8,
    shift=False,
)
HPARAMS = {
    "dim": 8,
    "depth": 2,
    "num_text_tokens": 34,
    "text_seq_len": 5,
    "heads": 2,
    "dim_head": 8,
    "shift_tokens": False,
}


def painter(config: DalleConfig = TINY, tokeniser: nn.Module | None = None) -> Dalle:
    torch.manual_seed(0)
    model = Dalle(config)
    model.tokeniser = tokeniser or DiscreteVae(VAE)
    return model.eval()


def own(model: Dalle) -> dict[str, Tensor]:
    return {k: x for k, x in model.state_dict().items() if not k.startswith("tokeniser.")}


def published(model: Dalle, wrapped: Wrapped | None = None) -> dict[str, Tensor]:
    """The state dict of the official constructor, shared layers under all of their names."""
    config = model.config
    single = replace(config, shared_attention=None, shared_mlp=None, shared_embeddings=False)
    state = own(model)
    for kind, owners in (("attentions", config.attentions), ("mlps", config.mlps)):
        parts = [{k: x for k, x in state.items() if k.startswith(f"{kind}.{n}.")} for n in owners]
        state = {k: x for k, x in state.items() if not k.startswith(f"{kind}.")}
        for layer, part in enumerate(parts):
            state |= {".".join((kind, str(layer), *k.split(".")[2:])): x for k, x in part.items()}
    if config.shared_embeddings:
        texts, codes = model.head.weight.split((config.text_classes, config.codes))
        state |= {"text_embedding.weight": texts, "image_embedding.weight": codes}
    found = translate_back(state, rules_of(single, wrapped))
    if config.shared_embeddings:
        del found["text_emb.weight"], found["image_emb.weight"]
        for name in ("text_emb.linear", "image_emb.linear"):
            found |= {f"{name}.{p}": found[f"to_logits.1.{p}"] for p in ("weight", "bias")}
    if config.rotary:
        found["transformer.pos_emb"] = rotary_angles(config).repeat_interleave(2, dim=-1)[None]
    inner = translate_back(cast_vae(model).state_dict(), discrete_vae.rules_of(VAE))
    return {**found, **{f"vae.{key}": x for key, x in inner.items()}}


def cast_vae(model: Dalle) -> DiscreteVae:
    assert isinstance(model.tokeniser, DiscreteVae)
    return model.tokeniser


def write(folder: Path, weights: dict[str, Tensor], **changes: Any) -> Path:
    content: dict[str, Any] = {
        "hparams": {**HPARAMS, **changes.pop("hparams", {})},
        "vae_params": VAE_PARAMS,
        "epoch": 3,
        "version": "1.6.6",
        "vae_class_name": "DiscreteVAE",
        "weights": weights,
        "opt_state": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "scheduler_state": None,
        **changes,
    }
    torch.save({k: x for k, x in content.items() if x != "left out"}, folder / "dalle.pt")
    return folder / "dalle.pt"


def assert_same(loaded: Any, model: Dalle) -> None:
    assert isinstance(loaded, Dalle)
    assert loaded.config == model.config
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[k]) for k, tensor in loaded.state_dict().items())
    assert type(loaded.tokeniser) is type(model.tokeniser)


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "shift": ({"shift": True}, {"shift_tokens": True}),
    "no rotary": ({"rotary": False}, {"rotary_emb": False}),
    "sandwich, stable": (
        {"sandwich": True, "stable": True},
        {"sandwich_norm": True, "stable": True},
    ),
    "reversible, shift": (
        {"reversible": True, "shift": True},
        {"reversible": True, "shift_tokens": True},
    ),
    "patterns": (
        {"layers": 5, "patterns": ("full", "axial_row", "axial_col", "conv_like")},
        {"depth": 5, "attn_types": ["full", "axial_row", "axial_col", "conv_like"]},
    ),
    "one pattern": ({"patterns": ("axial_col",)}, {"attn_types": "axial_col"}),
    "shared": (
        {
            "layers": 3,
            "shared_attention": (0, 1),
            "shared_mlp": (4, 2, 4),
            "shared_embeddings": True,
        },
        {
            "depth": 3,
            "shared_attn_ids": (0, 1),
            "shared_ff_ids": [4, 2, 4],
            "share_input_output_emb": True,
        },
    ),
    "dropout, weight": (
        {"attention_dropout": 0.1, "mlp_dropout": 0.2, "image_weight": 3.0},
        {"attn_dropout": 0.1, "ff_dropout": 0.2, "loss_img_weight": 3},
    ),
    "without effect": ({}, {"sparse_attn": False, "optimize_for_inference": True}),
}


@pytest.mark.parametrize(("fields", "hparams"), OPTIONS.values(), ids=OPTIONS)
def test_a_file_of_train_dalle_is_read_with_all_of_its_arguments(
    tmp_path: Path, fields: dict[str, Any], hparams: dict[str, Any]
):
    model = painter(replace(TINY, **fields))
    path = write(tmp_path, published(model), hparams=hparams)
    assert_same(load(path), model)


@pytest.mark.parametrize("shift", [False, True])
def test_files_from_before_the_cache_are_read_by_the_names_that_they_have(
    tmp_path: Path, shift: bool
):
    # Their hparams say nothing of rotary positions and shifts, and conv_like sees around a code.
    config = replace(TINY, shift=shift, rotary=False, patterns=("conv_like",), centred_window=True)
    model = painter(config)
    wrapped = Wrapped("fn.fn", "fn.fn") if shift else Wrapped("fn", "fn")
    weights = published(model, wrapped) | {"logits_mask": torch.ones(1, 21, 50, dtype=torch.bool)}
    hparams = {k: x for k, x in HPARAMS.items() if k != "shift_tokens"}
    path = write(tmp_path, weights, version="left out", vae_class_name="left out")
    content = torch.load(path, weights_only=True)
    content["hparams"] = {**hparams, "attn_types": ("conv_like",)}
    torch.save(content, path)
    assert_same(load(path), model)


def test_windows_lie_behind_a_code_since_version_1_5(tmp_path: Path):
    model, hparams = painter(replace(TINY, patterns=("conv_like",))), {"attn_types": "conv_like"}
    for version, centred in (("1.4.2", True), ("1.5.0", False), ("1.10.1", False), (None, False)):
        path = write(tmp_path, published(model), hparams=hparams, version=version)
        assert load(path).config.centred_window is centred


def test_lists_of_positions_are_read_as_well(tmp_path: Path):
    model = painter(replace(TINY, rotary=False))
    weights = {
        key.replace("image_pos_emb.weights_", "image_pos_emb.weights."): x
        for key, x in published(model).items()
    }
    assert "image_pos_emb.weights.0" in weights
    assert_same(load(write(tmp_path, weights, hparams={"rotary_emb": False})), model)


def test_published_names_are_the_official_ones():
    names = set(published(painter(replace(TINY, shift=True))))
    assert {
        "text_emb.weight",
        "image_emb.weight",
        "to_logits.0.weight",
        "to_logits.1.bias",
        "transformer.pos_emb",
        "transformer.layers.layers.0.0.scale",
        "transformer.layers.layers.0.0.fn.norm.weight",
        "transformer.layers.layers.1.0.fn.fn.fn.fn.fn.to_qkv.weight",
        "transformer.layers.layers.1.0.fn.fn.fn.fn.fn.to_out.0.bias",
        "transformer.layers.layers.1.1.fn.fn.fn.fn.net.3.weight",
        "vae.codebook.weight",
    } < names
    assert recognises(names)
    assert not recognises([key for key in names if key.startswith("vae.")])


def other_tokenisers() -> dict[str, tuple[nn.Module, Any, str, str]]:
    torch.manual_seed(0)
    small = {"width": 32, "multiples": (1, 1, 1, 1, 2), "attention_sizes": (16,), "blocks": 1}
    vq = VqGanConfig(codes=11, code_width=4, latent_width=4, **small)
    gumbel = replace(vq, quantiser="gumbel", multiples=(1, 1, 1, 1), attention_sizes=(32,))
    openai = DvaeConfig(
        codes=11,
        encoder_width=4,
        encoder_blocks=1,
        decoder_width=4,
        decoder_blocks=1,
        first_width=4,
    )
    return {
        "VQGAN": (VqGan(vq), vqgan.VQGAN_TAMING, "model.", "VQGanVAE"),
        "Gumbel": (VqGan(gumbel), vqgan.VQGAN_TAMING_GUMBEL, "model.", "VQGanVAE"),
        "OpenAI": (
            Dvae(openai),
            dvae.rules_of(openai, "dalle-pytorch"),
            "",
            "OpenAIDiscreteVAE",
        ),
    }


@pytest.mark.parametrize("name", ["VQGAN", "Gumbel", "OpenAI"])
def test_other_picture_tokenisers_in_the_file_are_read_with_it(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
):
    tokeniser, rules, prefix, called = other_tokenisers()[name]
    tokeniser.eval()
    grid = 16 if name == "VQGAN" else 32
    model = painter(replace(TINY, grid=grid), tokeniser)
    inner = translate_back(tokeniser.state_dict(), rules)
    plain = painter(replace(TINY, grid=grid))
    weights = {k: x for k, x in published(plain).items() if not k.startswith("vae.")}
    del weights["transformer.pos_emb"]  # the tokeniser tells the grid, too
    weights |= {f"vae.{prefix}{key}": x for key, x in inner.items()}
    path = write(tmp_path, weights, vae_params=None, vae_class_name=called)
    with caplog.at_level(logging.WARNING):
        assert_same(load(path), model)
    saved = load(save(load(path), tmp_path / "saved"))
    assert_same(saved, model)


def test_a_file_without_its_tokeniser_takes_the_published_one(tmp_path: Path):
    torch.manual_seed(0)
    model = Dalle(replace(TINY, codes=1024, grid=16))
    weights = translate_back(own(model), rules_of(model.config))
    path = write(tmp_path, weights, vae_params=None, vae_class_name="VQGanVAE")
    with pytest.raises(DownloadFailed, match="vqgan_imagenet_f16_1024"):
        load(path, offline=True)
    with pytest.raises(WrongKeys, match=r"no tensors of its picture tokeniser \(DiscreteVAE"):
        load(write(tmp_path, weights, vae_params=None, hparams={}))


def test_a_saved_folder_gives_the_same_model_with_its_parts(tmp_path: Path):
    model = painter(replace(TINY, shared_embeddings=True, patterns=("axial_row", "conv_like")))
    assert_same(load(save(model, tmp_path / "saved")), model)
    assert load(save(model, tmp_path / "saved")).tokeniser.config == VAE
    bare = Dalle(TINY).eval()
    loaded = load(save(bare, tmp_path / "bare"))
    assert loaded.tokeniser is None
    assert loaded.config == TINY


def test_a_file_is_converted_to_a_folder_that_answers_alike(tmp_path: Path):
    model = painter()
    done = convert(write(tmp_path, published(model)), tmp_path / "out")
    assert done.model == "dalle"
    assert done.layout == "dalle-pytorch"
    assert_same(load(tmp_path / "out"), model)
    assert weights_hash(load(tmp_path / "out")) == weights_hash(model)


def test_the_hash_knows_what_the_layers_see_and_how_pictures_are_read():
    model = painter()
    other = painter(replace(TINY, patterns=("axial_row",)))
    assert weights_hash(model) != weights_hash(other)
    grey = DiscreteVae(replace(VAE, mean=None, std=None))
    grey.load_state_dict(cast_vae(model).state_dict())
    assert weights_hash(model) != weights_hash(painter(TINY, grey))


def test_a_text_tokeniser_is_given_and_saved_with_the_model(tmp_path: Path):
    (tmp_path / "words.bpe").write_text(MODEL)
    model = load(write(tmp_path, published(painter())), tokenizer=tmp_path / "words.bpe")
    assert isinstance(model.tokenizer, CaptionTokenizer)
    again = load(save(model, tmp_path / "saved"))
    ids = again.tokenizer.tokenize("a red cat", 5)
    assert ids.tolist() == [[20, 29, 23, 19, 0]]
    assert again.prefix(ids).tolist() == [[0, 20, 29, 23, 19, 0]]


def test_a_text_tokeniser_of_another_size_is_refused(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    path = write(tmp_path, published(painter()))
    with pytest.raises(BadInput, match="has 3 tokens, the model 34: they do not belong together"):
        load(path, tokenizer=tmp_path / "vocab.txt")


def test_what_a_file_does_not_tell_is_asked_for(tmp_path: Path):
    model = painter()
    path = write(tmp_path, published(model))
    content = torch.load(path, weights_only=True)
    del content["hparams"]
    torch.save(content, path)
    with pytest.raises(WrongKeys, match=r"no hparams.*MegEngine.*config=DalleConfig"):
        load(path)
    assert_same(load(path, config=TINY), model)
    with pytest.raises(Unsupported, match="it takes a DalleConfig, not a DiscreteVaeConfig"):
        load(path, config=VAE)
    save(model, tmp_path / "saved")
    (tmp_path / "saved" / "config.json").unlink()
    with pytest.raises(WrongKeys, match="load the folder they were saved in"):
        load(tmp_path / "saved" / "model.safetensors")


def test_a_broken_part_of_a_saved_config_is_named(tmp_path: Path):
    path = save(painter(), tmp_path / "saved") / "config.json"
    path.write_text(path.read_text().replace('"discrete-vae"', '"nothing"'))
    with pytest.raises(BrokenFile, match=r"config\.json"):
        load(tmp_path / "saved")


def test_arguments_that_are_not_known_or_do_not_fit_are_refused(tmp_path: Path):
    weights = published(painter())

    def refused(kind: type[Exception], what: str, **changes: Any) -> None:
        with pytest.raises(kind, match=what):
            load(write(tmp_path, weights, **changes))

    refused(Unsupported, "hparams has magic = 1, which", hparams={"magic": 1})
    refused(Unsupported, "'sparse' is refused", hparams={"attn_types": ["full", "sparse"]})
    refused(WrongKeys, "shift_tokens is True, but", hparams={"shift_tokens": True})
    refused(WrongKeys, "missing", hparams={"depth": 3})
    refused(WrongKeys, "of another shape", hparams={"heads": 3})
    refused(WrongKeys, "missing", hparams={"rotary_emb": False})
    refused(WrongKeys, "window|dim|heads", hparams={"heads": 0})
    refused(Unsupported, "before 0.9", hparams={"num_text_tokens": 39})
    table = weights.pop("transformer.pos_emb")
    weights["transformer.pos_emb"] = table + 1
    refused(Unsupported, "table of rotary positions is not that of DALLE-pytorch 1.1.4")
    weights["transformer.pos_emb"] = table.bfloat16()
    del weights["transformer.layers.layers.1.0.fn.fn.fn.to_qkv.weight"]
    refused(WrongKeys, "missing|to_qkv")


def test_the_megengine_preset_differs_in_what_layers_see_alone():
    author, preset = VARIANTS.values()
    assert replace(author, patterns=preset.patterns) == preset
    full = [layer + 1 for layer, seen in enumerate(author.seen) if seen == "full"]
    assert full == [12, 16]
    assert [layer + 1 for layer, seen in enumerate(preset.seen) if seen == "full"] == [8, 16]


def test_the_reranking_clip_is_read_by_its_shapes(tmp_path: Path):
    config = DalleClipConfig(
        text_width=12,
        image_width=8,
        embed_width=6,
        text_tokens=9,
        text_length=5,
        text_layers=2,
        text_heads=2,
        image_layers=1,
        image_heads=1,
        image_size=8,
        patch_size=4,
    )
    torch.manual_seed(0)
    model = DalleClip(config)
    weights = translate_back(model.state_dict(), DALLE_CLIP)
    older = {key.replace(".fn.fn.fn.to_", ".fn.fn.to_"): x for key, x in weights.items()}
    for state in (weights, older):
        torch.save(state, tmp_path / "clip.pt")
        loaded = load(tmp_path / "clip.pt")
        assert loaded.config == config
        assert all(torch.equal(x, loaded.state_dict()[k]) for k, x in model.state_dict().items())
    assert load(save(model, tmp_path / "saved")).config == config
    del weights["text_pos_emb.weight"]
    torch.save(weights, tmp_path / "clip.pt")
    with pytest.raises(WrongKeys, match=r"text_pos_emb\.weight"):
        load(tmp_path / "clip.pt")
