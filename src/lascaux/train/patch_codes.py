"""Codes of patches that are learnt from pictures before anything else is, without gradients."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.vqgan import PatchEncoder, VqGan
from lascaux.nn.kmeans import one_round, starting_centres

_ROUNDS = 14  # after which codes hardly move
_AT_ONCE = 1000  # pictures


@torch.no_grad()
def learn_patch_codes(
    vqgan: VqGan,
    pictures: UInt8[Tensor, "b c y x"],
    weight: Float[Tensor, "b 1 y x"],
    *,
    seed: int,
) -> None:
    """Give an encoder of patches its directions, and the codebook its codes.

    Features are the patches' principal components, all scaled alike so that their variances are 1
    in the mean; codes are their centres by k-means. Distances of features are therefore those of
    pixels, but for what lies outside the directions.

    Args:
        vqgan: whose encoder is one of patches, with latents at least as wide as codes; changed in
            place.
        pictures: to learn from.
        weight: what each pixel counts: patches are drawn by it.
        seed: of the drawing, and of where k-means begins.

    Raises:
        BadInput: fewer patches were drawn than there are codes.
    """
    config = vqgan.config
    assert isinstance(vqgan.encoder, PatchEncoder), "an encoder of patches"
    chance = torch.Generator().manual_seed(seed)
    share = F.avg_pool2d(weight, config.factor).flatten()
    chosen = torch.rand(len(share), generator=chance) * share.max() < share
    rows = _patches(vqgan, pictures, chosen)
    if len(rows) <= config.codes:
        raise BadInput(
            f"{len(rows)} patches of {len(pictures)} pictures for {config.codes} codes: learn them "
            "from more pictures"
        )
    centre, directions, scale = _principal(rows, config.code_width)
    features = (rows - centre) @ directions.T * scale
    codes = starting_centres(features, config.codes, generator=chance)
    for _ in range(_ROUNDS):
        codes = one_round(features, codes, generator=chance).centres

    first, width = vqgan.encoder.first, config.code_width
    for layer in (first, vqgan.to_code):
        assert layer.bias is not None
        layer.weight.zero_()
        layer.bias.zero_()
    first.weight[:width] = (directions * scale).reshape(-1, *first.weight.shape[1:])
    assert first.bias is not None
    first.bias[:width] = -directions @ centre * scale
    vqgan.to_code.weight[:, :width, 0, 0] = torch.eye(width)
    vqgan.codebook.weight.copy_(codes)


@torch.no_grad()
def begin_with_decoder(vqgan: VqGan, other: VqGan, pictures: UInt8[Tensor, "b c y x"]) -> None:
    """Take over another's decoder, with the codes fitted to what it decoded by least squares.

    Args:
        vqgan: changed in place.
        other: whose decoder has the same shape and whose factor is the same.
        pictures: that both spell.

    Raises:
        BadInput: the decoders differ.
    """
    try:
        vqgan.decoder.load_state_dict(other.decoder.state_dict())
    except RuntimeError as error:
        raise BadInput(f"its decoder has another shape: {error}") from error
    mine, theirs = [], []
    for part in pictures.split(_AT_ONCE):
        for model, found in ((vqgan, mine), (other, theirs)):
            x = model.normalise(part.float() / 255)
            found.append(model.quantise(model.features(x))[1].flatten(0, 1))
    known, wanted = torch.cat(mine), torch.cat(theirs)
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    fit = torch.linalg.lstsq(known, wanted).solution
    weight, bias = other.from_code.weight[:, :, 0, 0], other.from_code.bias
    assert bias is not None
    assert vqgan.from_code.bias is not None
    vqgan.from_code.weight.copy_((weight @ fit[:-1].T)[:, :, None, None])
    vqgan.from_code.bias.copy_(weight @ fit[-1] + bias)


def _patches(vqgan: VqGan, pictures: Tensor, chosen: Tensor) -> Float[Tensor, "n d"]:
    """The chosen patches as rows, in the model's range."""
    size = vqgan.config.factor
    found, first = [], 0
    for part in pictures.split(_AT_ONCE):
        x = vqgan.normalise(part.float() / 255)
        rows = rearrange(x, "b c (y p) (x q) -> (b y x) (c p q)", p=size, q=size)
        found.append(rows[chosen[first : first + len(rows)]])
        first += len(rows)
    return torch.cat(found)


def _principal(
    rows: Float[Tensor, "n d"], count: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, "k d"], float]:
    """Mean, the directions of largest variance, and what makes the mean of their variances 1."""
    centre = rows.mean(dim=0)
    apart = rows - centre
    variances, directions = torch.linalg.eigh(apart.T @ apart / len(rows))
    kept = variances[-count:].mean().item()
    return centre, directions.T.flip(0)[:count], kept**-0.5
