"""dalle: pictures from sentences, learnt from your own pictures and captions.

    lascaux train vqgan --data photos/
    lascaux train dalle --data photos/ --tokeniser runs/vqgan-0/model
    lascaux train dalle --data coco.json --tokeniser vqgan-imagenet-f16-1024 \\
        --architecture coco_512_16_16D_16H_80TSL --precision bfloat16

DATA is whatever `lascaux data info` reads, with captions, of which one is drawn each time. Ramesh
et al. 2021, arXiv:2102.12092, as DALLE-pytorch has it. Before the first step the codes of all
pictures by the tokeniser are prepared once, in the run's folder; with --views K also those of K - 1
cut-outs of each. A run that is killed while it prepares goes on, too.

Captions are read by a vocabulary that is learnt from them, or by the one that --text-tokenizer
names; what is longer than the model reads is cut. A part of the records is kept aside; on it the
losses of captions and of pictures are measured, and pictures are painted from captions.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lascaux.data.prepared import FeatureSamples, PreparedFeatures
from lascaux.data.records import Record, Source
from lascaux.errors import BadInput, BadText
from lascaux.models.dalle import VARIANTS, Dalle, DalleConfig, Pattern
from lascaux.tasks.answerers import Answerer, token_ids
from lascaux.text.captions import CaptionTokenizer, ClipPairs
from lascaux.train.aside import trained_on, validated_on
from lascaux.train.begun import named
from lascaux.train.captions import learnt_vocabulary, named_vocabulary, require_captions
from lascaux.train.codes import square, tokeniser_of
from lascaux.train.dalle import DalleRecipe, Told, card, side_of
from lascaux.train.recipe import Sample, setting
from lascaux.train.records import source_of
from lascaux.train.spelt import TOKENS, Spelt
from lascaux.weights.load import save

log = logging.getLogger(__name__)

ARCHITECTURES = {
    # 6 million parameters beside those of tokens.
    "small": DalleConfig(codes=1, grid=1, width=256, layers=6, heads=4, text_length=40),
    **VARIANTS,
}


@dataclass(frozen=True, kw_only=True)
class DalleTraining(Spelt, DalleRecipe):
    """Settings of a run; every field is a flag of `lascaux train dalle`."""

    name: ClassVar[str] = "dalle"

    architectures: ClassVar[Mapping[str, DalleConfig]] = ARCHITECTURES

    text_tokenizer: str = setting(
        "", "of captions: a file or folder, or a model's name; else one is learnt from them"
    )
    vocabulary: int = setting(8192, "tokens learnt from the captions, where none is named")
    text_length: int = setting(0, "tokens of a caption that are read; 0: as the architecture has")
    patterns: tuple[str, ...] = setting(
        (), f"what layers see, in turn: {', '.join(get_args(Pattern))}; as the architecture has"
    )
    reversible: bool = setting(False, "layers are undone for their gradients: less memory, slower")
    dropout: float = setting(0.0, "probability, of attention and of MLPs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout <= 1:
            raise BadInput(f"--dropout is {self.dropout}; expected 0 to 1")
        if self.text_length < 0:
            raise BadInput(f"--text-length is {self.text_length}; it must be at least 0")
        if self.model and (self.patterns or self.reversible or self.text_length):
            raise BadInput(
                f"--model {self.model} says what its layers see, whether they are undone and how "
                "much text it reads: leave --patterns, --reversible and --text-length out"
            )

    @property
    def source(self) -> Source:
        """The records, which have captions."""
        return _captioned(self.data)

    def build(self) -> nn.Module:
        """A DALL-E for the tokeniser's pictures, with its text tokeniser.

        Raises:
            BadInput: the tokenisers and the model do not fit each other.
        """
        model = Dalle(self._config())
        model.tokenizer = self._tokenizer()
        if self.model:
            whole = _pretrained(self.model).state_dict()
            # A tokeniser inside it is not trained, and the new model names its own.
            model.load_state_dict({k: x for k, x in whole.items() if not _inside(k)})
        return model

    def answered(self, source: Source) -> Iterator[tuple[str, Source, Answerer]]:
        """Codes of all pictures."""
        yield TOKENS, source, token_ids(tokeniser_of(self.tokeniser).model, self.tokeniser)

    def prepared(self, folder: Path) -> tuple[Source, "_Pairs"]:
        """Codes, each with the ids of one of its captions."""
        pairs = _Pairs(self._tokenizer(), self._config().text_length)
        return PreparedFeatures(folder / TOKENS), pairs

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The losses on records kept aside, in nats a token."""
        assert isinstance(model, Dalle)
        kept = _kept(self)
        return {} if kept is None else self.measured(model, kept)

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Pictures kept aside by their codes, each beside one painted from its caption."""
        assert isinstance(model, Dalle)
        kept = _kept(self)
        return [] if kept is None else self.drawn(model, kept)

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the DALL-E with its text tokeniser; its config names the picture tokeniser."""
        assert isinstance(model, Dalle)
        save(model, folder, card=card(self.name, self, figures))

    def _config(self) -> DalleConfig:
        tokeniser = tokeniser_of(self.tokeniser)
        fitting = {
            "codes": tokeniser.codes,
            "grid": side_of(tokeniser),
            "text_tokens": self._tokenizer().vocabulary_size,
        }
        shared: dict[str, Any] = {
            "attention_dropout": self.dropout,
            "mlp_dropout": self.dropout,
            "image_weight": self.image_weight,
            "tokeniser": self.tokeniser,
        }
        if self.model:
            config = _pretrained(self.model).config
            for name, wanted in fitting.items():
                if (has := getattr(config, name)) != wanted:
                    raise BadInput(
                        f"--model {self.model} has {name} {has}; with --tokeniser {self.tokeniser}"
                        f" and the text tokeniser it would be {wanted}: name those it belongs to"
                    )
            return replace(config, **shared)
        config = ARCHITECTURES[self.architecture]
        return replace(
            config,
            **fitting,
            **shared,
            text_length=self.text_length or config.text_length,
            patterns=self.patterns or config.patterns,
            reversible=self.reversible,
        )

    def _tokenizer(self) -> CaptionTokenizer:
        if self.text_tokenizer:
            return _named(self.text_tokenizer)
        if not self.model:
            return _vocabulary(self)
        found = _pretrained(self.model).tokenizer
        if found is None:
            raise BadInput(
                f"--model {self.model} has no text tokeniser with it: name one (--text-tokenizer)"
            )
        return found


