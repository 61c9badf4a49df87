"""`lascaux classify`: what pictures show, as a table, JSON, CSV or a contact sheet."""

import argparse
import csv
import json
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lascaux.cli.flags import WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.sheet import SHEET_LIMIT, draw_sheet, require_file, require_sheet
from lascaux.cli.table import ranking, text_width
from lascaux.tasks.options import ClassifyOptions
from lascaux.tasks.results import Classified, Failed, as_json

if TYPE_CHECKING:
    from lascaux.images.sheet import SheetEntry
    from lascaux.tasks.classify import Classifier
    from lascaux.tasks.evidence import ClassEvidence

_EXAMPLES = """\
examples:
  lascaux classify photo.jpg
  lascaux classify holiday/ --classes "cat, dog, fire truck" --model ViT-B/32
  lascaux classify *.png --examples shots/ --save-classes shots.safetensors
  lascaux classify *.png --use-classes shots.safetensors --jsonl --out found.jsonl
"""


@runtime_checkable
class Stream(Protocol):
    """What results are written to."""

    def write(self, text: str, /) -> Any:
        """Add text."""
        ...

    def flush(self) -> None:
        """Let the text be seen now."""
        ...

    def isatty(self) -> bool:
        """Whether a person is looking."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PHOTO",
        help="picture files, folders, patterns in quotes, or data URIs",
    )
    given = parser.add_argument_group("classes (put together where several are given)")
    given.add_argument(
        "--classes",
        metavar="NAMES",
        help="names with commas between them, or a published list: imagenet, cifar100, food101, "
        "world, ...; if no class is given at all, ochre-clip takes world",
    )
    given.add_argument(
        "--classes-file",
        metavar="FILE",
        help="one name per line, or JSON: a list of names or of synonyms",
    )
    given.add_argument(
        "--describe", metavar="FILE", help='JSON such as {"cat": ["a small animal that purrs"]}'
    )
    given.add_argument(
        "--examples", metavar="DIR", help="example pictures, in one subfolder for each class"
    )
    given.add_argument(
        "--use-classes", metavar="FILE", help="classes encoded before, by --save-classes"
    )
    given.add_argument("--save-classes", metavar="FILE", help="keep the encoded classes")
    given.add_argument(
        "--learn-from",
        metavar="DIR",
        help="labelled pictures, in one subfolder for each class and one named none: learns when "
        "the answer is none of these, and what probability a cosine means",
    )
    out = parser.add_argument_group("output (a table if none is chosen)")
    form = out.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON list")
    form.add_argument("--jsonl", action="store_true", help="one JSON object per picture and line")
    form.add_argument("--csv", action="store_true", help="one line for each class that is listed")
    out.add_argument("--out", metavar="FILE", help="write there instead of to the terminal")
    out.add_argument("--sheet", metavar="PNG", help="draw an annotated contact sheet as well")
    add_flags(parser.add_argument_group("options"), ClassifyOptions)


def run(arguments: argparse.Namespace) -> int:
    """Classify, write, and give the exit code: 1 if a picture could not be read."""
    options = options_from(arguments, ClassifyOptions)
    _refuse_nonsense(arguments, options)
    sources = _sources(arguments.pictures, options.recursive)
    with progress(shown=True) as show:
        classifier = _classifier(arguments, options, show)
        if arguments.learn_from:
            _learn(classifier, arguments.learn_from)
        if arguments.save_classes:
            classifier.save(arguments.save_classes)
    cards: list[SheetEntry] = []
    failed: list[Failed] = []

    def results() -> Iterator[Classified | Failed]:
        found = classifier.classify_many(sources, top_k=options.top, scores=options.scores)
        for done, (source, result) in enumerate(zip(sources, found, strict=True), 1):
            if isinstance(result, Failed):
                failed.append(result)
            if arguments.sheet and done <= SHEET_LIMIT:
                cards.append(_card(source, result))
            show("pictures", done, len(sources))
            yield result

    # On a terminal the results are themselves the progress.
    with (
        progress(shown=bool(arguments.out) or not sys.stdout.isatty()) as show,
        _opened(arguments.out) as stream,
    ):
        _write(results(), arguments, classifier, stream)
    if arguments.sheet:
        draw_sheet(cards, arguments.sheet, len(sources))
    if failed:
        say(f"{len(failed)} of {len(sources)} pictures could not be read")
    for written in (arguments.out, arguments.save_classes):
        if written:
            say(f"wrote {written}")
    return 1 if failed else 0


def _refuse_nonsense(arguments: argparse.Namespace, options: ClassifyOptions) -> None:
    given = [
        flag
        for flag in ("classes", "classes_file", "describe", "examples")
        if getattr(arguments, flag) is not None
    ]
    require_file("out", arguments.out)
    require_file("save-classes", arguments.save_classes)
    require_sheet(arguments.sheet)
    if arguments.classes is not None and not arguments.classes.replace(",", " ").strip():
        raise WrongUse("--classes is empty; expected names with commas between them")
    if arguments.use_classes and (given or options.templates):
        flag = (given or ["templates"])[0].replace("_", "-")
        raise WrongUse(f"--use-classes brings encoded classes, so --{flag} cannot be given too")
    if not given and not arguments.use_classes and options.model != "ochre-clip":
        raise WrongUse(
            "which classes? give --classes 'cat, dog, fire truck', or a published list such as "
            "--classes imagenet, or --classes-file, --describe, --examples or --use-classes"
        )


def _classifier(arguments: argparse.Namespace, options: ClassifyOptions, show: Any) -> "Classifier":
    from lascaux.tasks.classify import Classifier

    if arguments.use_classes:
        # The file names its model; --model is for one that has moved.
        moved = options.model != ClassifyOptions().model
        return Classifier.load(
            arguments.use_classes,
            options.model if moved else None,
            reading=options.reading,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
        )
    return Classifier.from_options(_classes(arguments), options, show)


def _classes(arguments: argparse.Namespace) -> "tuple[ClassEvidence, ...]":
    """All that the flags say of classes; the embedded world's where they say nothing."""
    from lascaux.tasks.evidence import (
        classes_file,
        descriptions_file,
        examples_folder,
        merged,
        named_classes,
    )

    found = []
    if arguments.classes is not None:
        found.append(tuple(named_classes(arguments.classes)))
    if arguments.classes_file is not None:
        found.append(classes_file(arguments.classes_file))
    if arguments.describe is not None:
        found.append(descriptions_file(arguments.describe))
    if arguments.examples is not None:
        found.append(examples_folder(arguments.examples))
    return merged(*found) if found else tuple(named_classes("world"))


