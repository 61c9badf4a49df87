"""taming transformers: minGPT, Net2Net with both stages, its samplers, permuters and pictures."""

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from einops import rearrange
from torch import Tensor

from golden.case import Case, filled_state

_ORDERS = {
    "Subsample": "subsample",
    "ZCurve": "z-curve",
    "SpiralOut": "spiral-out",
    "SpiralIn": "spiral-in",
    "Random": "random",
    "AlternateParsing": "alternate",
    "Identity": "identity",
}


def check(case: Case, folder: Path) -> None:
    if "params" in case.config:
        check_whole(case, folder)
    elif "gpt" in case.config:
        check_transformer(case, folder)
    elif "down_factor" in case.config:
        check_coordinates(case)
    elif "depth_rgba" in case.inputs:
        check_pictures(case)
    else:
        check_orders(case)


def loaded(case: Case, folder: Path, params: dict[str, Any]) -> Any:
    """The case's checkpoint as CompVis writes it, with its project file beside it."""
    from lascaux.weights.load import load

    state = filled_state(case)
    for key, entry in case.manifest.get("derived_state", {}).items():
        if key.startswith("transformer.") and key.endswith(".attn.mask"):
            state[key] = torch.ones(entry["shape"]).tril()
    torch.save({"state_dict": state, "global_step": 1}, folder / "last.ckpt")
    project = {"model": {"target": "taming.models.cond_transformer.Net2NetTransformer"}}
    project["model"]["params"] = params
    (folder / "model.yaml").write_text(yaml.safe_dump(project))
    return load(folder / "last.ckpt")


def by_step(u: Tensor, rows: int, steps: int) -> Tensor:
    """Uniform numbers, one a row and then the next step, as one row a picture."""
    return u[: rows * steps].reshape(steps, rows).T.double()


@torch.no_grad()
def check_transformer(case: Case, folder: Path) -> None:
    gpt = case.config["gpt"]
    model = loaded(case, folder, {"transformer_config": {"params": gpt}})
    assert model.config.heads == gpt["n_head"]
    assert model.config.layers == gpt["n_layer"]
    ids = case.inputs["idx"].long()
    logits = model.transformer(ids)
    best = logits.topk(2, dim=-1).values
    cache = model.new_cache(len(ids), ids.shape[1] + 1)
    kept = model.step(ids, cache)
    torch.testing.assert_close(kept, logits[:, -1], rtol=1e-4, atol=1e-4)
    cached = model.step(case.inputs["next"].long(), cache)

    def thinned(x: Tensor, name: str) -> Tensor:
        (step,) = re.findall(r"every (\d+)\w* class", case.manifest["outputs"][name])
        return x[:, :: int(step)]

    rows, classes = case.outputs["some_logits"].shape[1:]
    (every,) = re.findall(r"every (\d+)\w* position", case.manifest["outputs"]["some_logits"])
    targets = case.inputs["targets"].long()
    case.check(
        {
            "last_logits": thinned(logits[:, -1], "last_logits"),
            "some_logits": logits[:, :: int(every), :classes][:, :rows],
            "lse": logits.logsumexp(-1),
            "argmax": logits.argmax(-1),
            "argmax_margin": best[..., 0] - best[..., 1],
            "loss": F.cross_entropy(logits.flatten(0, 1), targets.flatten())[None],
            "cached_logits": thinned(cached, "cached_logits"),
        }
    )


@torch.no_grad()
def check_whole(case: Case, folder: Path) -> None:
    model = loaded(case, folder, case.config["params"])
    expected = case.config["params"]["transformer_config"]["params"]
    assert model.config.unmasked == expected.get("n_unmasked", 0)
    assert model.config.keep == case.config["params"].get("pkeep", 1.0)
    if "mask" in case.inputs:
        check_keep(case, model)
        return
    c, z = case.inputs["c"].long(), case.inputs["z"].long()
    sequence = torch.cat((c, z), dim=1)[:, :-1]
    before = model.transformer(z, vectors=case.inputs["prefix"])
    image, condition = case.inputs["image"], case.inputs["cond"]
    # Both stages code positions without regard to grids, which the first stage's picture has.
    ids, given = model.encode(image), model.encode_condition(condition)
    grid = model.first_stage.grid(image)
    steps = case.config["steps"]
    answers = {
        "logits": model.transformer(sequence),
        "logits_z": model.logits(c, z),
        "ce_loss": model.loss(c, z)[None],
        "logits_embed": before[:, -case.outputs["logits_embed"].shape[1] :],
        "xc_logits": thinned_classes(model.logits(given, ids), case, "xc_logits"),
        "xc_target": ids,
        "z_indices": ids,
        "c_indices": given,
        "decoded": model.decode_ids(ids, grid),
        "encode_margin": margins(model, image, condition),
        **sequences(case, model, c, z, steps),
        **filtered(case),
        **windows(case, model),
    }
    # How sure the recorded choices are; none of ours to answer.
    answers["greedy_margin"] = case.outputs["greedy_margin"]
    answers["cdf_margin"] = case.outputs["cdf_margin"]
    case.check({name: x.reshape(case.outputs[name].shape) for name, x in answers.items()})


