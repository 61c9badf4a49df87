"""ochre-styled: pictures of the emoji world as 36 attributes of a codebook, and back.

    lascaux train ochre-styled

The encoder is linear: attributes are principal coordinates of whole pictures, from general to
particular, and each has 1,024 codes of its own by k-means. The first eight are coordinates of what
ochre-clip sees, the others of the pixels. Both are learnt before the first step
(`train/principal_codes.py`) and stay as they are. Of pixels alone 360 bits make a blurred picture
of which nobody can tell what it was; of ochre-clip's embedding 80 bits tell 96 % of the objects of
validation (40 bits 91 %, all of its numbers 98 %: linear probes, by hand). So the decoder, a U-Net
(`nn/retoucher.py`), knows what it is to draw, and from the others where and how large. Before the
first step encoder and codes take four minutes of a core; a step of 16 pictures takes 0.7 seconds,
and 1.1 with a discriminator. The embedded model, under two hours of a core:

    lascaux train ochre-styled --name a --steps 6500 --cooldown-steps 0
    lascaux train ochre-styled --name b --model runs/ochre-styled-a/model --steps 1600 \\
        --cooldown-steps 500 --warmup-steps 50 --learning-rate 5e-4 --adversarial-weight 0.3 \\
        --discriminator-start 50 --seed 5
    python tools/blend.py runs/ochre-styled-a/model runs/ochre-styled-b/model 0.75 \\
        --elsewhere reader=ochre-clip --out ochre-styled

In the box of validation a, b and what lies between stand at 18.14, 18.03 and 18.17 dB, ochre-clip's
distance at 0.168, 0.160 and 0.160. The judge named more with every thousand steps (counted by hand,
256 scenes of validation): 41 % after 3,600 and 46 % after 5,500; more is to be had by going on.

As published, encoder and decoder are one transformer each and learn together; of as many pictures
as a core reads in an hour they learn colours and rough places alone (13 dB, `benchmarks/`):

    lascaux train ochre-styled --encoder transformer --codes 4096
    lascaux train ochre-styled --name tuned --model runs/ochre-styled-0/model --steps 3000

That first run is stage one, and ends with a codebook by k-means from scenes of the train split. The
second trains the decoder on, behind the codes.

Scenes of the train split, 64 pixels; digits are among them. Validation is on scenes of one object
of the validation split: how good their reconstructions are in the object's box. What the judge says
of reconstructions is left to the evaluation: it selects nothing.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.models.styled_vq import StyledVq
from lascaux.tasks.codebook import (
    CodebookOptions,
    make_codebook,
    mean_features,
    read_features,
    write_features,
)
from lascaux.train import scenes
from lascaux.train.principal_codes import principal
from lascaux.train.recipe import Sample, Share, restated, setting
from lascaux.train.reconstructions import side_by_side
from lascaux.train.styling import (
    SMALL,
    Styling,
    Trainee,
    card,
    pretrained,
    reconstructed,
    share_used,
)
from lascaux.weights.load import load, save

_SHOWN = 12  # pictures of a sheet of samples
# 3.6 million parameters, a quarter of them the directions.
OCHRE = replace(SMALL, latent_width=16, distance="euclidean")
_MEANINGS = 8  # attributes that say what is to be seen
_READER = "ochre-clip"  # of meanings
_CORPUS = 16_384  # scenes from whose features the codebook is made
_AT_ONCE = 64  # of them
_CORPUS_SEED = 0xC0DE


@dataclass(frozen=True, kw_only=True)
class OchreStyled(scenes.OfScenes, Styling):
    """Settings of a run; every field is a flag of `lascaux train ochre-styled`."""

    name: ClassVar[str] = "ochre-styled"
    best: ClassVar[str | None] = "+validation_psnr_of_object"

    model: str = setting("", "begin with these weights; behind their codes, if they have any")
    encoder: Literal["linear", "transformer"] = setting(
        "linear", "learnt before the first step with its codes; or with the decoder, as published"
    )
    learnt_from: int = setting(24_000, "scenes that a linear encoder and codes are learnt from")
    codes: int = setting(1024, "of the codebook; those of fsq follow from --levels")
    steps: int = restated("steps", 12_000)
    warmup_steps: int = restated("warmup_steps", 300)
    cooldown_steps: int = restated("cooldown_steps", 4000)
    weight_decay: float = restated("weight_decay", 0.02)
    noise: float = restated("noise", 0.15, Styling)
    prefixes: float = restated("prefixes", 0.1, Styling)
    decorrelation: float = restated("decorrelation", 0.5, Styling)
    optimiser: Literal["adamw", "muon"] = restated("optimiser", "muon", Styling)
    pixel_weight: float = restated("pixel_weight", 5.0, Styling)
    perceptual_weight: float = restated("perceptual_weight", 1.0, Styling)
    discriminator_width: int = restated("discriminator_width", 32, Styling)
    discriminator_layers: int = restated("discriminator_layers", 2, Styling)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learnt_from < 1:
            raise BadInput(f"--learnt-from is {self.learnt_from}; it must be at least 1")
        if self.encoder == "linear" and (self.codebook, self.predicts) != ("later", "pixels"):
            raise BadInput(
                "--codebook and --predicts are of what learns with its encoder: name "
                "--encoder transformer"
            )

    def build(self) -> nn.Module:
        """A small Styled VAE-VQ."""
        if self.model:
            return self.trainee(copy.deepcopy(pretrained(self.model)), fresh=False)
        if self.encoder == "linear":
            learnt = _learnt(self.codes, self.learnt_from, self.seed)
            return self.trainee(copy.deepcopy(learnt), fresh=True)
        codes = self.codes if self.codebook == "average" else 0
        return self.trainee(self.drafted(replace(SMALL, codes=codes)), fresh=True)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR of scenes and of the box of their object, and share of codes used."""
        assert isinstance(model, Trainee)
        back, ids = reconstructed(model.styled, scenes.validation().pictures)
        found = scenes.figures(back)
        if ids is not None:
            found["validation_codes_used"] = share_used(model.styled, ids)
        return found

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Validation scenes, each beside its reconstruction."""
        assert isinstance(model, Trainee)
        pictures = scenes.validation().pictures[:_SHOWN]
        return side_by_side(pictures, reconstructed(model.styled, pictures)[0])

    @torch.no_grad()
    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the model with a codebook, in half precision, for `lascaux.load`."""
        assert isinstance(model, Trainee)
        styled = model.styled
        if not styled.codes:
            with TemporaryDirectory() as place:
                self._stage_two(styled, Path(place))
            back, ids = reconstructed(styled, scenes.validation().pictures)
            assert ids is not None
            figures = {
                **figures,
                **{f"{name} by codes": value for name, value in scenes.figures(back).items()},
            }
        about = card(self.name, self.model or "nothing", self, figures)
        elsewhere = {} if styled.reader is None else {"reader": _READER}
        save(styled, folder, dtype=torch.float16, card=about, elsewhere=elsewhere)

    def _stage_two(self, styled: StyledVq, place: Path) -> None:
        """Give the model a codebook by k-means."""

        def batches() -> Iterator[Tensor]:
            for number in range(0, _CORPUS, _AT_ONCE):
                drawn = scenes.pictures(_CORPUS_SEED, Share(0, number, _AT_ONCE))
                yield styled.normalise(drawn.to(styled.device).float() / 255)

        path = write_features(styled.features, batches(), _CORPUS, place / "features.npy")
        features = read_features(path)
        options = CodebookOptions(
            codes=self.codes, distance=styled.config.distance, seed=self.seed, restarts=2
        )
        made = make_codebook(features, place / "codebook", options, device=styled.device)
        assert made is not None
        styled.adopt(made.centres, mean=mean_features(features))


@lru_cache(maxsize=1)
def _learnt(codes: int, count: int, seed: int) -> StyledVq:
    """A model with encoder and codes learnt of so many scenes of the train split."""
    drawn = [
        scenes.pictures(_CORPUS_SEED, Share(0, number, min(_AT_ONCE, count - first)))
        for number, first in enumerate(range(0, count, _AT_ONCE))
    ]
    config = replace(OCHRE, codes=codes)
    return principal(config, torch.cat(drawn), seed=seed, reader=load(_READER), meanings=_MEANINGS)