def _learn(classifier: "Classifier", folder: str) -> None:
    """Learn the threshold, and the calibration, from subfolders named after classes or `none`.

    Pictures that cannot be read are left out with a warning.
    """
    from lascaux.tasks.evidence import examples_folder

    pictures: list[Any] = []
    labels: list[str | None] = []
    for entry in examples_folder(folder):
        known = entry.name if entry.name in classifier.names else entry.prompted[0]
        readable = [picture for picture in entry.pictures if _readable(picture)]
        pictures += readable
        labels += [None if entry.name == "none" else known] * len(readable)
    classifier.calibrate(pictures, labels)
    if None in labels:
        classifier.learn_threshold(pictures, labels)


def _readable(picture: Path) -> bool:
    from lascaux.errors import BadPicture
    from lascaux.images.decode import read_picture

    try:
        read_picture(picture)
    except BadPicture as error:
        warnings.warn(f"a picture to learn from is left out: {picture}: {error}", stacklevel=3)
        return False
    return True


def _sources(given: list[str], recursive: bool) -> list[Any]:
    from lascaux.errors import BadInput
    from lascaux.tasks.pictures import expanded, is_folder

    sources = [found for each in given for found in expanded(each, recursive=recursive)]
    if all(map(is_folder, sources)):
        advice = "" if recursive else "; add --recursive to look into subfolders"
        raise BadInput(f"no pictures in {', '.join(given)}{advice}")
    return sources


def _write(
    results: Iterable[Classified | Failed],
    arguments: argparse.Namespace,
    classifier: "Classifier",
    stream: Stream,
) -> None:
    if arguments.json:
        json.dump([as_json(result) for result in results], stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    elif arguments.jsonl:
        for result in results:
            stream.write(json.dumps(as_json(result), ensure_ascii=False) + "\n")
            stream.flush()
    elif arguments.csv:
        _write_csv(results, stream)
    else:
        repeated = [name for name, count in Counter(classifier.names).items() if count > 1]
        plain = not _takes(stream, "█")
        width = shutil.get_terminal_size().columns if stream.isatty() else 80
        room = max(map(text_width, classifier.names))
        for place, result in enumerate(results):
            text = ranking(result, repeated=repeated, room=room, width=max(width, 40), plain=plain)
            stream.write(text if not place else f"\n{text}")
            stream.flush()


def _write_csv(results: Iterable[Classified | Failed], stream: Stream) -> None:
    """Columns: source, rank (from 1; 0 where there is no ranking), index, name, score, note."""
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(("source", "rank", "index", "name", "score", "scores", "note"))
    for result in results:
        if isinstance(result, Failed):
            rows.writerow((result.source, 0, "", "", "", "", f"not read: {result.reason}"))
            continue
        note = "none of these" if result.none_of_these else ""
        for rank, label in enumerate(result.labels, 1):
            score = f"{label.score:.6g}"
            row = (result.source, rank, label.index, label.name, score, result.scores, note)
            rows.writerow(row)


def _card(source: Any, result: Classified | Failed) -> "SheetEntry":
    from lascaux.images.decode import read_picture
    from lascaux.images.sheet import SheetEntry

    title = result.source.replace("\\", "/").rsplit("/", 1)[-1]
    if isinstance(result, Failed):
        return SheetEntry(None, title, (), note=result.reason)
    picture = read_picture(source)
    picture.thumbnail((512, 512))
    bars = tuple((label.name, label.score) for label in result.labels)
    notes = ["none of these"] * result.none_of_these + ["cosines"] * (result.scores == "cosine")
    return SheetEntry(picture, title, bars, note=", ".join(notes))


@contextmanager
def _opened(path: str | None) -> Iterator[Stream]:
    """The terminal, or a file that appears when all is written."""
    if path is None:
        yield sys.stdout
        return
    from lascaux.tasks.aside import written_aside

    with (
        written_aside(path) as part,
        part.open("w", encoding="utf-8", newline="") as stream,
    ):
        yield stream


def _takes(stream: Stream, text: str) -> bool:
    """Whether the stream can show a text as it is."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
