import pytest
import torch

from lascaux.errors import BadInput
from lascaux.models.judge import Judge, JudgeConfig


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    config = JudgeConfig(objects=9, backgrounds=4, image_size=32, widths=(4, 8, 8, 16, 16))
    return Judge(config).eval()


def test_a_verdict_has_a_logit_for_everything_and_a_map_of_full_size(judge: Judge):
    seen = judge(torch.rand(3, 3, 32, 32))
    assert seen.objects.shape == (3, 9)
    assert seen.background.shape == (3, 4)
    assert seen.number.shape == (3, 5)
    shown = judge.pixels(seen)
    assert shown.shape == (3, 32, 32)
    assert int(shown.max()) < 13


def test_batches_answer_as_single_pictures_do(judge: Judge):
    x = torch.rand(4, 3, 32, 32)
    together = judge(x)
    apart = [judge(one[None]) for one in x]
    torch.testing.assert_close(together.objects, torch.cat([seen.objects for seen in apart]))
    torch.testing.assert_close(together.features, torch.cat([seen.features for seen in apart]))


def test_gradients_reach_every_parameter(judge: Judge):
    judge.zero_grad()
    seen = judge(torch.rand(2, 3, 32, 32))
    maps = judge.classes(seen.features)
    (seen.objects.sum() + seen.background.sum() + seen.number.sum() + maps.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.parameters())


def test_another_size_is_refused(judge: Judge):
    with pytest.raises(BadInput, match="3 x 32 x 32"):
        judge(torch.rand(1, 3, 64, 64))


def test_the_config_survives_json(judge: Judge):
    assert JudgeConfig.from_json(judge.config.to_json()) == judge.config
