import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from lascaux.errors import BrokenFile, DownloadFailed, Unsupported, WrongKeys
from lascaux.models.lpips import Lpips, LpipsConfig
from lascaux.models.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig
from lascaux.models.vqgan import VARIANTS, VqGan, VqGanConfig
from lascaux.weights.catalogue import ENTRIES, find
from lascaux.weights.convert import convert
from lascaux.weights.download import fetch, place_of
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.keymap import Rule, require_shapes, translate, translate_back
from lascaux.weights.load import load
from lascaux.weights.maps import lpips, patch_discriminator, vqgan
from lascaux.weights.maps.vqgan_config import config_from_yaml
from lascaux.weights.save import save

CASES = Path(__file__).parents[1] / "golden"
TINY = VqGanConfig(
    codes=12,
    code_width=4,
    image_size=8,
    width=32,
    multiples=(1, 2),
    blocks=1,
    attention_sizes=(4,),
    latent_width=4,
)
# As CompVis writes it beside the checkpoint.
PARAMS = {
    "embed_dim": 4,
    "n_embed": 12,
    "ddconfig": {
        "double_z": False,
        "z_channels": 4,
        "resolution": 8,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [4],
        "dropout": 0.25,
    },
    "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
}
FREE = ("image_size", "attention_sizes", "dropout")


def project(name: str = "VQModel", **params: Any) -> dict[str, Any]:
    return {"model": {"target": f"taming.models.vqgan.{name}", "params": {**PARAMS, **params}}}


def made(config: VqGanConfig = TINY) -> VqGan:
    torch.manual_seed(0)
    return VqGan(config).eval()


def published(model: VqGan, layout: str = "taming", prefix: str = "") -> dict[str, Tensor]:
    state = translate_back(model.state_dict(), rules(layout))
    return {prefix + key: tensor.contiguous() for key, tensor in state.items()}


def rules(layout: str) -> tuple[Rule, ...]:
    (found,) = [each for each in vqgan.LAYOUTS if each.name == layout]
    return found.rules(())


def assert_same(loaded: VqGan, model: VqGan, *, config: VqGanConfig | None = None) -> None:
    told = replace(loaded.config, **{name: getattr(model.config, name) for name in FREE})
    assert told == (config or model.config)
    mine = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(mine[name], tensor), name


GUMBEL = replace(TINY, quantiser="gumbel")


@pytest.mark.parametrize(
    ("config", "layout", "prefix"),
    [
        (TINY, "taming", "module.first_stage."),
        (GUMBEL, "taming-gumbel", "model."),
        (GUMBEL, "megengine-gumbel", ""),
        (replace(TINY, resampling_convolutions=False), "taming", ""),
        (replace(TINY, double_latent=True), "taming", ""),
        (replace(TINY, used_codes=5), "taming", ""),
        (
            *(replace(TINY, in_channels=6, out_channels=6, labels=6, mean=0.0, std=1.0), "taming"),
            "",
        ),
    ],
)
def test_a_checkpoint_is_recognised_and_its_shapes_tell_the_config(
    config: VqGanConfig, layout: str, prefix: str, tmp_path: Path
):
    model, path = made(config), tmp_path / "last.ckpt"
    torch.save({"state_dict": published(model, layout, prefix), "epoch": 3}, path)
    assert_same(load(path), model)


def test_what_is_for_training_alone_is_dropped_and_reported(tmp_path: Path):
    model, path = made(), tmp_path / "last.ckpt"
    extra = {
        "loss.discriminator.main.0.weight": torch.zeros(1),
        "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(1),
        "loss.logvar": torch.zeros(()),
        "model_ema.decay": torch.zeros(()),
        "model_ema.encoderconv_inweight": torch.zeros(1),
    }
    torch.save({"state_dict": {**published(model), **extra}}, path)
    assert_same(load(path), model)
    report = convert(path, tmp_path / "out")
    assert report.model == "vqgan"
    assert report.layout == "taming"
    assert report.dropped.keys() == extra.keys()
    assert report.matched == len(published(model))
    assert_same(load(tmp_path / "out"), model)


