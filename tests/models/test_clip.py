import copy
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.errors import BadInput, BadText
from lascaux.models.clip import VARIANTS, Clip, ClipConfig, TextTransformer, VisionTransformer

VIT = ClipConfig(
    embed_width=24,
    image_size=32,
    vision_layers=2,
    vision_width=32,
    vision_heads=4,
    patch_size=8,
    text_width=32,
    text_heads=4,
    text_layers=2,
    context_length=12,
    vocabulary_size=50,
)
RESNET = replace(
    VIT,
    image_size=64,
    vision_layers=(1, 2, 1, 1),
    vision_width=8,
    vision_heads=4,
    patch_size=None,
)
END = 49


def clip(config: ClipConfig) -> Clip:
    """A CLIP with every parameter and statistic drawn, none of them at a neutral start."""
    generator = torch.Generator().manual_seed(0)
    model = Clip(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def pictures(config: ClipConfig, count: int = 3) -> Tensor:
    size = config.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def texts(ends: tuple[int, ...] = (3, 11, 6)) -> Tensor:
    ids = torch.zeros(len(ends), 12, dtype=torch.int64)
    generator = torch.Generator().manual_seed(2)
    for row, end in enumerate(ends):
        ids[row, :end] = torch.randint(1, END, (end,), generator=generator)
        ids[row, end] = END
    return ids


both = pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])


