"""What an image tokeniser keeps of pictures, beside a thumbnail that takes as many bits.

    lascaux evaluate reconstruct photos/ --model vqgan-imagenet-f16-1024
    lascaux evaluate reconstruct photos/ --model openai-dvae --lpips lpips-vgg16

A thumbnail is the simplest code of a picture: as many pixels, of three times 8 bits, as the ids'
bits pay for, made by bicubic interpolation and enlarged by it again. A tokeniser that is not
better than that has learnt little.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from lascaux.data.records import Part, Source
from lascaux.data.sources import open_source
from lascaux.errors import BadInput, Unsupported
from lascaux.evaluate.report import Figure, Report
from lascaux.images.fidelity import WINDOW, psnr, ssim
from lascaux.models.lpips import Lpips
from lascaux.nn.linear import chosen_way
from lascaux.tasks.features import Reading, evaluating
from lascaux.tasks.results import Failed
from lascaux.tasks.spell import Reconstruction, Speller
from lascaux.tasks.tokenisers import ImageTokeniser

Progress = Callable[[str, int, int], object]

EQUAL = 100.0  # dB that equal pictures count with in a mean, instead of infinity
_PIXEL_BITS = 24
_WORST = 10  # pictures kept in a report
_LEAST_LPIPS = 16  # pixels: the VGG16 halves four times


@dataclass(frozen=True)
class Fidelity:
    """How near a picture is to another; None where there is no such figure of these."""

    psnr: float | None  # dB; None of equal pictures, which have infinity
    ssim: float | None  # up to 1; None of pictures smaller than its window
    lpips: float | None = None  # 0 or more; None where no weights were given


def fidelity(seen: Image.Image, picture: Image.Image, lpips: Lpips | None = None) -> Fidelity:
    """Compare two pictures of one size, as they are written: in eight bits.

    Raises:
        BadInput: the sizes differ.
    """
    x, other = _pixels(seen), _pixels(picture)
    apart = psnr(x, other).item()
    return Fidelity(
        psnr=apart if math.isfinite(apart) else None,
        ssim=ssim(x, other).item() if min(seen.size) >= WINDOW else None,
        lpips=None if lpips is None else _perceived(lpips, x, other),
    )


def thumbnail_size(width: int, height: int, bits: float) -> tuple[int, int]:
    """Width and height of the largest thumbnail of the same shape that so many bits pay for.

    At least one pixel, even where they do not pay for it; at most the picture itself.
    """
    best = (1, 1)
    for wide in range(1, width + 1):
        high = max(1, round(wide * height / width))
        if wide * high * _PIXEL_BITS > bits:
            break
        best = (wide, high)
    return best


def by_thumbnail(seen: Image.Image, bits: float) -> Image.Image:
    """A picture by way of a thumbnail of so many bits: bicubic, antialiased, there and back."""
    small = seen.resize(thumbnail_size(*seen.size, bits), Image.Resampling.BICUBIC)
    return small.resize(seen.size, Image.Resampling.BICUBIC)


def evaluate(
    data: str | Path | Source,
    model: str | Path | nn.Module | ImageTokeniser,
    *,
    size: int | None = None,
    reading: Reading = "photo",
    limit: int | None = None,
    seed: int = 0,
    lpips: str | Path | Lpips | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Report:
    """PSNR, SSIM, LPIPS, use of the codes and bits per pixel, over the pictures of a source.

    Figures are means over pictures, of middle squares as the model takes them, in eight bits.
    Pictures that cannot be read are left out and listed.

    Args:
        data: pictures, or where they lie: anything that `open_source` reads.
        model: an image tokeniser, or its name, folder or hub id.
        size: of the squares, in pixels; by default the model's own.
        reading: how files are read.
        limit: pictures at most, drawn by the seed.
        seed: of that draw.
        lpips: weights of LPIPS, by name or loaded; without them it is left out.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.
        batch_size: pictures that the model takes at once.
        progress: called with what is done, how many are, and of how many.

    Raises:
        BadInput: data or options that cannot be used, or no picture that can be read.
        Unsupported: the model is no image tokeniser, or `lpips` is no LPIPS.
        WeightsError: a model cannot be found or loaded.
    """
    if (limit is not None and limit < 1) or seed < 0:
        raise BadInput(f"limit {limit}, seed {seed}; expected 1 or more, and 0 or more")
    source = data if isinstance(data, Source) else open_source(data, absent="keep")
    if source.kind == "prepared":
        raise BadInput(f"{source.path} holds features and no pictures; name what they are of")
    chosen = _some(source, limit, seed)
    speller = Speller(
        model, size=size, reading=reading, device=device, dtype=dtype, batch_size=batch_size
    )
    measure = _lpips(lpips, device)
    if measure is not None and speller.preprocessing.size < _LEAST_LPIPS:
        raise BadInput(
            f"squares of {speller.preprocessing.size} pixels; LPIPS takes {_LEAST_LPIPS} or more"
        )
    found = _Found(torch.zeros(speller.tokeniser.codes, dtype=torch.int64))
    for result in _reconstructed(speller, chosen, progress):
        found.add(result, measure)
    if not found.keys:
        first = f"; the first: {found.failures[0]['reason']}" if found.failures else ""
        raise BadInput(f"none of the {len(chosen)} pictures of {source.path} can be read{first}")
    weight = next(speller.tokeniser.model.parameters(), torch.zeros(0))
    settings: dict[str, Any] = {
        "data": {
            "path": str(source.path),
            "kind": source.kind,
            "pictures": len(source),
            "fingerprint": source.fingerprint,
        },
        "preprocessing": asdict(speller.preprocessing),
        "limit": limit,
        "seed": seed,
        "lpips": None if lpips is None else _shown(lpips),
        "device": str(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "products": chosen_way(weight.dtype) if weight.device.type == "cpu" else "torch",
    }
    tokeniser = speller.tokeniser
    return Report(
        "reconstruct",
        tokeniser.shown,
        tokeniser.weights,
        settings,
        tuple(found.figures()),
        details=found.details(),
    )


@dataclass
class _Found:
    """What comes together over the pictures."""

    used: Int[Tensor, " s"]  # how often each code
    keys: list[str] = field(default_factory=list)
    own: list[Fidelity] = field(default_factory=list)
    thumbnails: list[Fidelity] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    first: Reconstruction | None = None

    def add(self, result: Reconstruction | Failed, lpips: Lpips | None) -> None:
        """Measure one picture."""
        if isinstance(result, Failed):
            self.failures.append({"source": result.source, "reason": result.reason})
            return
        self.first = self.first or result
        self.keys.append(result.spelling.source)
        self.used += torch.bincount(torch.tensor(result.spelling.ids), minlength=len(self.used))
        self.own.append(fidelity(result.seen, result.picture, lpips))
        plain = by_thumbnail(result.seen, result.spelling.bits)
        self.thumbnails.append(fidelity(result.seen, plain, lpips))

    def figures(self) -> Iterator[Figure]:
        """Of the model, of the codes, and of thumbnails."""
        assert self.first is not None
        yield from _means(self.own, "")
        yield from self._codes()
        seen, bits = self.first.seen, self.first.spelling.bits
        wide, high = thumbnail_size(*seen.size, bits)
        count = len(self.keys)
        note = f"{wide} x {high} pixels of {_PIXEL_BITS} bits"
        spent = wide * high * _PIXEL_BITS / (seen.width * seen.height)
        yield Figure("thumbnail, bits per pixel", spent, count, "bits", note)
        yield from _means(self.thumbnails, "thumbnail, ")

    def _codes(self) -> Iterator[Figure]:
        assert self.first is not None
        spelling, count = self.first.spelling, len(self.keys)
        note = f"{len(spelling.ids)} ids of {math.log2(spelling.codes):g} bits"
        yield Figure("bits per pixel", self.first.bits_per_pixel, count, "bits", note)
        total = int(self.used.sum())
        used = int((self.used > 0).sum())
        note = f"{used} of {len(self.used)} codes in {total} ids"
        yield Figure("codes used", used / len(self.used), len(self.used), note=note)
        share = self.used[self.used > 0].double() / total
        yield Figure("perplexity", torch.exp(-(share * share.log()).sum()).item(), total, "codes")

    def details(self) -> dict[str, Any]:
        """The pictures that lose most, and those that could not be read."""
        order = sorted(range(len(self.keys)), key=lambda at: self.own[at].psnr or math.inf)
        worst = [{"source": self.keys[at], **vars(self.own[at])} for at in order[:_WORST]]
        return {"worst": worst, "failures": self.failures}


def _means(found: Sequence[Fidelity], before: str) -> Iterator[Figure]:
    """Over the pictures that have a figure."""
    equal = sum(one.psnr is None for one in found)
    note = f"{equal} are equal and count as {EQUAL:g}" if equal else ""
    decibels = [EQUAL if one.psnr is None else one.psnr for one in found]
    yield Figure(f"{before}PSNR", float(np.mean(decibels)), len(found), "dB", note)
    for name in ("ssim", "lpips"):
        values = [value for one in found if (value := getattr(one, name)) is not None]
        if values:
            yield Figure(f"{before}{name.upper()}", float(np.mean(values)), len(values), "")


def _some(source: Source, limit: int | None, seed: int) -> Source:
    if limit is None or limit >= len(source):
        return source
    rng = np.random.Generator(np.random.PCG64([seed]))
    return Part(source, sorted(rng.permutation(len(source))[:limit].tolist()))


def _reconstructed(
    speller: Speller, source: Source, progress: Progress | None
) -> Iterator[Reconstruction | Failed]:
    """Every record by way of its ids, or why not, under its key."""
    total = len(source)
    for first in range(0, total, speller.batch_size):
        here = range(first, min(first + speller.batch_size, total))
        read = [_picture(source, index, speller.preprocessing.reading) for index in here]
        results = speller.reconstruct_many([one for one in read if not isinstance(one, Failed)])
        for index, one in zip(here, read, strict=True):
            yield one if isinstance(one, Failed) else _named(next(results), source.key(index))
            if progress is not None:
                progress("pictures", index + 1, total)


def _picture(source: Source, index: int, reading: Reading) -> Image.Image | Failed:
    try:
        return source[index].image(reading)
    except (BadInput, OSError) as error:
        return Failed(source.key(index), str(error))


def _named(result: Reconstruction | Failed, key: str) -> Reconstruction | Failed:
    if isinstance(result, Failed):
        return Failed(key, result.reason)
    return replace(result, spelling=replace(result.spelling, source=key))


def _lpips(given: str | Path | Lpips | None, device: str) -> Lpips | None:
    if given is None or isinstance(given, Lpips):
        return given
    from lascaux.weights.load import load

    found = load(given, device=device)
    if not isinstance(found, Lpips):
        raise Unsupported(f"{given} is a {type(found).__name__}; what is wanted here is an LPIPS")
    return found


def _perceived(lpips: Lpips, x: Tensor, other: Tensor) -> float:
    device = lpips.shift.device
    with evaluating(lpips):
        # From [0, 1] to [-1, 1].
        return lpips(2 * x.to(device) - 1, 2 * other.to(device) - 1).item()


def _pixels(image: Image.Image) -> Float[Tensor, "1 3 y x"]:
    values = torch.from_numpy(np.array(image.convert("RGB")))
    return rearrange(values, "y x c -> 1 c y x").float() / 255


def _shown(lpips: str | Path | Lpips) -> str:
    return "given" if isinstance(lpips, Lpips) else str(lpips)