def test_parts_of_a_transformer_s_checkpoint_are_taken_by_name(tmp_path: Path):
    first, condition = made(), made(replace(TINY, codes=7, in_channels=1, out_channels=1))
    path = tmp_path / "last.safetensors"
    state = {
        **published(first, prefix="first_stage_model."),
        **published(condition, prefix="cond_stage_model."),
        "first_stage_model.loss.discriminator.main.0.bias": torch.zeros(1),
        "transformer.tok_emb.weight": torch.zeros(4, 2),
    }
    save_file(state, path)
    (tmp_path / "model.yaml").write_text(
        yaml.safe_dump(
            {
                "model": {
                    "target": "taming.models.cond_transformer.Net2NetTransformer",
                    "params": {"first_stage_config": project(beta=1)["model"]},
                }
            }
        )
    )
    loaded = load(path, part="first_stage_model")
    assert_same(loaded, first)
    assert loaded.config.dropout == 0.25
    assert_same(load(path, part="cond_stage_model."), condition)
    with pytest.raises(Unsupported, match=r"part='cond_stage_model' or part='first_stage_model'"):
        load(path)
    with pytest.raises(WrongKeys, match=r"its parts are cond_stage_model, first_stage_model"):
        load(path, part="third_stage_model")
    convert(path, tmp_path / "out", part="cond_stage_model")
    assert_same(load(tmp_path / "out"), condition)


@pytest.mark.parametrize("place", ["last.yaml", "model.yaml", "configs/x-project.yaml"])
def test_the_yaml_beside_a_checkpoint_tells_what_shapes_do_not(place: str, tmp_path: Path):
    path = tmp_path / "last.safetensors"
    save_file(published(made()), path)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(yaml.safe_dump(project(unknown_index="extra")))
    assert load(path).config == replace(TINY, dropout=0.25, unknown="extra")


def test_lightning_s_folders_are_known(tmp_path: Path):
    path = tmp_path / "logs" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    configs = tmp_path / "logs" / "configs"
    configs.mkdir()
    torch.save({"state_dict": published(made())}, path)
    (configs / "2020-project.yaml").write_text(yaml.safe_dump(project()))
    (configs / "2020-lightning.yaml").write_text("lightning: {trainer: {gpus: 0,}}")
    assert load(path).config == replace(TINY, dropout=0.25)


@pytest.mark.parametrize(
    "content",
    [
        yaml.safe_dump(project(n_embed=13)),  # of another checkpoint
        yaml.safe_dump(project(ddconfig={})),
        yaml.safe_dump(project("ConsistencyModel")),
        yaml.safe_dump({"model": [1, 2]}),
        "model: {unfinished",
        "!!python/object/apply:os.system ['exit 1']",
    ],
)
def test_a_yaml_that_does_not_fit_is_left_out(content: str, tmp_path: Path, caplog):
    path = tmp_path / "last.safetensors"
    save_file(published(made()), path)
    (tmp_path / "model.yaml").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert_same(load(path), made())


