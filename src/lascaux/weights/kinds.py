"""The table of models: what loading and saving must know of each, one entry a model."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from lascaux.errors import BadInput, Unsupported, WrongKeys
from lascaux.models import clip as clip_model
from lascaux.models import clip_gen as clip_gen_model
from lascaux.models import dalle as dalle_model
from lascaux.models import dalle_clip as dalle_clip_model
from lascaux.models import discrete_vae as discrete_vae_model
from lascaux.models import dvae as dvae_model
from lascaux.models import inception as inception_model
from lascaux.models import judge as judge_model
from lascaux.models import label_patches as label_patches_model
from lascaux.models import lpips as lpips_model
from lascaux.models import patch_discriminator as discriminator_model
from lascaux.models import styled_vq as styled_vq_model
from lascaux.models import taming_transformer as taming_model
from lascaux.models import titok as titok_model
from lascaux.models import vqgan as vqgan_model
from lascaux.weights.maps import (
    clip,
    clip_folder,
    clip_gen,
    dalle,
    dalle_clip,
    dalle_folder,
    discrete_vae,
    dvae,
    inception,
    lpips,
    patch_discriminator,
    styled_vq,
    taming_transformer,
    titok,
    vqgan,
)
from lascaux.weights.parts import Composite, Elsewhere, Part
from lascaux.weights.published import Adopted, Published


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One model: its classes, and how what others publish of it becomes ours.

    What is left out is what a model does not have: one without `recognises` and `adopt` is read
    from folders that `lascaux.save` wrote, and from nothing else.

    Attributes:
        model: the class, made from a config.
        config: the config's class, with `to_json` and `from_json`.
        variants: published configs by name, as the catalogue calls them.
        recognises: whether these are the keys of one of its checkpoints.
        refuses: raises `Unsupported` for the keys of a near kin that this project does not have.
        adopt: a checkpoint's tensors under our names, and the config that they or what lies beside
            them tell.
        folder: of a publisher's folder the weights files to look for, in order, and the config;
            None where it is no such folder.
        weights: every file name that `folder` may give.
        halves: files of a folder that make one checkpoint together, by name, and what is put
            before the names of each one's tensors and values.
        complete: gives a loaded model the tokenizer found beside it.
        beside: writes what goes beside config and weights into a folder.
        hashed: what of the config changes an answer and leaves shapes as they are; for the hash.
        parts: names of the models that it is given, as arguments and attributes, each of which
            may be absent. The config that loading deals with is a `Composite` then.
    """

    model: Callable[..., nn.Module]
    config: Any
    variants: Mapping[str, Any] = field(default_factory=dict)
    recognises: Callable[[Collection[str]], bool] | None = None
    refuses: Callable[[Collection[str], str], None] | None = None
    adopt: Callable[[Published], Adopted] | None = None
    folder: Callable[[Path], tuple[tuple[str, ...], Any] | None] | None = None
    weights: tuple[str, ...] = ()
    halves: Mapping[str, str] = field(default_factory=dict)
    complete: Callable[[Any, Path], None] | None = None
    beside: Callable[[Any, Path], None] | None = None
    hashed: Callable[[Any], str] | None = None
    parts: tuple[str, ...] = ()


