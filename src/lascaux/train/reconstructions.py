"""How reconstructions are measured and shown, whatever made them."""

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lascaux.images import fidelity
from lascaux.train.recipe import Sample

_MOST = 100.0  # dB; means of it bear no infinity


def psnr(x: Float[Tensor, "b c y x"], other: Float[Tensor, "b c y x"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], at most 100."""
    return fidelity.psnr(x, other).clamp(max=_MOST)


def side_by_side(
    pictures: UInt8[Tensor, "b 3 y x"], back: Float[Tensor, "b 3 y x"]
) -> list[Sample]:
    """Each picture with its reconstruction, in [0, 1], to the right."""
    x = pictures.to(back.device).float() / 255
    ratios = psnr(x, back).tolist()
    pages = (torch.cat([x, back], dim=3) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [
        Sample(Image.fromarray(page), f"{ratio:.1f} dB")
        for page, ratio in zip(pages, ratios, strict=True)
    ]
