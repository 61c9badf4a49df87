"""clip: pictures and their captions in one space, on your own data.

    lascaux train clip --data photos/                          from nothing, small
    lascaux train clip --data coco.json --model ViT-B/32 --learning-rate 1e-5
    lascaux train clip --data photos/ --model ViT-B/32 --lock  the text tower alone

DATA is whatever `lascaux data info` reads, with captions. Radford et al. 2021, arXiv:2103.00020;
--objective sigmoid is SigLIP's (Zhai et al. 2023, arXiv:2303.15343); --lock is LiT (Zhai et al.
2022, arXiv:2111.07991): pictures keep their embeddings, which are then prepared once instead of at
every step. That is exact, but for their rounding to float16, where pictures are not changed by
chance (--views 1); with more views, training draws from so many fixed cut-outs instead of making a
new one each time.

A part of the records is kept aside; on it the share of pictures that find their caption first, and
of captions that find their picture, is measured.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lascaux.data.loading import Loader
from lascaux.data.prepared import FeatureSamples, PreparedFeatures
from lascaux.data.records import Part as Some
from lascaux.data.records import Record, Source
from lascaux.data.samples import Samples
from lascaux.data.sources import open_source
from lascaux.errors import BadInput
from lascaux.images.augment import Augmentation
from lascaux.images.preprocess import normalise
from lascaux.models.clip import VARIANTS, Clip, ClipConfig
from lascaux.tasks.answerers import clip_embeddings
from lascaux.tasks.options import PrepareOptions
from lascaux.tasks.prepare import prepare
from lascaux.text.clip_bpe import ClipTokenizer, TextCutWarning
from lascaux.train.aside import trained_on, validated_on
from lascaux.train.begun import named
from lascaux.train.captions import learnt_vocabulary, require_captions
from lascaux.train.contrastive import info_nce, likeness, sigmoid_pairs
from lascaux.train.optimisers import Optimiser, decayed_and_plain
from lascaux.train.recipe import (
    Loss,
    Moment,
    Part,
    Progress,
    Recipe,
    Sample,
    precise,
    restated,
    setting,
)
from lascaux.train.records import loaded
from lascaux.train.schedules import Schedule
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.load import save

log = logging.getLogger(__name__)

_PREPARED = "prepared"  # folder within the run
_LARGEST_SCALE = 100.0  # of cosines, as published
_AT_ONCE = 64  # records embedded together in a validation
_SHOWN = 12  # pictures of a sheet of samples

SMALL = ClipConfig(
    embed_width=256,
    image_size=64,
    vision_layers=(2, 2, 4, 2),
    vision_width=16,
    vision_heads=8,
    stem_pool=False,
    text_width=128,
    text_heads=4,
    text_layers=3,
    context_length=40,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    reading="photo",
    templates="simple",
)


class Trainee(nn.Module):
    """A CLIP, and the bias that the sigmoid objective adds to its scaled cosines."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip
        self.bias = nn.Parameter(torch.tensor(-10.0))  # as published; most pairs are wrong


