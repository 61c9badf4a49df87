"""OpenCV's bicubic resize, which some published accuracies were measured with."""

import numpy as np
from PIL import Image

_SCALE = np.float32(2048)  # OpenCV keeps kernel weights as integers of 11 fractional bits


def resize_bicubic(
    picture: Image.Image,
    size: tuple[int, int],
    part: tuple[int, int, int, int] | None = None,
) -> Image.Image:
    """An RGB picture at another size (width, height), as `cv2.resize(..., INTER_CUBIC)` gives it.

    Keys's kernel with a = -0.75 over four neighbours, whatever the factor: a large reduction is not
    smoothed, so that fine detail aliases. Edges are repeated.

    Args:
        picture: mode RGB.
        size: of the whole result, in pixels.
        part: left, top, right, bottom of the part of the result that is wanted; all by default.
    """
    pixels = np.asarray(picture)
    left, top, right, bottom = part or (0, 0, *size)
    columns, across = _taps(picture.width, size[0], left, right)
    rows, down = _taps(picture.height, size[1], top, bottom)
    used, places = np.unique(rows, return_inverse=True)
    source = pixels[used]
    wide = np.zeros((len(used), right - left, pixels.shape[2]), np.int32)
    for tap in range(4):
        wide += source[:, columns[:, tap]].astype(np.int32) * across[None, :, tap, None]
    places = places.reshape(rows.shape)
    # OpenCV adds up the four rows in float32, last row first.
    down = down.astype(np.float32) * np.float32(1 / 2048**2)
    total = np.zeros((bottom - top, right - left, pixels.shape[2]), np.float32)
    for tap in (3, 2, 1, 0):
        total += wide[places[:, tap]].astype(np.float32) * down[:, tap, None, None]
    return Image.fromarray(np.rint(total).clip(0, 255).astype(np.uint8))


def _taps(before: int, after: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """For new pixels start to stop along one side: four old indices, four weights times 2048."""
    at = ((np.arange(start, stop) + 0.5) * (before / after) - 0.5).astype(np.float32)
    first = np.floor(at)
    x = at - first
    one, a = np.float32(1), np.float32(-0.75)
    weights = np.empty((stop - start, 4), np.float32)
    weights[:, 0] = ((a * (x + one) - 5 * a) * (x + one) + 8 * a) * (x + one) - 4 * a
    weights[:, 1] = ((a + 2) * x - (a + 3)) * x * x + one
    weights[:, 2] = ((a + 2) * (one - x) - (a + 3)) * (one - x) * (one - x) + one
    weights[:, 3] = one - weights[:, 0] - weights[:, 1] - weights[:, 2]
    indices = first.astype(np.int64)[:, None] + np.arange(-1, 3)
    return indices.clip(0, before - 1), np.rint(weights * _SCALE).astype(np.int32)
