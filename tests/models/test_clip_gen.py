from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lascaux.errors import BadInput, WrongKeys
from lascaux.generate.tokens import begin, write
from lascaux.models.clip_gen import (
    VARIANTS,
    ClipGen,
    ClipGenConfig,
    chosen_features,
    embedding_loss,
)
from lascaux.weights.convert import convert
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.keymap import translate_back
from lascaux.weights.load import load, save
from lascaux.weights.maps.clip_gen import CLIP_GEN

TINY = ClipGenConfig(codes=24, length=17, layers=2, heads=2, width=16, embedding_width=6)


@pytest.fixture(autouse=True)
def the_same_numbers_each_time():
    torch.manual_seed(0)


def made(config: ClipGenConfig = TINY) -> ClipGen:
    torch.manual_seed(0)
    model = ClipGen(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def drawn(batch: int, count: int) -> Tensor:
    return torch.randint(24, (batch, count), generator=torch.Generator().manual_seed(1))


def embeddings(batch: int) -> Tensor:
    chance = torch.Generator().manual_seed(2)
    return F.normalize(torch.randn(batch, 6, generator=chance), dim=-1)


@pytest.mark.parametrize("parts", [[16], [1] * 16, [7, 9]])
def test_what_is_read_in_portions_is_what_is_read_at_once(parts: list[int]):
    model, ids, given = made(), drawn(3, 16), embeddings(3)
    with torch.no_grad():
        whole = model(ids, given)
        assert whole.shape == (3, 17, 24)
        cache = model.new_cache(3, 17)
        found, start = [model.step(given[:, None], cache)], 0
        for count in parts:
            found.append(model.step(ids[:, start : start + count], cache))
            start += count
            torch.testing.assert_close(found[-1], whole[:, start], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0], whole[:, 0], rtol=1e-5, atol=1e-5)


