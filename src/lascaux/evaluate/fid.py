"""How far two sets of pictures are apart: FID, and the same distance of other models' features.

    lascaux evaluate fid photographs/ generated/
    lascaux evaluate fid statistics.npz generated/               published or kept statistics
    lascaux evaluate fid drawn/ generated/ --model ochre-clip    no FID, but without network

What is called FID is of Inception's last features with TensorFlow's weights of 2015, as
mseitzer/pytorch-fid ported them (Heusel et al. 2017, arXiv:1706.08500); of another model, or of
other features, it is called a Fréchet distance of these.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lascaux.data.records import Source
from lascaux.data.sources import open_source
from lascaux.errors import BadInput
from lascaux.evaluate.extractors import FID, LAST, Extractor, extractor, feature_batches
from lascaux.evaluate.frechet import (
    SUFFIXES,
    RunningStatistics,
    Statistics,
    frechet_distance,
    read_statistics,
    suffix_of,
    write_statistics,
)
from lascaux.evaluate.report import Figure, Report
from lascaux.tasks.features import Reading

Progress = Callable[[str, int, int], None]
Data = str | Path | Source | Statistics

_SAME = ("weights", "features", "preparing")  # of both sides; else they cannot be compared
_UNTOLD = "not told"


def evaluate(
    first: Data,
    second: Data,
    model: str | Path | Any = "inception-fid",
    *,
    block: int = LAST,
    size: int | None = None,
    reading: Reading = "official",
    statistics: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Report:
    """The Fréchet distance of two sets of pictures, with warnings of what makes it mean little.

    Pictures that cannot be read are left out and listed. Where both sides are statistics, no model
    is loaded.

    Args:
        first: where pictures lie (`open_source` says what is read), a file of statistics
            (.safetensors or .npz), or either of them opened.
        second: likewise.
        model: a name, folder or hub id, or a model: an Inception, or any that has `encode_image`.
        block: Inception's output, 0 to 3, of 64, 192, 768 or 2048 features; the last makes FID.
        size: pixels of a square that every picture is brought to first, by Pillow's bilinear
            filter; AR-LDM measures at 64. None: as they are.
        reading: how files are read; "official" is Pillow's own turn to RGB, as pytorch-fid reads.
        statistics: a file that keeps the first side's statistics: written where it is not there,
            else read in place of the pictures, if it is of the same pictures, made alike.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.
        batch_size: pictures at once.
        progress: called with what is encoded, how many are done, and of how many.

    Raises:
        BadInput: data, files or options that cannot be used, or fewer than two pictures.
        Unsupported: the model makes no features of pictures.
        WeightsError: the model cannot be found or loaded.
    """
    if batch_size < 1:
        raise BadInput(f"batch_size {batch_size}; expected 1 or more")
    names = [_name(first), _name(second)]
    sides = [_opened(first), _opened(second)]
    kept = _place(statistics, sides[0])
    how = None
    if any(isinstance(side, Source) for side in sides):
        how = extractor(model, block=block, size=size, reading=reading, device=device, dtype=dtype)
    found: list[Statistics] = []
    failures: list[dict[str, str]] = []
    for place, side in enumerate(sides):
        if isinstance(side, Source):
            assert how is not None
            say = _stage(progress, names[place])
            side, unread = _measured(side, how, batch_size, None if place else kept, say)
            failures += [{"source": key, "reason": reason} for key, reason in unread.items()]
        found.append(side)
    about = _agreed([how.about if how else {}, *(each.about for each in found)], names)
    called = about.get("called", "Fréchet distance of the statistics given")
    return Report(
        "fid" if called == FID else "frechet",
        about.get("model", _UNTOLD),
        about.get("weights", ""),
        _settings(found, names, about) | {"batch_size": batch_size},
        (_figure(called, found),),
        details={"warnings": _warnings(found, names, about), "failures": failures},
    )


def statistics_of(
    source: Source,
    how: Extractor,
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Statistics, dict[str, str]]:
    """Mean and covariance of a set's features, and why some could not be read, by key.

    Raises:
        BadInput: fewer than two pictures can be read, or a feature is not finite.
    """
    running, failures, done = RunningStatistics(how.width), {}, 0
    for features, unread, count in feature_batches(source, how, batch_size):
        if features is not None:
            running.add(features)
        failures |= unread
        done += count
        if progress is not None:
            progress(done, len(source))
    if running.count < 2:
        first = f"; the first that cannot: {next(iter(failures.items()))}" if failures else ""
        raise BadInput(
            f"{running.count} of {len(source)} pictures of {source.path} can be read; a covariance "
            f"needs two at least{first}"
        )
    about = how.about | {"data": source.fingerprint, "data_name": Path(source.path).name}
    return running.statistics(about), failures


def _measured(
    source: Source,
    how: Extractor,
    batch_size: int,
    kept: Path | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Statistics, dict[str, str]]:
    """Statistics of pictures, from the file that keeps them if it is there."""
    if kept is not None and kept.exists():
        found = read_statistics(kept)
        expected = how.about | {"data": source.fingerprint}
        keys = ("data", *_SAME, "dtype")
        if wrong := [key for key in keys if found.about.get(key) != expected[key]]:
            raise BadInput(
                f"{kept} holds statistics of another run (other {', '.join(wrong)}); name another "
                "file, or remove it"
            )
        return found, {}
    found, failures = statistics_of(source, how, batch_size=batch_size, progress=progress)
    if kept is not None and not failures:  # what could not be read may be readable the next time
        write_statistics(found, kept)
    return found, failures


def _opened(given: Data) -> Source | Statistics:
    if isinstance(given, Source | Statistics):
        return given
    path = Path(given).expanduser()
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return read_statistics(path)
    return open_source(path)


def _name(given: Data) -> str:
    if isinstance(given, Statistics):
        return given.about.get("data_name", "statistics")
    return str(given.path if isinstance(given, Source) else given)


def _place(statistics: str | Path | None, first: Source | Statistics) -> Path | None:
    """Where the first side's statistics are kept."""
    if statistics is None:
        return None
    path = Path(statistics).expanduser()
    if isinstance(first, Statistics):
        raise BadInput(f"{path} is to keep statistics, and the first side is statistics already")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if suffix_of(path) == ".npz" and path.exists():
        raise BadInput(
            f"{path} is there, and a .npz does not tell of which pictures it is: give it in place "
            "of the pictures, or name another file"
        )
    return path


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _agreed(told: Sequence[Mapping[str, str]], names: list[str]) -> dict[str, str]:
    """What is known of the features on both sides.

    Raises:
        BadInput: they were not made alike.
    """
    known = [each for each in told if "weights" in each]
    for key in _SAME:
        values = {each.get(key, _UNTOLD) for each in known}
        if len(values) > 1:
            raise BadInput(
                f"{names[0]} and {names[1]} cannot be compared: of their features {key} is "
                f"{' and '.join(sorted(values))}; make both with one model and the same options"
            )
    return dict(known[0]) if known else {}