# What the config.json of our folders calls a model -> what must be known of it.
KINDS: dict[str, Kind] = {
    "clip": Kind(
        model=clip_model.Clip,
        config=clip_model.ClipConfig,
        variants=clip_model.VARIANTS,
        recognises=clip.recognises,
        refuses=clip.refuse_kin,
        adopt=clip.adopt,
        folder=clip_folder.published_folder,
        weights=clip_folder.WEIGHTS,
        complete=clip_folder.give_tokenizer,
        beside=clip_folder.write_beside,
        hashed=lambda config: f"{config.activation} {config.norm_epsilon}",
    ),
    "clip_gen": Kind(
        model=clip_gen_model.ClipGen,
        config=clip_gen_model.ClipGenConfig,
        variants=clip_gen_model.VARIANTS,
        recognises=clip_gen.recognises,
        adopt=clip_gen.adopt,
        hashed=clip_gen.decisive,
    ),
    "judge": Kind(model=judge_model.Judge, config=judge_model.JudgeConfig),
    "styled_vq": Kind(
        model=styled_vq_model.StyledVq,
        config=styled_vq_model.StyledVqConfig,
        variants=styled_vq_model.VARIANTS,
        recognises=styled_vq.recognises,
        refuses=styled_vq.refuse_kin,
        adopt=styled_vq.adopt,
        hashed=styled_vq.decisive,
        parts=styled_vq.PARTS,
    ),
    "titok": Kind(
        model=titok_model.TiTok,
        config=titok_model.TiTokConfig,
        variants=titok_model.VARIANTS,
        recognises=titok.recognises,
        adopt=titok.adopt,
        folder=titok.published_folder,
        weights=titok.WEIGHTS,
        hashed=titok.decisive,
    ),
    "taming_transformer": Kind(
        model=taming_model.TamingTransformer,
        config=taming_model.TamingTransformerConfig,
        variants=taming_transformer.VARIANTS,
        recognises=taming_transformer.recognises,
        adopt=taming_transformer.adopt,
        hashed=taming_transformer.decisive,
        parts=taming_transformer.PARTS,
    ),
    "vqgan": Kind(
        model=vqgan_model.VqGan,
        config=vqgan_model.VqGanConfig,
        variants=vqgan_model.VARIANTS,
        recognises=vqgan.recognises,
        refuses=vqgan.refuse_larger,
        adopt=vqgan.adopt,
        hashed=vqgan.decisive,
    ),
    "patch-discriminator": Kind(
        model=discriminator_model.PatchDiscriminator,
        config=discriminator_model.PatchDiscriminatorConfig,
        recognises=patch_discriminator.recognises,
        adopt=patch_discriminator.adopt,
    ),
    "label_patches": Kind(
        model=label_patches_model.LabelPatches,
        config=label_patches_model.LabelPatchesConfig,
        hashed=lambda config: str(config.grounds),
    ),
    "lpips": Kind(
        model=lpips_model.Lpips,
        config=lpips_model.LpipsConfig,
        variants=lpips_model.VARIANTS,
        recognises=lpips.recognises,
        adopt=lpips.adopt,
        hashed=lambda config: f"{config.unit} {config.epsilon}",
    ),
    "dvae": Kind(
        model=dvae_model.Dvae,
        config=dvae_model.DvaeConfig,
        variants=dvae_model.VARIANTS,
        recognises=dvae.recognises,
        refuses=dvae.refuse_half,
        adopt=dvae.adopt,
        halves=dvae.HALVES,
        hashed=lambda config: str(config.margin),
    ),
    "discrete-vae": Kind(
        model=discrete_vae_model.DiscreteVae,
        config=discrete_vae_model.DiscreteVaeConfig,
        recognises=discrete_vae.recognises,
        adopt=discrete_vae.adopt,
        hashed=lambda config: f"{config.mean} {config.std}",
    ),
    "inception": Kind(
        model=inception_model.Inception,
        config=inception_model.InceptionConfig,
        variants=inception_model.VARIANTS,
        recognises=inception.recognises,
        adopt=inception.adopt,
        hashed=inception.decisive,
    ),
    "dalle": Kind(
        model=dalle_model.Dalle,
        config=dalle_model.DalleConfig,
        variants=dalle_model.VARIANTS,
        recognises=dalle.recognises,
        adopt=dalle.adopt,
        complete=dalle_folder.give_tokenizer,
        beside=dalle_folder.write_beside,
        hashed=dalle.decisive,
        parts=dalle.PARTS,
    ),
    "dalle_clip": Kind(
        model=dalle_clip_model.DalleClip,
        config=dalle_clip_model.DalleClipConfig,
        recognises=dalle_clip.recognises,
        adopt=dalle_clip.adopt,
        hashed=lambda config: str(config.text_heads),
    ),
}


