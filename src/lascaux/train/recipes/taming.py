"""taming: pictures after nothing, after classes or after maps, learnt from your own pictures.

    lascaux train vqgan --data photos/
    lascaux train taming --data photos/ --tokeniser runs/vqgan-0/model
    lascaux train taming --data animals/ --condition class --tokeniser vqgan-imagenet-f16-1024 \\
        --architecture ffhq --precision bfloat16
    lascaux train taming --data streets/ --condition map --maps labels/ --labels 30 \\
        --tokeniser runs/vqgan-0/model

DATA is whatever `lascaux data info` reads. Esser, Rombach, Ommer 2020, arXiv:2012.09841. Classes
are those of the records, such as names of subfolders. Maps are PNGs of numbers of classes, each
named as its picture, in a folder of their own. Of each patch of a map its class and its outline are
read (`models/label_patches.py`), and outlines are learnt from the first thousand maps; the
published training has a VQGAN of maps in their place.

Before the first step the codes of all pictures by the tokeniser, and the tokens of their maps, are
prepared once, in the run's folder; with --views K also those of K - 1 cut-outs of each. A part of
the records is kept aside; on it the loss is measured. The model holds both its stages.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lascaux.data.maps import LabelMaps, MapRecord, bytes_to_numbers
from lascaux.data.paired import PairedFeatures, PairedSamples
from lascaux.data.prepared import FeatureSamples, PreparedFeatures
from lascaux.data.records import Source
from lascaux.errors import BadInput
from lascaux.images.maps import coloured
from lascaux.images.preprocess import Preprocessing
from lascaux.models.label_patches import LabelPatches
from lascaux.models.taming_transformer import (
    VARIANTS,
    TamingTransformer,
    TamingTransformerConfig,
)
from lascaux.tasks.answerers import Answerer, token_ids
from lascaux.train.aside import validated_on
from lascaux.train.codes import grid_of, square, tokeniser_of
from lascaux.train.label_patches import learnt_patches
from lascaux.train.recipe import Loss, Moment, Sample, setting
from lascaux.train.spelt import TOKENS, Spelt
from lascaux.train.taming import (
    Paired,
    TamingRecipe,
    beside,
    card,
    in_order,
    painted,
    painter_of,
    vqgan_of,
    whole,
)
from lascaux.weights.fingerprint import weights_hash
from lascaux.weights.load import load, save

log = logging.getLogger(__name__)

_MAPS = "maps"  # folder within the run
_OUTLINED = 1000  # maps that outlines are learnt from
_SHOWN = 8  # pictures of a sheet of samples

ARCHITECTURES = {
    # 4.7 million parameters beside those of codes.
    "small": TamingTransformerConfig(codes=1, length=1, layers=6, heads=4, width=256),
    **VARIANTS,
}


@dataclass(frozen=True, kw_only=True)
class TamingTraining(Spelt, TamingRecipe):
    """Settings of a run; every field is a flag of `lascaux train taming`."""

    name: ClassVar[str] = "taming"

    architectures: ClassVar[Mapping[str, TamingTransformerConfig]] = ARCHITECTURES

    condition: Literal["nothing", "class", "map"] = setting("nothing", "what is written after")
    maps: str = setting("", "folder of the maps, each a PNG named as its picture")
    labels: int = setting(0, "classes of the maps")
    grounds: int = setting(0, "how many of them, from the first, others stand before")
    shapes: int = setting(1024, "outlines of patches of maps that are told apart")
    order: str = setting("identity", "in which codes are written: row by row, or z-curve, ...")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shapes < 1:
            raise BadInput(f"--shapes is {self.shapes}; it must be at least 1")
        _require_maps(self)

    def build(self) -> nn.Module:
        """A transformer as long as condition and picture are, without a first stage.

        Raises:
            BadInput: tokeniser, condition and model do not fit each other.
        """
        stage = _stage(self)
        model = TamingTransformer(self._config(stage), condition_stage=stage)
        if self.model:
            model.transformer.load_state_dict(_pretrained(self.model).transformer.state_dict())
        return model

    def answered(self, source: Source) -> Iterator[tuple[str, Source, Answerer]]:
        """Codes of all pictures, and tokens of their maps.

        Raises:
            BadInput: records that have no class, where classes are written after.
        """
        if self.condition == "class":
            _require_classes(self.source)
        yield TOKENS, source, token_ids(vqgan_of(self.tokeniser), self.tokeniser)
        if (stage := _stage(self)) is not None:
            maps = _maps(self, source)
            yield _MAPS, maps, _answerer(stage, maps.how)

    def prepared(self, folder: Path) -> tuple[Source, FeatureSamples | PairedSamples]:
        """Codes, with classes or with tokens of the same records' maps."""
        tokens = PreparedFeatures(folder / TOKENS)
        if self.condition == "map":
            both = PairedFeatures(tokens, PreparedFeatures(folder / _MAPS))
            return both, PairedSamples(("features", "condition"))
        of_class = ("features", "label") if self.condition == "class" else ("features",)
        return tokens, FeatureSamples(of_class)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        """Cross entropy of the codes of pictures."""
        assert isinstance(model, TamingTransformer)
        tokens = batch["features"]
        if self.condition == "map":
            condition = model.paired(batch["condition"])
        else:
            condition = model.encode_condition(batch.get("label", tokens))
        return super().loss(model, {"tokens": tokens, "condition": condition}, moment)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on records kept aside, in nats a code."""
        assert isinstance(model, TamingTransformer)
        kept = _kept(self)
        if kept is None:
            return {}
        return self.measured(model, Paired(kept.tokens, model.paired(kept.conditions)))

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Pictures after nothing, or after classes or maps of records that are kept aside."""
        assert isinstance(model, TamingTransformer)
        painter = painter_of(whole(model, vqgan_of(self.tokeniser)))
        if self.condition == "nothing":
            return [Sample(painted(painter, seed), f"seed {seed}") for seed in range(_SHOWN)]
        records = validated_on(self._records(), self.validation)
        found = []
        for seed, record in zip(range(_SHOWN), records, strict=False):
            if self.condition == "class":
                picture = painted(painter, seed, label=int(record.label or 0))
                found.append(Sample(picture, str(record.class_name)))
                continue
            assert isinstance(record, MapRecord)
            numbers = record.numbers()
            shown = Image.fromarray(coloured(numbers, self.labels))
            found.append(Sample(beside(shown, painted(painter, seed, map=numbers)), record.key))
        return found

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the transformer with its stages, for `lascaux paint`."""
        assert isinstance(model, TamingTransformer)
        trained = whole(model, vqgan_of(self.tokeniser))
        save(trained, folder, card=card(self.name, self, figures))

    def _records(self) -> Source:
        return _maps(self, self.source) if self.condition == "map" else self.source

    def _config(self, stage: LabelPatches | None) -> TamingTransformerConfig:
        vqgan, source = vqgan_of(self.tokeniser), self.source
        grid = grid_of(tokeniser_of(self.tokeniser))
        assert grid is not None, "a VQGAN's codes have places"
        count = grid[0] * grid[1]
        classes = len(source.classes) if self.condition == "class" else 0
        before = 1 if stage is None else count
        given = {
            "length": before + count - 1,
            "condition": {"nothing": "start", "class": "class", "map": "stage"}[self.condition],
            "condition_size": None,
            "pairs": 0 if stage is None else stage.codes,
            "classes": classes or None,
            "class_names": tuple(source.classes) if classes else (),
            **in_order(self.order, grid),
            **self.trained_with,
        }
        codes = max(vqgan.codes, classes, stage.codes if stage else 0)
        if not self.model:
            return replace(ARCHITECTURES[self.architecture], codes=codes, **given)
        found = _pretrained(self.model).config
        if found.codes < codes or found.length != given["length"]:
            raise BadInput(
                f"--model {self.model} has {found.codes} tokens and {found.length} positions; "
                f"wanted are {codes} and {given['length']}"
            )
        return replace(found, **given)


def _require_maps(recipe: TamingTraining) -> None:
    """Check that what is said of maps is said where there are any.

    Raises:
        BadInput: it is not.
    """
    if recipe.condition != "map":
        if recipe.maps or recipe.labels or recipe.grounds:
            raise BadInput("--maps, --labels, --grounds: say --condition map as well")
        return
    if not recipe.maps or recipe.labels < 2:
        raise BadInput(
            "--condition map: --maps names the folder of the maps, and --labels says how many "
            "classes they have, at least 2"
        )
    if recipe.views > 1:
        raise BadInput("--views: maps are not cut out with their pictures; leave it at 1")


def _require_classes(source: Source) -> None:
    without = sum(source.label(index) is None for index in range(len(source)))
    if without:
        raise BadInput(
            f"{without} of {len(source)} records of {source.path} have no class: expected a folder "
            "with a subfolder for each, or a table or archive that tells them"
        )


def _maps(recipe: TamingTraining, pictures: Source) -> LabelMaps:
    how = tokeniser_of(recipe.tokeniser).preprocessing
    return LabelMaps(pictures, Path(recipe.maps).expanduser(), how, recipe.labels)


@lru_cache(maxsize=2)
def _stage(recipe: TamingTraining) -> LabelPatches | None:
    """Patches with the outlines of the first maps; None where there are no maps."""
    if recipe.condition != "map":
        return None
    maps = _maps(recipe, recipe.source)
    few = [maps[index].numbers() for index in range(min(len(maps), _OUTLINED))]
    return learnt_patches(
        torch.from_numpy(np.stack(few)),
        labels=recipe.labels,
        grounds=recipe.grounds,
        factor=vqgan_of(recipe.tokeniser).factor,
        shapes=recipe.shapes,
        seed=recipe.seed,
    )


def _answerer(stage: LabelPatches, how: Preprocessing) -> Answerer:
    """A condition stage that answers pictures of `MapRecord` with tokens."""

    def answers(pixels: Tensor) -> Tensor:
        return stage.encode_numbers(torch.from_numpy(bytes_to_numbers(pixels.numpy()))).cpu()

    return Answerer(
        name="maps",
        weights=weights_hash(stage),
        kind="tokens",
        preprocessing=replace(how, filter="bicubic", reading="official"),
        answers=answers,
        codes=stage.codes,
    )


@lru_cache(maxsize=2)
def _kept(recipe: TamingTraining) -> Paired | None:
    """Codes and conditions of the records kept aside; None if there are none."""
    tokens, stage = token_ids(vqgan_of(recipe.tokeniser), recipe.tokeniser), _stage(recipe)
    maps = _maps(recipe, recipe.source) if stage is not None else None
    source = recipe.source
    found: list[tuple[Tensor, Tensor]] = []
    for index in map(int, validated_on(source, recipe.validation).indices):
        record = source[index]
        try:
            pixels = square(record.image(tokens.preprocessing.reading), tokens.preprocessing)
            if stage is not None and maps is not None:
                after = stage.encode_numbers(torch.from_numpy(maps[index].numbers())[None]).cpu()
            else:
                label = record.label if recipe.condition == "class" else None
                after = torch.tensor([[label or 0]])
        except BadInput as error:
            log.warning("left out of the validation: %s: %s", record.key, error)
            continue
        found.append((tokens.answers(pixels), after))
    if not found:
        return None
    return Paired(*(torch.cat(each) for each in zip(*found, strict=True)))


@lru_cache(maxsize=1)
def _pretrained(name: str) -> TamingTransformer:
    found = load(name)
    if not isinstance(found, TamingTransformer):
        raise BadInput(f"--model {name} is a {type(found).__name__}; expected a taming transformer")
    return found
