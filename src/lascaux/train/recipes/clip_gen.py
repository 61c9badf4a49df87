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
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from lascaux.data.loading import Loader
from lascaux.data.order import Order, Place
from lascaux.data.paired import PairedFeatures, PairedSamples
from lascaux.data.prepared import PreparedFeatures
from lascaux.data.records import Part as Some
from lascaux.data.records import Source
from lascaux.data.sources import open_source
from lascaux.errors import BadInput
from lascaux.models.clip_gen import VARIANTS, ClipGen, ClipGenConfig
from lascaux.tasks.answerers import clip_embeddings, token_ids
from lascaux.tasks.options import PrepareOptions
from lascaux.tasks.prepare import prepare
from lascaux.train.aside import trained_on, validated_on
from lascaux.train.clip_gen import (
    Answers,
    Writing,
    card,
    clip_of,
    code_count,
    square,
    tokeniser_of,
)
from lascaux.train.recipe import Part, Progress, Sample, restated, setting
from lascaux.train.schedules import Schedule
from lascaux.weights.load import load, save

log = logging.getLogger(__name__)

_TOKENS, _EMBEDDINGS = "tokens", "embeddings"  # folders within the run

ARCHITECTURES = {
    # 4 million parameters beside those of codes.
    "small": ClipGenConfig(codes=1024, layers=6, heads=4, width=256),
    **{name: VARIANTS[name] for name in ("gpt2-medium", "gpt2-large")},
}


@dataclass(frozen=True, kw_only=True)
class ClipGenTraining(Writing):
    """Settings of a run; every field is a flag of `lascaux train clip-gen`."""

    name: ClassVar[str] = "clip-gen"

    data: str = setting("", "pictures: a folder, table, COCO, tars, Parquet")
    validation: float = setting(0.05, "share of the records that is kept aside, at most 1000")
    tokeniser: str = setting("", "whose codes are written: a name, folder or hub id")
    clip: str = setting("ochre-clip", "whose embeddings they are written from")
    model: str = setting("", "begin with these weights: a name, folder or hub id")
    architecture: str = setting("small", "what to begin from nothing: small, or gpt2-medium, ...")
    views: int = setting(1, "of each picture: itself, and cut-outs")
    area: float = setting(0.8, "smallest share of a picture that a cut-out has")
    flip: float = setting(0.0, "chance of mirroring a cut-out")
    steps: int = restated("steps", 50_000)
    batch_size: int = restated("batch_size", 64)
    schedule: Schedule = restated("schedule", "cosine")
    warmup_steps: int = restated("warmup_steps", 1000)
    averaging: float = restated("averaging", 0.0)
    exported: Literal["last", "best"] = restated("exported", "best")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data or not self.tokeniser:
            missing = "--data" if not self.data else "--tokeniser"
            raise BadInput(
                f"{missing} is missing: a folder, table or archive with pictures, and an image "
                "tokeniser, such as `lascaux train vqgan` makes"
            )
        for name, low, high in (("validation", 0, 0.5), ("area", 1e-3, 1), ("flip", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"--{name} is {getattr(self, name)}; expected {low} to {high}")
        if self.views < 1:
            raise BadInput(f"--views is {self.views}; it must be at least 1")
        if not self.model and self.architecture not in ARCHITECTURES:
            raise BadInput(
                f"--architecture {self.architecture}: expected one of {', '.join(ARCHITECTURES)}"
            )

    def settings(self) -> dict[str, Any]:
        """The fields, and what tells the records apart from others at the same path."""
        return {**super().settings(), "records": _source(self.data).fingerprint[:16]}

    def build(self) -> nn.Module:
        """CLIP-GEN's transformer, as long as the tokeniser's pictures are.

        Raises:
            BadInput: tokeniser, CLIP and model do not fit each other.
        """
        model = ClipGen(self._config())
        if self.model:
            model.load_state_dict(_pretrained(self.model).state_dict())
        return model

    def prepare(
        self, folder: Path, *, sample: bool = False, progress: Progress | None = None
    ) -> float:
        """Codes and embeddings of all pictures."""
        source = _source(self.data)
        few = min(len(source), 2 * self.batch_size) if sample else len(source)
        chosen = Some(source, range(few)) if sample else source
        options = PrepareOptions(
            views=self.views,
            seed=self.seed,
            augment_area=(self.area, 1.0),
            augment_flip=self.flip,
        )
        tokeniser, clip = tokeniser_of(self.tokeniser), clip_of(self.clip)
        for name, answerer in (
            (_TOKENS, token_ids(tokeniser.model, self.tokeniser)),
            (_EMBEDDINGS, clip_embeddings(clip, self.clip)),
        ):
            done = prepare(chosen, folder / name, answerer, options, progress)
        for one in done.skipped:
            log.warning("left out %s: %s", one.source, one.reason)
        return few / len(source)

    def feed(self, part: Part) -> Loader:
        """Batches of codes and embeddings of the same views."""
        source = trained_on(_paired(part.folder), self.validation)
        order = Order(records=len(source), batch_size=self.batch_size // self.accumulation)
        loader = Loader(
            source,
            PairedSamples(("tokens", "embedding")),
            order,
            Place(seed=self.seed, world_size=part.ranks),
            rank=part.rank,
            workers=part.workers,
        )
        if part.place is not None:
            loader.load_state_dict(dict(part.place))
        return loader

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
            return replace(config, tokeniser=self.tokeniser)
        return replace(
            ARCHITECTURES[self.architecture],
            codes=tokeniser.codes,
            length=length,
            embedding_width=clip.config.embed_width,
            clip=self.clip,
            tokeniser=self.tokeniser,
        )


@lru_cache(maxsize=4)
def _source(path: str) -> Source:
    source = open_source(path)
    if isinstance(source, PreparedFeatures):
        raise BadInput(f"{source.path} holds prepared features, and no pictures: name their source")
    return source


def _paired(folder: Path) -> PairedFeatures:
    return PairedFeatures(*(PreparedFeatures(folder / name) for name in (_TOKENS, _EMBEDDINGS)))


@lru_cache(maxsize=2)
def _kept(recipe: ClipGenTraining) -> Answers | None:
    """Codes and embeddings of the records kept aside; None if there are none."""
    tokens = token_ids(tokeniser_of(recipe.tokeniser).model, recipe.tokeniser)
    embeddings = clip_embeddings(clip_of(recipe.clip), recipe.clip)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for record in validated_on(_source(recipe.data), recipe.validation):
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
    found = load(name)
    if not isinstance(found, ClipGen):
        raise BadInput(f"--model {name} is a {type(found).__name__}; expected a CLIP-GEN")
    return found
