"""What an image tokeniser keeps of the emoji world: scenes of the test split.

    lascaux evaluate ochre-vq
    lascaux evaluate ochre-vq --model my-vqgan/

The whole picture's PSNR says little here, since a flat colour comes near 20 dB; so the box of the
object is measured, beside a thumbnail of as many bits, and the judge says what it still recognises.
Any tokeniser is measured in the same way; scenes are enlarged to the size it takes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from lascaux.data.world.boxed import SIZE, BoxedScenes, box_psnr, boxed_scenes, stacked
from lascaux.data.world.sampling import twin
from lascaux.data.world.scene import Scene
from lascaux.evaluate.judging import Judgement, judged
from lascaux.evaluate.reconstruct import by_thumbnail, thumbnail_size
from lascaux.evaluate.report import Figure, Report
from lascaux.models.judge import Judge
from lascaux.tasks.tokenisers import ImageTokeniser, image_tokeniser
from lascaux.weights.load import load

SEED = 0x5CE7E
_AT_ONCE = 64  # scenes
_SHOWN = 12  # scenes of a sheet


@dataclass(frozen=True)
class Spelt:
    """Test scenes, their ids, and what these give back, RGB in [0, 1] of the scenes' size."""

    scenes: BoxedScenes
    ids: Int[Tensor, "b n"]
    back: Float[Tensor, "b 3 y x"]


