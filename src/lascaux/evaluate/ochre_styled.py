"""What attributes of Styled VAE-VQ are worth in the emoji world: scenes of the test split.

    lascaux evaluate ochre-styled --strip strip.png

Besides what every tokeniser is measured by: what the first k attributes give back alone, what
changes where one attribute is exchanged between two pictures, and how the whole sequence, as one
vector, finds pictures of the same object or place, beside the embedding of a CLIP.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from lascaux.data.world.boxed import BoxedScenes, box_psnr, boxed_scenes
from lascaux.data.world.scene import Scene
from lascaux.errors import Unsupported
from lascaux.evaluate.ochre_tokeniser import (
    SEED,
    figures,
    judge_all,
    recognised,
    settings,
    spell,
    write_sheet,
)
from lascaux.evaluate.report import Figure, Report
from lascaux.images.preprocess import Preprocessing
from lascaux.models.clip import Clip
from lascaux.models.judge import Judge
from lascaux.models.styled_vq import StyledVq, exchange
from lascaux.tasks.features import encode_pixels
from lascaux.tasks.tokenisers import image_tokeniser
from lascaux.weights.load import load

_STRIPS = 8  # scenes of a strip
_FEW = 200  # scenes of the curve and of exchanges
_AT_ONCE = 64


@torch.no_grad()
def evaluate(
    model: str | Path | nn.Module = "ochre-styled",
    scenes: int = 2000,
    *,
    strip: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Report:
    """All figures of a tokeniser, and of prefixes, exchanges and search; curves in the details.

    Args:
        model: a Styled VAE-VQ with a codebook, or its name, folder or hub id.
        scenes: of one object, of the test split.
        strip: file for a picture of some scenes, each from its first 1, 2, ... attributes.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.

    Raises:
        MissingExtra: scikit-learn, which brings the digits, is not installed.
        Unsupported: the model is another one, or has no codes.
        WeightsError: it cannot be found or loaded.
    """
    tokeniser = image_tokeniser(model, device=device, dtype=dtype)
    styled = tokeniser.model.eval()
    if not isinstance(styled, StyledVq):
        raise Unsupported(
            f"{tokeniser.shown} is a {type(styled).__name__}; this benchmark is of a Styled "
            "VAE-VQ: take `lascaux evaluate ochre-vq` for any other tokeniser"
        )
    drawn = boxed_scenes("test", SEED, scenes)
    spelt = spell(tokeniser, drawn)
    few = BoxedScenes(drawn.scenes[:_FEW], drawn.pictures[:_FEW], drawn.boxes[:_FEW])
    prefixes = _prefixes(styled, few, spelt.ids[:_FEW], strip)
    exchanges = _exchanges(styled, few, spelt.ids[:_FEW])
    return Report(
        "ochre-styled",
        tokeniser.shown,
        tokeniser.weights,
        settings(SEED, device, dtype),
        (
            *figures(tokeniser, spelt),
            *_some_prefixes(prefixes, len(few.scenes)),
            *_changes(exchanges, len(few.scenes)),
            *_searches(styled, drawn, spelt.ids),
        ),
        details={"prefixes": prefixes, "exchanges": exchanges},
    )


def _prefixes(
    styled: StyledVq, few: BoxedScenes, ids: Int[Tensor, "b n"], strip: str | Path | None
) -> list[dict[str, Any]]:
    """What the first k attributes give back, for every k."""
    judge, found = cast(Judge, load("ochre-judge")), []
    shown = [few.pictures[:_STRIPS].float() / 255]
    features = styled.lookup(ids.to(styled.device))
    for count in range(1, styled.length + 1):
        back = _decoded(styled, styled.complete(features[:, :count]))
        shown.append(back[:_STRIPS])
        right = recognised(few.scenes, judge_all(judge, back))
        found.append(
            {
                "attributes": count,
                "box_psnr": box_psnr(few, back).mean().item(),
                **{what: sum(each) / len(each) for what, each in right.items()},
            }
        )
    if strip is not None:
        # One row a scene, from the scene itself to all of its attributes.
        columns = torch.stack(shown, dim=1)
        write_sheet(list(columns), strip, scale=1)
    return found


def _some_prefixes(prefixes: Sequence[dict[str, Any]], of: int) -> Iterator[Figure]:
    for count in (1, 2, 4, 9, 18, 27, 36):
        if count <= len(prefixes):
            one = prefixes[count - 1]
            note = f"object named {one['object']:.1%}, background {one['background']:.1%}"
            yield Figure(f"first {count}: PSNR in the box", one["box_psnr"], of, "dB", note)


def _exchanges(styled: StyledVq, few: BoxedScenes, ids: Int[Tensor, "b n"]) -> list[dict[str, Any]]:
    """How much of a picture changes with one attribute of the next one in the place of its own."""
    judge, found = cast(Judge, load("ochre-judge")), []
    ids = ids.to(styled.device)
    whole = _decoded(styled, styled.lookup(ids))
    before = judge_all(judge, whole)
    for attribute in range(styled.length):
        mixed, _ = exchange(ids, ids.roll(-1, 0), [attribute])
        back = _decoded(styled, styled.lookup(mixed))
        after = judge_all(judge, back)
        pairs = list(zip(before, after, strict=True))
        found.append(
            {
                "attribute": attribute,
                "pixels": (back - whole).abs().mean().item(),
                "objects": sum(a.objects != b.objects for a, b in pairs) / len(pairs),
                "backgrounds": sum(a.background != b.background for a, b in pairs) / len(pairs),
            }
        )
    return found


def _changes(exchanges: Sequence[dict[str, Any]], of: int) -> Iterator[Figure]:
    for what, noun in (
        ("pixels", "pixels, mean difference"),
        ("backgrounds", "background named otherwise"),
        ("objects", "object named otherwise"),
    ):
        most = max(exchanges, key=lambda one: one[what])
        least = min(exchanges, key=lambda one: one[what])
        note = f"attribute {most['attribute']}; least {least[what]:.1%} ({least['attribute']})"
        yield Figure(f"one exchanged, {noun}", most[what], of, note=note)


def _searches(styled: StyledVq, drawn: BoxedScenes, ids: Int[Tensor, "b n"]) -> Iterator[Figure]:
    """How often the nearest other picture shows the same, by codes and by ochre-clip."""
    features = styled.lookup(ids.to(styled.device)).float()
    codes = F.normalize(F.normalize(features, dim=-1).flatten(1), dim=-1).cpu()
    clip = cast(Clip, load("ochre-clip"))
    for name, vectors in (
        (f"sequence of {styled.length} codes", codes),
        ("ochre-clip", _embedded(clip, drawn.pictures)),
    ):
        alike = vectors @ vectors.T
        nearest = alike.fill_diagonal_(-2).argmax(dim=1).tolist()
        for what, key in (("object", _object), ("background", _background)):
            right = [
                key(drawn.scenes[row]) == key(drawn.scenes[other])
                for row, other in enumerate(nearest)
            ]
            yield Figure(
                f"search by {name}: nearest has the same {what}",
                sum(right) / len(right),
                len(right),
            )


def _object(scene: Scene) -> int:
    return scene.things[0].object


def _background(scene: Scene) -> str:
    return scene.background


def _embedded(clip: Clip, pictures: UInt8[Tensor, "b 3 y x"]) -> Float[Tensor, "b d"]:
    how: Preprocessing = clip.config.preprocessing
    parts = [encode_pixels(clip, part.float() / 255, how) for part in pictures.split(_AT_ONCE)]
    return F.normalize(torch.cat(parts), dim=-1)


def _decoded(styled: StyledVq, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b 3 y x"]:
    parts = [styled.decode(part) for part in features.split(_AT_ONCE)]
    return styled.denormalise(torch.cat(parts).float()).clamp(0, 1).cpu()