def thinned_classes(x: Tensor, case: Case, name: str) -> Tensor:
    step = -(-x.shape[-1] // case.outputs[name].shape[-1])
    return x[..., ::step]


def margins(model: Any, image: Tensor, condition: Tensor) -> Tensor:
    found = []
    for stage, x in ((model.first_stage, image), (model.condition_stage, condition)):
        far = torch.cdist(stage.features(x).double(), stage.codebook.weight.double()).square()
        best = far.topk(2, dim=-1, largest=False).values
        found.append((best[..., 1] - best[..., 0]).min().float())
    return torch.stack(found)


class Uncached:
    """A model that reads everything again for every token, as `sample` does."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Any:
        return Read(torch.empty(batch, 0, dtype=torch.int64))

    def step(self, new_ids: Tensor, cache: Any) -> Tensor:
        cache.ids = torch.cat((cache.ids, new_ids), 1)
        return self.model.transformer(cache.ids)[:, -1]


class Read:
    nbytes = 0

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def select(self, rows: Any) -> "Read":
        return Read(self.ids[rows])

    def repeat(self, times: int, *, length: int | None = None) -> "Read":
        return Read(self.ids.repeat_interleave(times, 0))


class KeptAsPublished:
    """`forward_with_past`: what was read is never read again, whatever it would now see."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Any:
        from lascaux.nn.cache import Cache

        kept = self.model.new_cache(batch, length, dtype)
        return Cache(**kept._sizes(batch, length))

    def step(self, new_ids: Tensor, cache: Any) -> Tensor:
        return self.model.step(new_ids, cache)


def sequences(case: Case, model: Any, c: Tensor, z: Tensor, steps: int) -> dict[str, Tensor]:
    from lascaux.generate.sampling import Sampling, draw
    from lascaux.generate.tokens import begin, write

    def written(reader: Any, *parts: Tensor, u: str | None = None, **options: Any) -> Tensor:
        uniforms = None if u is None else by_step(case.inputs[u], len(c), steps)
        sampling = Sampling(greedy=u is None, **options)
        *_, last = write(reader, begin(reader, *parts), steps, sampling=sampling, uniforms=uniforms)
        return last.ids

    def at_once(start: Tensor, *, u: str | None = None, **options: Any) -> Tensor:
        logits = model.logits_at_once(c, start)
        rows, count, _ = logits.shape
        uniforms = None if u is None else case.inputs[u][: rows * count].double()
        sampling = Sampling(greedy=u is None, **options)
        return draw(logits.flatten(0, 1), sampling, uniforms).ids.reshape(rows, count)

    start = z[:, :2]
    past = KeptAsPublished(model)
    answers = {
        "greedy": torch.cat((start, written(model, c, start)), 1),
        "greedy_top3_t": written(model, c, temperature=0.7, top_k=3),
        "sampled": written(model, c, u="u_sample", temperature=0.9, top_k=5),
        "past_greedy": written(past, c),
        "past_sampled": written(past, c, u="u_past", temperature=1.1, top_k=12, top_p=0.8),
    }
    if model.config.keep <= 0:  # `sample` reads no code then
        return answers | {
            "greedy": at_once(start),
            "greedy_top3_t": at_once(z[:, :0], temperature=0.7, top_k=3),
            "sampled": at_once(z[:, :0], u="u_sample", temperature=0.9, top_k=5),
        }
    again = written(Uncached(model), c, u="u_sample", temperature=0.9, top_k=5)
    assert torch.equal(again, answers["sampled"])
    return answers


def filtered(case: Case) -> dict[str, Tensor]:
    from lascaux.generate.sampling import Sampling, kept

    keep = kept(case.inputs["filter_logits"], Sampling(top_k=10, top_p=0.85))
    return {"filtered": keep.to(torch.uint8)}


def windows(case: Case, model: Any) -> dict[str, Tensor]:
    from lascaux.generate.sampling import Sampling
    from lascaux.generate.windows import steps_of, write_windows

    size, (rows, columns) = case.config["window"], case.config["grid"]
    condition = case.inputs["grid_c"].long()
    places = [place for (place,) in steps_of((rows, columns), size, "raster")]
    table = [(p.top, p.left, p.row - p.top, p.column - p.left) for p in places]
    u = by_step(case.inputs["u_window"], len(condition), rows * columns)

    def written(order: Any, **options: Any) -> Tensor:
        *_, last = write_windows(
            model, condition, size=size, order=order, uniforms=u, sampling=Sampling(**options)
        )
        return last.ids

    sampled = written("raster", temperature=1.2, top_k=7)
    assert torch.equal(written("wavefront", temperature=1.2, top_k=7), sampled)
    return {
        "window_place": torch.tensor(table),
        "window_greedy": written("raster", greedy=True),
        "window_sampled": sampled,
    }


def check_keep(case: Case, model: Any) -> None:
    c, z = case.inputs["c"].long(), case.inputs["z"].long()
    mask, r = case.inputs["mask"].bool(), case.inputs["r"].long()
    assert torch.equal(model.encode_condition(c), c)
    logits = model.logits(c, z, read=torch.where(mask, z, r))
    loss = F.cross_entropy(rearrange(logits, "b n v -> (b n) v"), z.flatten())
    case.check({"logits": logits, "loss": loss[None]})


def check_orders(case: Case) -> None:
    from lascaux.nn.orders import order_of

    answers = {}
    for name in case.outputs:
        published, sides, way = name.split("_")
        rows, columns = map(int, sides.split("x"))
        order = order_of(_ORDERS[published], (rows, columns))
        answers[name] = order if way == "forward" else order.argsort()
    case.check(answers)


def check_coordinates(case: Case) -> None:
    from lascaux.models.taming_transformer import TamingTransformer, TamingTransformerConfig

    told = TamingTransformerConfig(
        codes=case.config["n_embed"],
        length=4,
        layers=1,
        heads=1,
        width=4,
        condition="coordinates",
        coordinate_codes=case.config["n_embed"],
        coordinate_factor=case.config["down_factor"],
    )
    model = TamingTransformer(told)
    steps, ids = model.coordinate_ids(case.inputs["coord"])
    back = model.coordinates_of(steps)
    thin = [
        -(-have // want)
        for have, want in zip(back.shape, case.outputs["decoded"].shape, strict=True)
    ]
    answers = {
        "quant": steps,
        "indices": ids,
        "decoded": back[tuple(slice(None, None, n) for n in thin)],
    }
    case.check(answers)


def check_pictures(case: Case) -> None:
    from lascaux.images.maps import (
        coloured,
        depth_from_rgba,
        depth_to_rgba,
        scaled_depth,
        to_bytes,
    )
    from lascaux.models.vqgan import VqGan, VqGanConfig

    raw = depth_from_rgba(case.inputs["depth_rgba"].numpy())
    labels = case.inputs["segmentation"].long()
    colours = case.inputs["colorize"]
    classes = colours.shape[1]
    sizes = {"in_channels": classes, "out_channels": classes, "labels": classes}
    stage = VqGan(VqGanConfig(codes=2, width=32, multiples=(1,), blocks=1, **sizes))
    stage.colours.copy_(colours.flatten(1))
    one_hot = rearrange(F.one_hot(labels, classes).float(), "y x l -> 1 l y x")
    shown = torch.from_numpy(to_bytes(case.inputs["picture"]))
    case.check(
        {
            "depth_raw": torch.from_numpy(raw.copy()),
            "depth": torch.from_numpy(scaled_depth(raw)),
            "depth_roundtrip": torch.from_numpy(depth_to_rgba(raw).copy()),
            "segmentation_colour": torch.from_numpy(coloured(labels.numpy(), classes)),
            "segmentation_to_rgb": stage.to_rgb(one_hot),
            "to_uint8_make_samples": shown,
            "to_uint8_sample_fast": shown,
        }
    )
