import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lascaux.errors import (
    BadInput,
    BrokenFile,
    DownloadFailed,
    LascauxError,
    UnknownModel,
    Unsupported,
    WrongKeys,
)
from lascaux.models.clip import VARIANTS, Clip, ClipConfig
from lascaux.text.clip_bpe import ClipTokenizer
from lascaux.weights import load as loading
from lascaux.weights.catalogue import Entry
from lascaux.weights.convert import convert
from lascaux.weights.download import Fetched
from lascaux.weights.keymap import translate_back
from lascaux.weights.load import build, find, load
from lascaux.weights.maps.clip import LAYOUTS
from tiny import tiny

VIT = tiny(vision_layers=2, text_layers=2)
RESNET = replace(
    VIT,
    image_size=32,
    vision_layers=(1, 1, 1, 1),
    vision_width=4,
    vision_heads=2,
    patch_size=None,
)


def clip(config: ClipConfig = VIT) -> Clip:
    torch.manual_seed(0)
    return Clip(config).eval()


def published(model: Clip, layout: str = "openai") -> dict[str, Tensor]:
    """The state under a publisher's keys, with OpenAI's three scalars where they belong."""
    state = translate_back(model.state_dict(), LAYOUTS[layout].rules)
    if layout.startswith("openai"):
        config = model.config
        sizes = config.image_size, config.context_length, config.vocabulary_size
        names = "input_resolution", "context_length", "vocab_size"
        state.update({n: torch.tensor(s) for n, s in zip(names, sizes, strict=True)})
    return {key: tensor.contiguous() for key, tensor in state.items()}


def assert_same(loaded: Clip, model: Clip) -> None:
    assert loaded.config == model.config
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name]), name
        assert tensor.is_contiguous(), name


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_an_openai_checkpoint_is_read(config: ClipConfig, suffix: str, tmp_path: Path):
    model, path = clip(config), tmp_path / f"weights.{suffix}"
    state = published(model, "openai-resnet" if config.convolutional else "openai")
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    loaded = load(path)
    assert_same(loaded, model)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("nest", ["state_dict", "model", "module"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "backbone.", "student.clip."])
def test_nested_and_wrapped_checkpoints_are_read(nest: str, prefix: str, tmp_path: Path):
    model, path = clip(), tmp_path / "checkpoint.ckpt"
    state = {prefix + key: tensor for key, tensor in published(model).items()}
    torch.save({nest: state, "epoch": 3}, path)
    assert_same(load(path), model)


@pytest.mark.parametrize("layout", ["openai", "huggingface"])
def test_keys_beside_a_wrapped_clip_are_named_with_the_file(layout: str, tmp_path: Path):
    path = tmp_path / "lightning.ckpt"
    state = {f"model.{key}": tensor for key, tensor in published(clip(), layout).items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.zeros(2)}}, path)
    with pytest.raises(WrongKeys, match=r"lightning\.ckpt: .* 1 not expected: criterion\.weight;"):
        load(path)
    with pytest.raises(WrongKeys, match=r"1 not expected: criterion\.weight;"):
        convert(path, tmp_path / "out")


def test_a_mmpretrain_checkpoint_is_read(tmp_path: Path):
    model, path = clip(), tmp_path / "clip.pth"
    torch.save({"state_dict": published(model, "mmpretrain"), "meta": {}}, path)
    assert_same(load(path), model)


