"""Attributes that are principal coordinates of pictures, and their codes, without gradients.

Transform coding: of all linear ways to spell pictures in a number of bits, principal coordinates
lose least where they are distributed like a normal law, and each is worth as many bits as its
variance has doublings above one level for all ("reverse water-filling": Cover and Thomas, Elements
of Information Theory, section 10.3.3).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.clip import Clip
from lascaux.models.styled_vq import StyledVq, StyledVqConfig
from lascaux.nn.kmeans import one_round, starting_centres
from lascaux.nn.principal_encoder import PrincipalEncoder

_ROUNDS = 20  # after which codes hardly move
_HALVINGS = 60  # of the span in which the level is looked for
_AT_ONCE = 512  # pictures


@torch.no_grad()
def principal(
    config: StyledVqConfig,
    pictures: UInt8[Tensor, "n c y x"],
    *,
    seed: int,
    reader: Clip | None = None,
    meanings: int = 0,
) -> StyledVq:
    """A model whose encoder and codes are learnt; its decoder gives what they say linearly.

    Args:
        config: its sizes; `coordinates` are found here.
        pictures: to learn from.
        seed: of where k-means begins, and of the decoder's weights.
        reader: tells what pictures mean.
        meanings: attributes, the first ones, that spell this.

    Raises:
        BadInput: there are fewer pictures than codes, or nobody to read meanings.
    """
    if len(pictures) <= config.codes:
        raise BadInput(
            f"{len(pictures)} pictures for {config.codes} codes of an attribute: learn them from "
            "more pictures"
        )
    if meanings and reader is None:
        raise BadInput(f"meanings={meanings}: they need a reader")
    seen = reader.config.embed_width if reader is not None else 0
    config = replace(
        config,
        coordinates=(1,) * config.attributes,
        meanings=meanings,
        meaning_width=seen if meanings else 0,
    )
    width = config.latent_width
    # All that fixes how pictures become rows and meanings; the directions are not known yet.
    draft = _drawn(config, reader, seed)
    encoder = draft.encoder
    assert isinstance(encoder, PrincipalEncoder)
    parts = [draft.normalise(part.float() / 255) for part in pictures.split(_AT_ONCE)]
    rows = _Principal.of(torch.cat([encoder.shrunk(part) for part in parts]))
    counts = shared_out(rows.variances, config.attributes - meanings, config.codes, width)
    groups = rows.groups(counts)
    meant = None
    if meanings:
        meant = _Principal.of(torch.cat([draft.meaning(part) for part in parts]))
        read = shared_out(meant.variances, meanings, config.codes, width)
        counts, groups = (*read, *counts), [*meant.groups(read), *groups]

    styled = _drawn(replace(config, coordinates=counts), reader, seed)
    encoder = styled.encoder
    assert isinstance(encoder, PrincipalEncoder)
    encoder.directions.copy_(rows.directions[: len(encoder.directions)])
    encoder.centre.copy_(rows.centre)
    if meant is not None:
        encoder.meaning_directions.copy_(meant.directions[: len(encoder.meaning_directions)])
        encoder.meaning_centre.copy_(meant.centre)
    encoder.scales.copy_(torch.stack([group.square().mean().rsqrt() for group in groups]))

    chance = torch.Generator().manual_seed(seed)
    for attribute, group in enumerate(groups):
        x = group * encoder.scales[attribute]
        codes = starting_centres(x, config.codes, generator=chance)
        for _ in range(_ROUNDS):
            codes = one_round(x, codes, generator=chance).centres
        styled.codebook[attribute, :, : x.shape[1]] = codes
    return styled


def _drawn(config: StyledVqConfig, reader: Clip | None, seed: int) -> StyledVq:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StyledVq(config, reader=reader)


@dataclass(frozen=True)
class _Principal:
    """Vectors in the directions in which they vary, those of largest variance first."""

    centre: Tensor
    directions: Tensor
    variances: Tensor
    apart: Tensor  # the vectors, from their centre

    @classmethod
    def of(cls, rows: Tensor) -> "_Principal":
        centre = rows.mean(dim=0)
        apart = rows - centre
        variances, directions = torch.linalg.eigh((apart.T @ apart / len(rows)).double())
        directions = directions.T.flip(0).float()
        return cls(centre, directions, variances.flip(0).float(), apart)

    def groups(self, counts: tuple[int, ...]) -> list[Tensor]:
        """The first coordinates, so many after one another."""
        found = self.apart @ self.directions[: sum(counts)].T
        return list(found.split(list(counts), dim=1))


def shared_out(
    variances: Float[Tensor, " n"], attributes: int, codes: int, most: int
) -> tuple[int, ...]:
    """How many coordinates each attribute has, so that all are worth as many bits.

    Args:
        variances: of the coordinates, the largest first.
        attributes: among which they are shared out.
        codes: of each attribute.
        most: coordinates of one attribute.

    Raises:
        BadInput: there are fewer coordinates than attributes.
    """
    if len(variances) < attributes:
        raise BadInput(f"{len(variances)} coordinates for {attributes} attributes")
    bits = torch.tensor(float(codes)).log2().item()
    low, high = 1e-12, variances[0].item()
    for _ in range(_HALVINGS):
        level = (low * high) ** 0.5
        full = _worth(variances, level).sum() > attributes * bits
        low, high = (level, high) if full else (low, level)
    worth = _worth(variances, high)
    # The middle of what each is worth, in bits from the first coordinate on.
    middles = (worth.cumsum(0) - worth / 2)[: max(attributes, int((worth > 0).sum()))].tolist()
    counts, taken = [], 0
    for attribute in range(attributes):
        count = 0
        left = len(middles) - taken - (attributes - attribute - 1)
        while count < min(most, left) and (
            not count or middles[taken + count] <= (attribute + 1) * bits
        ):
            count += 1
        counts.append(count)
        taken += count
    return tuple(counts)


def _worth(variances: Float[Tensor, " n"], level: float) -> Float[Tensor, " n"]:
    """Bits of coordinates above a level of variance."""
    return (variances.clamp(min=1e-12) / level).log2().clamp(min=0) / 2
