"""`lascaux paint`: pictures after maps, depth, classes or nothing; and the rest of half ones."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lascaux.cli.flags import WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.spell import pictures_folder
from lascaux.tasks.options import AnimationOptions, PaintOptions

if TYPE_CHECKING:
    from PIL import Image

    from lascaux.tasks.canvas import Canvas
    from lascaux.tasks.conditions import Wish
    from lascaux.tasks.paint import Growing, Painter
    from lascaux.tasks.results import Picture

_SHEET_SIDE = 512  # pixels of a picture on a sheet, at most
_EXAMPLES = """\
examples:
  lascaux paint --map seg.png --model sflckr --n 4 --seed 7 --out landscapes/
  lascaux paint --map seg.png --size 1024x512 --model sflckr --animate --out wide/
  lascaux paint --depth depth.png --model drin --out from-depth/
  lascaux paint --class goldfish --class 207 --n 8 --model cin --out classes/
  lascaux paint --boxes park.json --model scene-coco-30 --out parks/
  lascaux paint --n 16 --model ffhq --out faces/
  lascaux paint --complete half.png --model faceshq --out completed/

Of seed 7 and seg.png the folder has seg-7.png, which says in itself how it was
made, seg-7.gif if it was to be animated, and once seg-condition.png: the map,
depth or boxes as the model saw them. A map's pixels there are still the labels'
numbers.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    what = parser.add_argument_group("what is painted (one of the first five, as the model says)")
    what.add_argument(
        "--map", metavar="FILE", help="of classes: an indexed or grey PNG of their numbers"
    )
    what.add_argument(
        "--depth",
        metavar="FILE",
        help="depth map: grey, or RGBA whose bytes are float32; larger is nearer, as MiDaS gives",
    )
    what.add_argument(
        "--class",
        dest="labels",
        metavar="NAME",
        action="append",
        help="by name or number, of ImageNet also by WordNet id; may be given again",
    )
    what.add_argument("--picture", metavar="FILE", help="for models that paint after pictures")
    what.add_argument(
        "--boxes",
        metavar="FILE",
        help='of objects: JSON, a list of {"object": "dog", "box": [left, top, width, height]}, '
        "the box in shares of the picture's sides",
    )
    what.add_argument(
        "--complete", metavar="FILE", help="a picture of which the upper part is kept"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--out", required=True, metavar="DIR", help="folder to write; made if need be")
    out.add_argument("--sheet", action="store_true", help="draw DIR/sheet.png of all pictures too")
    out.add_argument(
        "--animate",
        nargs="?",
        const="gif",
        choices=("gif", "mp4"),
        help="show how each picture grows; gif if not said (mp4 needs lascaux[video])",
    )
    add_flags(out, AnimationOptions)
    out.add_argument("--json", action="store_true", help="print what was written as a JSON list")
    add_flags(parser.add_argument_group("options"), PaintOptions)


def run(arguments: argparse.Namespace) -> int:
    """Paint, write, and give the exit code."""
    options = options_from(arguments, PaintOptions)
    animating = options_from(arguments, AnimationOptions)
    _require_one(arguments)
    if arguments.animate:
        from lascaux.images.animation import require_kind

        require_kind(arguments.animate)
    from lascaux.tasks.paint import Painter

    painter = Painter.from_options(options)
    # All is looked through before anything is painted.
    named = [(name, painter.canvas(wish)) for name, wish in _wishes(arguments)]
    with _folder(arguments.out) as folder, progress() as show:
        work = _Work(painter, folder, arguments.animate, animating, show)
        for number, (name, canvas) in enumerate(named, 1):
            stage = f"{name} ({number} of {len(named)})" if len(named) > 1 else name
            work.paint(name, canvas, stage)
        if arguments.sheet:
            work.draw_sheet()
    if arguments.json:
        import json

        print(json.dumps(work.told, ensure_ascii=False, indent=1))
    else:
        for told in work.told:
            print(told["out"])
    count = len(work.told)
    mebibytes = work.cache_bytes / (1 << 20)
    say(
        f"wrote {count} {'picture' if count == 1 else 'pictures'} to {arguments.out}; "
        f"keys and values took {mebibytes:,.1f} MiB"
    )
    return 0


class _Work:
    """What is written of a command's pictures."""

    def __init__(
        self,
        painter: "Painter",
        folder: Path,
        animate: Any,
        animating: AnimationOptions,
        show: Callable[[str, int, int], None],
    ) -> None:
        self.painter, self.folder = painter, folder
        self.animate, self.animating, self.show = animate, animating, show
        self.told: list[dict[str, Any]] = []
        self.cache_bytes = 0
        # For a person who watches; nobody else would see it come and go.
        self.watched = folder / "unfinished.png" if sys.stderr.isatty() else None

    def paint(self, name: str, canvas: "Canvas", stage: str) -> None:
        """Paint one condition with all seeds; `stage` is what the bar says."""
        from lascaux.tasks.results import Picture

        condition = self._condition(name, canvas)
        total, finished = self.painter.options.n * canvas.total, 0
        shown = None  # how many times there was something to see, and of which pictures
        with ExitStack() as all_films:
            films: dict[int, _Film] = {}
            if self.watched is not None:
                all_films.callback(self.watched.unlink, missing_ok=True)
            for event in self.painter.painting(canvas):
                if isinstance(event, Picture):
                    finished += 1
                    self._write(name, event, films.pop(event.seed, None), condition)
                    continue
                self.cache_bytes = max(self.cache_bytes, event.cache_bytes)
                self.show(stage, finished * canvas.total + len(event.seeds) * event.done, total)
                drawn = event.done - canvas.kept.shape[1]
                step = event.seeds, drawn // self.animating.update_every
                if event.done < event.total and step != shown:
                    shown = step
                    self._update(name, event, films, all_films)

    def _update(
        self, name: str, event: "Growing", films: "dict[int, _Film]", all_films: ExitStack
    ) -> None:
        """Show unfinished pictures to those who look."""
        if not self.animate and self.watched is None:
            return
        images = event.preview()
        if self.watched is not None:
            _save(images[0], self.watched)
        for seed, image in zip(event.seeds, images, strict=True):
            if not self.animate:
                continue
            if seed not in films:
                path = self.folder / f"{name}-{seed}.{self.animate}"
                films[seed] = _Film(path, self.animate, self.animating.fps)
                all_films.push(films[seed].open)  # an error takes away what is half written
            films[seed].add(image)

    def _write(
        self, name: str, picture: "Picture", film: "_Film | None", condition: Path | None
    ) -> None:
        from lascaux.images.labelled import write_labelled
        from lascaux.tasks.results import as_json

        told = as_json(picture)
        path = self.folder / f"{name}-{picture.seed}.png"
        write_labelled(picture.image, path, {"verb": "paint", **told})
        if film is not None:
            film.add(picture.image)
            film.open.close()
        self.told.append(
            {
                "out": str(path),
                "condition": None if condition is None else str(condition),
                "animation": None if film is None else str(film.path),
                **told,
            }
        )

    def _condition(self, name: str, canvas: "Canvas") -> Path | None:
        """Write the condition as the model sees it, where it can be seen."""
        if canvas.shown is None:
            return None
        path = self.folder / f"{name}-condition.png"
        _save(canvas.shown, path)
        return path

    def draw_sheet(self) -> None:
        """Write all pictures on one page."""
        from PIL import Image

        from lascaux.images.contact import contact_page

        pictures = []
        for told in self.told:
            with Image.open(told["out"]) as picture:
                picture.thumbnail((_SHEET_SIDE, _SHEET_SIDE))
                pictures.append(picture.convert("RGB"))
        lines = [Path(told["out"]).stem for told in self.told]
        title = Path(self.painter.shown).name
        _save(contact_page(pictures, lines, title=title), self.folder / "sheet.png")


class _Film:
    """An animation that is being written."""

    def __init__(self, path: Path, kind: Any, fps: float) -> None:
        from lascaux.images.animation import animation
        from lascaux.tasks.aside import written_aside

        self.path, self.open = path, ExitStack()
        part = self.open.enter_context(written_aside(path))
        self.add = self.open.enter_context(animation(part, kind, fps))


def _require_one(arguments: argparse.Namespace) -> None:
    """Check that one kind of condition is given, and that its files are there.

    Raises:
        WrongUse: they are not.
    """
    files = {name: getattr(arguments, name) for name in ("map", "depth", "picture", "boxes")}
    given = [f"--{name}" for name, path in files.items() if path is not None]
    given += ["--class"] if arguments.labels else []
    if len(given) > 1:
        raise WrongUse(f"{' and '.join(given)}: a model paints after one of them")
    for name, path in {**files, "complete": arguments.complete}.items():
        if path and not path.startswith("data:") and not Path(path).expanduser().is_file():
            raise WrongUse(f"--{name} {path}: there is no such file")


def _wishes(arguments: argparse.Namespace) -> "Iterator[tuple[str, Wish]]":
    """What is to be painted, and what its files are called; no two alike."""
    from lascaux.tasks.conditions import Wish

    complete = _path(arguments.complete)
    for label in dict.fromkeys(arguments.labels or ()):
        name = "-".join(re.findall(r"\w+", label))
        yield (f"class-{name}" if name.isdecimal() else name), Wish(label=label, complete=complete)
    if arguments.labels:
        return
    wish = Wish(
        map=_path(arguments.map),
        depth=_path(arguments.depth),
        picture=_path(arguments.picture),
        boxes=_path(arguments.boxes),
        complete=complete,
    )
    sources = (wish.map, wish.depth, wish.picture, wish.boxes, complete)
    source = next((path for path in sources if path is not None), None)
    yield (source.stem if isinstance(source, Path) else "painted"), wish


def _path(text: str | None) -> Path | str | None:
    return text if text is None or text.startswith("data:") else Path(text).expanduser()


@contextmanager
def _folder(path: str) -> Iterator[Path]:
    """The folder of that name; one that was made goes away again if nothing came into it."""
    there = Path(path).expanduser().exists()
    folder = pictures_folder(path)
    try:
        yield folder
    finally:
        if not there and not any(folder.iterdir()):
            folder.rmdir()


def _save(picture: "Image.Image", path: Path) -> None:
    from lascaux.tasks.aside import written_aside

    with written_aside(path) as part:
        picture.save(part, "PNG")