def test_half_stored_weights_become_what_is_asked_for(tmp_path: Path):
    model, path = clip(RESNET), tmp_path / "weights.pt"
    state = published(model, "openai-resnet")
    half = {k: v.half() if v.ndim > 1 else v for k, v in state.items()}
    torch.save(half, path)
    loaded = load(path)
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32, torch.int64}
    stored = load(path, dtype=torch.float16).state_dict()["text.positions"]
    assert torch.equal(stored, half["positional_embedding"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_loading_in_a_dtype_equals_changing_to_it_afterwards(dtype: str, tmp_path: Path):
    path = tmp_path / "weights.pt"
    torch.save(published(clip()), path)
    loaded, changed = load(path, dtype=dtype), load(path).to(getattr(torch, dtype))
    assert loaded.dtype == getattr(torch, dtype)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, changed.state_dict()[name]), name


def test_missing_extra_and_misshaped_keys_are_named_with_their_file(tmp_path: Path):
    path, good = tmp_path / "weights.pt", published(clip())

    def refusal(state: dict[str, Tensor]) -> str:
        torch.save(state, path)
        with pytest.raises(WrongKeys) as caught:
            load(path)
        return str(caught.value)

    gone = refusal({k: v for k, v in good.items() if k != "visual.ln_post.bias"})
    assert str(path) in gone
    assert "1 missing: visual.ln_post.bias" in gone
    layer = "transformer.resblocks.1.attn.in_proj_weight"
    assert f"1 missing: {layer}" in refusal({k: v for k, v in good.items() if k != layer})
    assert "1 not expected: surprise" in refusal({**good, "surprise": torch.zeros(2)})
    wide = refusal({**good, "ln_final.bias": torch.zeros(65)})
    assert "ln_final.bias (65 where the model has 64)" in wide
    assert "first" in refusal({"conv.weight": torch.zeros(2)})


def huggingface(folder: Path, model: Clip, act: str = "quick_gelu") -> None:
    config = model.config
    folder.mkdir(exist_ok=True)
    published_config = {
        "model_type": "clip",
        "projection_dim": config.embed_width,
        "vision_config": {
            "hidden_size": config.vision_width,
            "intermediate_size": 4 * config.vision_width,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": config.vision_heads,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "hidden_act": act,
        },
        "text_config": {
            "vocab_size": config.vocabulary_size,
            "hidden_size": config.text_width,
            "intermediate_size": 4 * config.text_width,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.context_length,
            "hidden_act": act,
            "eos_token_id": 2,
        },
    }
    (folder / "config.json").write_text(json.dumps(published_config))
    save_file(published(model, "huggingface"), folder / "model.safetensors")


MANY_HEADS = replace(VIT, vision_heads=4, text_heads=2)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_huggingface_folder_is_read_by_its_config(activation: str, tmp_path: Path):
    model = clip(replace(MANY_HEADS, activation=activation))
    huggingface(tmp_path / "hf", model, activation)
    assert_same(load(tmp_path / "hf"), model)
    # The file alone would not tell the heads, so it stands for its folder.
    assert_same(load(tmp_path / "hf" / "model.safetensors"), model)
    assert_same(load(str(tmp_path / "hf")), model)


def test_a_sharded_huggingface_folder_is_read(tmp_path: Path):
    model = clip(MANY_HEADS)
    huggingface(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()
    state = published(model, "huggingface")
    shards: dict[str, dict[str, Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    where = {}
    for place, (key, tensor) in enumerate(state.items()):
        where[key] = "ab"[place % 2] + ".safetensors"
        shards[where[key]][key] = tensor
    for name, shard in shards.items():
        save_file(shard, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert_same(load(tmp_path), model)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(BrokenFile, match=r"not there: b\.safetensors"):
        load(tmp_path)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(where, "../a.safetensors")}))
    with pytest.raises(BrokenFile):
        load(tmp_path)


def openclip(folder: Path, model: Clip, **more: object) -> None:
    config = model.config
    folder.mkdir(exist_ok=True)
    model_config = {
        "embed_dim": config.embed_width,
        "vision_cfg": {
            "image_size": config.image_size,
            "layers": config.vision_layers,
            "width": config.vision_width,
            "head_width": config.vision_width // config.vision_heads,
            "patch_size": config.patch_size,
        },
        "text_cfg": {
            "context_length": config.context_length,
            "vocab_size": config.vocabulary_size,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
        },
        **more,
    }
    content = {"model_cfg": model_config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("layout", ["openai", "openclip-custom"])
def test_an_openclip_folder_is_read_by_its_config(layout: str, tmp_path: Path):
    config = replace(MANY_HEADS, activation="gelu", mean=(0.5,) * 3, std=(0.25,) * 3)
    model = clip(config)
    openclip(tmp_path, model)
    state = translate_back(model.state_dict(), LAYOUTS[layout].rules)
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    assert_same(load(tmp_path), model)
    openclip(tmp_path, model, quick_gelu=True)
    assert load(tmp_path).config.activation == "quick_gelu"


def test_a_bare_openclip_file_takes_its_activation_from_the_caller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path, model = tmp_path / "weights.pt", clip(replace(VIT, activation="gelu"))
    torch.save(translate_back(model.state_dict(), LAYOUTS["openai"].rules), path)
    assert_same(load(path, activation="gelu"), model)
    assert not caplog.records
    assert load(path).config.activation == "quick_gelu"
    assert "does not tell its activation" in caplog.text


def test_a_config_of_the_caller_is_used(tmp_path: Path):
    path, model = tmp_path / "weights.pt", clip(MANY_HEADS)
    torch.save(published(model), path)
    assert_same(load(path, config=MANY_HEADS), model)
    with pytest.raises(WrongKeys, match="another shape"):
        load(path, config=replace(MANY_HEADS, vocabulary_size=601))


def test_the_tokenizer_beside_the_weights_comes_along(tmp_path: Path):
    torch.save(published(clip()), tmp_path / "weights.pt")
    assert load(tmp_path / "weights.pt").tokenizer is None
    trained = ClipTokenizer.train(["a photo of a cat", "a photo of a dog"], 540)
    trained.save(tmp_path / "tokenizer.json")
    tokenizer = load(tmp_path / "weights.pt").tokenizer
    assert tokenizer is not None
    # As long as the model reads, not as long as the file says.
    assert torch.equal(tokenizer("a cat"), trained("a cat", context_length=8))
    trained.save(tmp_path / "elsewhere.json")
    (tmp_path / "tokenizer.json").unlink()
    assert load(tmp_path / "weights.pt", tokenizer=tmp_path / "elsewhere.json").tokenizer


def test_a_vocabulary_that_the_model_cannot_read_is_refused(tmp_path: Path):
    torch.save(published(clip(replace(VIT, vocabulary_size=515))), tmp_path / "weights.pt")
    ClipTokenizer.train(["a photo of a cat", "a photo of a dog"], 540).save(
        tmp_path / "tokenizer.json"
    )
    with pytest.raises(BadInput, match="do not belong together"):
        load(tmp_path / "weights.pt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, "int4", "half precision"])
def test_a_dtype_that_nothing_computes_in_is_refused(dtype: object, tmp_path: Path):
    torch.save(published(clip()), tmp_path / "weights.pt")
    with pytest.raises(Unsupported, match="supported are float32, bfloat16"):
        load(tmp_path / "weights.pt", dtype=dtype)  # type: ignore[arg-type]


def test_devices_that_are_not_there_are_refused(tmp_path: Path):
    torch.save(published(clip()), tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="is no device"):
        load(tmp_path / "weights.pt", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(Unsupported, match="this torch sees none"):
            load(tmp_path / "weights.pt", device="cuda")


def test_what_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UnknownModel, match="no file or folder"):
        load(tmp_path / "nothing")
    with pytest.raises(UnknownModel, match="no file or folder"):
        load("./nothing")
    with pytest.raises(UnknownModel, match=r"no config\.json"):
        load(tmp_path)


def test_configs_of_other_models_and_broken_ones_are_refused(tmp_path: Path):
    for content, error in (
        ('{"model_type": "bert"}', Unsupported),
        ('{"library_name": "lascaux", "model": "speller"}', LascauxError),
        ("{", BrokenFile),
        ("[]", BrokenFile),
    ):
        (tmp_path / "config.json").write_text(content)
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(error, match=tmp_path.name):
            load(tmp_path)


def test_training_a_loaded_model_leaves_the_file_alone(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file(published(clip()), path)
    before = path.read_bytes()
    model = load(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before
    assert not torch.equal(model.logit_scale, load(path).logit_scale)


def test_building_draws_nothing_and_only_here():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    elsewhere: list[nn.Linear] = []

    def make() -> nn.Module:
        thread = threading.Thread(target=lambda: elsewhere.append(nn.Linear(8, 8)))
        nn.Linear(4, 4)
        nn.Conv2d(3, 4, 2)
        nn.Embedding(5, 4)
        nn.init.trunc_normal_(torch.empty(3))
        nn.init.xavier_uniform_(torch.empty(3, 3))
        nn.init.kaiming_normal_(torch.empty(3, 3))
        here = torch.equal(torch.get_rng_state(), state)
        thread.start()
        thread.join()
        assert here
        return nn.LayerNorm(4)

    norm = build(make)
    assert not torch.equal(torch.get_rng_state(), state)  # the other thread did draw
    assert elsewhere[0].weight.abs().max() > 0
    assert torch.equal(norm.weight, torch.ones(4))
    torch.manual_seed(1)
    drawn = nn.Linear(4, 4).weight
    torch.manual_seed(2)
    assert not torch.equal(nn.Linear(4, 4).weight, drawn)


def test_names_of_the_catalogue_and_the_hub_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    huggingface(tmp_path / "hub", clip(MANY_HEADS))
    trained = ClipTokenizer.train(["a photo of a cat"], 520)
    trained.save(tmp_path / "vocabulary.json")
    torch.save(published(clip()), tmp_path / "ViT-B-32.pt")

    def fetch_hub(name: str, **more: object) -> Path:
        asked.append(f"{name} at {more['revision']}")
        return tmp_path / "hub"

    def fetch_entry(entry: Entry, **more: object) -> Fetched:
        asked.append(entry.name)
        return Fetched(tmp_path / "ViT-B-32.pt", tmp_path / "vocabulary.json")

    monkeypatch.setattr(loading, "fetch_hub", fetch_hub)
    monkeypatch.setattr(loading, "fetch_entry", fetch_entry)
    assert_same(load("somebody/clip", revision="v2"), clip(MANY_HEADS))
    source = find("vit-b/32")
    assert asked == ["somebody/clip at v2", "ViT-B/32"]
    assert source.config == VARIANTS["ViT-B/32"]
    assert source.vocabulary == tmp_path / "vocabulary.json"
    with pytest.raises(UnknownModel, match="nearest: ViT-B/32"):
        load("ViT-B-33")


def test_a_misspelt_name_that_looks_like_a_hub_id_is_told_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
):
    def fetch_hub(name: str, **more: object) -> Path:
        raise DownloadFailed("no network")

    monkeypatch.setattr(loading, "fetch_hub", fetch_hub)
    with pytest.raises(DownloadFailed, match=r"nearest: ViT-B/32.*As a hub id: no network"):
        load("ViT-B/33")


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    huggingface(tmp_path / "ochre-clip", clip(MANY_HEADS))
    assert_same(load("ochre-clip"), clip(MANY_HEADS))
