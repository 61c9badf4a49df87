"""ochre-imagine: pictures of the emoji world from sentences, learnt without one.

    lascaux train ochre-imagine

A CLIP-GEN (Wang et al. 2022, arXiv:2203.00386) of ochre-vq's codes after ochre-clip's embeddings.
Scenes are those of the train split (`train/pool.py`); no caption is read. What ochre-clip learnt
from captions is all that is known of language.

What makes it read the embedding: most scenes are portraits, whose codes follow from thing and
background (0.85 of them; the rest lie on the grid of codes, too), and of the codes that it reads up
to nine tenths are another picture's, since it else goes by them alone (after another's codes it
then named 1 % of a portrait's inner codes, and half of them after 1,500 steps). What makes it read
sentences: a denoiser that is learnt of pictures' embeddings before the first step brings those of
sentences nearer to them (`benchmarks/denoiser.py`), and noise on embeddings, half as long again as
they are, makes it bear what is left. With 0.6 portraits sentences, which seldom tell a size, came
out small or in pieces of several sizes.

Cost: 0.4 seconds of a core for a step of 32, and 0.5 for 64 scenes that are read for the first
time; the denoiser two minutes. The embedded model came to be in parts, six hours of a core
together. The first four, of 14,532 steps, had wider codes and no denoiser (`git show 1a4799d`, this
file). Then 3,793 steps with --embedding-noise 2.5 and a denoiser that learnt in the same steps,
which this recipe no longer does; then, each from the one before,

    lascaux train ochre-imagine --model BEFORE --portraits 0.6 --warmup-steps 50 --steps 6000 \\
        --cooldown-steps 2500
    lascaux train ochre-imagine --model BEFORE --denoiser-anew --warmup-steps 100 --steps 11400 \\
        --cooldown-steps 4000
    lascaux train ochre-imagine --model BEFORE --warmup-steps 100 --steps 10400 \\
        --cooldown-steps 4000

Validation stands at 0.96 nats a code, 1.01 after captions (one part before: 0.99 and 1.05, two:
1.12 and 1.20); with 0.6 portraits at 1.25 and 1.27 (1.27 and 1.31, 1.29 and 1.36). Guidance and
temperature are chosen by ochre-clip's score on 100 captions of the validation split: 67.5 and 67.3
with 2 and 3 at 0.5, 68.1 with 2.5 at 0.35 (one part before: 66.3 with 2 at 0.5).

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
from lascaux.train.begun import named
from lascaux.train.clip_gen import Answers, ClipGenRecipe, card, clip_of
from lascaux.train.codes import code_count, reader_of, tokeniser_of
from lascaux.train.pool import PAGE, OfPool, Pool, read_by
from lascaux.train.recipe import Part, Precision, Progress, Sample, Share, restated, setting
from lascaux.weights.load import save

_VALIDATED = 512  # scenes
_SEED = 80  # of them and their wordings

# 4.0 million parameters, 1.2 of them the codes' and 0.5 the denoiser's.
OCHRE = ClipGenConfig(codes=4096, layers=5, heads=6, width=192, code_width=96, dropout=0.0)
_GUIDANCE, _TEMPERATURE = 2.5, 0.35
_TRIED = 2 * PAGE  # scenes, to see what it costs


@dataclass(frozen=True, kw_only=True)
class OchreImagine(OfPool, ClipGenRecipe):
    """Settings of a run; every field is a flag of `lascaux train ochre-imagine`."""

    name: ClassVar[str] = "ochre-imagine"

    tokeniser: str = setting("ochre-vq", "whose codes are written: a name, folder or hub id")
    clip: str = setting("ochre-clip", "whose embeddings they are written from")
    model: str = setting("", "begin with these weights: a folder or name")
    portraits: float = restated("portraits", 0.85, OfPool)
    seed: int = restated("seed", 3)
    steps: int = restated("steps", 30_000)
    batch_size: int = restated("batch_size", 32)
    precision: Precision = restated("precision", "bfloat16")
    warmup_steps: int = restated("warmup_steps", 300)
    cooldown_steps: int = restated("cooldown_steps", 8000)
    learning_rate: float = restated("learning_rate", 1.2e-3)
    optimiser: Literal["adamw", "muon"] = restated("optimiser", "muon", ClipGenRecipe)
    denoiser: int = restated("denoiser", 480, ClipGenRecipe)
    embedding_noise: float = restated("embedding_noise", 1.5, ClipGenRecipe)
    null_condition: float = restated("null_condition", 0.1, ClipGenRecipe)
    strange_codes: float = restated("strange_codes", 0.9, ClipGenRecipe)
    averaging: float = restated("averaging", 0.998)

    def build(self) -> nn.Module:
        """A small CLIP-GEN, as long as the tokeniser's pictures are."""
        tokeniser = tokeniser_of(self.tokeniser)
        config = replace(
            OCHRE,
            codes=tokeniser.codes,
            denoiser=self.denoiser,
            length=code_count(tokeniser),
            embedding_width=clip_of(self.clip).config.embed_width,
            null_condition=self.null_condition > 0,
            guidance=_GUIDANCE if self.null_condition else 1.0,
            temperature=_TEMPERATURE,
            clip=self.clip,
            tokeniser=self.tokeniser,
        )
        model = ClipGen(config)
        if self.model:
            model.load_state_dict(_pretrained(self.model, config).state_dict())
        model.denoiser.requires_grad_(False)
        return model

    def prepare(
        self, folder: Path, *, sample: bool = False, progress: Progress | None = None
    ) -> float:
        """Read all scenes, and learn a denoiser of their embeddings."""
        begun = named("--model", self.model, ClipGen, "CLIP-GEN") if self.model else None
        if not self.lacks_denoiser(folder, begun):
            return 1.0
        pool, (_, embed) = self.pool(folder), _answerers(self)
        count = min(_TRIED, pool.different) if sample else pool.different
        read = []
        for first in range(0, count, PAGE):
            read.append(read_by(pool, embed, range(first, first + PAGE)))
            if progress is not None:
                progress("scenes", first + PAGE, count)
        if not sample:
            self.learn_denoiser(torch.cat(read), folder, progress)
        return count / pool.different

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
    drawn = recipe.scenes_of(rng, "validation", _VALIDATED)
    tokens, embeddings = (each.answers(stacked(drawn)) for each in _answerers(recipe))
    of_said = text_features(clip_of(recipe.clip), [caption(scene, rng) for scene in drawn])
    return Answers(tokens, embeddings), Answers(tokens, of_said)


@lru_cache(maxsize=1)
def _pretrained(name: str, config: ClipGenConfig) -> ClipGen:
    found = named("--model", name, ClipGen, "CLIP-GEN")
    had = found.config
    with_what_may_come_now = replace(
        had,
        null_condition=config.null_condition,
        guidance=config.guidance,
        temperature=config.temperature,
        denoiser=had.denoiser or config.denoiser,
        code_width=had.code_width or config.code_width,
    )
    if with_what_may_come_now != config:
        raise BadInput(f"--model {name}: expected what this recipe trains, by the same settings")
    model = ClipGen(config)
    state = model.state_dict() | found.state_dict()
    if config.code_width and not had.code_width:
        # The nearest vectors of that rank.
        u, s, v = torch.linalg.svd(state["tokens.weight"].float(), full_matrices=False)
        root, kept = s.sqrt(), config.code_width
        state["tokens.weight"] = u[:, :kept] * root[:kept]
        state["widened.weight"] = v.T[:, :kept] * root[:kept]
    model.load_state_dict(state)
    return model