def _settings(found: list[Statistics], names: list[str], about: dict[str, str]) -> dict[str, Any]:
    sides = [
        {"name": name, "pictures": each.count, "fingerprint": each.about.get("data")}
        for each, name in zip(found, names, strict=True)
    ]
    return {
        "first": sides[0],
        "second": sides[1],
        "width": len(found[0].mean),
        **{key: about.get(key, _UNTOLD) for key in ("features", "preparing", "dtype", "device")},
        "threads": torch.get_num_threads(),
    }


def _figure(called: str, found: list[Statistics]) -> Figure:
    counts = [each.count for each in found]
    first, second = ("unknown" if count is None else str(count) for count in counts)
    least = min((count for count in counts if count is not None), default=0)
    note = f"pictures: {first} and {second}"
    return Figure(called, frechet_distance(*found), least, unit="", note=note)


def _warnings(found: list[Statistics], names: list[str], about: dict[str, str]) -> list[str]:
    said = [
        f"{name}: {each.count} pictures for {len(each.mean)} features, so that the covariance has "
        "not its full rank; the distance depends on how many pictures there are: take more, or "
        "compare it only with distances of as many"
        for each, name in zip(found, names, strict=True)
        if each.count is not None and each.count <= len(each.mean)
    ]
    of = f"; they are taken as {about['model']}'s, prepared alike" if about else ""
    said += [
        f"{name} does not tell of which model and how many pictures its statistics are{of}"
        for each, name in zip(found, names, strict=True)
        if "weights" not in each.about
    ]
    return said
