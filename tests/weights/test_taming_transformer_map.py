from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lascaux.errors import BadInput, BrokenFile, Unsupported, WrongHash, WrongKeys
from lascaux.models.taming_transformer import VARIANTS as SIZES
from lascaux.models.taming_transformer import TamingTransformer, TamingTransformerConfig
from lascaux.models.vqgan import VqGan, VqGanConfig
from lascaux.nn.orders import order_of
from lascaux.weights.catalogue import find
from lascaux.weights.convert import convert
from lascaux.weights.download import place_of
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.keymap import translate_back
from lascaux.weights.load import load, save
from lascaux.weights.maps.taming_transformer import TRANSFORMER, VARIANTS
from lascaux.weights.maps.taming_transformer_config import told_by_yaml
from lascaux.weights.maps.vqgan import VQGAN_TAMING
from lascaux.weights.parts import Composite, Part

TINY = TamingTransformerConfig(codes=24, length=40, layers=2, heads=2, width=16)
STAGE = VqGanConfig(
    codes=24, code_width=6, width=32, multiples=(1, 2), blocks=1, attention_sizes=(), latent_width=6
)  # fmt: skip
BOXES = {"target": "x.DummyCondStage", "params": {"conditional_key": "objects_bbox"}}
LABELS = replace(STAGE, in_channels=5, out_channels=5, labels=5, mean=0.0, std=1.0)


def made(config: TamingTransformerConfig = TINY, condition: bool = True) -> TamingTransformer:
    torch.manual_seed(0)
    stage = VqGan(LABELS) if condition else None
    return TamingTransformer(config, first_stage=VqGan(STAGE), condition_stage=stage).eval()


def published(model: TamingTransformer) -> dict[str, Tensor]:
    state = model.state_dict()
    own = {key: x for key, x in state.items() if key.startswith("transformer.")}
    told = translate_back(own, TRANSFORMER)
    for place, prefix in (
        ("first_stage", "first_stage_model."),
        ("condition_stage", "cond_stage_model."),
    ):
        if (stage := getattr(model, place)) is not None:
            inside = translate_back(stage.state_dict(), VQGAN_TAMING)
            told |= {prefix + key: x for key, x in inside.items()}
    masks = {
        f"transformer.blocks.{i}.attn.mask": torch.ones(1, 1, 4, 4)
        for i in range(model.config.layers)
    }
    loss = {"first_stage_model.loss.discriminator.main.0.bias": torch.zeros(1)}
    return {key: x.contiguous() for key, x in (told | masks | loss).items()}


def project(config: TamingTransformerConfig = TINY, **more: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": config.codes,
        "block_size": config.length,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_embd": config.width,
    }
    return {"model": {"params": {"transformer_config": {"params": sizes}, **more}}}


def assert_same(first: nn.Module, second: nn.Module) -> None:
    assert first.state_dict().keys() == second.state_dict().keys()
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key


def written(folder: Path, model: TamingTransformer, told: dict[str, Any] | None) -> Path:
    save_file(published(model), folder / "last.safetensors")
    if told is not None:
        (folder / "model.yaml").write_text(yaml.safe_dump(told))
    return folder / "last.safetensors"


def test_a_checkpoint_with_both_stages_becomes_ours(tmp_path: Path):
    model = made()
    path = written(tmp_path, model, project())
    loaded = load(path)
    assert_same(loaded, model)
    assert loaded.config == TINY
    assert loaded.condition_stage.config.labels == 5
    report = convert(path, tmp_path / "out")
    assert (report.model, report.layout) == ("taming_transformer", "taming")
    assert len(report.dropped) == 3
    again = load(tmp_path / "out")
    assert_same(again, model)
    assert again.config == TINY
    assert again.condition_stage.config == loaded.condition_stage.config


def test_a_saved_model_comes_back_with_its_parts(tmp_path: Path):
    for number, model in enumerate((made(), made(replace(TINY, condition="start"), False))):
        folder = tmp_path / str(number)
        save(model, folder)
        again = load(folder)
        assert_same(again, model)
        assert again.config == model.config
        assert weights_hash(again) == weights_hash(model)
        assert (again.condition_stage is None) == (model.condition_stage is None)


def test_the_hash_knows_what_shapes_do_not():
    other = made(replace(TINY, heads=4))
    assert weights_hash(other) != weights_hash(made())
    stage = made()
    assert stage.first_stage is not None
    object.__setattr__(stage.first_stage, "config", replace(STAGE, norm_epsilon=1e-5))
    assert weights_hash(stage) != weights_hash(made())


