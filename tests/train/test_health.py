import pytest

from lascaux.train.health import Health


def looked(figures: dict[str, list[float]]) -> list[str]:
    """The signs raised over lines of these figures."""
    health, signs = Health(), []
    for step in range(max(map(len, figures.values()))):
        line = {name: values[min(step, len(values) - 1)] for name, values in figures.items()}
        signs += [alarm.sign for alarm in health.look(step, line)]
    return signs


@pytest.mark.parametrize(
    ("figures", "sign"),
    [
        ({"gradient_norm": [1.0] * 30 + [30.0]}, "gradient explodes"),
        ({"gradient_norm": [0.0] * 6}, "gradient vanishes"),
        ({"loss": [1.0] * 30 + [5.0] * 5}, "loss rises"),
        ({"codes_used": [0.05] * 5}, "codebook collapses"),
        ({"dead_codes": [0.6] * 5}, "codes are dead"),
        ({"code_perplexity": [2.0] * 5}, "codes say nothing"),
        ({"discriminator_loss": [0.001] * 5}, "discriminator wins"),
        ({"real_score": [0.5] * 5, "fake_score": [0.5] * 5}, "discriminator is blind"),
        ({"likeness": [0.99] * 5}, "embeddings are alike"),
        ({"loader_share": [0.5] * 5}, "waiting for data"),
        ({"skipped": [3.0]}, "records skipped"),
    ],
)
def test_each_sign_raises_its_alarm_once(figures, sign):
    assert looked({name: values + values[-1:] * 5 for name, values in figures.items()}) == [sign]


def test_a_healthy_run_raises_none():
    figures = {
        "loss": [3.0 - 0.05 * step for step in range(50)],
        "gradient_norm": [1.0 + 0.3 * (step % 3) for step in range(50)],
        "codes_used": [0.9] * 50,
        "dead_codes": [0.1] * 50,
        "code_perplexity": [300.0] * 50,
        "discriminator_loss": [0.8] * 50,
        "real_score": [0.4] * 50,
        "fake_score": [-0.4] * 50,
        "likeness": [0.1] * 50,
        "loader_share": [0.01] * 50,
    }
    assert looked(figures) == []


def test_an_alarm_comes_again_after_it_was_quiet():
    assert looked({"skipped": [1.0, 0.0, 2.0]}) == ["records skipped"] * 2


def test_an_alarm_says_the_number_and_what_to_do():
    health = Health()
    alarms = [alarm for step in range(5) for alarm in health.look(step, {"codes_used": 0.03})]
    assert alarms[0].step == 4
    assert "only 3.0 % of the codebook is used" in alarms[0].words
    assert "revive dead codes" in alarms[0].advice
