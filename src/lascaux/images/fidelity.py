"""How near a picture is to another: PSNR and SSIM.

Wang, Bovik, Sheikh, Simoncelli: "Image Quality Assessment: From Error Visibility to Structural
Similarity", 2004, IEEE Transactions on Image Processing 13(4).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lascaux.errors import BadInput

WINDOW = 11  # pixels, square
_SIGMA = 1.5  # pixels
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2, L = 1


def psnr(x: Float[Tensor, "b c y x"], other: Float[Tensor, "b c y x"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]: -10 log10 of the mean squared error.

    The mean is over pixels and channels; equal pictures have infinity.

    Raises:
        BadInput: the pictures are not of one shape.
    """
    _require_alike(x, other)
    error = (x.double() - other.double()).square().flatten(1).mean(1)
    return -10 * torch.log10(error)


def ssim(x: Float[Tensor, "b c y x"], other: Float[Tensor, "b c y x"]) -> Float[Tensor, " b"]:
    """Mean structural similarity (Eq. 13 and 17) of pictures in [0, 1]; 1 of equal ones.

    Each channel is compared by itself, within a Gaussian window of 11 x 11 pixels and sigma 1.5
    whose weights sum to 1, at every place where the window fits; the mean is over places and
    channels. Variances are those of the window's weights, without Bessel's correction.

    Raises:
        BadInput: the pictures are not of one shape, or smaller than the window.
    """
    _require_alike(x, other)
    if min(x.shape[-2:]) < WINDOW:
        raise BadInput(
            f"pictures of {x.shape[-1]} x {x.shape[-2]} pixels; SSIM looks through a window of "
            f"{WINDOW} x {WINDOW}: compare larger ones"
        )
    x, other = x.double(), other.double()
    mean_x, mean_y = _blurred(x), _blurred(other)
    variance_x = _blurred(x * x) - mean_x.square()
    variance_y = _blurred(other * other) - mean_y.square()
    covariance = _blurred(x * other) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    apart = (mean_x.square() + mean_y.square() + _C1) * (variance_x + variance_y + _C2)
    return (alike / apart).flatten(1).mean(1)


def _blurred(x: Tensor) -> Tensor:
    """Weighed means within the window, at the places where it fits."""
    steps = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-(steps**2) / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    count = len(x)
    flat = rearrange(x, "b c y x -> (b c) 1 y x")
    # A product of two lines: rows, then columns.
    flat = F.conv2d(F.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return rearrange(flat, "(b c) 1 y x -> b c y x", b=count)


def _require_alike(x: Tensor, other: Tensor) -> None:
    if x.shape != other.shape or x.ndim != 4:
        raise BadInput(
            f"pictures of shapes {tuple(x.shape)} and {tuple(other.shape)}; two equal ones, "
            "b c y x, are expected"
        )
