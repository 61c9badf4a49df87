import pytest
import torch

from lascaux.errors import BadInput
from lascaux.models.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig

TINY = PatchDiscriminatorConfig(width=4, layers=2)


@pytest.fixture(autouse=True)
def the_same_numbers_each_time():
    torch.manual_seed(0)


def made(**changes) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(PatchDiscriminatorConfig(**{**TINY.to_json(), **changes}))


def test_every_patch_has_a_logit():
    assert made()(torch.rand(2, 3, 32, 24)).shape == (2, 1, 6, 4)
    assert made(layers=3)(torch.rand(2, 3, 32, 32)).shape == (2, 1, 2, 2)


def test_batches_answer_as_single_pictures_do():
    model, x = made().eval(), torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(model(x), torch.cat([model(one[None]) for one in x]))


@pytest.mark.parametrize("norm", ["batch", "act"])
def test_gradients_reach_every_parameter(norm: str):
    model = made(norm=norm)
    model(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_condition_stands_behind_the_picture():
    model = made(channels=5)
    x, condition = torch.rand(1, 3, 32, 32), torch.rand(1, 2, 32, 32)
    model.eval()
    assert torch.equal(model(x, condition), model(torch.cat([x, condition], dim=1)))


def test_act_norm_is_set_by_the_first_batch_of_training_alone():
    model = made(norm="act")
    norm = model.layers[0].norm
    model.eval()(torch.rand(4, 3, 32, 32))
    assert not norm.initialised
    x = torch.randn(4, 8, 6, 6) * 3 + 1
    first = norm.train()(x)
    torch.testing.assert_close(first.mean((0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.std((0, 2, 3)), torch.ones(8), atol=1e-4, rtol=0)
    assert norm.initialised
    torch.testing.assert_close(norm(x + 2), first + 2 * norm.scale.view(8, 1, 1))


def test_the_published_one_has_as_many_parameters_as_published():
    with torch.device("meta"):
        model = PatchDiscriminator(PatchDiscriminatorConfig())
    assert sum(p.numel() for p in model.parameters()) == 2_765_633
    assert [tuple(layer.conv.weight.shape[:2]) for layer in model.layers] == [
        (128, 64),
        (256, 128),
        (512, 256),
    ]


def test_an_impossible_config_is_refused():
    with pytest.raises(BadInput, match="at least one"):
        made(layers=0)
