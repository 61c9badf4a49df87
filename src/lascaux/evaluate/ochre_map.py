"""How well pictures keep to the maps they are painted after: scenes of the test split.

    lascaux evaluate ochre-map
    lascaux evaluate ochre-map --model runs/ochre-map-0/model --sheet painted.png

A map of a scene is given, one picture is painted, and the judge says what each pixel of it shows.
Of every object the pixels in which both agree are counted by those in which either has it (IoU).
Beside that stand the same figures of the scenes as they were drawn, and of what the codes of the
model's tokeniser keep of them: it cannot paint better than those.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lascaux.data.world.boxed import SIZE, stacked
from lascaux.data.world.sampling import sample
from lascaux.data.world.scene import MAP_CLASSES, Scene, draw, draw_map
from lascaux.errors import Unsupported
from lascaux.evaluate.judging import judged, overlap
from lascaux.evaluate.ochre_tokeniser import as_image, settings
from lascaux.evaluate.report import Figure, Report
from lascaux.images.maps import coloured
from lascaux.models.judge import Judge
from lascaux.models.taming_transformer import TamingTransformer
from lascaux.tasks.options import PaintOptions
from lascaux.tasks.paint import Painter
from lascaux.tasks.prototypes import Progress
from lascaux.tasks.tokenisers import image_tokeniser
from lascaux.weights.load import load

SEED = 0x3A9
_AT_ONCE = 64  # scenes
_SHOWN = 12  # scenes of a sheet


def evaluate(
    model: str | Path | TamingTransformer = "ochre-map",
    scenes: int = 500,
    *,
    sheet: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Report:
    """IoU of the judge's maps with those given, and what it recognises.

    Args:
        model: a taming transformer that paints after maps of the emoji world, or its name, folder
            or hub id.
        scenes: of the test split, of one and of several objects.
        sheet: file for some maps above what was painted after them.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.
        progress: called with how many pictures are painted, and of how many.

    Raises:
        BadInput: it paints after other maps.
        MissingExtra: scikit-learn, which brings the digits, is not installed.
        Unsupported: it does not paint after maps.
        WeightsError: it cannot be found or loaded.
    """
    named = "" if isinstance(model, TamingTransformer) else str(model)
    options = PaintOptions(model=named, device=device, dtype=dtype, label_shift=0)  # pyright: ignore[reportArgumentType]
    painter = Painter(model, options)
    if painter.kind != "map":
        raise Unsupported(f"{painter.shown} paints after {painter.kind}; this benchmark is of maps")
    rng = np.random.Generator(np.random.PCG64([SEED]))
    drawn = [sample(rng, "test", digits=True) for _ in range(scenes)]
    maps = [draw_map(scene, SIZE).astype(np.int64) for scene in drawn]
    painted = []
    for seed, numbers in enumerate(maps):
        painted += [each.image for each in painter.paint(map=numbers, seeds=[seed])]
        if progress is not None:
            progress(painter.shown, len(painted), scenes)
    if sheet is not None:
        _write_sheet(maps, painted, sheet)
    return Report(
        "ochre-map",
        painter.shown,
        painter.weights,
        settings(SEED, device, dtype),
        tuple(_figures(painter, drawn, painted)),
    )


def _figures(
    painter: Painter, drawn: Sequence[Scene], painted: Sequence[Image.Image]
) -> Iterator[Figure]:
    judge = load("ochre-judge")
    assert isinstance(judge, Judge)
    true = [draw(scene, SIZE) for scene in drawn]
    for name, pictures in (
        ("painted", painted),
        ("codes of the scene", _spelt(painter, drawn)),
        ("scene as drawn", true),
    ):
        pairs = list(zip(drawn, judged(judge, pictures), strict=True))
        figures = {
            "IoU of objects": [overlap(draw_map(s, SIZE), seen.map) for s, seen in pairs],
            "pixels alike": [float((draw_map(s, SIZE) == seen.map).mean()) for s, seen in pairs],
            "judge names the objects": [set(a.objects) == {*_objects(s)} for s, a in pairs],
            "judge names the background": [a.background == s.background for s, a in pairs],
        }
        for what, values in figures.items():
            yield Figure(f"{name}: {what}", float(np.mean(values)), len(values))


def _objects(scene: Scene) -> Iterator[int]:
    return (thing.object for thing in scene.things)


def _spelt(painter: Painter, drawn: Sequence[Scene]) -> list[Image.Image]:
    """The scenes by way of the codes of the model's tokeniser."""
    stage: Any = painter.model.first_stage
    tokeniser = image_tokeniser(stage)
    pictures = []
    for part in stacked(list(drawn)).split(_AT_ONCE):
        ids = tokeniser.encode(part.float() / 255)
        pictures += map(as_image, tokeniser.decode(ids, tokeniser.grid(SIZE, SIZE)))
    return pictures


def _write_sheet(
    maps: Sequence[np.ndarray], painted: Sequence[Image.Image], path: str | Path
) -> None:
    from lascaux.images.contact import contact_page
    from lascaux.tasks.aside import written_aside

    pairs = list(islice(zip(maps, painted, strict=True), _SHOWN))
    rows = [
        picture
        for numbers, made in pairs
        for picture in (Image.fromarray(coloured(numbers, MAP_CLASSES)), made)
    ]
    lines = [line for seed in range(len(pairs)) for line in ("map", f"seed {seed}")]
    with written_aside(path) as part:
        contact_page(rows, lines, columns=8).save(part, format="PNG")