def test_a_later_token_does_not_change_an_earlier_one():
    text = clip(VIT).text
    x = torch.randn(2, 10, 32)
    changed = x.clone()
    changed[:, 4:] += 1
    for block in text.blocks:
        before, after = block(x, causal=True), block(changed, causal=True)
        torch.testing.assert_close(before[:, :4], after[:, :4])
        assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_texts_that_begin_alike_are_embedded_as_each_alone():
    model, ids = clip(VIT), texts((3, 11, 6, 9, 9, 4))
    ids[1:4, :5] = ids[3, :5]
    ids[4] = ids[3]
    plain = model.encode_text(ids)  # gradients are wanted, so nothing is shared
    with torch.no_grad():
        shared = model.encode_text(ids)
    torch.testing.assert_close(shared, plain.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(shared[3], shared[4])


def test_the_image_tower_s_last_block_answers_for_the_class_token_as_a_whole_block_does():
    block = clip(VIT).image.blocks[-1]
    x = torch.randn(3, 17, 32)
    torch.testing.assert_close(block.first(x), block(x)[:, 0])


@torch.no_grad()
def test_hooks_are_called_and_change_nothing():
    model, ids, x = clip(VIT), texts(), pictures(VIT)
    expected = model.encode_image(x), model.encode_text(ids)
    seen = []
    for tower in (model.image, model.text):
        for block in tower.blocks:
            block.register_forward_hook(lambda *told: seen.append(told[2].shape))
    found = model.encode_image(x), model.encode_text(ids)
    assert seen == [(3, 17, 32)] * 2 + [(3, 12, 32)] * 2
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_an_adapter_in_place_of_a_projection_is_asked():
    class Adapter(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        @property
        def weight(self):
            return self.inner.weight

        def forward(self, x):
            return self.inner(x) + x.repeat(*[1] * (x.ndim - 1), 3)

    model, ids, x = clip(VIT), texts(), pictures(VIT)
    for tower in (model.image, model.text):
        for block in tower.blocks:
            block.attention.qkv = Adapter(block.attention.qkv)
    with torch.enable_grad():
        expected = model.encode_text(ids).detach()
    torch.testing.assert_close(model.encode_text(ids), expected)
    whole = model.image.blocks[-1](torch.ones(2, 17, 32))[:, 0]
    torch.testing.assert_close(model.image.blocks[-1].first(torch.ones(2, 17, 32)), whole)
    assert model.encode_image(x).isfinite().all()


@torch.no_grad()
def test_many_positions_go_through_the_mlp_as_few_do():
    mlp = clip(VIT).image.blocks[0].mlp
    x = torch.randn(5, 130, 32)
    torch.testing.assert_close(mlp(x), torch.stack([mlp(row) for row in x]))


@torch.no_grad()
def test_a_truncated_row_equals_a_padded_row():
    model, ids = clip(VIT), texts((3, 6))
    torch.testing.assert_close(model.encode_text(ids[:, :7]), model.encode_text(ids))


@torch.no_grad()
def test_what_stands_after_the_end_changes_nothing():
    model, ids = clip(VIT), texts((3, 6))
    noisy = ids.clone()
    noisy[0, 4:] = 17
    noisy[1, 7:] = 5
    torch.testing.assert_close(model.encode_text(noisy), model.encode_text(ids))


@torch.no_grad()
def test_the_first_end_of_text_is_used():
    model, ids = clip(VIT), texts((3,))
    twice = ids.clone()
    twice[0, 7] = END
    torch.testing.assert_close(model.encode_text(twice), model.encode_text(ids))


@torch.no_grad()
def test_an_end_id_that_is_not_the_highest_is_obeyed():
    model, ids = clip(VIT), texts((3,))
    other = Clip(replace(VIT, end_id=7)).eval()
    other.load_state_dict(model.state_dict())
    ids[0, 1:4] = torch.tensor([END, 7, 3])
    cut = ids[:, :3].clone()
    expected = model.text.project(
        model.text.last_norm(
            _states(model, cut)[:, 2],
        )
    )
    torch.testing.assert_close(other.encode_text(ids), expected)


def _states(model: Clip, ids: Tensor) -> Tensor:
    x = model.text.tokens(ids) + model.text.positions[: ids.shape[1]]
    for block in model.text.blocks:
        x = block(x, causal=True)
    return x


@both
@torch.no_grad()
def test_a_batch_equals_one_by_one(config: ClipConfig):
    model, x, ids = clip(config), pictures(config), texts()
    alone = torch.cat([model.encode_image(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(model.encode_image(x), alone, rtol=1e-4, atol=1e-5)
    alone = torch.cat([model.encode_text(ids[i : i + 1]) for i in range(len(ids))])
    torch.testing.assert_close(model.encode_text(ids), alone, rtol=1e-4, atol=1e-5)


@both
@torch.no_grad()
def test_no_rows_give_no_rows(config: ClipConfig):
    model = clip(config)
    assert model.encode_image(pictures(config, 0)).shape == (0, 24)
    assert model.encode_text(texts()[:0]).shape == (0, 24)


@both
def test_gradients_reach_every_parameter(config: ClipConfig):
    model = clip(config).train()
    ids = texts()
    ids[1, :11] = torch.arange(1, 12)
    # The sum of all cosines ignores directions that cancel; weights of both signs do not.
    (model(pictures(config), ids) * torch.randn(3, 3)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # Softmax does not see what it gets added to all of its scores: the bias of the keys.
        if not name.endswith("pool.key.bias"):
            assert parameter.grad.abs().max() > 0, name


@both
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 6e-2)],
    ids=str,
)
@torch.no_grad()
def test_dtypes_agree_within_their_precision(
    config: ClipConfig, dtype: torch.dtype, tolerance: float
):
    model, x, ids = clip(config), pictures(config), texts()
    other = copy.deepcopy(model).to(dtype)
    for wide, narrow in (
        (model.encode_image(x), other.encode_image(x)),
        (model.encode_text(ids), other.encode_text(ids)),
    ):
        assert narrow.dtype == dtype
        assert (wide - narrow.float()).norm() < tolerance * wide.norm()
    assert other(x, ids).dtype == torch.promote_types(dtype, torch.float32)


@torch.no_grad()
def test_logits_stay_float32_under_autocast():
    model, x, ids = clip(VIT), pictures(VIT), texts()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.encode_image(x), model.encode_text(ids)
        logits = model.logits(*features)
    assert logits.dtype == torch.float32
    scale = model.logit_scale.exp()
    plain = scale * F.cosine_similarity(
        features[0].float()[:, None], features[1].float()[None], dim=-1
    )
    torch.testing.assert_close(logits, plain)


@torch.no_grad()
def test_norms_are_computed_in_float32():
    norm = clip(VIT).text.last_norm.to(torch.bfloat16)
    x = 100 + torch.randn(4, 32).bfloat16()
    exact = F.layer_norm(x.float(), (32,), norm.weight.float(), norm.bias.float(), norm.eps)
    assert torch.equal(norm(x), exact.bfloat16())


@torch.no_grad()
def test_channels_last_gives_the_same_answer():
    model, x = clip(RESNET), pictures(RESNET)
    expected = model.encode_image(x)
    model.to(memory_format=torch.channels_last)
    actual = model.encode_image(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_activations_are_the_published_formulas():
    x = torch.randn(2, 3, 32)
    for activation, formula in (
        ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
        ("gelu", lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))),
    ):
        mlp = Clip(replace(VIT, activation=activation)).text.blocks[0].mlp
        torch.testing.assert_close(mlp(x), mlp.down(formula(mlp.up(x))))


@both
@torch.no_grad()
def test_towers_work_apart(config: ClipConfig):
    model = clip(config)
    torch.testing.assert_close(model.image(pictures(config)), model.encode_image(pictures(config)))
    torch.testing.assert_close(model.text(texts()), model.encode_text(texts()))


def test_towers_can_be_built_apart():
    assert VisionTransformer(VIT).state_dict().keys() == Clip(VIT).image.state_dict().keys()
    assert TextTransformer(VIT).state_dict().keys() == Clip(VIT).text.state_dict().keys()


def test_equal_seeds_draw_equal_weights_and_none_is_left_undrawn():
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(Clip(VIT).state_dict())
    for name, tensor in drawn[0].items():
        assert torch.equal(tensor, drawn[1][name]), name
        assert tensor.isfinite().all(), name
        assert tensor.abs().max() < 10, name


@pytest.mark.parametrize("shape", [(1, 3, 31, 32), (1, 3, 64, 64), (1, 4, 32, 32), (1, 1, 32, 32)])
def test_a_picture_of_another_size_or_channels_is_refused(shape: tuple[int, ...]):
    with pytest.raises(BadInput, match=r"takes RGB of 32 x 32"):
        clip(VIT).encode_image(torch.zeros(shape))


def test_an_id_outside_the_vocabulary_is_refused():
    for bad in (50, -1):
        ids = texts((3,))
        ids[0, 1] = bad
        with pytest.raises(BadText, match="this model has 0 to 49"):
            clip(VIT).encode_text(ids)


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(BadText, match=r"13 tokens.*takes 1 to 12"):
        clip(VIT).encode_text(torch.ones(1, 13, dtype=torch.int64))


def test_int32_ids_are_taken():
    model = clip(VIT)
    torch.testing.assert_close(model.encode_text(texts().int()), model.encode_text(texts()))


def test_impossible_configs_are_refused():
    for change in (
        {"vision_heads": 5},
        {"text_heads": 0},
        {"patch_size": None},
        {"image_size": 4},
        {"vision_layers": (1, 1, 1, 1)},
    ):
        with pytest.raises(BadInput):
            replace(VIT, **change)
    with pytest.raises(BadInput, match="no multiple of 32"):
        replace(RESNET, image_size=80)


@both
def test_a_config_survives_json(config: ClipConfig):
    calibrated = replace(config, calibration=(20.0, -5.5), mean=(0.5, 0.5, 0.5), end_id=3)
    assert ClipConfig.from_json(calibrated.to_json()) == calibrated


def test_a_config_with_unknown_or_missing_fields_is_refused():
    fields = VIT.to_json()
    with pytest.raises(BadInput, match=r"unknown fields.*colour"):
        ClipConfig.from_json({**fields, "colour": 1})
    with pytest.raises(BadInput, match=r"missing.*embed_width"):
        ClipConfig.from_json({k: v for k, v in fields.items() if k != "embed_width"})


# Parameters in millions: open_clip's docs/model_profile.csv, which has OpenAI's models as well.
PUBLISHED = {
    "RN50": 102.01,
    "RN101": 119.69,
    "RN50x4": 178.30,
    "RN50x16": 290.98,
    "RN50x64": 623.26,
    "ViT-B/32": 151.28,
    "ViT-B/16": 149.62,
    "ViT-L/14": 427.62,
    "ViT-L/14@336px": 427.94,
    "openclip-ViT-B-32": 151.28,
    "openclip-ViT-B-32-256": 151.29,
    "openclip-ViT-B-16": 149.62,
    "openclip-ViT-B-16-plus-240": 208.38,
    "openclip-ViT-L-14": 427.62,
    "openclip-ViT-L-14-336": 427.94,
    "openclip-ViT-H-14": 986.11,
    "openclip-ViT-g-14": 1366.68,
    "openclip-ViT-bigG-14": 2539.57,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_as_many_as_published(name: str):
    with torch.device("meta"):
        model = Clip(VARIANTS[name])
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name], abs=0.006)


def test_training_leaves_no_trace_in_global_state():
    state = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    clip(RESNET).train()(pictures(RESNET), texts()).sum().backward()
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == state


def test_threads_share_a_model():
    model, ids = clip(VIT), texts()
    expected, answers = model.encode_text(ids), []
    threads = [
        threading.Thread(target=lambda: answers.append(model.encode_text(ids).detach()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(torch.allclose(answer, expected) for answer in answers)