@dataclass(frozen=True)
class _Pairs:
    """Makes the codes of one view with the ids of one caption, both drawn by chance."""

    tokenizer: CaptionTokenizer
    length: int

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Tensor]:
        """The sample."""
        sample = FeatureSamples(("features", "caption"))(record, rng)
        text = self.tokenizer.tokenize(sample["caption"], self.length, truncate=True)
        return {"text": text[0], "tokens": sample["features"]}


@lru_cache(maxsize=4)
def _captioned(path: str) -> Source:
    source = source_of(path)
    require_captions(source)
    return source


@lru_cache(maxsize=2)
def _kept(recipe: DalleTraining) -> Told | None:
    """Codes and first captions of the records kept aside; None if there are none."""
    answerer = token_ids(tokeniser_of(recipe.tokeniser).model, recipe.tokeniser)
    tokenizer, length = recipe._tokenizer(), recipe._config().text_length
    texts: list[Tensor] = []
    tokens: list[Tensor] = []
    captions: list[str] = []
    for record in validated_on(recipe.source, recipe.validation):
        how = answerer.preprocessing
        try:
            if not record.captions:
                raise BadText("it has no caption")
            text = tokenizer.tokenize(record.captions[0], length, truncate=True)
            ids = answerer.answers(square(record.image(how.reading), how))
        except BadInput as error:
            log.warning("left out of the validation: %s: %s", record.key, error)
            continue
        texts.append(text)
        tokens.append(ids)
        captions.append(record.captions[0])
    if not captions:
        return None
    return Told(torch.cat(texts), torch.cat(tokens), tuple(captions))


@lru_cache(maxsize=2)
def _vocabulary(recipe: DalleTraining) -> CaptionTokenizer:
    """Learnt from captions of the records that are trained on."""
    source = trained_on(recipe.source, recipe.validation)
    length = recipe.text_length or ARCHITECTURES[recipe.architecture].text_length
    # Both markers are counted, of which a DALL-E has none.
    return CaptionTokenizer(ClipPairs(learnt_vocabulary(source, recipe.vocabulary, length + 2)))


@lru_cache(maxsize=2)
def _named(name: str) -> CaptionTokenizer:
    return named_vocabulary(name)


@lru_cache(maxsize=1)
def _pretrained(name: str) -> Dalle:
    return named("--model", name, Dalle, "DALL-E")


def _inside(key: str) -> bool:
    return key.startswith("tokeniser.")
