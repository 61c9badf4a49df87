"""ochre-imagine: pictures of the emoji world from sentences, learnt without one.

    lascaux train ochre-imagine

A CLIP-GEN (Wang et al. 2022, arXiv:2203.00386) of ochre-vq's codes after ochre-clip's embeddings.
Scenes are those of the train split (`train/pool.py`); no caption is read. What ochre-clip learnt
from captions is all that is known of language.

Cost: 0.45 seconds of a core for a step of 32, and 0.6 for 64 scenes that are read for the first
time. The embedded model came to be in parts, an hour and a half of a core together:

    lascaux train ochre-imagine --name a --loose 1 --different 131072 --null-condition 0 \\
        --steps 1469 --cooldown-steps 0
    lascaux train ochre-imagine --name b --loose 1 --different 131072 \\
        --model runs/ochre-imagine-a/model --steps 1653 --cooldown-steps 0
    lascaux train ochre-imagine --name c \\
        --model runs/ochre-imagine-b/model --steps 4732 --cooldown-steps 0

Validation stands at 2.91 nats a code, 3.02 after captions. By ochre-clip's score on the validation
split it was chosen, and so was its guidance (`lascaux evaluate imagine --split validation --limit
100 --candidates 1`): 57.1 of 100 with guidance 3, 56.3 with 5; and 54.2 after 2,000 more steps with
more portraits among fewer scenes (--portraits 0.9375 --different 32768), where those that were
trained on became known by heart.

Validation is on scenes of the validation split: the loss after embeddings of the pictures, by which
the best weights are chosen, and beside it the loss of the same codes after embeddings of captions,
which says whether sentences serve as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lascaux.data.world.boxed import stacked
from lascaux.data.world.language import caption
from lascaux.errors import BadInput
from lascaux.models.clip_gen import ClipGen, ClipGenConfig
from lascaux.tasks.answerers import Answerer, clip_embeddings
from lascaux.tasks.features import text_features
from lascaux.train.clip_gen import Answers, ClipGenRecipe, card, clip_of
from lascaux.train.codes import code_count, reader_of, tokeniser_of
from lascaux.train.pool import OfPool, Pool, mixed, read_by
from lascaux.train.recipe import Part, Precision, Sample, Share, restated, setting
from lascaux.weights.load import load, save

_VALIDATED = 512  # scenes
_SEED = 80  # of them and their wordings

# 3.5 million parameters, 0.8 of them the codes'.
OCHRE = ClipGenConfig(codes=2048, layers=6, heads=6, width=192, dropout=0.0)
_GUIDANCE = 3.0


@dataclass(frozen=True, kw_only=True)
class OchreImagine(OfPool, ClipGenRecipe):
    """Settings of a run; every field is a flag of `lascaux train ochre-imagine`."""

    name: ClassVar[str] = "ochre-imagine"

    tokeniser: str = setting("ochre-vq", "whose codes are written: a name, folder or hub id")
    clip: str = setting("ochre-clip", "whose embeddings they are written from")
    model: str = setting("", "begin with these weights: a folder or name")
    seed: int = restated("seed", 3)
    steps: int = restated("steps", 30_000)
    batch_size: int = restated("batch_size", 32)
    precision: Precision = restated("precision", "bfloat16")
    warmup_steps: int = restated("warmup_steps", 300)
    cooldown_steps: int = restated("cooldown_steps", 8000)
    learning_rate: float = restated("learning_rate", 1.2e-3)
    optimiser: Literal["adamw", "muon"] = restated("optimiser", "muon", ClipGenRecipe)
    embedding_noise: float = restated("embedding_noise", 0.75, ClipGenRecipe)
    null_condition: float = restated("null_condition", 0.1, ClipGenRecipe)
    averaging: float = restated("averaging", 0.998)

    def build(self) -> nn.Module:
        """A small CLIP-GEN, as long as the tokeniser's pictures are."""
        tokeniser = tokeniser_of(self.tokeniser)
        config = replace(
            OCHRE,
            codes=tokeniser.codes,
            length=code_count(tokeniser),
            embedding_width=clip_of(self.clip).config.embed_width,
            null_condition=self.null_condition > 0,
            guidance=_GUIDANCE if self.null_condition else 1.0,
            clip=self.clip,
            tokeniser=self.tokeniser,
        )
        model = ClipGen(config)
        if self.model:
            model.load_state_dict(_pretrained(self.model, config).state_dict())
        return model

    def feed(self, part: Part) -> Iterator[dict[str, Tensor]]:
        """Codes and embeddings of scenes, which are read as they come for the first time."""
        return part.drawn(self, partial(self.batch, self.pool(part.folder)))

    def batch(self, pool: Pool, share: Share) -> dict[str, Tensor]:
        """Codes and embeddings of scenes of the train split."""
        numbers, answerers = pool.numbers(share), _answerers(self)
        tokens, embeddings = (read_by(pool, answerer, numbers) for answerer in answerers)
        return {"tokens": tokens.long(), "embedding": embeddings}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss in nats a code, after embeddings of pictures and of captions."""
        assert isinstance(model, ClipGen)
        of_pictures, of_captions = _aside(self)
        return {
            **self.measured(model, of_pictures),
            "validation_loss_of_captions": self.measured(model, of_captions)["validation_loss"],
        }

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Validation scenes by their codes, each beside one written from its caption."""
        assert isinstance(model, ClipGen)
        return self.drawn(model, _aside(self)[1])

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the transformer, in half precision, as a folder that `lascaux.load` reads."""
        assert isinstance(model, ClipGen)
        save(model, folder, dtype=torch.float16, card=card(self.name, self, figures))


@lru_cache(maxsize=2)
def _answerers(recipe: OchreImagine) -> tuple[Answerer, Answerer]:
    """Who reads codes, and who embeddings."""
    return reader_of(recipe.tokeniser), clip_embeddings(clip_of(recipe.clip), recipe.clip)


@lru_cache(maxsize=1)
def _aside(recipe: OchreImagine) -> tuple[Answers, Answers]:
    """Codes of the validation scenes, with embeddings of the pictures and of captions."""
    rng = np.random.Generator(np.random.PCG64([_SEED]))
    drawn = mixed(rng, "validation", _VALIDATED, recipe.portraits, recipe.loose)
    tokens, embeddings = (each.answers(stacked(drawn)) for each in _answerers(recipe))
    of_said = text_features(clip_of(recipe.clip), [caption(scene, rng) for scene in drawn])
    return Answers(tokens, embeddings), Answers(tokens, of_said)


@lru_cache(maxsize=1)
def _pretrained(name: str, config: ClipGenConfig) -> ClipGen:
    found = load(name)
    # Guidance may be learnt only now.
    guided = {"null_condition": config.null_condition, "guidance": config.guidance}
    if not isinstance(found, ClipGen) or replace(found.config, **guided) != config:
        raise BadInput(f"--model {name}: expected what this recipe trains, by the same settings")
    return found