def test_a_folder_with_parts_that_cannot_be_is_refused(tmp_path: Path):
    save(made(), tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"condition_stage"', '"third_stage"'))
    with pytest.raises(BrokenFile, match="no part third_stage"):
        load(tmp_path / "m")


def test_stages_and_transformer_are_loaded_by_themselves(tmp_path: Path):
    model = made()
    path = written(tmp_path, model, project())
    assert model.first_stage is not None
    assert_same(load(path, part="first_stage_model"), model.first_stage)
    alone = load(path, part="transformer")
    assert alone.first_stage is None
    assert_same(alone.transformer, model.transformer)


def test_without_a_yaml_the_published_sizes_are_known_by_their_shapes(tmp_path: Path, monkeypatch):
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    path = written(unknown, made(), None)
    with pytest.raises(WrongKeys, match=r"2 layers, width 16.*put the project's yaml beside it"):
        load(path)
    small = Composite(replace(TINY, heads=4), {"first_stage": Part("vqgan", STAGE)})
    monkeypatch.setitem(VARIANTS, "sflckr", small)
    assert load(path).config.heads == 4
    faces = made(replace(TINY, condition="coordinates"), False)
    monkeypatch.setitem(VARIANTS, "faceshq", Composite(replace(TINY, condition="coordinates")))
    assert load(written(tmp_path, faces, None)).config.condition == "coordinates"


def test_an_order_is_known_by_its_permutation(tmp_path: Path, monkeypatch):
    model = made(replace(TINY, order="z-curve", order_grid=(4, 4)))
    order = order_of("z-curve", (4, 4))
    monkeypatch.setitem(VARIANTS, "sflckr", Composite(TINY))
    state = {**published(model), "permuter.forward_shuffle_idx": order}
    save_file(state, tmp_path / "x.safetensors")
    assert load(tmp_path / "x.safetensors").config == model.config
    state["permuter.forward_shuffle_idx"] = order.roll(1)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(WrongKeys, match="its order of 16 codes is none of"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("more", "fields"),
    [
        (
            {"cond_stage_config": "__is_unconditional__", "sos_token": 3},
            {"condition": "start", "start": 3},
        ),
        ({"cond_stage_config": "__is_first_stage__"}, {"condition": "first-stage"}),
        (
            {
                "cond_stage_config": {
                    "target": "taming.modules.misc.coord.CoordStage",
                    "params": {"n_embed": 24, "down_factor": 8},
                }
            },
            {"condition": "coordinates", "coordinate_codes": 24, "coordinate_factor": 8},
        ),
        (
            {"cond_stage_config": {"target": "x.Labelator", "params": {"n_classes": 9}}},
            {"condition": "class", "classes": 9},
        ),
        ({"cond_stage_config": {"target": "x.DummyCondStage"}}, {"condition": "tokens"}),
        ({"cond_stage_config": BOXES}, {"condition": "tokens", "objects": 30}),
        (
            {
                "cond_stage_config": {"target": "x.VQModel"},
                "downsample_cond_size": 64,
                "pkeep": 0.9,
                "permuter_config": {"target": "x.SpiralIn", "params": {"H": 4, "W": 4}},
            },
            {"condition_size": 64, "keep": 0.9, "order": "spiral-in", "order_grid": (4, 4)},
        ),
    ],
)  # fmt: skip
def test_a_yaml_tells_everything(more: dict[str, Any], fields: dict[str, Any]):
    told = told_by_yaml(project(**more), source="x")
    assert told is not None
    assert told.config == replace(TINY, **fields)


def test_a_yaml_tells_of_layouts_how_many_objects_and_classes_they_have():
    data = {"target": "x.AnnotatedObjectsCoco", "params": {"max_objects_per_image": 4}}
    content = project(cond_stage_config=BOXES) | {"data": {"params": {"train": data}}}
    told = told_by_yaml(content, source="x")
    assert told is not None
    assert told.config == replace(TINY, condition="tokens", objects=4, classes=171)


def test_a_yaml_of_something_else_tells_nothing_and_a_strange_one_is_refused():
    assert told_by_yaml({"model": {"params": {"ddconfig": {}}}}, source="x") is None
    with pytest.raises(Unsupported, match="permuter 'Zigzag'"):
        told_by_yaml(project(permuter_config={"target": "x.Zigzag"}), source="x")
    with pytest.raises(BrokenFile, match="x: no config"):
        told_by_yaml(project(replace(TINY, heads=16), sos_token=99), source="x")


def test_a_transformer_in_the_cache_is_loaded_by_its_name(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path))
    small = Composite(
        TINY, {"first_stage": Part("vqgan", STAGE), "condition_stage": Part("vqgan", LABELS)}
    )
    monkeypatch.setitem(VARIANTS, "sflckr", small)
    place = place_of(find("sflckr").files[0])
    place.parent.mkdir(parents=True)
    torch.save({"state_dict": published(made())}, place)
    assert_same(load("sflckr", offline=True), made())


def test_missing_and_foreign_tensors_are_named(tmp_path: Path):
    state = published(made())
    save_file({**state, "transformer.extra": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WrongKeys, match=r"1 not expected: transformer\.extra"):
        load(tmp_path / "a.safetensors")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(project()))
    del state["transformer.blocks.1.attn.value.bias"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(WrongKeys, match=r"transformer\.blocks\.1\.attn\.value\.bias"):
        load(tmp_path / "a.safetensors")


def test_every_published_transformer_has_its_stages():
    assert VARIANTS.keys() == SIZES.keys()
    for name, variant in VARIANTS.items():
        own = variant.own
        assert ("condition_stage" in variant.parts) == (own.condition == "stage"), name
        assert variant.parts["first_stage"].config.codes == own.codes, name


def test_a_stage_may_be_named_and_is_loaded_by_its_name(tmp_path: Path):
    model = made()
    place = save(model.first_stage, tmp_path / "stage")
    folder = save(model, tmp_path / "model", elsewhere={"first_stage": str(place)})
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert not [key for key in stored.keys() if key.startswith("first_stage.")]  # noqa: SIM118
    for dtype in ("float32", "bfloat16"):
        again = load(folder, dtype=dtype)
        assert again.state_dict().keys() == model.state_dict().keys()
        assert weights_hash(again) == weights_hash(model)
    torch.manual_seed(1)
    save(VqGan(STAGE), place)
    with pytest.raises(WrongHash, match="bring the former back"):
        load(folder)
    with pytest.raises(BadInput, match="elsewhere head: this TamingTransformer has first_stage"):
        save(model, tmp_path / "other", elsewhere={"head": "x"})
