"""How far the judge can be trusted: fresh scenes of the test split, and pictures it must refuse.

lascaux evaluate ochre-judge
"""

import numpy as np
import torch

from lascaux.data.world.sampling import sample
from lascaux.data.world.scene import Scene, draw, draw_map
from lascaux.data.world.spoiled import SPOILS, picture, spoil
from lascaux.errors import Unsupported
from lascaux.evaluate.judging import judged, overlap
from lascaux.evaluate.report import Figure, Report
from lascaux.models.judge import Judge
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.load import load

SEED = 0x1D6E


def evaluate(
    model: str = "ochre-judge",
    scenes: int = 2000,
    *,
    device: str = "cpu",
    dtype: str = "float32",
) -> Report:
    """Shares of right answers on `scenes` fresh scenes, and of spoiled pictures accepted.

    Raises:
        MissingExtra: scikit-learn, which brings the digits, is not installed.
        Unsupported: the model is no judge.
    """
    judge = load(model, device=device, dtype=dtype)
    if not isinstance(judge, Judge):
        raise Unsupported(f"{model} is a {type(judge).__name__}; this benchmark is of a judge")
    rng = np.random.Generator(np.random.PCG64([SEED]))
    drawn = [sample(rng, "test", digits=True) for _ in range(scenes)]
    answers = list(judged(judge, (draw(scene) for scene in drawn)))
    pairs = list(zip(drawn, answers, strict=True))
    figures = [
        _figure("objects", [{t.object for t in s.things} == set(a.objects) for s, a in pairs]),
        _figure("background", [s.background == a.background for s, a in pairs]),
        _figure("count", [len(s.things) == a.count for s, a in pairs]),
        _figure("objects and background", [a.accepts(s) for s, a in pairs]),
        _figure("map, pixels", [float((draw_map(s) == a.map).mean()) for s, a in pairs]),
        _figure("map, IoU of objects", [overlap(draw_map(s), a.map) for s, a in pairs]),
    ]
    for how in SPOILS:
        spoiled = [picture(spoil(scene, how, rng)) for scene in drawn[: scenes // 4]]
        passed = [a.accepts(s) for s, a in zip(drawn, judged(judge, spoiled), strict=False)]
        figures.append(_figure(f"accepted though {how}", passed))
    other = [Scene(s.background, drawn[n - 1].things, s.variant) for n, s in enumerate(drawn)]
    wrong = [
        a.accepts(s)
        for s, o, a in zip(drawn, other, judged(judge, map(draw, other)), strict=True)
        if {t.object for t in s.things} != {t.object for t in o.things}
    ]
    figures.append(_figure("accepted though another object", wrong))
    settings = {
        "scene_pixels": 64,
        "seed": SEED,
        "presence": judge.config.presence,
        "split": "test",
        "dtype": dtype,
        "device": device,
    }
    return Report("ochre-judge", model, weights_hash(judge), settings, tuple(figures))


def _figure(name: str, values: list[bool] | list[float]) -> Figure:
    mean = torch.tensor([float(value) for value in values]).mean().item()
    return Figure(name, mean, len(values))
