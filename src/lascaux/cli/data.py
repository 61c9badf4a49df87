"""`lascaux data`: look through sets of pictures, pack and prepare them for training."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lascaux.cli.flags import HelpPages, WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.tasks.options import CheckOptions, PackOptions, PrepareOptions, SourceOptions

_EXAMPLES = """\
examples:
  lascaux data info annotations/captions_val2017.json
  lascaux data check photos/
  lascaux data pack 'train-{000..012}.tar' packed/ --size 256
  lascaux data prepare photos/ prepared/ --model ViT-B/32 --views 8

SOURCE is a folder of pictures, with class folders or with name.txt beside
name.jpg; a CSV, TSV, JSONL or Parquet table; COCO's captions; WebDataset tars; or
what `lascaux data pack` wrote. `info` and `check` also read what `prepare` wrote.
"""
_OPTIONS = {"check": CheckOptions, "pack": PackOptions, "prepare": PrepareOptions}
_SHOWN = 3  # examples of each finding
_COMMANDS = {
    "info": "tell what a source of records is, and what it holds",
    "check": "find broken, repeated, tiny and unusual pictures; exit 1 if one is broken",
    "pack": "write Parquet files that are read at random; goes on where it was killed",
    "prepare": "write what a frozen model answers, once for all epochs; goes on where it was "
    "killed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of each command below this verb."""
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, about in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            formatter_class=HelpPages,
            allow_abbrev=False,
        )
        command.add_argument("source", metavar="SOURCE", help="folder, file or pattern in quotes")
        if name in ("pack", "prepare"):
            command.add_argument("out", metavar="OUT", help="folder to write")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        if name in _OPTIONS:
            add_flags(command.add_argument_group("options"), _OPTIONS[name])
        add_flags(command.add_argument_group("how the source is read"), SourceOptions)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command says, and give the exit code: 1 if a record is broken."""
    if not arguments.command:
        raise WrongUse(f"name a command: {', '.join(_COMMANDS)}")
    reading = options_from(arguments, SourceOptions)
    do = {"info": _info, "check": _check, "pack": _pack, "prepare": _prepare}
    return do[arguments.command](arguments, reading)


def _info(arguments: argparse.Namespace, reading: SourceOptions) -> int:
    source = opened_source(arguments.source, reading)
    captions = [source.captions(index) for index in range(len(source))]
    labels = Counter(source.label(index) for index in range(len(source)))
    told = {
        "source": str(source.path),
        "kind": source.kind,
        "records": len(source),
        "with_captions": sum(map(bool, captions)),
        "captions": sum(map(len, captions)),
        "classes": {name: labels[place] for place, name in enumerate(source.classes)},
        "without_class": labels[None] if source.classes else 0,
        "first": {"key": source.key(0), "captions": list(captions[0])},
        "notes": list(source.notes),
    }
    if source.kind == "prepared":
        told["prepared"] = _prepared(source)
    if arguments.json:
        _print_json(told)
        return 0
    lines = [
        ("source", told["source"]),
        ("kind", source.kind),
        ("records", f"{len(source):,}"),
        ("captions", f"{told['captions']:,} of {told['with_captions']:,} records"),
        ("classes", _classes(told["classes"])),
        ("first", "; ".join((told["first"]["key"], *captions[0]))),
        *_feature_lines(told.get("prepared")),
        *(("note", note) for note in source.notes),
    ]
    for name, text in lines:
        if text:
            print(f"{name:<10} {text}")
    return 0


def _prepared(source: Any) -> dict[str, Any]:
    """What a folder of features tells of itself, and its size."""
    told = {k: v for k, v in source.manifest.items() if k not in ("shards", "finished", "classes")}
    shards = source.manifest["shards"]
    told["files"] = sum(bool(shard["file"]) for shard in shards)
    told["bytes"] = sum(shard["bytes"] for shard in shards)
    told["skipped"] = [one for shard in shards for one in shard["skipped"]]
    return told


def _feature_lines(told: dict[str, Any] | None) -> list[tuple[str, str]]:
    if told is None:
        return []
    settings, length = told["settings"], told["shape"][0]
    if told["kind"] == "tokens":
        where = " x ".join(map(str, told["grid"])) if told["grid"] else length
        form = f"{where} tokens of {told['codes']:,} codes, {told['dtype']}"
    else:
        form = f"embeddings of {length} numbers, {told['dtype']}"
    how = settings["augmentation"]
    views = f"{settings['views']}"
    if how is not None:
        low, high = how["area"]
        views += f": as it is, and cut-outs of {low:g} to {high:g} of the picture"
        views += f", mirrored by a chance of {how['flip']:g}, seed {settings['seed']}"
    return [
        ("features", form),
        ("views", views),
        ("model", f"{told['model'] or 'unnamed'}, weights {told['weights'][:12]}"),
        ("prepared", f"from {told['source']} ({told['source_kind']})"),
        ("size", f"{told['bytes'] / 1e6:,.1f} MB in {_files(told['files'])}"),
    ]


def _check(arguments: argparse.Namespace, reading: SourceOptions) -> int:
    options = options_from(arguments, CheckOptions)
    from lascaux.tasks.check import check

    source = opened_source(arguments.source, reading, absent="keep")
    if source.kind == "prepared":
        return _check_files(source, as_object=arguments.json)
    with progress() as show:
        found = check(source, options, show)
    if arguments.json:
        from dataclasses import asdict

        _print_json(asdict(found))
        return 0 if found.fine else 1
    print(f"{found.source}: {found.kind}, {found.records:,} records")
    rows = [
        ("broken", [f"{one.key}: {one.reason}" for one in found.broken]),
        ("absent files", found.absent),
        ("same bytes", [" = ".join(group) for group in found.duplicates]),
        ("look alike", [" ~ ".join(group) for group in found.near_duplicates]),
        ("tiny", [f"{one.key}: {one.reason}" for one in found.tiny]),
        ("extreme aspect", [f"{one.key}: {one.reason}" for one in found.extreme]),
        ("wrong suffix", [f"{one.key}: {one.reason}" for one in found.wrong_suffix]),
        ("without captions", found.without_captions),
        ("texts alone", found.texts_without_picture),
    ]
    for name, examples in rows:
        if examples:
            print(f"  {name:<18}{len(examples):>9,}")
            for example in examples[:_SHOWN]:
                print(f"    {example}")
            if len(examples) > _SHOWN:
                print("    ...")
    if not any(examples for _, examples in rows):
        print("  nothing to remark")
    return 0 if found.fine else 1


def _pack(arguments: argparse.Namespace, reading: SourceOptions) -> int:
    options = options_from(arguments, PackOptions)
    from lascaux.tasks.pack import pack

    source = _with_pictures(opened_source(arguments.source, reading, absent="keep"))
    with progress() as show:
        done = pack(source, arguments.out, options, show)
    return _report(done, as_object=arguments.json)


def _prepare(arguments: argparse.Namespace, reading: SourceOptions) -> int:
    options = options_from(arguments, PrepareOptions)
    from lascaux.tasks.prepare import prepare

    source = _with_pictures(opened_source(arguments.source, reading, absent="keep"))
    with progress() as show:
        done = prepare(source, arguments.out, None, options, show)
    return _report(done, as_object=arguments.json)


def _check_files(source: Any, *, as_object: bool) -> int:
    """There are no pictures to look at: whether the files are those that were written."""
    damaged = source.damaged()
    if as_object:
        told = {"source": str(source.path), "kind": source.kind, "records": len(source)}
        _print_json({**told, "damaged": damaged})
    else:
        print(f"{source.path}: {source.kind}, {len(source):,} records")
        print(f"  damaged files: {', '.join(damaged)}" if damaged else "  nothing to remark")
    return 1 if damaged else 0


def _report(done: Any, *, as_object: bool) -> int:
    """Tell of a folder that was filled."""
    if as_object:
        from dataclasses import asdict

        _print_json(asdict(done))
    for one in done.skipped[:_SHOWN]:
        say(f"left out: {one.source}: {one.reason}")
    if len(done.skipped) > _SHOWN:
        say(f"left out: {len(done.skipped):,} in all; {done.out}/manifest.json lists them")
    say(
        f"wrote {done.out}: {done.records:,} records in {_files(done.shards)}, "
        f"{done.bytes / 1e6:,.1f} MB"
        + (f", {done.shards - done.written} from before" if done.shards > done.written else "")
    )
    return 1 if done.skipped else 0


def _files(count: int) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}"


def opened_source(path: str, reading: SourceOptions, *, absent: str = "refuse") -> Any:
    """The source at a path, read as flags say; indices of tars are kept in the cache.

    Raises:
        WrongUse: there is no such layout.
        BadInput: nothing that can be read as records.
    """
    from lascaux.data.sources import KINDS, open_source
    from lascaux.weights.download import cache_folder

    if reading.kind is not None and reading.kind not in KINDS:
        raise WrongUse(f"--kind {reading.kind}: expected one of {', '.join(KINDS)}")
    return open_source(
        Path(path),
        reading.kind,  # pyright: ignore[reportArgumentType]
        pictures=reading.pictures,
        picture_column=reading.picture_column,
        caption_column=reading.caption_column,
        absent=absent,  # pyright: ignore[reportArgumentType]
        index_folder=cache_folder() / "indexes",
    )


def _with_pictures(source: Any) -> Any:
    from lascaux.errors import BadInput

    if source.kind == "prepared":
        raise BadInput(
            f"{source.path} holds features and no pictures; name what it was prepared from, "
            f"{source.prepared_from}"
        )
    return source


def _classes(counts: dict[str, int]) -> str:
    names: Sequence[str] = [f"{name} ({count:,})" for name, count in list(counts.items())[:5]]
    return ", ".join((f"{len(counts):,}: {names[0]}", *names[1:])) if names else ""


def _print_json(content: Any) -> None:
    import json

    print(json.dumps(content, ensure_ascii=False, indent=1))
