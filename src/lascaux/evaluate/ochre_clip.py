"""How well a CLIP reads the emoji world's test split, digits never seen, and distorted pictures.

    lascaux evaluate ochre-clip
    lascaux evaluate ochre-clip --glyphs build/glyphs      also glyphs of fonts never trained on

Nothing here is trained on or selects anything. Scenes are of the test split's pairs of object and
colour; the candidates are all pairs.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from lascaux.data.world import COLOURS, objects
from lascaux.data.world.objects import digit_scans, glyph_count
from lascaux.data.world.other_fonts import UNSEEN, aside, drawings, listed
from lascaux.data.world.sampling import SIZES, colour_pairs, single
from lascaux.data.world.scene import draw
from lascaux.data.world.wild import KINDS, fixed_set, wild
from lascaux.errors import BadInput, Unsupported
from lascaux.evaluate.report import Figure, Report
from lascaux.models.clip import Clip
from lascaux.tasks.classify import Classifier
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.load import load

PAIR = "a {object} on a {colour} background"
NAME = "a photo of a {}."
DIGIT = "a handwritten digit {}"
SEEDS = {"scenes": 0x7E57, "other_fonts": 0xF0}
# Of objects that training keeps aside in every font but the atlas's, and of the others.
NOTES = {
    "other fonts": ("drawings never trained on", "drawings trained on"),
    "fonts never seen": (
        "font never seen, nor the object in another one",
        "font never seen, but the object in others",
    ),
}


def evaluate(
    model: str = "ochre-clip",
    glyphs: Path | None = None,
    *,
    unseen_fonts: str = UNSEEN,
    device: str = "cpu",
    dtype: str = "float32",
) -> Report:
    """All figures of a CLIP that is to read this world.

    Args:
        model: a name, folder or hub id.
        glyphs: a folder of other fonts' glyphs (tools/make_other_glyphs.py). Each font has two
            figures: of the quarter of the objects that training leaves aside, and of the others.
        unseen_fonts: those of them that the model was not trained on, commas between them.
        device: where to compute.
        dtype: of the weights.

    Raises:
        MissingExtra: scikit-learn, which brings the digits, is not installed.
        BadInput: `glyphs` is no folder, or holds no glyphs.
        Unsupported: the model is no CLIP.
    """
    if glyphs is not None and not any(glyphs.glob("*/*.png")):
        raise BadInput(f"no glyphs in {glyphs}: make them with tools/make_other_glyphs.py")
    clip = load(model, device=device, dtype=dtype)
    if not isinstance(clip, Clip):
        raise Unsupported(f"{model} is a {type(clip).__name__}; this benchmark is of a CLIP")
    figures = [*_scenes(clip), *_digits(clip), *_distorted(clip)]
    if glyphs is not None:
        figures += _other_fonts(clip, glyphs, listed(unseen_fonts))
    settings = {
        "pair": PAIR,
        "name": NAME,
        "digit": DIGIT,
        "scene_pixels": 64,
        "seeds": SEEDS,
        "dtype": dtype,
        "device": device,
        "glyphs": str(glyphs) if glyphs else None,
        "unseen_fonts": listed(unseen_fonts) if glyphs else None,
    }
    return Report("ochre-clip", model, weights_hash(clip), settings, tuple(figures))


def _scenes(clip: Clip) -> list[Figure]:
    rng = np.random.Generator(np.random.PCG64([SEEDS["scenes"]]))
    truth = colour_pairs("test")
    sizes = tuple(SIZES)
    pictures = [
        draw(single(rng, index, colour, "test", sizes[n % 3]))
        for n, (index, colour) in enumerate(truth)
    ]
    colours = tuple(COLOURS)
    everything = objects()
    texts = [PAIR.format(object=o.name, colour=c) for o in everything for c in colours]
    best = _cosines(clip, pictures, texts, ("{}",)).argmax(1)
    found_object, found_colour = best // len(colours), best % len(colours)
    true_object = torch.tensor([index for index, _ in truth])
    true_colour = torch.tensor([colours.index(colour) for _, colour in truth])
    right = found_object == true_object
    chinese = _cosines(clip, pictures, [o.zh for o in everything], ("{}",)).argmax(1) == true_object
    note = f"{len(everything)} objects x {len(colours)} colours, all pairs as candidates"
    return [
        _share("object", right, note),
        _share("pair", right & (found_colour == true_colour), note),
        *(_share(f"object, {size}", right[n::3]) for n, size in enumerate(sizes)),
        _share("object, Chinese names", chinese, f"{len(everything)} names"),
    ]


def _digits(clip: Clip) -> list[Figure]:
    scans, values, held_out = digit_scans()
    pictures = [
        Image.fromarray((scan.astype(np.uint16) * 255 // 16).astype(np.uint8), "L")
        for scan in scans[held_out]
    ]
    truth = torch.from_numpy(values[held_out])
    words = [o.name.split()[-1] for o in objects()[glyph_count() :]]
    found = _cosines(clip, pictures, words, (DIGIT,)).argmax(1)
    known = torch.from_numpy(scans[~held_out].reshape(-1, 64)).float()
    asked = torch.from_numpy(scans[held_out].reshape(-1, 64)).float()
    nearest = torch.from_numpy(values[~held_out])[torch.cdist(asked, known).argmin(1)]
    return [
        _share("digits", found == truth, "unseen scans among ten names"),
        _share("digits, nearest neighbour on pixels", nearest == truth, "for comparison"),
    ]


def _distorted(clip: Clip) -> list[Figure]:
    pictures, truth, kinds = zip(*fixed_set(), strict=True)
    right = _named(clip, pictures, truth)
    shown = np.array(kinds)
    return [
        _share("distorted", right, "fixed set, all objects as candidates"),
        *(_share(f"distorted, {kind}", right[torch.from_numpy(shown == kind)]) for kind in KINDS),
    ]


def _other_fonts(clip: Clip, folder: Path, unseen: Sequence[str]) -> list[Figure]:
    figures: list[Figure] = []
    together: dict[tuple[str, str], list[Tensor]] = {}
    for font, glyphs in drawings(folder).items():
        rng = np.random.Generator(np.random.PCG64([SEEDS["other_fonts"]]))
        name = "fonts never seen" if font in unseen else "other fonts"
        for kept, note in zip((True, False), NOTES[name], strict=True):
            pictures, truth = [], []
            for index, other in glyphs.items():
                if aside(index) is not kept:
                    continue
                for kind in KINDS if kept else (KINDS[len(truth) % len(KINDS)],):
                    pictures.append(wild(rng, index, kind, artist=lambda _, other=other: other))
                    truth.append(index)
            if truth:
                right = _named(clip, pictures, truth)
                figures.append(_share(f"distorted, {font}", right, note))
                together.setdefault((name, note), []).append(right)
    for name, notes in NOTES.items():
        for note in notes:
            if rights := together.get((name, note)):
                figures.append(_average(f"distorted, {name}", rights, note))
    return figures


def _average(name: str, rights: Sequence[Bool[Tensor, " _"]], note: str) -> Figure:
    """The mean of the fonts' shares: each counts alike, whether it draws many objects or few."""
    share = sum(right.float().mean().item() for right in rights) / len(rights)
    return Figure(name, share, sum(map(len, rights)), note=f"{note}; mean of {len(rights)}")


def _named(clip: Clip, pictures: Sequence[Image.Image], truth: Sequence[int]) -> Bool[Tensor, " b"]:
    found = _cosines(clip, pictures, [o.name for o in objects()], (NAME,)).argmax(1)
    return found == torch.tensor(truth)


def _cosines(
    clip: Clip, pictures: Iterable[Image.Image], texts: list[str], templates: tuple[str, ...]
) -> Float[Tensor, "b m"]:
    return Classifier(texts, clip, templates=templates, batch_size=64).cosines(pictures)


def _share(name: str, right: Bool[Tensor, " b"], note: str = "") -> Figure:
    return Figure(name, right.float().mean().item(), len(right), note=note)
