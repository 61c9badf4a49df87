"""ochre-vq: pictures of the emoji world as 64 of 4096 codes, and back.

    lascaux train ochre-vq

Every patch of 8 x 8 pixels is spelt by itself, so that a thing has the same codes wherever it lies
on their grid and whatever is beside it. That is what makes them easy to write: ochre-imagine stood
at 1.7 nats a code of validation after 1,000 steps, where with 2,048 codes from convolutions and
norms over the whole picture it stood at 2.9 after 7,900. Encoder and codes are the patches'
principal directions and their centres by k-means, learnt before the first step from scenes of which
patches of things are drawn most often (`train/patch_codes.py`), and stay as they are. Only the
decoder is trained: it sees all codes, and mends what patches by themselves leave undone.

Cost: 0.45 seconds of a core for a step of 16 pictures, and 0.75 with a discriminator; the codes a
minute. The embedded model came to be in parts, two hours of a core together, and with the decoder
of an ochre-vq before it (`git show 48b23b3`: 17,859 steps, three hours) to begin with; a and b had
one middle:

    lascaux train ochre-vq --name a --decoder BEFORE --steps 2826 --cooldown-steps 0 \\
        --learning-rate 2e-3 --crowded 0.2 --adversarial-weight 0
    lascaux train ochre-vq --name b --model runs/ochre-vq-a/model --steps 3400 \\
        --cooldown-steps 1200 --warmup-steps 100 --learning-rate 2e-3 --crowded 0.2 \\
        --adversarial-weight 0 --seed 2
    lascaux train ochre-vq --name c --model runs/ochre-vq-b/model --steps 3500 \\
        --cooldown-steps 1200 --warmup-steps 100 --learning-rate 2e-3 --crowded 0.2 \\
        --adversarial-weight 0 --seed 6
    lascaux train ochre-vq --name d --model runs/ochre-vq-c/model --steps 2000 \\
        --cooldown-steps 600 --warmup-steps 100 --learning-rate 7e-4 --crowded 0.2 --seed 7 \\
        --perceptual-weight 1 --discriminator-start 100 --adversarial-weight 0.3
    python tools/blend.py runs/ochre-vq-c/model runs/ochre-vq-d/model 0.75 --out ochre-vq

In a codes that were out of use still moved; they were put back before b. In the object's box of
validation b stands at 18.64 dB and c at 18.71: more middles and as many steps again gain little, so
that the codes are what limits it. c, d and what lies between stand at 18.7, 17.8 and 18.3 dB,
ochre-clip's distance at 0.128, 0.129 and 0.127.

Scenes of the train split, 64 pixels; digits are among them. Validation is on scenes of one object
of the validation split: how good their reconstructions are in the object's box, and how many of
the codes are used. What the judge says of reconstructions is left to the evaluation: it selects
nothing.

As in the recipe `vqgan`, several processes train together, and --shard is not possible.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lascaux.data.world.boxed import stacked
from lascaux.errors import BadInput
from lascaux.models.vqgan import VqGan, VqGanConfig, deepened
from lascaux.train import scenes
from lascaux.train.autoencoding import Autoencoding, Trainee, card, reconstructed
from lascaux.train.begun import named
from lascaux.train.patch_codes import begin_with_decoder, learn_patch_codes
from lascaux.train.pool import mixed
from lascaux.train.recipe import Sample, restated, setting
from lascaux.train.reconstructions import side_by_side
from lascaux.weights.load import save

_SHOWN = 12  # pictures of a sheet of samples
_SEED = 84  # of what codes are learnt from
_PORTRAITS = 0.25  # of it
_THINGS = 6.0  # what their pixels count there
_FITTED = 1000  # scenes by which codes are fitted to another's decoder

# 3.6 million parameters. At full size, where most of the time goes, it is narrow.
OCHRE = VqGanConfig(
    codes=4096,
    code_width=32,
    encoder="patches",
    image_size=scenes.SIZE,
    width=16,
    multiples=(1, 2, 4, 8),
    blocks=2,
    attention_sizes=(),
    middles=3,
    latent_width=64,
    groups=8,
    weighs="commitment",
)


@dataclass(frozen=True, kw_only=True)
class OchreVq(scenes.OfScenes, Autoencoding):
    """Settings of a run; every field is a flag of `lascaux train ochre-vq`."""

    name: ClassVar[str] = "ochre-vq"
    best: ClassVar[str | None] = "+validation_psnr_of_object"
    model: str = setting("", "begin with these weights: a folder or name")
    learnt_from: int = setting(12_000, "scenes that codes are learnt from, before the first step")
    decoder: str = setting("", "begin with the decoder of these weights, whatever their codes are")
    steps: int = restated("steps", 30_000)
    warmup_steps: int = restated("warmup_steps", 200)
    cooldown_steps: int = restated("cooldown_steps", 6000)
    perceptual_weight: float = restated("perceptual_weight", 0.4, Autoencoding)
    discriminator_start: int = restated("discriminator_start", 26_000, Autoencoding)
    discriminator_width: int = restated("discriminator_width", 32, Autoencoding)
    discriminator_layers: int = restated("discriminator_layers", 2, Autoencoding)
    adversarial_weight: float = restated("adversarial_weight", 0.2, Autoencoding)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learnt_from < 1:
            raise BadInput(f"--learnt-from is {self.learnt_from}; it must be at least 1")

    def build(self) -> nn.Module:
        """A small VQGAN with its discriminator; its encoder and codes stay as they are learnt.

        Raises:
            BadInput: it cannot begin so.
        """
        if self.quantiser == "gumbel":
            raise BadInput("--quantiser gumbel: ochre-vq's codes are the nearest; leave it out")
        if self.codebook == "average" or self.decorrelation:
            raise BadInput(
                "--codebook average and --decorrelation: ochre-vq's codes and features stay as "
                "they are learnt before the first step; leave them out"
            )
        if self.model and self.decoder:
            raise BadInput("--model has a decoder of its own: leave --decoder out")
        vqgan = VqGan(OCHRE)
        if self.model:
            vqgan.load_state_dict(_pretrained(self.model, OCHRE).state_dict())
        else:
            vqgan.load_state_dict(_learnt(self.learnt_from, self.seed), strict=False)
            if self.decoder:
                other = named("--decoder", self.decoder, VqGan, "VQGAN")
                other = deepened(other, OCHRE.middles)
                begin_with_decoder(vqgan, other, _seen(_FITTED, self.seed)[0])
        for part in (vqgan.encoder, vqgan.to_code, vqgan.codebook):
            part.requires_grad_(False)
        return self.trainee(vqgan, scenes.SIZE, fresh=False)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR of scenes and of the box of their object, and share of codes used."""
        assert isinstance(model, Trainee)
        back, ids = reconstructed(model.vqgan, scenes.validation().pictures)
        used = len(ids.unique()) / model.vqgan.codes
        return {**scenes.figures(back), "validation_codes_used": used}

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Validation scenes, each beside its reconstruction."""
        assert isinstance(model, Trainee)
        pictures = scenes.validation().pictures[:_SHOWN]
        return side_by_side(pictures, reconstructed(model.vqgan, pictures)[0])

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the VQGAN, in half precision, as a folder that `lascaux.load` reads."""
        assert isinstance(model, Trainee)
        about = card(self.name, self.model or self.decoder or "nothing", self, figures)
        save(model.vqgan, folder, dtype=torch.float16, card=about)


@lru_cache(maxsize=1)
def _pretrained(name: str, config: VqGanConfig) -> VqGan:
    found = named("--model", name, VqGan, "VQGAN")
    if replace(found.config, middles=config.middles) != config:
        raise BadInput(f"--model {name}: expected what this recipe trains, by the same settings")
    return deepened(found, config.middles)


@lru_cache(maxsize=1)
def _learnt(count: int, seed: int) -> dict[str, Tensor]:
    """The weights that are learnt of so many scenes."""
    with torch.random.fork_rng(devices=[]):
        vqgan = VqGan(OCHRE)
    learn_patch_codes(vqgan, *_seen(count, seed), seed=seed)
    learnt = ("encoder.", "to_code.", "codebook.")
    return {name: each for name, each in vqgan.state_dict().items() if name.startswith(learnt)}


def _seen(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scenes of the train split, a quarter of them portraits, and what their pixels count."""
    rng = np.random.Generator(np.random.PCG64([_SEED, seed]))
    drawn = mixed(rng, "train", count, _PORTRAITS)
    return stacked(drawn), scenes.weights_of(drawn, _THINGS)
