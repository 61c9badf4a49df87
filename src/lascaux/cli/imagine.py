"""`lascaux imagine`: pictures from sentences, from pictures, and from what lies between them."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lascaux.cli.flags import WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.spell import pictures_folder
from lascaux.tasks.options import ImagineOptions
from lascaux.tasks.results import as_json

if TYPE_CHECKING:
    from lascaux.tasks.results import Picture
    from lascaux.tasks.wishes import Wish

_CONTACT, _SHOWN = "contact.png", 64  # the sheet's name, and how many pictures are on it at most
_NAMED = 40  # characters of a sentence that go into a file's name
_OF_A_REPEAT = {"model", "tokeniser", "device"}  # what --from may be given besides
_EXAMPLES = """\
examples:
  lascaux imagine "a red apple on a blue table" --n 8 --seed 1 --out apples/
  lascaux imagine "a red apple" --model clip-gen-coco --n 64 --keep 8 --out apples/
  lascaux imagine --image photo.jpg --model clip-gen-coco --n 4 --out like-this/
  lascaux imagine --between "a cat" photo.jpg --steps 6 --model clip-gen-coco --out way/
  lascaux imagine "a boat" --model coco_512_16_16D_16H_80TSL --prime top.png --out boats/
  lascaux imagine --from apples/a-red-apple-on-a-blue-table-3.png --out again/

