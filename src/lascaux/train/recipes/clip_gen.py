"""clip-gen: pictures from sentences, learnt from your own pictures without a caption.

    lascaux train vqgan --data photos/
    lascaux train clip-gen --data photos/ --tokeniser runs/vqgan-0/model
    lascaux train clip-gen --data photos/ --tokeniser clip-gen-vqgan-coco --clip ViT-B/32 \\
        --architecture gpt2-medium --precision bfloat16

DATA is whatever `lascaux data info` reads; captions are not read. Wang et al. 2022,
arXiv:2203.00386. Before the first step the codes of all pictures by the tokeniser, and their
embeddings by the CLIP, are prepared once, in the run's folder; with --views K also those of K - 1
cut-outs of each. A run that is killed while it prepares goes on, too.

A part of the records is kept aside; on it the loss is measured, and pictures are written from
embeddings of pictures.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from torch import nn

from lascaux.data.paired import PairedFeatures, PairedRecord, PairedSamples
from lascaux.data.prepared import PreparedFeatures
from lascaux.data.records import Source
from lascaux.errors import BadInput
from lascaux.models.clip_gen import VARIANTS, ClipGen, ClipGenConfig
from lascaux.tasks.answerers import Answerer, clip_embeddings, token_ids
from lascaux.train.aside import trained_on, validated_on
from lascaux.train.begun import named
from lascaux.train.clip_gen import Answers, ClipGenRecipe, card, clip_of
from lascaux.train.codes import code_count, square, tokeniser_of
from lascaux.train.recipe import Progress, Sample, setting
from lascaux.train.spelt import TOKENS, Spelt
from lascaux.weights.load import save

log = logging.getLogger(__name__)

_EMBEDDINGS = "embeddings"  # folder within the run

ARCHITECTURES = {
    # 4 million parameters beside those of codes.
    "small": ClipGenConfig(codes=1024, layers=6, heads=4, width=256),
    **{name: VARIANTS[name] for name in ("gpt2-medium", "gpt2-large")},
}


@dataclass(frozen=True, kw_only=True)
class ClipGenTraining(Spelt, ClipGenRecipe):
    """Settings of a run; every field is a flag of `lascaux train clip-gen`."""

    name: ClassVar[str] = "clip-gen"

    architectures: ClassVar[Mapping[str, ClipGenConfig]] = ARCHITECTURES

    clip: str = setting("ochre-clip", "whose embeddings they are written from")

    def build(self) -> nn.Module:
        """CLIP-GEN's transformer, as long as the tokeniser's pictures are.

        Raises:
            BadInput: tokeniser, CLIP and model do not fit each other.
        """
        model = ClipGen(self._config())
        if self.model:
            model.load_state_dict({**model.state_dict(), **_pretrained(self.model).state_dict()})
        model.denoiser.requires_grad_(False)
        return model

    def prepare(
        self, folder: Path, *, sample: bool = False, progress: Progress | None = None
    ) -> float:
        """Codes and embeddings of the pictures, and a denoiser of the embeddings."""
        share = super().prepare(folder, sample=sample, progress=progress)
        begun = _pretrained(self.model) if self.model else None
        if not sample and self.lacks_denoiser(folder, begun):
            source, _ = self.prepared(folder)
            kept = trained_on(source, self.validation)
            rows = [cast(PairedRecord, kept[index]).others for index in range(len(kept))]
            self.learn_denoiser(torch.from_numpy(np.concatenate(rows)).float(), folder, progress)
        return share

    def answered(self, source: Source) -> Iterator[tuple[str, Source, Answerer]]:
        """Codes and embeddings of all pictures."""
        yield TOKENS, source, token_ids(tokeniser_of(self.tokeniser).model, self.tokeniser)
        yield _EMBEDDINGS, source, clip_embeddings(clip_of(self.clip), self.clip)

    def prepared(self, folder: Path) -> tuple[Source, PairedSamples]:
        """Codes and embeddings of the same views."""
        both = PairedFeatures(*(PreparedFeatures(folder / name) for name in (TOKENS, _EMBEDDINGS)))
        return both, PairedSamples(("tokens", "embedding"))

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on records kept aside, in nats a code."""
        assert isinstance(model, ClipGen)
        kept = _kept(self)
        return {} if kept is None else self.measured(model, kept)

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Pictures kept aside by their codes, each beside one written from its embedding."""
        assert isinstance(model, ClipGen)
        kept = _kept(self)
        return [] if kept is None else self.drawn(model, kept)

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the transformer, which names tokeniser and CLIP, for `lascaux.load`."""
        assert isinstance(model, ClipGen)
        save(model, folder, card=card(self.name, self, figures))

    def _config(self) -> ClipGenConfig:
        tokeniser, clip = tokeniser_of(self.tokeniser), clip_of(self.clip)
        length = code_count(tokeniser)
        if self.model:
            config = replace(_pretrained(self.model).config, clip=self.clip)
            if config.codes != tokeniser.codes or config.length < length:
                raise BadInput(
                    f"--model {self.model} writes {config.length} of {config.codes} codes; "
                    f"{self.tokeniser} has {length} of {tokeniser.codes}"
                )
            null_condition = config.null_condition or self.null_condition > 0
            return replace(
                config,
                tokeniser=self.tokeniser,
                null_condition=null_condition,
                denoiser=config.denoiser or self.denoiser,
            )
        return replace(
            ARCHITECTURES[self.architecture],
            codes=tokeniser.codes,
            length=length,
            embedding_width=clip.config.embed_width,
            null_condition=self.null_condition > 0,
            denoiser=self.denoiser,
            clip=self.clip,
            tokeniser=self.tokeniser,
        )


@lru_cache(maxsize=2)
def _kept(recipe: ClipGenTraining) -> Answers | None:
    """Codes and embeddings of the records kept aside; None if there are none."""
    tokens = token_ids(tokeniser_of(recipe.tokeniser).model, recipe.tokeniser)
    embeddings = clip_embeddings(clip_of(recipe.clip), recipe.clip)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for record in validated_on(recipe.source, recipe.validation):
        try:
            answers = [
                each.answers(square(record.image(each.preprocessing.reading), each.preprocessing))
                for each in (tokens, embeddings)
            ]
        except BadInput as error:
            log.warning("left out of the validation: %s: %s", record.key, error)
            continue
        found.append((answers[0], answers[1]))
    if not found:
        return None
    return Answers(*(torch.cat(each) for each in zip(*found, strict=True)))


@lru_cache(maxsize=1)
def _pretrained(name: str) -> ClipGen:
    return named("--model", name, ClipGen, "CLIP-GEN")
