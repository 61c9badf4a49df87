"""CLIP's configs as Hugging Face and OpenCLIP publish them beside the weights."""

from collections.abc import Mapping
from typing import Any, cast

from lascaux.errors import Unsupported
from lascaux.models.clip import ClipConfig, unless_fourfold


def config_from_huggingface(published: Mapping[str, Any], *, source: str) -> ClipConfig:
    """The config in a Hugging Face `CLIPModel`'s config.json.

    Raises:
        Unsupported: it asks for something a CLIP of this project does not have.
    """
    if published.get("model_type") != "clip":
        raise Unsupported(f"{source} is of a {published.get('model_type')!r} model, not of a clip")
    # Fields that a file leaves out have the values of transformers' CLIPConfig.
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
        **(published.get("vision_config") or {}),
        **(published.get("vision_config_dict") or {}),
    }
    text = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
        **(published.get("text_config") or {}),
        **(published.get("text_config_dict") or {}),
    }
    activations = {tower.get("hidden_act", "quick_gelu") for tower in (vision, text)}
    epsilons = {tower.get("layer_norm_eps", 1e-5) for tower in (vision, text)}
    if len(activations) > 1 or not activations <= {"quick_gelu", "gelu"}:
        raise Unsupported(
            f"{source}: hidden_act {' and '.join(sorted(activations))}; supported are quick_gelu "
            "or gelu, the same in both towers"
        )
    if len(epsilons) > 1:
        raise Unsupported(f"{source}: layer_norm_eps differs between the towers: {epsilons}")
    if vision.get("num_channels", 3) != 3:
        raise Unsupported(f"{source}: pictures of {vision['num_channels']} channels, not 3")
    # transformers' CLIPTextTransformer: 2 stands for the highest id of a row, in old files.
    plain_end = text["eos_token_id"] in (None, 2, text["vocab_size"] - 1)
    return ClipConfig(
        embed_width=published.get("projection_dim", 512),
        image_size=vision["image_size"],
        vision_layers=vision["num_hidden_layers"],
        vision_width=vision["hidden_size"],
        vision_heads=vision["num_attention_heads"],
        patch_size=vision["patch_size"],
        vision_mlp_width=unless_fourfold(vision["intermediate_size"], vision["hidden_size"]),
        text_width=text["hidden_size"],
        text_heads=text["num_attention_heads"],
        text_layers=text["num_hidden_layers"],
        text_mlp_width=unless_fourfold(text["intermediate_size"], text["hidden_size"]),
        context_length=text["max_position_embeddings"],
        vocabulary_size=text["vocab_size"],
        end_id=None if plain_end else text["eos_token_id"],
        activation=activations.pop(),
        norm_epsilon=epsilons.pop(),
    )


# What a tower of OpenCLIP's may say and still be the plain one; None: anything.
_OPENCLIP_BOTH: dict[str, tuple[Any, ...] | None] = {
    "ls_init_value": (),
    "final_ln_after_pool": (False,),
    "output_tokens": None,
    "act_kwargs": ({},),
    "norm_kwargs": ({},),
    "block_type": ("default",),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads"), (False,)),
    **dict.fromkeys(("scale_attn_inner", "scale_attn", "scale_fc"), (False,)),
}
_OPENCLIP_VISION = {
    **_OPENCLIP_BOTH,
    "timm_model_name": (),
    "attentional_pool": (False,),
    "pool_type": ("tok",),
    "pos_embed_type": ("learnable",),
    "no_ln_pre": (False,),
    "input_patchnorm": (False,),
    "global_average_pool": (False,),
    "patch_dropout": None,  # training only
    **dict.fromkeys(("attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained")),
    **dict.fromkeys(("timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path")),
}
_OPENCLIP_TEXT = {
    **_OPENCLIP_BOTH,
    "hf_model_name": (),
    "embed_cls": (False,),
    "no_causal_mask": (False,),
    "pool_type": ("argmax",),
    "proj_type": ("linear",),
    "proj_bias": (False,),
    "pad_id": None,  # pads stand after end-of-text, which does not see them
    "eos_id": None,  # used by other pool types alone
    **dict.fromkeys(("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")),
    **dict.fromkeys(("hf_model_pretrained", "hf_proj_type", "hf_pooler_type")),
}


def config_from_openclip(published: Mapping[str, Any], *, source: str) -> ClipConfig:
    """The config in OpenCLIP's open_clip_config.json, or in one of its model_configs.

    Raises:
        Unsupported: it asks for something a CLIP of this project does not have.
    """
    model = published.get("model_cfg", published)
    vision, text = dict(model.get("vision_cfg", {})), dict(model.get("text_cfg", {}))
    for tower, cfg, allowed in (
        ("vision_cfg", vision, _OPENCLIP_VISION),
        ("text_cfg", text, _OPENCLIP_TEXT),
    ):
        for field, values in allowed.items():
            value = cfg.pop(field, None)
            if value is not None and values is not None and value not in values:
                raise Unsupported(f"{source}: {tower}.{field} = {value!r} is not supported")
    if model.get("init_logit_bias") is not None:
        raise Unsupported(f"{source}: init_logit_bias, the bias of a sigmoid loss (SigLIP)")
    for part in ("multimodal_cfg", "audio_cfg"):
        if part in model:
            raise Unsupported(f"{source}: {part} belongs to another kind of model")
    layers, width = vision.pop("layers", 12), vision.pop("width", 768)
    resnet = isinstance(layers, list | tuple)
    patch_size = vision.pop("patch_size", 16)
    head_width = vision.pop("head_width", 64)
    mlp_width = int(width * vision.pop("mlp_ratio", 4.0))
    image_size = vision.pop("image_size", 224)
    text_width = text.pop("width", 512)
    config = ClipConfig(
        embed_width=model["embed_dim"],
        image_size=image_size[0] if isinstance(image_size, list) else image_size,
        vision_layers=cast("tuple[int, int, int, int]", tuple(layers)) if resnet else layers,
        vision_width=width,
        vision_heads=width * 32 // head_width if resnet else width // head_width,
        patch_size=None if resnet else patch_size,
        vision_mlp_width=None if resnet else unless_fourfold(mlp_width, width),
        text_width=text_width,
        text_heads=text.pop("heads", 8),
        text_layers=text.pop("layers", 12),
        text_mlp_width=unless_fourfold(int(text_width * text.pop("mlp_ratio", 4.0)), text_width),
        context_length=text.pop("context_length", 77),
        vocabulary_size=text.pop("vocab_size", 49408),
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
    )
    if unknown := [*(f"vision_cfg.{f}" for f in vision), *(f"text_cfg.{f}" for f in text)]:
        raise Unsupported(f"{source}: {', '.join(unknown)} not known to this version")
    return config
