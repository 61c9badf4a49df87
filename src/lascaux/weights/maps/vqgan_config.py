"""VQGAN's configs as CompVis publishes them: a yaml file beside the checkpoint, read as data."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lascaux.errors import BadInput, BrokenFile, Unsupported
from lascaux.models.vqgan import VqGanConfig

logger = logging.getLogger(__name__)

_CLASSES = {
    "VQModel": "nearest",
    "VQModelInterface": "nearest",
    "VQNoDiscModel": "nearest",
    "VQSegmentationModel": "nearest",
    "GumbelVQ": "gumbel",
}
_STAGES = {"first_stage_model": "first_stage_config", "cond_stage_model": "cond_stage_config"}


def config_from_yaml(
    content: Mapping[str, Any], *, part: str | None = None, source: str
) -> VqGanConfig | None:
    """The config that a project file tells; None where it tells of no VQGAN.

    Args:
        content: the file as plain data.
        part: of a transformer's file, `first_stage_model` or `cond_stage_model`.
        source: what messages call the file.

    Raises:
        Unsupported: a kind of VQGAN that this project does not have.
        BrokenFile: values that no VQGAN can have.
    """
    model = _mapping(content.get("model", content))
    if part in _STAGES:
        model = _mapping(_mapping(model.get("params")).get(_STAGES[part]))
    name = str(model.get("target", "")).rpartition(".")[2]
    params = _mapping(model.get("params"))
    sizes = _mapping(params.get("ddconfig"))
    if not sizes or "n_embed" not in params:
        return None
    if name not in _CLASSES:
        raise Unsupported(
            f"{source}: a model of class {name!r}; supported are {', '.join(sorted(_CLASSES))}"
        )
    return config_from_params(name, params, source=source)


def config_from_params(
    name: str, params: Mapping[str, Any], *, source: str = "the config"
) -> VqGanConfig:
    """The config of one of CompVis's classes from the arguments it is made with.

    Raises:
        BrokenFile: values that no VQGAN can have.
    """
    sizes = _mapping(params["ddconfig"])
    gumbel = _CLASSES[name] == "gumbel"
    labels = params.get("n_labels") if name == "VQSegmentationModel" else None
    unknown = params.get("unknown_index", "random")
    try:
        return VqGanConfig(
            codes=params["n_embed"],
            code_width=params["embed_dim"],
            quantiser="gumbel" if gumbel else "nearest",
            in_channels=sizes["in_channels"],
            out_channels=sizes["out_ch"],
            image_size=sizes["resolution"],
            width=sizes["ch"],
            multiples=tuple(sizes.get("ch_mult", (1, 2, 4, 8))),
            blocks=sizes["num_res_blocks"],
            attention_sizes=tuple(sizes["attn_resolutions"]),
            latent_width=sizes["z_channels"],
            # GumbelVQ and VQModel differ from the encoder: its default is a doubled latent.
            double_latent=bool(sizes.get("double_z", True)),
            resampling_convolutions=bool(sizes.get("resamp_with_conv", True)),
            dropout=float(sizes.get("dropout", 0.0)),
            kl_weight=float(params.get("kl_weight", 1e-8)),
            unknown=unknown,
            labels=labels,
            mean=0.5 if labels is None else 0.0,
            std=0.5 if labels is None else 1.0,
        )
    except (KeyError, TypeError, ValueError, BadInput) as error:
        raise BrokenFile(f"{source}: no config of a VQGAN: {error!r}") from error


def config_beside(
    paths: Sequence[Path], *, part: str | None = None
) -> tuple[Path, VqGanConfig] | None:
    """The config of the yaml file that belongs to a checkpoint, and where it is.

    Looked for are a file of the checkpoint's own name, then one in its folder, in `configs` there
    and in `configs` beside it, as Lightning and CompVis lay them out. Where a folder holds several
    that tell of different VQGANs, none is taken; that, and files that cannot be used, are logged.
    """
    if not paths:
        return None
    for group in candidates(paths[0]):
        told: list[tuple[Path, VqGanConfig]] = []
        for place in group:
            try:
                config = config_from_yaml(read_yaml(place), part=part, source=str(place))
            except (BrokenFile, Unsupported) as error:
                logger.warning("%s; it is left out", error)
                continue
            if config is not None:
                told.append((place, config))
        if len({config for _, config in told}) > 1:
            names = ", ".join(place.name for place, _ in told)
            logger.warning("%s: several configs lie beside it (%s); none is taken", paths[0], names)
            return None
        if told:
            return told[0]
    return None


def candidates(path: Path) -> Iterator[list[Path]]:
    """The yaml files that may belong to a checkpoint, the likeliest first, place by place."""
    folder = path.parent
    yield [place for end in (".yaml", ".yml") if (place := path.with_suffix(end)).is_file()]
    for where in (folder, folder / "configs", folder.parent / "configs"):
        named = [place for end in ("yaml", "yml") for place in sorted(where.glob(f"*.{end}"))]
        # Lightning writes its own options apart from the project's.
        yield [place for place in named if not place.stem.endswith("-lightning")]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a yaml file, as plain data; empty where it holds something else.

    Raises:
        BrokenFile: it is no valid yaml.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BrokenFile(f"{path} is no valid yaml: {error}") from error
    return dict(_mapping(content))


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
