"""The table of models: what loading and saving must know of each, one entry a model."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from lascaux.errors import Unsupported, WrongKeys
from lascaux.models import clip as clip_model
from lascaux.models import dalle as dalle_model
from lascaux.models import dalle_clip as dalle_clip_model
from lascaux.models import discrete_vae as discrete_vae_model
from lascaux.models import dvae as dvae_model
from lascaux.models import inception as inception_model
from lascaux.models import judge as judge_model
from lascaux.models import lpips as lpips_model
from lascaux.models import patch_discriminator as discriminator_model
from lascaux.models import styled_vq as styled_vq_model
from lascaux.models import titok as titok_model
from lascaux.models import vqgan as vqgan_model
from lascaux.weights.keymap import Rule
from lascaux.weights.maps import (
    clip,
    clip_folder,
    dalle,
    dalle_clip,
    dalle_folder,
    discrete_vae,
    dvae,
    inception,
    lpips,
    patch_discriminator,
    styled_vq,
    titok,
    vqgan,
)
from lascaux.weights.published import Adopted, Part, Published


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One model: its classes, and how what others publish of it becomes ours.

    What is left out is what a model does not have: one without `recognises` and `adopt` is read
    from folders that `lascaux.save` wrote, and from nothing else.

    Attributes:
        model: the class, made from a config, and from the models that it is made of.
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
        parts: names of the constructor's arguments, and of attributes, that are models or None.
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
    "judge": Kind(model=judge_model.Judge, config=judge_model.JudgeConfig),
    "styled_vq": Kind(
        model=styled_vq_model.StyledVq,
        config=styled_vq_model.StyledVqConfig,
        variants=styled_vq_model.VARIANTS,
        recognises=styled_vq.recognises,
        refuses=styled_vq.refuse_kin,
        adopt=styled_vq.adopt,
        hashed=styled_vq.decisive,
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
        parts=("tokeniser",),
    ),
    "dalle-clip": Kind(
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
    if found.config is not None and not isinstance(found.config, kind.config):
        given, expected = type(found.config).__name__, kind.config.__name__
        raise Unsupported(f"{found.label} is a {name}: it takes a {expected}, not a {given}")
    if kind.adopt is not None:
        ours = kind.adopt(found)
    elif found.config is None:
        raise WrongKeys(f"{found.label} is a {name} without a config; load its folder")
    else:
        ours = Adopted(tensors=found.tensors, config=found.config)
    if found.parts:
        ours = replace(ours, parts={**ours.parts, **found.parts})
    for part, inside in ours.parts.items():
        if isinstance(inside, Published):
            ours = _with_part(ours, part, inside)
    return ours


def _with_part(ours: Adopted, part: str, found: Published) -> Adopted:
    """The same with a part's tensors under our names."""
    model = recognise(found.tensors.keys(), source=found.label)
    inner = adopted(model, found)
    rules = tuple(
        Rule(
            tuple(found.prefix + pattern for pattern in rule.patterns),
            None if rule.ours is None else f"{part}.{rule.ours}",
            rule.change,
            rule.back,
            rule.optional,
            rule.why,
        )
        for rule in inner.rules
    )
    return replace(
        ours,
        tensors={**ours.tensors, **{f"{part}.{key}": x for key, x in inner.tensors.items()}},
        rules=ours.rules + rules,
        dropped={
            **ours.dropped,
            **{found.prefix + key: why for key, why in inner.dropped.items()},
        },
        parts={**ours.parts, part: Part(model, inner.config)},
    )
