"""ochre-map: pictures of the emoji world after maps of what each pixel shows.

    lascaux train ochre-map

Cost: what is embedded was trained for 3,100 steps (--steps 3100 --cooldown-steps 900), 99,200
scenes at 0.8 seconds of a core for 32 of them, 45 minutes. Validation stood at 1.24 nats a code. On
the test split the judge's maps of what it painted had an IoU of 28 % with those given, where scenes
by way of ochre-vq's codes have 55 %: it was trained too short still, and the codes keep too little.

A taming transformer that writes the 64 codes of ochre-vq after the 8 x 8 patches of a semantic map.
What is told of a patch is not learnt by gradients: it is the class that matters there and its
outline (`models/label_patches.py`), so that no object's name is lost. Outlines are those of 1,000
scenes of the train split, by k-means, before the first step.

Scenes are those of the train split, 64 pixels, digits among them (`train/pool.py`). Validation is
the loss on scenes of the validation split, in nats a code. The judge has no say here.

The model names ochre-vq and does not hold its weights: it is loaded with the very ones that it was
trained with, or not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lascaux.data.world.backgrounds import BACKGROUNDS
from lascaux.data.world.boxed import stacked
from lascaux.data.world.sampling import sample
from lascaux.data.world.scene import MAP_CLASSES, Scene, draw
from lascaux.errors import BadInput
from lascaux.images.maps import coloured
from lascaux.models.label_patches import LabelPatches
from lascaux.models.taming_transformer import TamingTransformer, TamingTransformerConfig
from lascaux.tasks.tokenisers import ImageTokeniser
from lascaux.train import scenes
from lascaux.train.codes import reader_of, tokeniser_of
from lascaux.train.label_patches import learnt_patches
from lascaux.train.pool import OfPool, Pool, read_by
from lascaux.train.recipe import (
    Loss,
    Moment,
    Part,
    Precision,
    Sample,
    Share,
    restated,
    setting,
)
from lascaux.train.schedules import Schedule
from lascaux.train.taming import (
    Paired,
    TamingRecipe,
    beside,
    card,
    painted,
    painter_of,
    vqgan_of,
    whole,
)
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.load import save

TOKENISER = "ochre-vq"
OUTLINES = 1700  # half as many, with the classes, as ochre-vq has codes
_OUTLINED = 1000  # scenes that outlines are learnt from
_VALIDATED = 256  # scenes
_SEED = 83  # of both
_SHOWN = 8  # scenes of a sheet of samples

# 3.8 million parameters, 7.7 MB in half precision with the outlines.
OCHRE = TamingTransformerConfig(codes=1, length=1, layers=5, heads=3, width=192)


@dataclass(frozen=True, kw_only=True)
class OchreMap(OfPool, TamingRecipe):
    """Settings of a run; every field is a flag of `lascaux train ochre-map`."""

    name: ClassVar[str] = "ochre-map"

    tokeniser: str = setting(TOKENISER, "whose codes are written: a name or folder")
    portraits: float = restated("portraits", 0.4, OfPool)
    loose: float = restated("loose", 1.0, OfPool)
    on_grid: bool = restated("on_grid", False, OfPool)
    seed: int = restated("seed", 3)
    codes_kept: float = restated("codes_kept", 0.9, TamingRecipe)
    steps: int = restated("steps", 10_000)
    batch_size: int = restated("batch_size", 32)
    precision: Precision = restated("precision", "bfloat16")
    optimiser: Literal["adamw", "muon"] = restated("optimiser", "muon", TamingRecipe)
    learning_rate: float = restated("learning_rate", 1.2e-3)
    schedule: Schedule = restated("schedule", "cooldown")
    warmup_steps: int = restated("warmup_steps", 200)
    cooldown_steps: int = restated("cooldown_steps", 3000)
    averaging: float = restated("averaging", 0.998)

    def build(self) -> nn.Module:
        """A small transformer with the outlines of scenes, and without a first stage.

        Raises:
            BadInput: the tokeniser does not spell scenes.
        """
        tokeniser, stage = _tokeniser(self.tokeniser), _patches(vqgan_of(self.tokeniser).factor)
        count = (scenes.SIZE // stage.factor) ** 2
        config = replace(
            OCHRE,
            codes=max(tokeniser.codes, stage.codes),
            pairs=stage.codes,
            length=2 * count - 1,
            **self.trained_with,
        )
        return TamingTransformer(config, condition_stage=stage)

    def feed(self, part: Part) -> Iterator[dict[str, Tensor]]:
        """Codes and conditions of scenes, which are read as they come for the first time."""
        return part.drawn(self, partial(self.batch, self.pool(part.folder)))

    def batch(self, pool: Pool, share: Share) -> dict[str, Tensor]:
        """Scenes of the train split as their codes, and their maps as theirs."""
        numbers, reader = pool.numbers(share), reader_of(self.tokeniser)
        stage = _patches(vqgan_of(self.tokeniser).factor)

        def read(drawn: list[Scene]) -> Tensor:
            return stage.encode_numbers(scenes.maps_of(drawn)).int()

        conditions = pool.answers(f"conditions-{weights_hash(stage)[:12]}", read, numbers)
        return {"tokens": read_by(pool, reader, numbers).long(), "condition": conditions.long()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        """Cross entropy of the scenes' codes."""
        assert isinstance(model, TamingTransformer)
        return super().loss(model, {**batch, "condition": model.paired(batch["condition"])}, moment)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on validation scenes, in nats a code."""
        assert isinstance(model, TamingTransformer)
        drawn, tokens = _kept(self)
        return self.measured(model, Paired(tokens, _conditions(model, scenes.maps_of(drawn))))

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Maps of validation scenes, the scenes, and what is painted after the maps."""
        assert isinstance(model, TamingTransformer)
        painter = painter_of(whole(model, vqgan_of(self.tokeniser)))
        found = []
        for seed, scene in enumerate(_kept(self)[0][:_SHOWN]):
            numbers = scenes.maps_of([scene])[0].numpy()
            shown = Image.fromarray(coloured(numbers, MAP_CLASSES))
            picture = painted(painter, seed, map=numbers)
            named = ", ".join(scene.names)
            found.append(Sample(beside(shown, draw(scene, scenes.SIZE), picture), named))
        return found

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write transformer and outlines, in half precision; the first stage is named."""
        assert isinstance(model, TamingTransformer)
        save(
            whole(model, vqgan_of(self.tokeniser)),
            folder,
            dtype=torch.float16,
            card=card(self.name, self, figures),
            elsewhere={"first_stage": self.tokeniser},
        )


def _conditions(model: TamingTransformer, maps: Tensor) -> Tensor:
    """The tokens of maps, where the model is."""
    assert isinstance(model.condition_stage, LabelPatches)
    return model.paired(model.condition_stage.encode_numbers(maps.to(model.order.device)))


def _tokeniser(name: str) -> ImageTokeniser:
    """The tokeniser of scenes.

    Raises:
        BadInput: it is no VQGAN, or one for pictures of another size.
    """
    vqgan_of(name)
    found = tokeniser_of(name)
    if found.preprocessing.size != scenes.SIZE:
        raise BadInput(
            f"--tokeniser {name} is for {found.preprocessing.size} pixels; expected one for "
            f"{scenes.SIZE}, such as {TOKENISER}"
        )
    return found


@lru_cache(maxsize=1)
def _patches(factor: int) -> LabelPatches:
    """Patches with the outlines of scenes of the train split."""
    rng = np.random.Generator(np.random.PCG64([_SEED]))
    drawn = [sample(rng, "train", digits=True) for _ in range(_OUTLINED)]
    return learnt_patches(
        scenes.maps_of(drawn),
        labels=MAP_CLASSES,
        grounds=len(BACKGROUNDS),
        factor=factor,
        shapes=OUTLINES,
        seed=_SEED,
    )


@lru_cache(maxsize=1)
def _kept(recipe: OchreMap) -> tuple[list[Scene], Tensor]:
    """Scenes of the validation split and their codes, always the same."""
    rng = np.random.Generator(np.random.PCG64([_SEED]))
    drawn = recipe.scenes_of(rng, "validation", _VALIDATED)
    return drawn, _tokeniser(recipe.tokeniser).encode(stacked(drawn).float() / 255)
