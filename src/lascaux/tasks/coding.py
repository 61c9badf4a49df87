"""Stage two of Styled VAE-VQ from the command line: a model, pictures, and out comes a codebook.

Features of the pictures are written first, in shards; then k-means goes on them. Both are kept in a
folder beside the model that is to be, and both go on where they were killed; it is removed when the
model is written.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lascaux.data.prepared import PreparedFeatures
from lascaux.data.records import Source
from lascaux.errors import BadInput, Unsupported
from lascaux.models.styled_vq import StyledVq
from lascaux.tasks.answerers import Answerer
from lascaux.tasks.codebook import (
    CodebookOptions,
    make_codebook,
    mean_features,
    read_features,
    write_features,
)
from lascaux.tasks.options import MakeCodebookOptions, PrepareOptions
from lascaux.tasks.prepare import prepare
from lascaux.tasks.results import Failed
from lascaux.tasks.resumable import Progress
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.load import load, save

_AT_ONCE = 256  # records copied together


@dataclass(frozen=True)
class Coded:
    """A model with a codebook that was written."""

    out: str
    model: str
    codes: int
    used: int  # codes that at least one feature has
    perplexity: float
    distortion: float  # mean squared distance to the codes; of unit vectors for cosines
    rounds: int
    records: int
    features: int
    skipped: tuple[Failed, ...]  # records that are broken, and not in it


def make_codes(
    source: Source, out: str | Path, options: MakeCodebookOptions, progress: Progress | None = None
) -> Coded:
    """Give a Styled VAE-VQ a codebook made from a source's features, and write it to a folder.

    Args:
        source: of the pictures.
        out: folder of the model; the work lies in the folder `<out>.work` until it is done.
        options: which model, how many codes, and how they are made.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        BadInput: the folder exists, fewer features than codes, or the work was begun otherwise.
        Unsupported: the model is none whose codes k-means makes.
        WeightsError: it cannot be found or loaded.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir() if out.is_dir() else (out,)):
        raise BadInput(f"{out} is there already; name a folder that is not, or remove it")
    model = load(options.model, device=options.device, dtype=options.dtype)
    if not isinstance(model, StyledVq):
        raise Unsupported(
            f"{options.model} is a {type(model).__name__}; k-means makes the codes of a Styled "
            "VAE-VQ"
        )
    if model.config.levels:
        raise Unsupported(f"{options.model} rounds numbers to levels: it takes no codebook")
    work = out.with_name(f"{out.name}.work")
    reading = PrepareOptions(
        model=options.model,
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    written = prepare(source, work / "features", _latents(model, options.model), reading, progress)
    features = _joined(work, model, written.records)
    how = CodebookOptions(
        codes=options.codes,
        rounds=options.rounds,
        restarts=options.restarts,
        start=options.start,
        distance=model.config.distance,
        seed=options.seed,
    )

    def report(figures: dict[str, float | int]) -> None:
        if progress is not None:
            done = figures["start"] * how.rounds + figures["round"]
            progress("rounds", int(done), how.restarts * how.rounds)

    made = make_codebook(features, work / "codebook", how, device=options.device, report=report)
    assert made is not None
    model.adopt(made.centres, mean=mean_features(features))
    save(model, out, card=_CARD.format(codes=options.codes, records=written.records))
    shutil.rmtree(work)
    return Coded(
        out=str(out),
        model=options.model,
        codes=options.codes,
        used=made.used,
        perplexity=made.perplexity,
        distortion=made.distortion,
        rounds=made.rounds,
        records=written.records,
        features=made.features,
        skipped=written.skipped,
    )


def _latents(model: StyledVq, name: str) -> Answerer:
    """What is quantised of pictures, all attributes in one row."""

    @torch.inference_mode()
    def answers(pixels: UInt8[Tensor, "b 3 y x"]) -> Float[Tensor, "b n"]:
        x = model.normalise(pixels.to(model.device).float() / 255)
        return model.eval().features(x).flatten(1).float().cpu()

    return Answerer(
        name=name,
        weights=weights_hash(model),
        kind="embedding",
        preprocessing=replace(model.config.preprocessing, reading="photo"),
        answers=answers,
        dtype=model.dtype,
        device=model.device.type,
    )


def _joined(work: Path, model: StyledVq, count: int) -> Float[Tensor, "p n d"]:
    """The features of all shards in one file, which is mapped."""
    path = work / "features.npy"
    if not path.is_file():
        shards = PreparedFeatures(work / "features")

        def parts() -> Iterator[Tensor]:
            for first in range(0, count, _AT_ONCE):
                last = min(first + _AT_ONCE, count)
                yield torch.stack([shards.features(index) for index in range(first, last)])

        shape = (model.length, model.config.latent_width)
        write_features(lambda rows: rows.unflatten(1, shape), parts(), count, path)
    return read_features(path)


_CARD = """\
---
library_name: lascaux
tags:
- styled-vq
---

# A Styled VAE-VQ with {codes} codes

The codes were made by k-means from the features of {records} pictures.
"""
