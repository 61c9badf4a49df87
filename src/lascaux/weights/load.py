"""Models by name, folder or file: found, read, checked and built without initialisation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lascaux.errors import (
    BadInput,
    DownloadFailed,
    UnknownModel,
    Unsupported,
    WrongHash,
    WrongKeys,
)
from lascaux.weights import catalogue
from lascaux.weights.download import HUB_ID, fetch_entry, fetch_hub
from lascaux.weights.fingerprint import remember_stored, weights_hash
from lascaux.weights.folder import Source, find_source
from lascaux.weights.keymap import listed, require_shapes
from lascaux.weights.kinds import KINDS, adopted, made, part_of, recognise
from lascaux.weights.parts import Composite, Elsewhere
from lascaux.weights.published import Published
from lascaux.weights.reading import Checkpoint, read_tensors
from lascaux.weights.save import save

__all__ = ["DTYPES", "assemble", "build", "find", "load", "save"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

Built = TypeVar("Built", bound=nn.Module)


def load(
    name: str | Path | Sequence[str | Path],
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    revision: str | None = None,
    offline: bool | None = None,
    activation: str | None = None,
    config: Any = None,
    tokenizer: str | Path | None = None,
    part: str | None = None,
) -> Any:
    """A model with its weights, in `eval()` mode, and with its tokenizer where it has one.

    Its type depends on what the name stands for; of a file, its keys tell which model it is.

    Args:
        name: a folder or file, else a name or alias of the catalogue (`ViT-B/32`, `ochre-clip`),
            else a hub id (`openai/clip-vit-base-patch32`). Several files where one model's
            weights are in them together.
        device: where the weights go.
        dtype: what all weights are kept in, whatever they are stored in: float32, bfloat16,
            float16 or float64.
        revision: branch, tag or commit of a hub id.
        offline: True: nothing is downloaded; None: as HF_HUB_OFFLINE says.
        activation: of a file that cannot tell: `quick_gelu` (OpenAI's) or `gelu` (OpenCLIP's).
        config: instead of the one that comes with the weights or follows from their shapes.
        tokenizer: a vocabulary file or folder, instead of the one that comes with the weights.
        part: of a checkpoint that holds several models, the prefix of the one to load, such as
            `first_stage_model` of a transformer's.

    Raises:
        UnknownModel: there is nothing of that name.
        UnsafeFile, BrokenFile, WrongHash, WrongKeys: the file is not what it should be.
        Unsupported: a model, dtype or device that is refused; the message gives the reason.
    """
    dtype, device = _dtype(dtype), _device(device)
    if device.type == "mps" and dtype == torch.float64:
        raise Unsupported("float64 does not exist on MPS: take float32")
    source = find(name, revision=revision, offline=offline)
    if config is not None:
        source = replace(source, config=config)
    if tokenizer is not None:
        source = replace(source, vocabulary=Path(tokenizer))
    if part is not None:
        source = replace(source, part=part.rstrip("."), model=None)
    return assemble(source, device=device, dtype=dtype, activation=activation, offline=offline)


def find(
    name: str | Path | Sequence[str | Path],
    *,
    revision: str | None = None,
    offline: bool | None = None,
) -> Source:
    """Where the parts of a model are, downloaded if they must be.

    Raises:
        UnknownModel, DownloadFailed, WrongHash: as `load`.
    """
    if not isinstance(name, str | Path):
        if not name:
            raise UnknownModel("no file was named")
        first, *others = (find(Path(each)) for each in name)
        return replace(first, weights=first.weights + sum((o.weights for o in others), ()))
    path = Path(name).expanduser()
    if path.exists():
        return find_source(path)
    if isinstance(name, Path) or name.startswith((".", "/", "~")):
        raise UnknownModel(f"there is no file or folder {name}")
    return _by_name(name, revision, offline)


def assemble(
    source: Source,
    *,
    device: torch.device,
    dtype: torch.dtype,
    activation: str | None = None,
    offline: bool | None = None,
) -> Any:
    """The model of which the parts were found; arguments as `load` takes them."""
    found, files = read(source)
    name = source.model or recognise(found.tensors.keys(), source=source.label)
    kind = KINDS[name]
    ours = adopted(name, replace(found, options={**found.options, "activation": activation}))
    state, config = dict(ours.tensors), ours.config
    # Checking the files and putting parts together has touched what may never be used.
    for file in files:
        file.let_go()
    elsewhere = config.elsewhere if isinstance(config, Composite) else {}
    named = {place: other.name for place, other in elsewhere.items()}
    for place, other in {**ours.fetched, **named}.items():
        part = load(other, device=device, dtype=dtype, offline=offline)
        if place in elsewhere:
            _require_same(part, elsewhere[place], source.label)
        state |= {f"{place}.{key}": tensor for key, tensor in part.state_dict().items()}
        config = replace(config, parts={**config.parts, place: part_of(part)})
    model = build(lambda: made(name, config))
    require_shapes(state, model.state_dict(), ours.rules, source=source.label)
    stored = dict(state) if dtype == torch.float16 else {}
    for key in list(state):
        state[key] = _placed(state[key], device, dtype)
    model.load_state_dict(state, strict=True, assign=True)
    model.to(device)
    if stored:  # the other dtypes round to the same bfloat16
        remember_stored(model, stored)
    if kind.complete is not None and source.vocabulary is not None:
        kind.complete(model, source.vocabulary)
    return model.eval()


def _require_same(part: nn.Module, told: Elsewhere, label: str) -> None:
    """Refuse other weights than those that a model was trained with.

    Raises:
        WrongHash: they are others.
    """
    if (found := weights_hash(part)) != told.weights:
        raise WrongHash(
            f"{label} was trained with {told.name} of weights {told.weights[:12]}; that name now "
            f"stands for {found[:12]}: bring the former back, or train anew"
        )


def read(source: Source) -> tuple[Published, list[Checkpoint]]:
    """The tensors of all files, under the names they have there, and what was read of each."""
    state: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    files: list[Checkpoint] = []
    halves = KINDS[source.model].halves if source.model else {}
    for path in source.weights:
        files.append(read_tensors(path))
        before = halves.get(path.name, "")
        shard = {before + name: tensor for name, tensor in files[-1].tensors.items()}
        if twice := state.keys() & shard.keys():
            raise WrongKeys(f"{path}: {min(twice)!r} is in another shard already")
        state.update(shard)
        values.update({before + name: value for name, value in files[-1].metadata.items()})
    if source.part is not None:
        state = _of_part(state, source.part, source.label)
    found = Published(
        tensors=state,
        label=source.label,
        paths=source.weights,
        values=values,
        config=source.config,
        options={"part": source.part},
    )
    return found, files


def _of_part(state: dict[str, Tensor], part: str, label: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    prefix = f"{part}."
    found = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
    if not found:
        parts = sorted({key.partition(".")[0] for key in state})
        raise WrongKeys(f"{label}: nothing is under {prefix!r}; its parts are {listed(parts)}")
    return found


def build(make: Callable[[], Built]) -> Built:
    """What `make` gives, with weights left as they were allocated.

    For weights that are about to be replaced: drawing them would take longer than reading them.
    Only this thread is affected, and no function is replaced.
    """
    with _Unfilled():
        return make()


class _Unfilled(TorchFunctionMode):
    """Random fills are not carried out."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_FILLS = frozenset(
    {
        nn.init.uniform_,
        nn.init.normal_,
        nn.init.kaiming_uniform_,
        Tensor.uniform_,
        Tensor.normal_,
        Tensor.erfinv_,
    }
)


