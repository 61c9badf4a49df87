"""Vectors of pictures or texts as a file for other programs: Parquet, or a matrix of numpy."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lascaux.errors import BadInput, BrokenFile, MissingExtra, WrongHash
from lascaux.models.clip import Clip
from lascaux.tasks.aside import written_aside
from lascaux.tasks.features import (
    TEXT_BATCH,
    Reading,
    TooLong,
    load_clip,
    model_name,
    text_features,
)
from lascaux.tasks.ledger import (
    Entry,
    Ledger,
    Origin,
    Writer,
    encode_pictures,
    picture_origin,
    state_of,
)
from lascaux.tasks.pictures import expanded
from lascaux.tasks.prototypes import Progress
from lascaux.tasks.results import Embedded, Failed
from lascaux.weights.fingerprint import weights_hash

FORMAT = "lascaux-vectors-1"
_ROWS = 8192  # of a file written at once


def embed_pictures(
    pictures: Iterable[str | Path],
    out: str | Path,
    model: str | Path | Clip = "ochre-clip",
    *,
    reading: Reading = "photo",
    recursive: bool = False,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Embedded:
    """Write the unit vectors of pictures, in the order given.

    Parquet has the columns `path` (string) and `vector` (fixed_size_list of float32), and in its
    metadata `format`, `model`, `weights` and `preprocessing`. For `name.npy` the matrix (float32,
    `n e`) has a `name.json` beside it with the paths and the same entries. Bytes of a path that are
    no UTF-8 are written as `\\xff`. Pictures that cannot be read are left out.

    What is encoded is kept beside `out` until that is written: interrupted or killed, the same call
    goes on where it was.

    Args:
        pictures: files, folders and patterns.
        out: a name that ends in .parquet or .npy.
        model: a name, folder or hub id, or a CLIP.
        reading: how picture files are read.
        recursive: whether folders are searched with their subfolders.
        device: where to compute; for a model given by name.
        dtype: of the weights; for a model given by name.
        batch_size: pictures encoded at once.
        progress: called with what is encoded, how many are done, and of how many.

    Raises:
        BadInput: no picture, none that can be read, or a file that cannot be written.
        MissingExtra: Parquet without pyarrow.
        WeightsError: the model cannot be found or loaded.
    """
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}; it must be at least 1")
    out = Path(out).expanduser()
    write = _form(out)
    given = [pictures] if isinstance(pictures, str | Path) else pictures
    sources = [str(found) for each in given for found in expanded(each, recursive=recursive)]
    if all(map(os.path.isdir, sources)):
        advice = "" if recursive else "; recursive looks into subfolders too"
        raise BadInput(f"no pictures in {', '.join(sources) or 'an empty list'}{advice}")
    clip, name = load_clip(model, device, dtype), model_name(model)
    origin = picture_origin(clip, name, reading, numbers="float32")
    keys = [os.fsencode(source) for source in sources]
    with _kept(out, origin) as (ledger, writer):
        known = ledger.known()
        states = {
            key: (source, state_of(source)) for key, source in zip(keys, sources, strict=True)
        }
        wanted = {key: found for key, found in states.items() if known.get(key) != found[1]}
        total = len(wanted)
        passing = encode_pictures(
            writer,
            clip,
            wanted,
            reading,
            batch_size=batch_size,
            progress=(lambda n: progress("pictures", n, total)) if progress else lambda _: None,
        )
        lost = dict(ledger.failed()) | dict(passing)
        failed = tuple(Failed(os.fsdecode(k), lost[k]) for k in dict.fromkeys(keys) if k in lost)
        if len(failed) == len(states):
            raise BadInput(
                f"none of the {len(states)} pictures can be read; the first, {failed[0].source}: "
                f"{failed[0].reason}"
            )
        rows = write(out, ledger, [key for key in keys if key not in lost], "path")
        encoded = len(wanted.keys() - lost.keys())
    return Embedded(str(out), rows, origin.width, encoded, name, origin.weights, failed)


def embed_texts(
    texts: Sequence[str],
    out: str | Path,
    model: str | Path | Clip = "ochre-clip",
    *,
    too_long: TooLong = "truncate",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Embedded:
    """Write the unit vectors of texts, in the order given, as they are; see `embed_pictures`.

    The column is called `text` instead of `path`, and `preprocessing` says what was done with texts
    that are too long.

    Raises:
        BadInput: no text, an empty one, or a file that cannot be written.
        BadText: a text is too long and `too_long` is "error".
        MissingExtra: Parquet without pyarrow.
        WeightsError: the model cannot be found or loaded.
    """
    out = Path(out).expanduser()
    write = _form(out)
    texts = [texts] if isinstance(texts, str) else texts
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise BadInput(f"text {place} is {text!r}; expected words, so leave it out")
    if not texts:
        raise BadInput("no text was given; at least one is needed")
    clip, name = load_clip(model, device, dtype), model_name(model)
    origin = Origin(
        model=name,
        weights=weights_hash(clip),
        preprocessing=json.dumps({"too_long": too_long}),
        width=clip.config.embed_width,
        dtype=str(clip.dtype).removeprefix("torch."),
        numbers="float32",
    )
    # Whatever a tokenizer does with half a character, it can be kept.
    keys = [text.encode(errors="surrogatepass") for text in texts]
    with _kept(out, origin) as (ledger, writer):
        known = ledger.known()
        wanted = list(dict.fromkeys(key for key in keys if key not in known))
        queue = iter(wanted)
        done = 0
        while batch := list(islice(queue, TEXT_BATCH)):
            rows = text_features(clip, _texts(batch), too_long).numpy()
            writer.write(Entry(key, (0, 0), row) for key, row in zip(batch, rows, strict=True))
            done += len(batch)
            if progress:
                progress("texts", done, len(wanted))
        count = write(out, ledger, keys, "text")
    return Embedded(str(out), count, origin.width, len(wanted), name, origin.weights, ())


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file without blank ones.

    Raises:
        BadInput: it cannot be read, is not UTF-8, or has no line.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read texts from {path}: {error}") from error
    if not (lines := [line.strip() for line in text.splitlines() if line.strip()]):
        raise BadInput(f"{path} has no text; expected one in each line")
    return lines


@contextmanager
def _kept(out: Path, origin: Origin) -> Iterator[tuple[Ledger, Writer]]:
    """The ledger of this file, which goes away when all is done."""
    place = out.with_name(f".{out.name}.unfinished")
    try:
        ledger = Ledger(place, origin)
    except (BadInput, BrokenFile, WrongHash) as error:
        raise BadInput(
            f"{place} holds what another command did before it was interrupted, and this one "
            f"cannot go on with it ({error}); give that command again, or delete the file"
        ) from error
    with ledger.writing(passing=True) as writer:
        yield ledger, writer


_Write = Callable[[Path, Ledger, list[bytes], str], int]


def _form(out: Path) -> _Write:
    """What writes a file of this name."""
    if out.is_dir() or not out.parent.is_dir():
        raise BadInput(f"cannot write {out}: expected a file in a folder that exists")
    if out.suffix.lower() == ".npy":
        _require_own(out.with_suffix(".json"))
        return _write_npy
    if out.suffix.lower() != ".parquet":
        raise BadInput(f"cannot write {out}: expected a name that ends in .parquet or .npy")
    _pyarrow()
    return _write_parquet


def _require_own(beside: Path) -> None:
    """Refuse to write over a file that is not ours."""
    if not beside.exists():
        return
    try:
        if json.loads(beside.read_text(encoding="utf-8")).get("format") == FORMAT:
            return
    except (OSError, ValueError, AttributeError):
        pass
    raise BadInput(
        f"{beside} would be written beside the matrix, but is there and something else; choose "
        "another name"
    )


def _write_parquet(out: Path, ledger: Ledger, keys: list[bytes], column: str) -> int:
    arrow, parquet = _pyarrow()
    width = ledger.origin.width
    schema = arrow.schema(
        [(column, arrow.string()), ("vector", arrow.list_(arrow.float32(), width))],
        metadata=_metadata(ledger.origin),
    )
    rows = 0
    with written_aside(out) as part, parquet.ParquetWriter(part, schema) as writer:
        for names, block in ledger.vectors(keys, _ROWS):
            vectors = arrow.FixedSizeListArray.from_arrays(
                arrow.array(block.reshape(-1), arrow.float32()), width
            )
            writer.write_table(arrow.table([_names(names), vectors], schema=schema))
            rows += len(names)
    return rows


def _write_npy(out: Path, ledger: Ledger, keys: list[bytes], column: str) -> int:
    names: list[str] = []
    with written_aside(out.with_suffix(".json")) as about, written_aside(out) as part:
        with part.open("wb") as stream:
            shape = {
                "descr": "<f4",
                "fortran_order": False,
                "shape": (len(keys), ledger.origin.width),
            }
            np.lib.format.write_array_header_1_0(stream, shape)
            for block_names, block in ledger.vectors(keys, _ROWS):
                stream.write(block.tobytes())
                names += _names(block_names)
        content: dict[str, Any] = {**_metadata(ledger.origin), f"{column}s": names}
        about.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return len(names)


def _metadata(origin: Origin) -> dict[str, str]:
    about = asdict(origin)
    return {
        "format": FORMAT,
        **{name: about[name] for name in ("model", "weights", "preprocessing", "dtype")},
    }


def _texts(keys: list[bytes]) -> list[str]:
    return [key.decode(errors="surrogatepass") for key in keys]


def _names(keys: list[bytes]) -> list[str]:
    return [key.decode(errors="backslashreplace") for key in keys]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            "Parquet needs pyarrow: pip install 'lascaux[data]', or choose a name that ends in .npy"
        ) from error
    return pyarrow, pyarrow.parquet