def test_two_different_yamls_are_not_chosen_between(tmp_path: Path, caplog):
    path = tmp_path / "last.safetensors"
    save_file(published(made()), path)
    for name, size in (("a", 8), ("b", 16)):
        sizes = {**PARAMS["ddconfig"], "resolution": size, "attn_resolutions": [size // 2]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(project(ddconfig=sizes)))
    with caplog.at_level(logging.WARNING):
        assert load(path).config.image_size == 256
    assert "a.yaml, b.yaml" in caplog.text


def test_a_yaml_of_no_vqgan_tells_nothing_and_an_impossible_one_is_broken():
    assert config_from_yaml({}, source="x") is None
    assert config_from_yaml({"model": {"target": "a.B", "params": {}}}, source="x") is None
    with pytest.raises(BrokenFile, match="x: no config of a VQGAN"):
        config_from_yaml(project(embed_dim=None, ddconfig={"ch": 3}), source="x")


def test_missing_and_extra_keys_are_named_as_published(tmp_path: Path):
    path, good = tmp_path / "last.safetensors", published(made())
    gone = "decoder.up.1.block.0.conv1.weight"
    save_file({key: tensor for key, tensor in good.items() if key != gone}, path)
    with pytest.raises(WrongKeys, match=f"1 missing: {gone}"):
        load(path)
    part = "encoder.mid.attn_1.k.bias"
    save_file({key: tensor for key, tensor in good.items() if key != part}, path)
    with pytest.raises(WrongKeys, match=f"1 missing: {part}"):
        load(path)
    save_file({**good, "surprise.weight": torch.zeros(1)}, path)
    with pytest.raises(WrongKeys, match=r"1 not expected: surprise\.weight"):
        load(path)


def test_an_encoder_of_patches_is_told_by_its_shapes(tmp_path: Path):
    for changes in ({}, {"double_latent": True}, {"multiples": (1, 2, 2)}):
        model, path = made(replace(TINY, encoder="patches", **changes)), tmp_path / "m.safetensors"
        save_file(model.state_dict(), path)
        assert_same(load(path), model)


def test_a_saved_folder_gives_the_same_model_and_hash(tmp_path: Path):
    model = made(replace(TINY, used_codes=5, unknown="extra"))
    save(model, tmp_path / "mine")
    loaded = load(tmp_path / "mine")
    assert loaded.config == model.config
    assert weights_hash(loaded) == weights_hash(model)
    other = made(replace(model.config, norm_epsilon=1e-5))
    assert weights_hash(other) != weights_hash(model)
    assert_same(load(tmp_path / "mine" / "model.safetensors"), model)


def test_numbers_that_leave_shapes_alone_change_the_hash():
    model = VqGan(TINY)
    state, hashes = model.state_dict(), {weights_hash(model)}
    changes = [{"groups": 16}, {"mean": 0.0}, {"std": 1.0}, {"norm_epsilon": 1e-5}]
    for change in changes:
        other = VqGan(replace(TINY, **change))
        other.load_state_dict(state)
        hashes.add(weights_hash(other))
    assert len(hashes) == 1 + len(changes)


def test_clip_gen_s_numbers_find_their_levels(tmp_path: Path):
    config = replace(TINY, multiples=(1, 1, 2), image_size=16, norm_epsilon=1e-5, beta=0.2)
    model, path = made(config), tmp_path / "vqgan.pt"
    torch.save({"model": clip_gen_state(model), "epoch": 1}, path)
    assert_same(load(path), model)


def clip_gen_state(model: VqGan) -> dict[str, Tensor]:
    """The state under clip-gen's names, written down anew from its description."""
    names = {
        "encoder": ["conv_in", "first"],
        "decoder": ["conv_in", "first"],
    }
    block = {"norm1": "block.0", "conv1": "block.2", "norm2": "block.3", "conv2": "block.6"}
    middle = {"first": "mid.0", "attention": "mid.1", "second": "mid.2"}
    state = {"quantizer.embedding.weight": model.codebook.weight.detach()}

    def put(start: str, module: torch.nn.Module) -> None:
        for key, tensor in module.state_dict().items():
            name, _, last = key.rpartition(".")
            name = block.get(name, name)
            ending = f".{last}" if name in ("", *block.values(), "shortcut", "norm") else ""
            if name == "qkv":
                state[f"{start}.attn.in_proj_{last}"] = tensor
            elif name == "out":
                state[f"{start}.attn.out_proj.{last}"] = tensor
            elif not name:
                state[start + ending] = tensor
            else:
                state[f"{start}.{name}{ending or '.' + last}"] = tensor

    for half, list_name in (("encoder", "down"), ("decoder", "up")):
        module = getattr(model, half)
        put(f"{half}.{names[half][0]}", module.first)
        levels = module.levels if half == "encoder" else reversed(module.levels)
        number = 0
        for level in levels:
            for place, each in enumerate(level.blocks):
                put(f"{half}.{list_name}.{number}", each)
                number += 1
                if level.attention:
                    put(f"{half}.{list_name}.{number}", level.attention[place])
                    number += 1
            if not isinstance(level.resample, torch.nn.Identity):
                put(f"{half}.{list_name}.{number}", level.resample)
                number += 1
        for ours, theirs in middle.items():
            put(f"{half}.{theirs}", getattr(module.middle, ours))
        put(f"{half}.final.0", module.last_norm)
        put(f"{half}.final.2", module.last)
    put("encoder.final.3", model.to_code)
    put("decoder.quant_conv_in", model.from_code)
    return state


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        ("vqgan/imagenet_f16_1024", "imagenet-f16-1024"),
        ("vqgan/imagenet_f16_16384", "imagenet-f16-16384"),
        ("vqgan/gumbel_f8", "gumbel-f8"),
        ("vqgan/imagenetdepth", "depth"),
        ("vqgan/openimages_f8_256", "vq-f8-n256"),
        ("vqgan/sflckr_cond_stage", "sflckr-labels"),
        ("clip-gen/vqgan_full", "clip-gen-coco"),
    ],
)
def test_every_official_key_has_its_place_in_the_variant(case: str, variant: str):
    entries = json.loads((CASES / case / "manifest.json").read_text())["state"]
    with torch.device("meta"):
        state = {key: torch.empty(e["shape"]) for key, e in entries.items()}
        model = VqGan(VARIANTS[variant])
    kept = {k: v for k, v in state.items() if not k.startswith("discriminator.")}
    if "imagenet_f16" in case:
        assert len(kept) == 343
    (layout,) = vqgan._found(state).values()
    table = layout.rules(kept)
    require_shapes(translate(kept, table), model.state_dict(), table)