@dataclass(frozen=True, kw_only=True)
class ClipTraining(Recipe):
    """Settings of a run; every field is a flag of `lascaux train clip`."""

    name: ClassVar[str] = "clip"
    best: ClassVar[str | None] = "+validation_recall"

    data: str = setting("", "pictures with captions: folder, table, COCO, tars, Parquet, prepared")
    validation: str = setting("", "likewise, to validate on; if not given, a part is kept aside")
    aside: float = setting(0.05, "share of the records that is kept aside, at most 1000 records")
    model: str = setting("", "begin with these weights: a name, folder or hub id")
    architecture: str = setting("small", "what to begin from nothing: small, or a published name")
    vocabulary: int = setting(8192, "tokens learnt from the captions, where nothing is begun with")
    objective: Literal["info-nce", "sigmoid"] = setting(  # it gives a field
        "info-nce", "each pair against the batch, or by itself"
    )
    area: float = setting(0.9, "smallest share of a picture that is cut out by chance; 1: none")
    flip: float = setting(0.0, "chance of mirroring; wrong where captions tell left from right")
    chunk: int = setting(0, "pictures of which activations are kept at once; 0: of all")
    lock: bool = setting(False, "keep the picture tower, and prepare its embeddings once")
    views: int = setting(1, "with --lock: embeddings of each picture, all but one of cut-outs")
    steps: int = restated("steps", 10_000)
    batch_size: int = restated("batch_size", 256)
    learning_rate: float = restated("learning_rate", 5e-4)
    schedule: Schedule = restated("schedule", "cosine")
    warmup_steps: int = restated("warmup_steps", 500)
    weight_decay: float = restated("weight_decay", 0.2)
    averaging: float = restated("averaging", 0.0)
    exported: Literal["last", "best"] = restated("exported", "best")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise BadInput("--data is missing: name a folder, table or archive with captions")
        for name, low, high in (("aside", 0, 0.5), ("area", 1e-3, 1), ("flip", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"--{name} is {getattr(self, name)}; expected {low} to {high}")
        if self.chunk < 0 or self.views < 1:
            raise BadInput("--chunk must be at least 0, and --views at least 1")
        if not self.model and self.architecture not in ("small", *VARIANTS):
            raise BadInput(
                f"--architecture {self.architecture}: expected small, or {', '.join(VARIANTS)}"
            )
        if self._embedded and not self.model:
            raise BadInput(
                "embeddings that are prepared go with the model that gave them: name it (--model)"
            )

    def settings(self) -> dict[str, Any]:
        """The fields, and what tells the records apart from others at the same path."""
        return {**super().settings(), "records": _source(self.data).fingerprint[:16]}

    def build(self) -> nn.Module:
        """A CLIP with its tokenizer, whose picture tower is frozen where embeddings are given."""
        model = Trainee(self._clip())
        if self._embedded:
            model.clip.image.requires_grad_(False)
        if self.objective != "sigmoid":
            model.bias.requires_grad_(False)
        return model

    def prepare(
        self, folder: Path, *, sample: bool = False, progress: Progress | None = None
    ) -> float:
        """The embeddings of all pictures, where the picture tower is locked."""
        source = _source(self.data)
        if not self.lock or isinstance(source, PreparedFeatures):
            return 1.0
        few = min(len(source), 2 * self.batch_size) if sample else len(source)
        chosen = Some(source, range(few)) if sample else source
        options = PrepareOptions(
            model=self.model,
            views=self.views,
            seed=self.seed,
            augment_area=(self.area, 1.0),
            augment_flip=self.flip,
        )
        done = prepare(chosen, folder / _PREPARED, _pretrained(self.model), options, progress)
        for one in done.skipped:
            log.warning("left out %s: %s", one.source, one.reason)
        return few / len(source)

    def feed(self, part: Part) -> Loader:
        """Batches of pictures, or of their embeddings, with the ids of one caption each."""
        source = self._trained_on(part.folder)
        return loaded(self, part, source, self._pairs(source))

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        """AdamW as published: gains, biases and the scale are not decayed."""
        groups = decayed_and_plain(model.named_parameters(), self.weight_decay)
        # Table 18: the ViTs take a larger epsilon.
        epsilon = 1e-8 if self._config().convolutional else 1e-6
        return {"model": Optimiser("adamw", groups, (0.9, 0.98), epsilon)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        """InfoNCE or pairwise sigmoid over the pictures and captions of all processes."""
        assert isinstance(model, Trainee)
        clip = model.clip
        seen = self._seen(clip, batch)
        said = self._chunked(clip.encode_text, batch["ids"])
        with precise(said.device):
            seen, said = F.normalize(seen.float(), dim=-1), F.normalize(said.float(), dim=-1)
            scale = _scale(clip)
            if self.objective == "sigmoid":
                value = sigmoid_pairs(seen, said, scale, model.bias, batch["ids"])
            else:
                value = info_nce(seen, said, scale, batch["ids"])
        return Loss(value, {"scale": scale.detach(), "likeness": likeness(seen.detach())})

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss and recalls on records kept aside; equal captions count as the same one."""
        assert isinstance(model, Trainee)
        aside = self._aside(model.clip)
        if len(aside.records) < 2:
            return {}
        scale = _scale(model.clip)
        size = min(self.batch_size, len(aside.records))
        losses = [
            info_nce(seen, said, scale, ids, together=False)
            for seen, said, ids in zip(
                *(part.split(size) for part in (aside.seen, aside.said, aside.ids)), strict=True
            )
            if len(seen) == size
        ]
        cosines = aside.seen @ aside.said.T
        right = (aside.ids[:, None] == aside.ids[None]).all(2)
        found = {
            f"{way}{'' if top == 1 else f'_{top}'}": _recall(table, right, top)
            for way, table in (("picture_to_text", cosines), ("text_to_picture", cosines.T))
            for top in (1, 5)
        }
        recall = (found["picture_to_text"] + found["text_to_picture"]) / 2
        told = {"loss": torch.stack(losses).mean().item(), "recall": recall, **found}
        return {f"validation_{name}": value for name, value in told.items()}

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Pictures kept aside, with the captions that fit best."""
        assert isinstance(model, Trainee)
        if self._embedded:
            return []
        aside = self._aside(model.clip)
        shares = (_scale(model.clip) * aside.seen @ aside.said.T).softmax(1)
        sheet = []
        for record, row in zip(aside.records[:_SHOWN], shares, strict=False):
            best = row.topk(min(3, len(row)))
            bars = [
                (aside.records[place].captions[0], share)
                for share, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            sheet.append(Sample(record.image(), record.captions[0], bars))
        return sheet

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the CLIP with its tokenizer as a folder that `lascaux.load` reads."""
        assert isinstance(model, Trainee)
        save(model.clip, folder, card=_card(self, figures))

    @property
    def _embedded(self) -> bool:
        return self.lock or isinstance(_source(self.data), PreparedFeatures)

    def _config(self) -> ClipConfig:
        if self.model:
            return _pretrained(self.model).config
        if self.architecture == "small":
            return SMALL
        return VARIANTS[self.architecture]

    def _clip(self) -> Clip:
        if self.model:
            loaded = _pretrained(self.model)
            clip = Clip(loaded.config)
            clip.load_state_dict(
                loaded.state_dict()
            )  # a copy: what is loaded is mapped from a file
            clip.tokenizer = loaded.tokenizer
            return clip
        tokenizer = _vocabulary(self)
        config = replace(
            self._config(),
            vocabulary_size=tokenizer.vocabulary_size,
            context_length=tokenizer.context_length,
        )
        clip = Clip(config)
        clip.tokenizer = tokenizer
        return clip

    def _tokenizer(self) -> ClipTokenizer:
        tokenizer = _pretrained(self.model).tokenizer if self.model else _vocabulary(self)
        if tokenizer is None:
            raise BadInput(
                f"--model {self.model} has no vocabulary with it: name a folder or hub id that has"
            )
        return tokenizer

    def _pairs(self, source: Source) -> "_Pairs":
        how: FeatureSamples | Samples
        if isinstance(_whole(source), PreparedFeatures):
            how = FeatureSamples(("features", "caption"))
        elif self.area == 1 and not self.flip:
            how = Samples(self._config().preprocessing, ("picture", "caption"))
        else:
            size = self._config().image_size
            changes = Augmentation(size=size, area=(self.area, 1.0), flip=self.flip)
            how = Samples(changes, ("picture", "caption"))
        return _Pairs(how, self._tokenizer())

    def _trained_on(self, folder: Path) -> Source:
        """The records that are not kept aside; of the run's folder, where features are in it."""
        source = _source(self.data)
        if self.lock and not isinstance(source, PreparedFeatures):
            source = PreparedFeatures(folder / _PREPARED)
        if isinstance(source, PreparedFeatures):
            source.require_model(weights_hash(_pretrained(self.model)), self.model)
        return source if self.validation else trained_on(source, self.aside)

    def _seen(self, clip: Clip, batch: dict[str, Tensor]) -> Tensor:
        if "features" in batch:
            return batch["features"]
        x = batch["picture"].float() / 255
        return self._chunked(clip.encode_image, normalise(x, clip.config.mean, clip.config.std))

    def _chunked(self, encode: Any, x: Tensor) -> Tensor:
        """What `encode` gives for all rows, while activations of a chunk are kept at most.

        The loss is that of the whole batch, and so is its gradient (Gao et al. 2021,
        arXiv:2101.06983, keep the same for the same end).
        """
        if not self.chunk or len(x) <= self.chunk or not torch.is_grad_enabled():
            return encode(x)
        parts = [checkpoint(encode, part, use_reentrant=False) for part in x.split(self.chunk)]
        return torch.cat(parts)

    def _aside(self, clip: Clip) -> "_Aside":
        """Pictures and first captions kept aside, read once and embedded anew."""
        made, records = _kept(self)
        seen, said, ids = [], [], []
        for start in range(0, len(made), _AT_ONCE):
            rows = made[start : start + _AT_ONCE]
            batch = {
                key: torch.stack([row[key] for row in rows]).to(clip.device) for key in rows[0]
            }
            seen.append(F.normalize(self._seen(clip, batch).float(), dim=-1))
            said.append(F.normalize(clip.encode_text(batch["ids"]).float(), dim=-1))
            ids.append(batch["ids"])
        if not made:
            return _Aside(torch.empty(0), torch.empty(0), torch.empty(0), [])
        return _Aside(torch.cat(seen), torch.cat(said), torch.cat(ids), records)


class _Aside(NamedTuple):
    """Records kept aside: unit embeddings, ids of their first captions, themselves."""

    seen: Tensor
    said: Tensor
    ids: Tensor
    records: list[Record]


@dataclass(frozen=True)
class _Pairs:
    """Makes a picture, or its embedding, with the ids of one of its captions."""

    how: Samples | FeatureSamples
    tokenizer: ClipTokenizer

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Tensor]:
        """The sample."""
        sample = self.how(record, rng)
        with warnings.catch_warnings():
            # Of a million captions some are too long; that they are cut is said in the docs.
            warnings.simplefilter("ignore", TextCutWarning)
            ids = self.tokenizer(sample.pop("caption"))[0]
        return {**sample, "ids": ids}


@lru_cache(maxsize=4)
def _source(path: str) -> Source:
    source = open_source(path)
    require_captions(source)
    return source


def _whole(source: Source) -> Source:
    return source.whole if isinstance(source, Some) else source


@lru_cache(maxsize=2)
def _kept(recipe: ClipTraining) -> tuple[list[dict[str, Tensor]], list[Record]]:
    """Samples of the records kept aside, with the first caption of each."""
    other = _source(recipe.validation) if recipe.validation else None
    source = validated_on(_source(recipe.data), recipe.aside, other)
    embedded = isinstance(_whole(source), PreparedFeatures)
    how = (
        FeatureSamples(("features", "caption"), "plain")
        if embedded
        else Samples(recipe._config().preprocessing, ("picture", "caption"))
    )
    pairs, chance = _Pairs(how, recipe._tokenizer()), np.random.Generator(np.random.PCG64([0]))
    made, records = [], []
    for record in source:
        try:
            first = replace(record, captions=record.captions[:1])
            sample = pairs(first, chance)
            if recipe.lock and not embedded:
                sample["features"] = _pictured(recipe.model)(sample.pop("picture")[None])[0]
            made.append(sample)
            records.append(first)
        except BadInput as error:
            log.warning("left out of the validation: %s: %s", record.key, error)
    return made, records


@lru_cache(maxsize=1)
def _pretrained(name: str) -> Clip:
    return named("--model", name, Clip, "CLIP")


@lru_cache(maxsize=1)
def _vocabulary(recipe: ClipTraining) -> ClipTokenizer:
    """Learnt from captions of the records that are trained on."""
    published = recipe.architecture != "small"
    context = VARIANTS[recipe.architecture].context_length if published else SMALL.context_length
    return learnt_vocabulary(recipe._trained_on(Path()), recipe.vocabulary, context)


def _pictured(name: str) -> Callable[[Tensor], Tensor]:
    """What a locked tower answers: of pictures (uint8) embeddings of unit length."""
    return clip_embeddings(_pretrained(name)).answers


def _scale(clip: Clip) -> Tensor:
    return clip.logit_scale.float().exp().clamp(max=_LARGEST_SCALE)


def _recall(cosines: Tensor, right: Tensor, top: int) -> float:
    """The share of rows of which a right column is among the best."""
    best = cosines.topk(min(top, cosines.shape[1]), dim=1).indices
    return right.gather(1, best).any(1).float().mean().item()


def _card(recipe: ClipTraining, figures: dict[str, float]) -> str:
    measured = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items())
    begun = recipe.model or f"nothing ({recipe.architecture})"
    return _CARD.format(measured=measured, begun=begun, steps=recipe.steps, size=recipe.batch_size)


_CARD = """\
---
library_name: lascaux
pipeline_tag: zero-shot-image-classification
tags:
- clip
---

# A CLIP trained by the recipe `clip` of Lascaux

From {begun}, {steps} steps of {size} pictures.

| on records kept aside | |
|---|---|
{measured}
"""