def test_candidates_of_one_embedding_are_as_if_written_alone():
    model, given = made(), embeddings(2)
    *_, many = write(model, begin(model, given[:, None]), 12, seeds=list(range(6)), candidates=3)
    for row in range(6):
        beginning = begin(model, given[row // 3 : row // 3 + 1, None])
        *_, one = write(model, beginning, 12, seeds=[row])
        assert torch.equal(one.ids[0], many.ids[row])


def test_a_picture_may_be_begun_with_codes():
    model, given, ids = made(), embeddings(2), drawn(2, 5)
    beginning = begin(model, given[:, None], ids)
    with torch.no_grad():
        torch.testing.assert_close(beginning.logits, model(ids, given)[:, -1], rtol=1e-5, atol=1e-5)


def test_no_code_sees_what_comes_after_it():
    model, ids, given = made(), drawn(1, 10), embeddings(1)
    other = ids.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 24
    with torch.no_grad():
        first, second = model(ids, given), model(other, given)
    assert torch.equal(first[:, :7], second[:, :7])
    assert not torch.isclose(first[:, 7:], second[:, 7:]).all(-1).any()


def test_all_codes_are_predicted_and_gradients_reach_every_parameter():
    model, ids, given = made(), drawn(4, 17), embeddings(4)
    logits = model(ids[:, :-1], given)
    expected = -logits.log_softmax(-1).gather(2, ids[:, :, None]).mean()
    torch.testing.assert_close(model.loss(ids, given), expected)
    model.train().loss(ids, given).backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert lost == []


def test_a_denoiser_and_narrow_codes_begin_as_if_they_were_not_there():
    plain = ClipGen(TINY)
    torch.manual_seed(0)
    model = ClipGen(replace(TINY, denoiser=8, code_width=5)).eval()
    shared = {name: each for name, each in plain.state_dict().items() if name != "tokens.weight"}
    assert not model.load_state_dict(shared, strict=False).unexpected_keys
    with torch.no_grad():
        plain.tokens.weight.copy_(model.widened(model.tokens.weight))
    ids, given = drawn(2, 9), embeddings(2)
    torch.testing.assert_close(model(ids, given), plain.eval()(ids, given))


def test_denoised_embeddings_are_of_unit_length_and_no_condition_stays_none():
    model = made(replace(TINY, denoiser=8, code_width=5))
    given = torch.cat((embeddings(3), torch.zeros(1, 6)))
    found = model.denoiser(given)
    torch.testing.assert_close(found.norm(dim=-1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert not torch.isclose(found[:3], given[:3]).all()
    # Read in portions as at once, and every weight is learnt.
    ids = drawn(3, 16)
    with torch.no_grad():
        cache = model.new_cache(3, 17)
        parts = [model.step(given[:3, None], cache)]
        parts += [model.step(ids[:, place : place + 1], cache) for place in range(16)]
        torch.testing.assert_close(
            torch.stack(parts, dim=1), model(ids, given[:3]), atol=1e-4, rtol=1e-4
        )
    model.train().loss(drawn(3, 17), given[:3]).backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert lost == []
    with pytest.raises(BadInput, match="cannot be negative"):
        replace(TINY, denoiser=-1)


def test_what_is_chosen_is_a_code_and_learns_as_a_mixture():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    codebook = torch.randn(5, 3)
    z = chosen_features(logits, codebook)
    torch.testing.assert_close(z, codebook[logits.argmax(-1)])
    weights = torch.randn(2, 4, 3)
    (given,) = torch.autograd.grad((z * weights).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(-1) @ codebook * weights).sum(), logits)
    torch.testing.assert_close(given, soft)


def test_the_embedding_term_is_zero_where_what_is_drawn_has_the_embedding_itself():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    codebook = torch.randn(5, 3)

    def decode(features: Tensor, grid: tuple[int, int]) -> Tensor:
        return features.unflatten(1, grid).permute(0, 3, 1, 2)

    def embed(pictures: Tensor) -> Tensor:
        assert pictures.shape == (2, 3, 8, 8)
        return pictures.mean((2, 3))

    parts = {"codebook": codebook, "grid": (2, 2), "decode": decode, "embed": embed, "size": 8}
    same = chosen_features(logits, codebook).mean(1).detach()
    assert embedding_loss(logits, same, **parts) < 1e-10
    far = embedding_loss(logits, same + 1, **parts)
    torch.testing.assert_close(far, torch.tensor(1.0))
    far.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_what_does_not_fit_is_refused():
    model = made()
    with pytest.raises(BadInput, match="an embedding and 17 codes; this model has 17"):
        model(drawn(1, 17), embeddings(1))
    with pytest.raises(BadInput, match="an embedding and 17 codes"):
        model.new_cache(1, 18)
    with pytest.raises(BadInput, match="width 5; this model reads those of a CLIP, of width 6"):
        model(drawn(1, 3), torch.zeros(1, 5))
    with pytest.raises(BadInput, match="codes 0 to 23"):
        model(torch.tensor([[24]]), embeddings(1))
    cache = model.new_cache(1, 9)
    with pytest.raises(BadInput, match="begins with its embedding"):
        model.step(drawn(1, 2), cache)
    model.step(embeddings(1)[:, None], cache)
    with pytest.raises(BadInput, match="begins with its embedding"):
        model.step(embeddings(1)[:, None], cache)
    for fields in ({"heads": 3}, {"layers": 0}, {"embedding_width": 0}):
        with pytest.raises(BadInput):
            replace(TINY, **fields)


def test_guidance_of_a_model_that_knows_no_null_condition_is_refused():
    assert ClipGenConfig(codes=4, guidance=2.0, null_condition=True).guidance == 2
    with pytest.raises(BadInput, match="knows no null condition"):
        ClipGenConfig(codes=4, guidance=2.0)
    with pytest.raises(BadInput, match="expected a finite number"):
        ClipGenConfig(codes=4, guidance=float("nan"), null_condition=True)


def test_a_config_survives_json():
    for config in VARIANTS.values():
        assert ClipGenConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(("name", "millions"), [("gpt2-medium", 337), ("gpt2-large", 751)])
def test_published_sizes_have_their_parameters(name: str, millions: int):
    with torch.device("meta"):
        model = ClipGen(VARIANTS[name])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


def published(model: ClipGen) -> dict[str, Tensor]:
    state = translate_back(model.state_dict(), CLIP_GEN)
    masks = {f"blocks.{i}.mask": ~torch.ones(17, 17, dtype=torch.bool).tril() for i in range(2)}
    return {key: tensor.contiguous() for key, tensor in (state | masks).items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_of_the_training_becomes_ours(prefix: str, tmp_path: Path, monkeypatch):
    model, path = made(), tmp_path / "gpt.pt"
    state = {prefix + key: tensor for key, tensor in published(model).items()}
    torch.save({"model": state, "epoch": 1, "optimizer": {"state": {}}, "scaler": {}}, path)
    with pytest.raises(WrongKeys, match="2 layers of width 16"):
        load(path)
    monkeypatch.setitem(VARIANTS, "coco", replace(TINY, clip="ViT-B/32"))
    loaded = load(path)
    assert loaded.config == replace(TINY, clip="ViT-B/32")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key])
    report = convert(path, tmp_path / "out")
    assert (report.model, report.layout, len(report.dropped)) == ("clip_gen", "clip-gen", 2)
    assert load(tmp_path / "out").config == loaded.config
    save(model, tmp_path / "saved")
    assert weights_hash(load(tmp_path / "saved")) == weights_hash(loaded)