def test_every_entry_of_a_vqgan_says_where_its_file_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path))
    monkeypatch.delenv("LASCAUX_MIRROR", raising=False)
    entries = [e for e in ENTRIES if e.model == "vqgan" and not e.embedded]
    assert {entry.variant for entry in entries} == set(VARIANTS)
    for entry in entries:
        (file,) = entry.files
        assert file.name.endswith((".ckpt", ".pt"))
        assert file.sha256 is None
        if file.by_hand:
            with pytest.raises(DownloadFailed, match=file.url) as caught:
                fetch(file)
            assert str(place_of(file)) in str(caught.value)


def test_a_part_that_is_put_into_the_cache_by_hand_is_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path))
    entry = find("sflckr_cond_stage")
    small = replace(TINY, in_channels=6, out_channels=6, labels=6, mean=0.0, std=1.0)
    monkeypatch.setitem(VARIANTS, "sflckr-labels", small)
    place = place_of(entry.files[0])
    place.parent.mkdir(parents=True)
    state = {**published(made(small), prefix="cond_stage_model."), "transformer.x": torch.zeros(1)}
    torch.save({"state_dict": state}, place)
    assert_same(load("sflckr_cond_stage", offline=True), made(small))


# What VQGANs are trained with


@pytest.mark.parametrize(
    ("norm", "layout", "layers"),
    [("batch", "taming", 3), ("act", "taming", 1), ("batch", "clip-gen", 2)],
)
def test_a_discriminator_is_read_out_of_a_vqgan_s_checkpoint(
    norm: Any, layout: Any, layers: int, tmp_path: Path
):
    config = PatchDiscriminatorConfig(channels=4, width=2, layers=layers, norm=norm)
    model, path = PatchDiscriminator(config), tmp_path / "last.ckpt"
    part = "loss.discriminator" if layout == "taming" else "discriminator"
    state = translate_back(model.state_dict(), patch_discriminator.rules_of(layout, layers))
    torch.save({f"{part}.{k}": v.clone() for k, v in state.items()} | {"x": torch.ones(1)}, path)
    loaded = load(path, part=part)
    assert loaded.config == config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    save(model, tmp_path / "mine")
    assert load(tmp_path / "mine").config == config
    assert load(tmp_path / "mine" / "model.safetensors").config == config


@pytest.fixture(scope="module")
def distance() -> Lpips:
    torch.manual_seed(0)
    return Lpips(LpipsConfig(widths=(2, 2, 3, 3, 4))).eval()


def test_a_distance_is_read_from_a_checkpoint_and_from_its_two_files(
    distance: Lpips, tmp_path: Path
):
    x = torch.rand(1, 3, 32, 32)
    for layout in ("taming", "torchvision"):
        state = translate_back(distance.state_dict(), lpips.LAYOUTS[layout][0])
        if layout == "taming":
            state["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
            torch.save({"loss.perceptual_loss." + k: v for k, v in state.items()}, tmp_path / "a")
            loaded = load(tmp_path / "a", part="loss.perceptual_loss")
        else:
            state["classifier.0.weight"] = torch.zeros(1)
            own = {k: v for k, v in state.items() if k.startswith("lin")}
            torch.save({k: v for k, v in state.items() if k not in own}, tmp_path / "vgg16.pth")
            torch.save(own, tmp_path / "vgg.pth")
            loaded = load([tmp_path / "vgg16.pth", tmp_path / "vgg.pth"])
        assert loaded.config == distance.config
        assert torch.equal(loaded(x, -x), distance(x, -x))
    save(distance, tmp_path / "mine")
    assert torch.equal(load(tmp_path / "mine")(x, -x), distance(x, -x))


def test_the_weightings_alone_are_no_distance(distance: Lpips, tmp_path: Path):
    state = translate_back(distance.state_dict(), lpips.LAYOUTS["taming"][0])
    torch.save({k: v for k, v in state.items() if k.startswith("lin")}, tmp_path / "vgg.pth")
    with pytest.raises(WrongKeys, match=r"lin0\.model\.1\.weight"):
        load(tmp_path / "vgg.pth")
