"""TiTok's checkpoints: folders of the hub, and the older single files of state dicts."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from lascaux.errors import BadInput, Unsupported, WrongKeys
from lascaux.models.titok import SIZES, TiTokConfig, of_sizes
from lascaux.weights.keymap import Rule, translate
from lascaux.weights.published import Adopted, Published, read_json

WEIGHTS = ("model.safetensors", "pytorch_model.bin")

_OURS = ("encoder.latent_positions", "decoder.latent_positions", "codebook")
_MARKS = (
    "latent_tokens",
    "encoder.latent_token_positional_embedding",
    "decoder.latent_token_positional_embedding",
)
# Entries of model.vq_model that are read; any other could change what the model computes.
_READ = {
    "codebook_size",
    "token_size",
    "use_l2_norm",
    "commitment_cost",
    "vit_enc_model_size",
    "vit_dec_model_size",
    "vit_enc_patch_size",
    "vit_dec_patch_size",
    "num_latent_tokens",
    "finetune_decoder",
    "is_legacy",
    "quantize_mode",
    "pretrained_tokenizer_weight",
    "clustering_vq",
}


def _first(x: Tensor) -> Tensor:
    return x.reshape(x.shape[-1])


def _row(x: Tensor) -> Tensor:
    return x[None]


def _token(x: Tensor) -> Tensor:
    return x[None, None]


def _matrix(x: Tensor) -> Tensor:
    return x.flatten(1)


def _convolution(x: Tensor) -> Tensor:
    return x[:, :, None, None]


def _projection(published: str, ours: str) -> tuple[Rule, ...]:
    """A convolution of one pixel, which is a product with a matrix."""
    return (
        Rule(f"{published}.weight", f"{ours}.weight", _matrix, _convolution, optional=True),
        Rule(f"{published}.bias", f"{ours}.bias", optional=True),
    )


def _tower(name: str) -> tuple[Rule, ...]:
    published, ours = f"{name}.transformer.{{i}}.", f"{name}.blocks.{{i}}."
    return (
        Rule(f"{name}.class_embedding", f"{name}.class_token", _first, _row),
        Rule(f"{name}.positional_embedding", f"{name}.positions"),
        Rule(f"{name}.latent_token_positional_embedding", f"{name}.latent_positions"),
        Rule(f"{name}.ln_pre.{{p}}", f"{name}.first_norm.{{p}}"),
        Rule(f"{name}.ln_post.{{p}}", f"{name}.last_norm.{{p}}"),
        Rule(published + "attn.in_proj_{p}", ours + "attention.qkv.{p}"),
        Rule(published + "attn.out_proj.{p}", ours + "attention.out.{p}"),
        Rule(published + "ln_1.{p}", ours + "attention_norm.{p}"),
        Rule(published + "ln_2.{p}", ours + "mlp_norm.{p}"),
        Rule(published + "mlp.c_fc.{p}", ours + "mlp.up.{p}"),
        Rule(published + "mlp.c_proj.{p}", ours + "mlp.down.{p}"),
    )


def _pixel_block(published: str, ours: str) -> tuple[Rule, ...]:
    return (
        *(
            Rule(f"{published}{name}.{{p}}", f"{ours}{name}.{{p}}", optional=True)
            for name in ("norm1", "conv1", "norm2", "conv2")
        ),
        Rule(published + "nin_shortcut.{p}", ours + "shortcut.{p}", optional=True),
    )


def _rules(*, legacy: bool) -> tuple[Rule, ...]:
    if legacy:
        head = (
            *_projection("decoder.ffn.0", "decoder.up"),
            *_projection("decoder.ffn.2", "decoder.logits"),
        )
    else:
        head = (
            *_projection("decoder.ffn.0", "decoder.patches"),
            Rule("decoder.conv_out.{p}", "decoder.smooth.{p}"),
        )
    pixels = "pixel_decoder."
    return (
        Rule("latent_tokens", "encoder.latents"),
        Rule("encoder.patch_embed.{p}", "encoder.patches.{p}"),
        *_tower("encoder"),
        *_projection("encoder.conv_out", "encoder.project"),
        Rule("decoder.decoder_embed.{p}", "decoder.widen.{p}"),
        Rule("decoder.mask_token", "decoder.mask_token", _first, _token),
        *_tower("decoder"),
        *head,
        Rule("quantize.embedding.weight", "codebook", optional=True),
        Rule("quantize.embed_prob", None, why="how often codes were used, for training alone"),
        Rule("pixel_quantize.embedding.weight", pixels + "codebook", optional=True),
        Rule("pixel_decoder.conv_in.{p}", pixels + "first.{p}", optional=True),
        *_pixel_block("pixel_decoder.mid.{b}.", pixels + "middle.{b}."),
        *_pixel_block("pixel_decoder.up.{l}.block.{b}.", pixels + "levels.{l}.blocks.{b}."),
        Rule(
            "pixel_decoder.up.{l}.upsample_conv.{p}",
            pixels + "levels.{l}.enlarge.{p}",
            optional=True,
        ),
        Rule("pixel_decoder.norm_out.{p}", pixels + "last_norm.{p}", optional=True),
        Rule("pixel_decoder.conv_out.{p}", pixels + "last.{p}", optional=True),
    )


TITOK = _rules(legacy=False)
TITOK_LEGACY = _rules(legacy=True)


def decisive(config: TiTokConfig) -> str:
    """What of a config changes answers and leaves shapes as they are."""
    return f"{config.encoder_heads} {config.decoder_heads} {config.unit_length} {config.legacy}"


def recognises(keys: Collection[str]) -> bool:
    """Whether these are a TiTok's keys, the publisher's or ours."""
    return all(key in keys for key in _MARKS) or all(key in keys for key in _OURS)


def adopt(found: Published) -> Adopted:
    """A TiTok's tensors under our names, and its config.

    Raises:
        Unsupported, WrongKeys: it is none, or a text-aware one.
    """
    state, config, source = found.tensors, found.config, found.label
    if all(key in state for key in _OURS):
        if config is None:
            raise WrongKeys(f"{source} is a TiTok without a config; load its folder")
        return Adopted(tensors=state, config=config)
    if missing := [key for key in _MARKS if key not in state]:
        raise Unsupported(
            f"{source} holds no tokeniser of TiTok: {missing[0]!r} is missing. Generators of its "
            "codes (generator_titok_...) have such a config as well; this library does not have "
            "them, load tokenizer_titok_..."
        )
    if text := sorted(key for key in state if "text" in key):
        raise Unsupported(
            f"{source} is a text-aware TiTok (TA-TiTok; {text[0]}), which this library does not "
            "have"
        )
    if config is None:
        config = config_from_shapes(state, source=source)
    rules = TITOK_LEGACY if config.legacy else TITOK
    ours = translate(state, rules, source=source)
    if config.variational:
        ours["codebook"] = ours["encoder.positions"].new_empty(0, config.token_width)
    return Adopted(
        tensors=ours,
        config=config,
        rules=rules,
        layout="titok-legacy" if config.legacy else "titok",
        dropped={key: "for training alone" for key in state if key == "quantize.embed_prob"},
    )


def config_from_shapes(
    state: Mapping[str, Tensor], *, source: str = "the checkpoint"
) -> TiTokConfig:
    """The config that a state dict's shapes imply.

    Heads are one for 64 channels. Shapes do not tell whether vectors are compared at unit length:
    as published, those of legacy models are.

    Raises:
        WrongKeys: what fixes the sizes is missing.
    """
    try:
        legacy = "decoder.ffn.2.weight" in state
        patch = state["encoder.patch_embed.weight"].shape[-1]
        codes = (
            len(state["quantize.embedding.weight"]) if "quantize.embedding.weight" in state else 0
        )
        size = patch * isqrt(len(state["encoder.positional_embedding"]) - 1)
        side = isqrt(len(state["decoder.positional_embedding"]) - 1)
        encoder, decoder = (state[f"{n}.ln_pre.weight"].shape[0] for n in ("encoder", "decoder"))
        return TiTokConfig(
            image_size=size,
            encoder_patch_size=patch,
            decoder_patch_size=size // side,
            encoder_width=encoder,
            encoder_layers=_count(state, "encoder.transformer."),
            encoder_heads=max(1, encoder // 64),
            decoder_width=decoder,
            decoder_layers=_count(state, "decoder.transformer."),
            decoder_heads=max(1, decoder // 64),
            latents=len(state["latent_tokens"]),
            token_width=state["decoder.decoder_embed.weight"].shape[1],
            codes=codes,
            unit_length=legacy and codes > 0,
            legacy=legacy,
            pixel_decoder="pixel_quantize.embedding.weight" in state,
        )
    except KeyError as error:
        raise WrongKeys(f"{source}: missing {error.args[0]!r}, which fixes the sizes") from error


def config_from_published(
    published: Mapping[str, Any], *, source: str = "config.json"
) -> TiTokConfig:
    """The config that a config.json of the hub's TiTok folders stands for.

    Raises:
        Unsupported: it asks for what a TiTok of this library does not have.
    """
    vq = published["model"]["vq_model"]
    preparing = (published.get("dataset") or {}).get("preprocessing") or {}
    if strange := sorted(key for key, value in vq.items() if key not in _READ and value):
        raise Unsupported(f"{source}: model.vq_model asks for {', '.join(strange)}; not known")
    mode = vq.get("quantize_mode", "vq")
    sizes = [vq.get(f"vit_{half}_model_size") for half in ("enc", "dec")]
    if mode not in ("vq", "vae") or any(size not in SIZES for size in sizes):
        raise Unsupported(
            f"{source}: quantize_mode {mode!r}, sizes {sizes}; known are vq and vae, and "
            f"{', '.join(SIZES)}"
        )
    try:
        config = of_sizes(
            *sizes,
            image_size=int(preparing.get("crop_size", 256)),
            encoder_patch_size=vq.get("vit_enc_patch_size", 16),
            decoder_patch_size=vq.get("vit_dec_patch_size", 16),
            latents=vq["num_latent_tokens"],
            token_width=vq["token_size"],
            codes=vq["codebook_size"] if mode == "vq" else 0,
            unit_length=mode == "vq" and bool(vq.get("use_l2_norm", False)),
            legacy=bool(vq.get("is_legacy", True)),
            pixel_decoder=bool(vq.get("finetune_decoder", True)),
        )
    except KeyError as error:
        raise Unsupported(f"{source}: model.vq_model has no {error.args[0]}") from error
    except BadInput as error:
        raise Unsupported(f"{source}: {error}") from error
    return replace(config, commitment_cost=float(vq.get("commitment_cost", 0.25)))


def published_folder(folder: Path) -> tuple[tuple[str, ...], TiTokConfig] | None:
    """The names that the weights may have, and the config; None where it is no TiTok's folder.

    Raises:
        Unsupported: as `config_from_published`, or the folder holds a generator.
        BrokenFile: the config is no valid JSON.
    """
    published = read_json(folder / "config.json")
    model = published.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vq_model"), dict):
        return None
    return WEIGHTS, config_from_published(published, source=str(folder / "config.json"))


def _count(state: Mapping[str, Any], prefix: str) -> int:
    return len({key[len(prefix) :].split(".", 1)[0] for key in state if key.startswith(prefix)})