def _placed(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    wanted = dtype if tensor.is_floating_point() else tensor.dtype
    # A dense copy where the file's strides differ; else the tensor itself, mapped from the file.
    return tensor.to(device=device, dtype=wanted).contiguous()


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise Unsupported(f"weights in {name}: supported are {', '.join(DTYPES)}")
    return DTYPES[name]


def _device(device: str | torch.device) -> torch.device:
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"{device!r} is no device; examples are cpu, cuda, cuda:1, mps") from error
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device.type in available and not available[device.type]():
        raise Unsupported(f"device {device}: this torch sees none; take device='cpu'")
    return device


def _by_name(name: str, revision: str | None, offline: bool | None) -> Source:
    try:
        entry = catalogue.find(name)
    except UnknownModel as unknown:
        if not HUB_ID.fullmatch(name):
            raise
        try:
            return find_source(fetch_hub(name, revision=revision, offline=offline))
        except (UnknownModel, DownloadFailed) as error:
            # A misspelt ViT-B/32 looks like a hub id.
            raise type(error)(f"{unknown}. As a hub id: {error}") from error
    fetched = fetch_entry(entry, revision=revision, offline=offline)
    source = find_source(fetched.weights)
    source = replace(
        source,
        # Of halves, the first file has led to the second already.
        weights=tuple(dict.fromkeys((*source.weights, *fetched.more))),
        model=source.model or entry.model,
        part=entry.part,
    )
    if source.config is None and entry.variant is not None:
        source = replace(source, config=KINDS[entry.model].variants[entry.variant])
    return replace(source, vocabulary=fetched.vocabulary or source.vocabulary)