def evaluate(
    model: str | Path | nn.Module = "ochre-vq",
    scenes: int = 2000,
    *,
    sheet: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Report:
    """Codes used, PSNR in the object's box beside a thumbnail's, and what the judge recognises.

    Args:
        model: an image tokeniser, or its name, folder or hub id.
        scenes: of one object, of the test split.
        sheet: file for a picture of some scenes above their reconstructions.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.

    Raises:
        MissingExtra: scikit-learn, which brings the digits, is not installed.
        Unsupported: the model is no image tokeniser.
        WeightsError: it cannot be found or loaded.
    """
    tokeniser = image_tokeniser(model, device=device, dtype=dtype)
    spelt = spell(tokeniser, boxed_scenes("test", SEED, scenes))
    if sheet is not None:
        write_sheet([spelt.scenes.pictures[:_SHOWN].float() / 255, spelt.back[:_SHOWN]], sheet)
    return Report(
        "ochre-tokeniser",
        tokeniser.shown,
        tokeniser.weights,
        settings(SEED, device, dtype),
        tuple(figures(tokeniser, spelt)),
    )


def settings(seed: int, device: str, dtype: str) -> dict[str, object]:
    """What a report says of how it was made."""
    return {
        "split": "test",
        "scene_pixels": SIZE,
        "seed": seed,
        "judge": "ochre-judge",
        "device": device,
        "dtype": dtype,
    }


def spell(tokeniser: ImageTokeniser, scenes: BoxedScenes) -> Spelt:
    """Scenes by way of a tokeniser's ids."""
    parts = [_spelt(tokeniser, part) for part in scenes.pictures.split(_AT_ONCE)]
    ids, back = (torch.cat(each) for each in zip(*parts, strict=True))
    return Spelt(scenes, ids, back)


def figures(tokeniser: ImageTokeniser, spelt: Spelt) -> Iterator[Figure]:
    """All figures of reconstructions."""
    scenes, count = spelt.scenes, len(spelt.ids)
    length = spelt.ids.shape[1]
    each = math.log2(tokeniser.codes)
    yield Figure("bits of a picture", length * each, count, "bits", f"{length} ids of {each:g}")
    # Where places have codes of their own, a code is another one at each.
    books = (
        spelt.ids.T if getattr(tokeniser.model, "own_codes", False) else spelt.ids.flatten()[None]
    )
    times = torch.stack([torch.bincount(book, minlength=tokeniser.codes) for book in books])
    used, of = int((times > 0).sum()), times.numel()
    note = f"{used} of {of} in {spelt.ids.numel()} ids"
    yield Figure("codes used", used / of, of, note=note)
    share = times.double() / times.sum(dim=1, keepdim=True)
    entropies = -torch.special.xlogy(share, share).sum(dim=1)
    perplexity = entropies.mean().exp().item()
    yield Figure("perplexity", perplexity, spelt.ids.numel(), "codes")

    wide, high = thumbnail_size(SIZE, SIZE, length * each)
    small = torch.stack([_thumbnail(picture, length * each) for picture in scenes.pictures])
    own, plain = box_psnr(scenes, spelt.back), box_psnr(scenes, small)
    yield Figure("PSNR in the object's box", own.mean().item(), count, "dB")
    note = f"{wide} x {high} pixels of 24 bits"
    yield Figure("thumbnail, PSNR in the box", plain.mean().item(), count, "dB", note)
    yield Figure("better in the box by", (own - plain).mean().item(), count, "dB")

    if (same := _kept_codes(tokeniser, spelt)) is not None:
        note = "of patches that are equal in two scenes"
        yield Figure("same code", same.mean().item(), len(same), note=note)

    judge = load("ochre-judge")
    assert isinstance(judge, Judge)
    for name, pictures in (
        ("drawn", scenes.pictures.float() / 255),
        ("reconstructed", spelt.back),
        ("thumbnail", small),
    ):
        answers = judge_all(judge, pictures)
        for what, right in recognised(scenes.scenes, answers).items():
            yield Figure(f"{name}: judge names the {what}", sum(right) / count, count)


def recognised(scenes: Sequence[Scene], answers: Sequence[Judgement]) -> dict[str, list[bool]]:
    """Which scenes of one object were recognised, by object and by background."""
    pairs = list(zip(scenes, answers, strict=True))
    return {
        "object": [a.objects == (s.things[0].object,) for s, a in pairs],
        "background": [a.background == s.background for s, a in pairs],
    }


def judge_all(judge: Judge, pictures: Float[Tensor, "b 3 y x"]) -> list[Judgement]:
    """What the judge says of pictures in [0, 1], in eight bits."""
    return list(judged(judge, map(as_image, pictures)))


def as_image(picture: Float[Tensor, "3 y x"]) -> Image.Image:
    """A picture in [0, 1] in eight bits."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())


def write_sheet(rows: Sequence[Float[Tensor, "b 3 y x"]], path: str | Path, scale: int = 2) -> None:
    """Write rows of pictures in [0, 1] as one PNG, enlarged by whole pixels."""
    from lascaux.tasks.aside import written_aside

    joined = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    image = as_image(joined)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    with written_aside(path) as part:
        image.save(part, format="PNG")


def _spelt(tokeniser: ImageTokeniser, pictures: UInt8[Tensor, "b 3 y x"]) -> tuple[Tensor, Tensor]:
    x, size = pictures.float() / 255, tokeniser.preprocessing.size
    if size != SIZE:
        x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    ids = tokeniser.encode(x)
    back = tokeniser.decode(ids, tokeniser.grid(size, size))
    if size != SIZE:
        back = F.interpolate(back, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    return ids, back


def _kept_codes(tokeniser: ImageTokeniser, spelt: Spelt) -> Float[Tensor, " n"] | None:
    """Of patches that are the same in each scene and another like it in parts: 1 where the code is.

    None where codes have no places, or such as do not fall on the scenes' pixels.
    """
    grid = tokeniser.grid(tokeniser.preprocessing.size, tokeniser.preprocessing.size)
    if grid is None or any(SIZE % side for side in grid):
        return None
    rng = np.random.Generator(np.random.PCG64([SEED, 1]))
    others = stacked([twin(rng, scene, "test", digits=True) for scene in spelt.scenes.scenes])
    ids = torch.cat([_spelt(tokeniser, part)[0] for part in others.split(_AT_ONCE)])
    alike = (spelt.scenes.pictures == others).float().amin(dim=1)
    equal = -F.max_pool2d(-alike, (SIZE // grid[0], SIZE // grid[1])) == 1
    return (spelt.ids == ids)[equal.flatten(1)].float()


def _thumbnail(picture: UInt8[Tensor, "3 y x"], bits: float) -> Float[Tensor, "3 y x"]:
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    return torch.from_numpy(np.array(by_thumbnail(image, bits))).permute(2, 0, 1).float() / 255