def kind_of(model: nn.Module) -> tuple[str, Kind] | None:
    """A model's entry and its name; None of a module that is no model of this library."""
    return next(((n, kind) for n, kind in KINDS.items() if type(model) is kind.model), None)


def recognise(keys: Collection[str], *, source: str = "the checkpoint") -> str:
    """The name of the model that has published these keys.

    Raises:
        Unsupported: a kin of one that this project does not have; the message says which.
        WrongKeys: no model of this project has them.
    """
    for name, kind in KINDS.items():
        if kind.recognises is not None and kind.recognises(keys):
            return name
    for kind in KINDS.values():
        if kind.refuses is not None:
            kind.refuses(keys, source)
    read = ", ".join(name for name, kind in KINDS.items() if kind.recognises is not None)
    shown = ", ".join(list(keys)[:6]) or "none"
    raise WrongKeys(
        f"{source}: these are not the keys of a checkpoint that this version reads ({read}); "
        f"{len(keys)} keys, the first of them {shown}"
    )


def adopted(name: str, found: Published) -> Adopted:
    """What was found, as tensors and config of the model of that name.

    Raises:
        Unsupported, WrongKeys: it is none of that model's checkpoints.
    """
    kind = KINDS[name]
    own = found.config.own if isinstance(found.config, Composite) else found.config
    if own is not None and not isinstance(own, kind.config):
        given, expected = type(own).__name__, kind.config.__name__
        raise Unsupported(f"{found.label} is a {name}: it takes a {expected}, not a {given}")
    if kind.adopt is not None:
        return kind.adopt(found)
    if found.config is None:
        raise WrongKeys(f"{found.label} is a {name} without a config; load its folder")
    return Adopted(tensors=found.tensors, config=found.config)


def made(name: str, config: Any) -> nn.Module:
    """A model of that name, and the models inside it, from what `Adopted.config` says."""
    if not isinstance(config, Composite):
        return KINDS[name].model(config)
    given = {place: made(part.model, part.config) for place, part in config.parts.items()}
    return KINDS[name].model(config.own, **given)


def whole_config(model: nn.Module) -> Composite:
    """A model's config, and those of the models inside it.

    Raises:
        Unsupported: one inside it is no model of this library.
    """
    known = kind_of(model)
    parts: dict[str, Part] = {}
    for place in known[1].parts if known else ():
        if (part := getattr(model, place)) is None:
            continue
        if kind_of(part) is None:
            raise Unsupported(f"{place} is a {type(part).__name__}: no model of this library")
        parts[place] = part_of(part)
    return Composite(cast(Any, model).config, parts)


def part_of(model: nn.Module) -> Part:
    """A model of this library as a part of another."""
    known = kind_of(model)
    assert known is not None, f"a {type(model).__name__} is no model of this library"
    return Part(known[0], cast(Any, model).config)


def config_from_json(name: str, published: Mapping[str, Any]) -> Any:
    """The config of the model of that name from what `Composite.to_json` gave.

    Raises:
        BadInput: fields that it has not.
        KeyError, TypeError: it is no such thing.
    """
    kind = KINDS[name]
    own = kind.config.from_json(published.get("config", {}))
    if not kind.parts:
        return own
    parts = {
        place: Part(part["model"], config_from_json(part["model"], part))
        for place, part in published.get("parts", {}).items()
    }
    elsewhere = {
        place: Elsewhere(str(other["name"]), str(other["weights"]))
        for place, other in published.get("elsewhere", {}).items()
    }
    if unknown := (parts.keys() | elsewhere.keys()) - set(kind.parts):
        raise BadInput(f"a {name} has no part {', '.join(sorted(unknown))}")
    return Composite(own, parts, elsewhere)


def decisive(model: nn.Module) -> str:
    """What of a model's configs changes answers and leaves shapes as they are."""
    if (known := kind_of(model)) is None:
        return ""
    _, kind = known
    inside = [getattr(model, place) for place in kind.parts]
    told = kind.hashed(cast(Any, model).config) if kind.hashed is not None else ""
    return told + "".join(decisive(part) for part in inside if part is not None)