Each picture has its own seed and does not depend on the others. Its file says how it was made,
and --from makes it again, with the same weights alone.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument("sentence", nargs="?", metavar="SENTENCE", help="what is to be seen")
    parser.add_argument(
        "--image",
        metavar="PHOTO",
        help="instead of a sentence, a picture: a CLIP-GEN makes others of what it shows",
    )
    parser.add_argument(
        "--between",
        nargs=2,
        metavar=("A", "B"),
        help="pictures on the way from A to B, each a sentence or a picture's file; of a CLIP-GEN",
    )
    parser.add_argument(
        "--from",
        dest="repeated",
        metavar="PNG",
        help="make the picture of this file again, as it says it was made",
    )
    parser.add_argument(
        "--prime", metavar="PHOTO", help="begin all pictures with the first rows of this one"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where pictures are written")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    add_flags(parser.add_argument_group("options"), ImagineOptions)


def run(arguments: argparse.Namespace) -> int:
    """Make pictures, write each as soon as it is whole, and give the exit code."""
    options = options_from(arguments, ImagineOptions)
    _require_one_wish(arguments)
    if arguments.repeated is not None:
        _require_repeat(arguments, options)
        return _repeat(arguments, options, pictures_folder(arguments.out))
    folder = pictures_folder(arguments.out)
    from lascaux.tasks.imagine import Imaginer

    imaginer = Imaginer.from_options(options)
    written: list[Path] = []
    told: list[dict[str, Any]] = []
    shown: list[Picture] = []
    total = (options.keep or options.n) * (options.steps if arguments.between else 1)
    try:
        with progress() as show:
            for name, picture in _made(arguments, options, imaginer, show):
                written.append(_write(picture, folder / name))
                told.append(_told(written[-1], picture))
                shown += [picture] if len(shown) < _SHOWN else []
    except KeyboardInterrupt:
        more = "; the best are written when all are made" if options.keep and not written else ""
        say(f"{len(written)} of {total} pictures are whole, in {folder}{more}")
        raise
    contact = len(shown) > 1
    if contact:
        _draw_contact(shown, folder, arguments, options)
    _tell(told, arguments.json)
    noun = "picture" if len(written) == 1 else "pictures"
    say(f"wrote {len(written)} {noun}{' and ' + _CONTACT if contact else ''} to {folder}")
    return 0


def _require_one_wish(arguments: argparse.Namespace) -> None:
    ways = {
        "a sentence": arguments.sentence,
        "--image": arguments.image,
        "--between": arguments.between,
        "--from": arguments.repeated,
    }
    given = [way for way, value in ways.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) or "nothing"
        raise WrongUse(f"{found} to imagine; give one of {', '.join(ways)}")
    sentences = [arguments.sentence, *(arguments.between or ())]
    if any(each is not None and not each.strip() for each in sentences):
        raise WrongUse("the sentence is empty; say what is to be seen")


def _require_repeat(arguments: argparse.Namespace, options: ImagineOptions) -> None:
    """Refuse what would make another picture than the one of the file."""
    odd = [
        f"--{entry.name.replace('_', '-')}"
        for entry in fields(options)
        if entry.name not in _OF_A_REPEAT and getattr(options, entry.name) != entry.default
    ]
    if arguments.prime is not None:
        odd.append("--prime")
    if odd:
        raise WrongUse(f"--from repeats with the settings of the file; leave away {', '.join(odd)}")


def _repeat(arguments: argparse.Namespace, options: ImagineOptions, folder: Path) -> int:
    from lascaux.tasks.imagine import repeated

    picture = repeated(
        arguments.repeated,
        model=options.model,
        tokeniser=options.tokeniser,
        device=options.device,
    )
    path = _write(picture, folder / Path(arguments.repeated).with_suffix(".png").name)
    _tell([_told(path, picture)], arguments.json)
    say(f"wrote {path}")
    return 0


def _made(
    arguments: argparse.Namespace, options: ImagineOptions, imaginer: Any, show: Any
) -> Iterator[tuple[str, "Picture"]]:
    """Pictures with the names of their files."""
    if not arguments.between:
        found = imaginer.imagine(
            arguments.sentence, image=arguments.image, prime=arguments.prime, progress=show
        )
        stem = _slug(arguments.sentence or _stem(arguments.image))
        for picture in found:
            yield f"{stem}-{picture.seed}.png", picture
        return
    ends = [_end(each, options) for each in arguments.between]
    stem = "-to-".join(_slug(end.sentence or _stem(end.name))[: _NAMED // 2] for end in ends)
    found = imaginer.between(*ends, prime=arguments.prime, progress=show)
    for number, picture in enumerate(found):
        step = number // (options.keep or options.n)
        yield f"{stem}-{step:02d}-{picture.seed}.png", picture


def _end(text: str, options: ImagineOptions) -> "Wish":
    """A sentence, or the picture whose file this is."""
    from lascaux.images.formats import SUFFIXES
    from lascaux.tasks.wishes import wish_of

    is_file = text.startswith("data:") or Path(text).suffix.lower() in SUFFIXES
    if is_file or (len(text) < 256 and Path(text).is_file()):
        return wish_of(picture=text, reading=options.reading)
    return wish_of(text)


def _stem(picture: str) -> str:
    return "picture" if picture.startswith("data:") else Path(picture).stem


def _slug(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:_NAMED].strip("-") or "picture"


def _write(picture: "Picture", path: Path) -> Path:
    from lascaux.images.labelled import write_labelled
    from lascaux.tasks.imagined import label_of

    write_labelled(picture.image, path, label_of(picture))
    return path


def _draw_contact(
    shown: "list[Picture]", folder: Path, arguments: argparse.Namespace, options: ImagineOptions
) -> None:
    """Write the sheet of the first pictures."""
    from lascaux.images.contact import contact_page
    from lascaux.tasks.aside import written_aside

    each = options.keep or options.n
    columns = (each if each > 1 else min(len(shown), 8)) if arguments.between else None
    title = arguments.sentence or arguments.image or " ... ".join(arguments.between)
    page = contact_page(
        [picture.image for picture in shown],
        [_line(picture) for picture in shown],
        title=title,
        columns=columns,
    )
    with written_aside(folder / _CONTACT) as part:
        page.save(part, "PNG")


def _line(picture: "Picture") -> str:
    parts = [f"seed {picture.seed}"]
    if "share" in picture.settings:
        parts.append(f"{picture.settings['share']:.0%} of the way")
    if picture.score is not None:
        parts.append(f"{picture.score:.3f}")
    return ", ".join(parts)


def _told(path: Path, picture: "Picture") -> dict[str, Any]:
    return {"out": str(path), **as_json(picture)}


def _tell(told: list[dict[str, Any]], as_list: bool) -> None:
    if as_list:
        import json

        print(json.dumps(told, ensure_ascii=False, indent=1))
        return
    for one in told:
        score = "" if one["score"] is None else f"  {one['score']:.3f}"
        caption = "" if one["caption"] is None else f"  {one['caption']}"
        print(f"{one['out']}{score}{caption}")
