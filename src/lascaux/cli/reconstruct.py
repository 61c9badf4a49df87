"""`lascaux reconstruct`: pictures beside what their ids give back."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lascaux.cli.flags import add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.sheet import require_file
from lascaux.cli.spell import layout, names_apart, pictures_folder, report_failed, sources_of
from lascaux.tasks.options import SpellOptions
from lascaux.tasks.results import Failed, as_json

if TYPE_CHECKING:
    from PIL import Image

    from lascaux.evaluate.reconstruct import Fidelity
    from lascaux.tasks.spell import Reconstruction

_EXAMPLES = """\
examples:
  lascaux reconstruct photo.jpg --model vqgan-imagenet-f16-1024 --out again/
  lascaux reconstruct photo.jpg --model ochre-vq --out beside.png
  lascaux reconstruct photos/ --model openai-dvae --size 384 --plain --out again/
  lascaux reconstruct panorama.jpg --model vq-f8 --tile --out again/

Of NAME.jpg the folder has NAME-compared.png: the picture as the model saw it, and
what its ids give back; of one picture --out may name that file. `lascaux evaluate
reconstruct` measures whole data sets.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PHOTO",
        help="picture files, folders, patterns in quotes, or data URIs",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder to write, made if need be; of one picture a .png file as well",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="write the reconstruction by itself too, as NAME-reconstructed.png",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON list")
    add_flags(parser.add_argument_group("options"), SpellOptions)


def run(arguments: argparse.Namespace) -> int:
    """Spell, unspell, draw, and give the exit code: 1 if a picture could not be read."""
    options = options_from(arguments, SpellOptions)
    sources = sources_of(arguments.pictures, recursive=options.recursive)
    single = len(sources) == 1 and not arguments.plain and arguments.out.lower().endswith(".png")
    single = single and not Path(arguments.out).expanduser().is_dir()
    if single:
        require_file("out", arguments.out)
    place = Path(arguments.out).expanduser() if single else pictures_folder(arguments.out)
    from lascaux.tasks.spell import Speller

    speller = Speller.from_options(options)
    names = names_apart(sources)
    told: list[Any] = []
    with progress() as show:
        for done, result in enumerate(speller.reconstruct_many(sources), 1):
            name = next(names)
            show("pictures", done, len(sources))
            if isinstance(result, Failed):
                told.append(result)
                continue
            out = place if single else place / f"{name}-compared.png"
            plain = place / f"{name}-reconstructed.png" if arguments.plain else None
            told.append(_written(result, out, plain))
            if not arguments.json:
                print(_line(told[-1]))
    if arguments.json:
        import json

        shown = [as_json(one) if isinstance(one, Failed) else one for one in told]
        print(json.dumps(shown, ensure_ascii=False, indent=1))
    if count := sum(not isinstance(one, Failed) for one in told):
        say(f"wrote {count} {'picture' if count == 1 else 'pictures'} to {arguments.out}")
    return report_failed(told)


def _written(result: "Reconstruction", out: Path, plain: Path | None) -> dict[str, Any]:
    """Write one picture's files; what is told of it."""
    from lascaux.evaluate.reconstruct import fidelity

    spelling, near = result.spelling, fidelity(result.seen, result.picture)
    _save(_drawn(result, near), out)
    told: dict[str, Any] = {
        "source": spelling.source,
        "out": str(out),
        "plain": str(plain) if plain else None,
        "model": spelling.model,
        "weights": spelling.weights,
        "codes": spelling.codes,
        "grid": spelling.grid,
        "length": len(spelling.ids),
        "pixels": list(result.seen.size),
        "bits_per_pixel": result.bits_per_pixel,
        "psnr": near.psnr,
        "ssim": near.ssim,
        "seams": None
        if result.seams is None
        else asdict(result.seams) | {"ratio": result.seams.ratio},
        "layout": layout(spelling),
    }
    if plain:
        _save(result.picture, plain)
    return told


def _drawn(result: "Reconstruction", near: "Fidelity") -> "Image.Image":
    from lascaux.images.sheet import side_by_side

    spelling = result.spelling
    size = f"{result.seen.width} x {result.seen.height} pixels"
    lines = [_figures(result.bits_per_pixel, near.psnr, near.ssim)]
    if result.seams is not None:
        lines.append(_seams(result.seams.across, result.seams.inside, result.seams.ratio))
    source = Path(spelling.source).name
    by = f" by {Path(spelling.model).name}" if spelling.model else ""
    return side_by_side(
        result.seen,
        result.picture,
        labels=(f"as the model saw it, {size}", f"from {layout(spelling)}"),
        title=f"{source}{by}",
        lines=lines,
    )


def _figures(bits_per_pixel: float, psnr: float | None, ssim: float | None) -> str:
    apart = "equal" if psnr is None else f"PSNR {psnr:.2f} dB"
    alike = "" if ssim is None else f", SSIM {ssim:.3f}"
    return f"{bits_per_pixel:.4f} bits per pixel, {apart}{alike}"


def _seams(across: float, inside: float, ratio: float) -> str:
    return (
        f"steps across tile borders {255 * across:.2f} of 255, inside tiles {255 * inside:.2f}: "
        f"{ratio:.2f} times"
    )


def _line(told: dict[str, Any]) -> str:
    figures = _figures(told["bits_per_pixel"], told["psnr"], told["ssim"])
    text = f"{told['source']}: {told['layout']}, {figures}"
    if told["seams"] is not None:
        text += f"\n  {_seams(**told['seams'])}"
    return text


def _save(picture: "Image.Image", path: Path) -> None:
    from lascaux.tasks.aside import written_aside

    with written_aside(path) as part:
        picture.save(part, "PNG")
