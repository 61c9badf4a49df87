"""A picture that grows, as a GIF or as an MP4."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from lascaux.errors import BadInput, MissingExtra

Kind = Literal["gif", "mp4"]
Add = Callable[[Image.Image], None]

_LAST_SECONDS = 1.5  # for which a GIF shows its last picture before it begins again


def require_kind(kind: Kind) -> None:
    """Check that animations of this kind can be written here.

    Raises:
        MissingExtra: what MP4 needs is not installed.
    """
    if kind == "mp4":
        _ffmpeg()


@contextmanager
def animation(path: str | Path, kind: Kind, fps: float = 15.0) -> Iterator[Add]:
    """A function that adds the next picture; the file is there at the end, unless that fails.

    Args:
        path: of the file.
        kind: of the file, whatever its name.
        fps: pictures a second, above 0. GIFs count in hundredths of a second.

    Raises:
        MissingExtra: what MP4 needs is not installed.
        BadInput: no picture was added.
    """
    if kind == "mp4":
        with _video(Path(path), fps) as add:
            yield add
        return
    frames: list[Image.Image] = []
    # In 256 colours at once, a byte a pixel: large pictures have many frames.
    yield lambda picture: frames.append(picture.convert("RGB").quantize(256))
    if not frames:
        raise BadInput("an animation needs at least one picture")
    milliseconds = 10 * max(1, round(100 / fps))
    frames[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[milliseconds] * (len(frames) - 1) + [round(1000 * _LAST_SECONDS)],
        loop=0,
    )


@contextmanager
def _video(path: Path, fps: float) -> Iterator[Add]:
    write_frames = _ffmpeg().write_frames
    writer: Any = None

    def add(picture: Image.Image) -> None:
        nonlocal writer
        frame = np.asarray(picture.convert("RGB"))
        # Players want even sides: an odd one is repeated at its end.
        frame = np.pad(frame, [(0, side % 2) for side in frame.shape[:2]] + [(0, 0)], "edge")
        if writer is None:
            size = frame.shape[1], frame.shape[0]
            more = ["-f", "mp4"]
            writer = write_frames(
                str(path), size, fps=fps, macro_block_size=1, output_params=more, quality=8
            )
            writer.send(None)
        writer.send(np.ascontiguousarray(frame))

    try:
        yield add
        if writer is None:
            raise BadInput("an animation needs at least one picture")
    finally:
        if writer is not None:
            writer.close()


def _ffmpeg() -> Any:
    try:
        import imageio_ffmpeg  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra(
            "MP4 needs imageio-ffmpeg: pip install 'lascaux[video]'; or take a GIF"
        ) from error
    return imageio_ffmpeg
