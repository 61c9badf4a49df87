"""ochre-dalle: pictures of the emoji world from sentences, in English and Chinese.

    lascaux train ochre-dalle

Scenes of the train split as the codes of ochre-vq, and their captions, worded anew every time, as
ids of ochre-clip's vocabulary. The scenes are ochre-imagine's, and of the codes that are read up to
nine tenths are another picture's, as there. Validation is on scenes of the validation split.

Cost: 0.63 seconds of a core for a step of 32, and 0.3 for 64 scenes that are read for the first
time. The embedded model was trained for two hours of a core:

    lascaux train ochre-dalle --name a --portraits 0.6 --steps 8000 --cooldown-steps 2500
    lascaux train ochre-dalle --model runs/ochre-dalle-a/model --warmup-steps 100 --steps 2900 \\
        --cooldown-steps 1500

Validation stands at 1.26 nats a code, and at 0.59 a word (before the second: 1.40 and 0.59); with
0.6 portraits at 1.58 and 0.66, as before. Guidance and temperature were chosen after the first by
ochre-clip's score on 80 captions of the validation split: of 100, 55.4, 58.4 and 56.8 with guidance
1, 2 and 3; with 2, 59.7 and 59.8 at temperatures of 0.7 and 0.4.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lascaux.data.world.boxed import stacked
from lascaux.data.world.language import caption
from lascaux.data.world.scene import Scene
from lascaux.errors import BadInput
from lascaux.models.dalle import Dalle, DalleConfig
from lascaux.text.captions import CaptionTokenizer
from lascaux.train.captions import named_vocabulary
from lascaux.train.codes import reader_of, tokeniser_of
from lascaux.train.dalle import DalleRecipe, Told, card, side_of
from lascaux.train.pool import OfPool, Pool, read_by
from lascaux.train.recipe import Part, Precision, Sample, Share, restated, setting
from lascaux.weights.load import load, save

_VALIDATED = 512  # scenes
_SEED = 83  # of them
_VOCABULARY = "ochre-clip"

# 3.8 million parameters. Captions of 24 ids are the longest in a thousand.
OCHRE = DalleConfig(
    codes=4096,
    grid=8,
    width=192,
    layers=4,
    text_tokens=2048,
    text_length=24,
    heads=4,
    head_width=48,
    shared_embeddings=True,
    guidance=2.0,
    temperature=0.5,
    tokeniser="ochre-vq",
)


@dataclass(frozen=True, kw_only=True)
class OchreDalle(OfPool, DalleRecipe):
    """Settings of a run; every field is a flag of `lascaux train ochre-dalle`."""

    name: ClassVar[str] = "ochre-dalle"

    tokeniser: str = setting("ochre-vq", "whose codes are written: a name or folder")
    model: str = setting("", "begin with the weights of this one: a folder or name")
    portraits: float = restated("portraits", 0.85, OfPool)
    chinese: float = setting(0.3, "share of captions in Chinese")
    seed: int = restated("seed", 3)
    steps: int = restated("steps", 10_000)
    batch_size: int = restated("batch_size", 32)
    precision: Precision = restated("precision", "bfloat16")
    warmup_steps: int = restated("warmup_steps", 200)
    cooldown_steps: int = restated("cooldown_steps", 3000)
    optimiser: Literal["adamw", "muon"] = restated("optimiser", "muon", DalleRecipe)
    learning_rate: float = restated("learning_rate", 1.2e-3)
    weight_decay: float = restated("weight_decay", 0.01)
    strange_codes: float = restated("strange_codes", 0.9, DalleRecipe)
    averaging: float = restated("averaging", 0.998)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.chinese <= 1:
            raise BadInput(f"--chinese is {self.chinese}; expected 0 to 1")

    def build(self) -> nn.Module:
        """A small DALL-E with the family's vocabulary.

        Raises:
            BadInput: it does not fit the tokeniser.
        """
        tokeniser = tokeniser_of(self.tokeniser)
        config = replace(
            OCHRE,
            codes=tokeniser.codes,
            grid=side_of(tokeniser),
            text_tokens=tokenizer().vocabulary_size,
            image_weight=self.image_weight,
            guidance=OCHRE.guidance if self.null_condition else 1.0,
            tokeniser=self.tokeniser,
        )
        model = Dalle(config)
        model.tokenizer = tokenizer()
        if self.model:
            model.load_state_dict(_pretrained(self.model, config).state_dict())
        return model

    def feed(self, part: Part) -> Iterator[dict[str, Tensor]]:
        """Captions and codes of scenes, which are read as they come for the first time."""
        return part.drawn(self, partial(self.batch, self.pool(part.folder)))

    def batch(self, pool: Pool, share: Share) -> dict[str, Tensor]:
        """Captions, worded anew every time, and codes of scenes of the train split."""
        numbers = pool.numbers(share)
        rng = np.random.Generator(np.random.PCG64([self.seed, share.number]))
        _, text = _worded(self, pool.scenes(numbers), rng)
        return {"text": text, "tokens": read_by(pool, reader_of(self.tokeniser), numbers).long()}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The losses on scenes of the validation split, in nats a token."""
        assert isinstance(model, Dalle)
        return self.measured(model, _kept(self))

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Validation scenes by their codes, each beside one painted from its English caption."""
        assert isinstance(model, Dalle)
        kept = _kept(self)
        # The typeface of sheets has no Chinese.
        rows = [row for row, said in enumerate(kept.captions) if said.isascii()]
        captions = tuple(kept.captions[row] for row in rows)
        return self.drawn(model, Told(kept.text[rows], kept.tokens[rows], captions))

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the DALL-E, in half precision, as a folder that `lascaux.load` reads."""
        assert isinstance(model, Dalle)
        save(model, folder, dtype=torch.float16, card=card(self.name, self, figures))


@cache
def tokenizer() -> CaptionTokenizer:
    """The family's vocabulary."""
    return named_vocabulary(_VOCABULARY)


def _worded(
    recipe: OchreDalle, scenes: list[Scene], rng: np.random.Generator
) -> tuple[tuple[str, ...], Tensor]:
    """Captions of scenes, worded by chance, and their ids."""
    captions = tuple(
        caption(scene, rng, "zh" if rng.random() < recipe.chinese else "en") for scene in scenes
    )
    return captions, tokenizer().tokenize(captions, OCHRE.text_length, truncate=True)


@lru_cache(maxsize=2)
def _kept(recipe: OchreDalle) -> Told:
    """Scenes of the validation split with their captions, always the same."""
    rng = np.random.Generator(np.random.PCG64([_SEED]))
    drawn = recipe.scenes_of(rng, "validation", _VALIDATED)
    captions, text = _worded(recipe, drawn, rng)
    return Told(text, reader_of(recipe.tokeniser).answers(stacked(drawn)), captions)


@lru_cache(maxsize=1)
def _pretrained(name: str, config: DalleConfig) -> Dalle:
    found = load(name)
    how = {"guidance": config.guidance, "temperature": config.temperature}
    if not isinstance(found, Dalle) or replace(found.config, **how) != config:
        raise BadInput(f"--model {name}: expected what this recipe trains, by the same settings")
    return found
