"""Embeddings of pictures and texts, as every task that compares them needs them."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from lascaux.errors import BadInput, BadPicture
from lascaux.images.preprocess import Preprocessing, normalise, square_pixels
from lascaux.models.clip import Clip

TooLong = Literal["truncate", "error", "average"]
Reading = Literal["photo", "official"]

# Texts encoded at once. Neighbours share beginnings, which are computed once: more texts share
# more, and need more memory (about 100 MB at these sizes).
TEXT_BATCH = 2048


def stream_features(
    model: Clip,
    pictures: Iterable[Any],
    reading: Reading,
    *,
    batch_size: int = 32,
    workers: int | None = None,
) -> Iterator[tuple[Any, Float[Tensor, " e"] | BadPicture]]:
    """Every picture with its unit embedding (float32, on the CPU), or why it could not be read.

    In the order given. While the model works on one batch, threads decode and resize the next;
    at most two batches are taken from `pictures` before the first answer is given.

    Args:
        model: whose image tower is used.
        pictures: anything that `read_picture` takes, or is refused by it.
        reading: how files are read.
        batch_size: pictures the model takes at once.
        workers: threads that decode; by default one for each processor, at most 8.
    """
    how = replace(model.config.preprocessing, reading=reading)
    queue = iter(pictures)
    waiting: deque[tuple[Any, Future[Tensor]]] = deque()
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), "decode")

    try:
        while True:
            for picture in islice(queue, 2 * batch_size - len(waiting)):
                waiting.append((picture, pool.submit(square_pixels, picture, how)))
            if not (batch := [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]):
                return
            squares: list[Tensor] = []
            found: list[tuple[Any, BadPicture | None]] = []
            for picture, square in batch:
                try:
                    squares.append(square.result())
                except BadPicture as error:
                    found.append((picture, error))
                else:
                    found.append((picture, None))
            rows = iter(_encode_squares(model, squares, how))
            for picture, error in found:
                yield picture, error or next(rows)
    finally:
        pool.shutdown(cancel_futures=True)


def image_features(
    model: Clip, pictures: Sequence[Any], reading: Reading
) -> tuple[Float[Tensor, "b e"], list[tuple[int, BadPicture]]]:
    """Unit embeddings (float32, on the CPU) of the pictures that could be read, and the others."""
    how = replace(model.config.preprocessing, reading=reading)
    squares: list[Tensor] = []
    failures: list[tuple[int, BadPicture]] = []
    for index, picture in enumerate(pictures):
        try:
            squares.append(square_pixels(picture, how))
        except BadPicture as error:
            failures.append((index, error))
    return _encode_squares(model, squares, how), failures


def text_features(
    model: Clip, texts: Sequence[str], too_long: TooLong = "truncate"
) -> Float[Tensor, "b e"]:
    """Unit embeddings (float32, on the CPU) of texts; `average` is over the chunks of a text.

    Raises:
        BadInput: the model has no tokenizer.
        BadText: a text is too long and `too_long` is "error".
    """
    if (tokenizer := model.tokenizer) is None:
        raise BadInput(
            "this model has no tokenizer, so no text can be encoded; set model.tokenizer to a "
            "ClipTokenizer (`lascaux convert` writes one beside the weights)"
        )
    length = model.config.context_length
    if too_long != "average":
        return _encode_ids(model, tokenizer(texts, too_long=too_long, context_length=length))
    chunks = [tokenizer.encode_chunks(text, context_length=length) for text in texts]
    rows = torch.tensor([row for text in chunks for row in text])
    owners = torch.tensor([place for place, text in enumerate(chunks) for _ in text])
    sums = torch.zeros(len(texts), model.config.embed_width)
    return F.normalize(sums.index_add_(0, owners, _encode_ids(model, rows)), dim=-1)


def _encode_squares(
    model: Clip, squares: list[UInt8[Tensor, "3 y x"]], how: Preprocessing
) -> Float[Tensor, "b e"]:
    if not squares:
        return torch.zeros(0, model.config.embed_width)
    x = torch.stack(squares).to(model.device).float() / 255
    with _evaluating(model):
        x = normalise(x, how.mean, how.std).to(model.dtype)
        return F.normalize(model.encode_image(x).float(), dim=-1).cpu()


def _encode_ids(model: Clip, ids: Tensor) -> Float[Tensor, "b e"]:
    with _evaluating(model):
        batches = [
            F.normalize(model.encode_text(batch.to(model.device)).float(), dim=-1).cpu()
            for batch in ids.split(TEXT_BATCH)
        ]
    return torch.cat(batches)


@contextmanager
def _evaluating(model: Clip) -> Iterator[None]:
    """Without gradients, and with batch norm as it is used, whatever state the model is in."""
    training = model.training
    try:
        if training:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()
