"""Embeddings of pictures and texts, as every task that compares them needs them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput, BadPicture, Unsupported
from lascaux.images.preprocess import Preprocessing, normalise, pixels, square_pixels
from lascaux.models.clip import Clip

TooLong = Literal["truncate", "error", "average"]
Reading = Literal["photo", "official"]

# Texts encoded at once. Neighbours share beginnings, which are computed once: more texts share
# more, and need more memory (about 100 MB at these sizes).
TEXT_BATCH = 2048


def load_clip(
    model: str | Path | Clip, device: str | torch.device, dtype: str | torch.dtype
) -> Clip:
    """The model of that name, on that device and in that dtype; a CLIP is given back as it is.

    Raises:
        Unsupported: it is not a CLIP.
        WeightsError: it cannot be found or loaded.
    """
    if isinstance(model, Clip):
        return model
    from lascaux.weights.load import load

    found = load(model, device=device, dtype=dtype)
    if not isinstance(found, Clip):
        raise Unsupported(f"{model} is a {type(found).__name__}; what is wanted here is a CLIP")
    return found


def model_name(model: str | Path | Clip) -> str:
    """What a model was asked for by; nothing where it was given itself."""
    return "" if isinstance(model, Clip) else str(model)


def stream_features(
    model: Clip,
    pictures: Iterable[Any],
    reading: Reading,
    *,
    batch_size: int = 32,
    workers: int | None = None,
) -> Iterator[tuple[Any, Float[Tensor, " e"] | BadPicture]]:
    """Every picture with its unit embedding (float32, on the CPU), or why it could not be read.

    In the order given. While the model works on one batch, threads decode and resize the next, if
    these are files, bytes or data URIs; other pictures, which may be the caller's own objects, are
    read when they are taken. At most two batches are taken before the first answer is given.

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
                read = pool.submit if isinstance(picture, str | bytes | Path) else _read_now
                waiting.append((picture, read(square_pixels, picture, how)))
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
            rows: Iterator[Tensor] = iter(())
            if squares:
                rows = iter(encode_pixels(model, torch.stack(squares).float() / 255, how))
            for picture, error in found:
                yield picture, error or next(rows)
    finally:
        pool.shutdown(cancel_futures=True)


def _read_now(
    read: Callable[[Any, Preprocessing], Tensor], picture: Any, how: Preprocessing
) -> Future[Tensor]:
    done: Future[Tensor] = Future()
    try:
        done.set_result(read(picture, how))
    except BadPicture as error:
        done.set_exception(error)
    return done


def image_features(
    model: Clip, pictures: Sequence[Any], reading: Reading
) -> tuple[Float[Tensor, "b e"], list[tuple[int, BadPicture]]]:
    """Unit embeddings (float32, on the CPU) of the pictures that could be read, and the others."""
    how = replace(model.config.preprocessing, reading=reading)
    x, failures = pixels(pictures, how)
    return encode_pixels(model, x, how), failures


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


def encode_pixels(
    model: Clip, x: Float[Tensor, "b 3 y x"], how: Preprocessing
) -> Float[Tensor, "b e"]:
    """Unit embeddings (float32, on the CPU) of prepared pictures in [0, 1], not yet normalised."""
    if not len(x):
        return torch.zeros(0, model.config.embed_width)
    with evaluating(model):
        x = normalise(x.to(model.device), how.mean, how.std).to(model.dtype)
        return F.normalize(model.encode_image(x).float(), dim=-1).cpu()


def _encode_ids(model: Clip, ids: Tensor) -> Float[Tensor, "b e"]:
    with evaluating(model):
        batches = [
            F.normalize(model.encode_text(batch.to(model.device)).float(), dim=-1).cpu()
            for batch in ids.split(TEXT_BATCH)
        ]
    return torch.cat(batches)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
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
