"""Pictures painted after maps of classes, depth, classes, coordinates or nothing, and completed.

By the taming transformers (Esser, Rombach, Ommer 2020, arXiv:2012.09841): codes of a VQGAN are
drawn one after the other, for large pictures by a window that slides over them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

import lascaux
from lascaux.errors import BadInput, Unsupported
from lascaux.generate.sampling import Drawn, NearTie, Sampling, draw, uniforms_of
from lascaux.generate.tokens import Progress, begin, near_ties, write
from lascaux.generate.windows import Order, Place, WindowProgress, steps_of, write_windows
from lascaux.images.maps import to_bytes
from lascaux.models.taming_transformer import TamingTransformer
from lascaux.nn.grid import Grid
from lascaux.tasks.canvas import Canvas, canvas
from lascaux.tasks.conditions import PLACELESS, Kind, Wish, kind_of
from lascaux.tasks.features import evaluating
from lascaux.tasks.options import PaintOptions
from lascaux.tasks.results import Picture
from lascaux.weights.fingerprint import weights_hash

# As published for pictures from maps and the like, and for batches of others.
_TOP_K_OF_MAPS, _TOP_K = 100, 250
_UNPAINTED = 128  # the grey of what is not painted yet
# What decides a picture: other options say where and how fast it is computed.
_SETTINGS = ("temperature", "top_p", "greedy", "scale_factor")

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Growing:
    """Pictures of one batch on their way."""

    seeds: tuple[int, ...]
    done: int  # codes of each that are there, those that were kept among them
    total: int
    cache_bytes: int  # of keys and values, allocated once
    near_ties: tuple[NearTie, ...]  # draws so far that rounding might have turned
    _preview: Callable[[], list[Image.Image]] = field(repr=False, compare=False)

    def preview(self) -> list[Image.Image]:
        """The pictures as they are now; what is not painted yet is grey."""
        return self._preview()


class Painter:
    """Paints with one model, any number of times.

        painter = Painter("sflckr")
        (picture,) = painter.paint(map="seg.png")
        picture.image.save("landscape.png")

    A picture depends on its seed and on nothing else that is painted with it.

    Attributes:
        model: in `eval()` mode from now on.
        name: what it was asked for by; nothing where it was given itself.
        options: as they were given; its `n` and `seed` are where no seeds are named.
        kind: what the model paints after.
        sampling: how codes are drawn.
    """

    def __init__(
        self,
        model: str | Path | TamingTransformer,
        options: PaintOptions | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: a name, folder or hub id, or a taming transformer.
            options: all but the model; as published.

        Raises:
            BadInput: there are not so many codes as top_k says.
            Unsupported: it is no taming transformer, or came without a stage that it needs.
            WeightsError: it cannot be found or loaded.
        """
        self.name = "" if isinstance(model, TamingTransformer) else str(model)
        self.options = options or PaintOptions(model=self.name)
        self.model = _loaded(model, self.options)
        self.kind: Kind = kind_of(self.model)
        # Codes of conditions alone may follow; pictures are made of the first stage's.
        stage: Any = self.model.first_stage
        self.codes = self.model.codes if stage is None else min(stage.codes, self.model.codes)
        self.sampling = self._sampling()
        self._weights: str | None = None

    @classmethod
    def from_options(cls, options: PaintOptions) -> "Painter":
        """The painter that options describe."""
        return cls(options.model, options)

    @property
    def shown(self) -> str:
        """The model's name, or what it is."""
        return self.name or "this model"

    @property
    def weights(self) -> str:
        """The hash of the weights of the model and its stages, computed when it is first asked."""
        if self._weights is None:
            self._weights = weights_hash(self.model)
        return self._weights

    def paint(
        self,
        *,
        map: Any = None,
        depth: Any = None,
        picture: Any = None,
        label: int | str | None = None,
        boxes: Any = None,
        tokens: Sequence[int] | None = None,
        complete: Any = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Picture]:
        """Pictures, one for each seed; arguments as of `Wish`, of which the model takes one kind.

        Args:
            map: of classes.
            depth: map.
            picture: after which one is painted.
            label: a class.
            boxes: of objects.
            tokens: as the model was trained with.
            complete: a picture of which the upper part is kept.
            seeds: one for each picture; by default as the options say.

        Raises:
            BadInput: the wish is not what the model paints after, or sizes do not fit.
            BadPicture: a file cannot be read, or is not what it should be.
            GenerationFailed: logits are no numbers; the message names the step.
        """
        wish = Wish(
            map=map,
            depth=depth,
            picture=picture,
            label=label,
            boxes=boxes,
            tokens=tokens,
            complete=complete,
        )
        events = self.painting(self.canvas(wish), seeds)
        return [event for event in events if isinstance(event, Picture)]

    def canvas(self, wish: Wish) -> Canvas:
        """What a wish comes to; arguments and errors as `paint`, but nothing is drawn yet."""
        return canvas(self.model, wish, self.options, self.shown)

    def painting(
        self,
        canvas: Canvas,
        seeds: Sequence[int] | None = None,
        *,
        stop: Stop | None = None,
    ) -> Iterator[Growing | Picture]:
        """After every step how far pictures are, and pictures as soon as they are finished.

        Args:
            canvas: as `canvas` gives it.
            seeds: one for each picture; by default as the options say.
            stop: asked before every step; where it says yes, what is unfinished is given up.

        Raises:
            GenerationFailed: as `paint`.
        """
        if seeds is None:
            seeds = range(self.options.seed, self.options.seed + self.options.n)
        batches = _batches(seeds, self.options.batch_size)
        ways = {"sequence": self._sequences, "windows": self._windows, "at once": self._at_once}
        for growing, ids in ways[canvas.way](canvas, batches, stop):
            yield growing
            if growing.done == growing.total:
                for seed, row in zip(growing.seeds, ids, strict=True):
                    yield self._finished(canvas, seed, row)

    def _sampling(self) -> Sampling:
        options = self.options
        top_k = options.top_k
        if top_k is None:
            as_published = _TOP_K if self.kind in PLACELESS else _TOP_K_OF_MAPS
            top_k = min(as_published, self.codes)
        sampling = Sampling(
            temperature=options.temperature,
            top_k=top_k,
            top_p=options.top_p,
            greedy=options.greedy,
        )
        sampling.require_fit(self.codes)
        return sampling

    @property
    def _writer(self) -> Any:
        """The model as engines take it."""
        within = self.codes < self.model.codes
        return _OfPictures(self.model, self.codes) if within else self.model

    def _sequences(
        self, canvas: Canvas, batches: Iterator[tuple[int, ...]], stop: Stop | None
    ) -> Iterator[tuple[Growing, Tensor]]:
        """Pictures in one sequence each; what comes before them is read once for all."""
        parts = (canvas.condition, canvas.kept) if canvas.kept.shape[1] else (canvas.condition,)
        with evaluating(self.model):
            beginning = begin(self._writer, *parts)
        before = canvas.kept.shape[1]
        for seeds in batches:
            kept = canvas.kept.expand(len(seeds), -1)
            reports: Iterator[Progress] = write(
                self._writer,
                beginning,
                canvas.total - before,
                sampling=self.sampling,
                candidates=len(seeds),
                # A code's number is that of its place, as if all were drawn.
                uniforms=uniforms_of(seeds, canvas.total)[:, before:],
                stop=stop,
            )
            for report in reports:
                ids = torch.cat((kept, report.ids), dim=1)
                whole = ids.new_zeros(len(seeds), canvas.total)
                whole[:, : ids.shape[1]] = ids
                painted = partial(_first, ids.shape[1], canvas.total)
                yield self._growing(canvas, seeds, whole, painted, report), whole
            if stop is not None and stop():
                return

    def _windows(
        self, canvas: Canvas, batches: Iterator[tuple[int, ...]], stop: Stop | None
    ) -> Iterator[tuple[Growing, Tensor]]:
        """Pictures by a window that slides over them."""
        rows, columns = canvas.grid
        device = canvas.condition.device
        condition, known, given = canvas.condition, None, None
        if canvas.spatial:
            condition = rearrange(condition, "1 (y x) -> 1 y x", y=rows)
        before = canvas.kept.shape[1]
        if before:
            known = torch.arange(canvas.total).reshape(canvas.grid) < before
        order: Order = self._order(device)
        steps = steps_of(canvas.grid, canvas.window, order, known)
        places = [place for step in steps for place in step]
        for seeds in batches:
            if before:
                given = condition.new_zeros(len(seeds), canvas.total)
                given[:, :before] = canvas.kept
                given = given.reshape(-1, rows, columns)
            reports = write_windows(
                self._writer,
                condition.expand(len(seeds), *condition.shape[1:]),
                grid=canvas.grid,
                size=canvas.window,
                given=given,
                known=known,
                sampling=self.sampling,
                seeds=seeds,
                order=order,
                stop=stop,
            )
            for report in reports:
                painted = partial(_painted, places, report.done, known, canvas.grid)
                ids = rearrange(report.ids, "b y x -> b (y x)")
                yield self._growing(canvas, seeds, ids, painted, report), ids
            if stop is not None and stop():
                return

    def _at_once(
        self, canvas: Canvas, batches: Iterator[tuple[int, ...]], stop: Stop | None
    ) -> Iterator[tuple[Growing, Tensor]]:
        """Pictures of which all codes are drawn in one step, as the model was trained."""
        if canvas.condition.shape[1] != canvas.total:
            raise Unsupported(
                f"this model reads none of a picture's codes, so that its condition must have as "
                f"many tokens; it has {canvas.condition.shape[1]}, the picture {canvas.total}"
            )
        before = canvas.kept.shape[1]
        for seeds in batches:
            if stop is not None and stop():
                return
            with evaluating(self.model):
                logits = self.model.logits_at_once(canvas.condition, canvas.kept)
            logits = logits[0, before:, : self.codes].float().repeat(len(seeds), 1)
            uniforms = uniforms_of(seeds, canvas.total)[:, before:].flatten()
            drawn = draw(logits, self.sampling, uniforms)
            rows = drawn.ids.reshape(len(seeds), -1)
            ids = torch.cat((canvas.kept.expand(len(seeds), -1), rows), dim=1)
            margins = drawn.margins.reshape(len(seeds), -1)
            ties = [
                tie
                for place in range(rows.shape[1])
                for tie in near_ties(Drawn(rows[:, place], margins[:, place]), place)
            ]
            preview = partial(self._images, canvas, ids)
            yield Growing(seeds, canvas.total, canvas.total, 0, tuple(ties), preview), ids

    def _order(self, device: torch.device) -> Order:
        if self.options.order == "auto":
            return "wavefront" if device.type == "cuda" else "raster"
        return self.options.order

    def _growing(
        self,
        canvas: Canvas,
        seeds: tuple[int, ...],
        ids: Int[Tensor, "b n"],
        painted: Callable[[], Bool[Tensor, " n"]],
        report: Progress | WindowProgress,
    ) -> Growing:
        def preview() -> list[Image.Image]:
            images = self._images(canvas, ids)
            there = painted()[None].long().to(ids.device)
            rows = self.model.in_rows(there)[0].reshape(canvas.grid)
            mask = Image.fromarray(rows.mul(255).to("cpu", torch.uint8).numpy())
            mask = mask.resize(canvas.pixels, Image.Resampling.NEAREST)
            grey = Image.new("RGB", canvas.pixels, (_UNPAINTED,) * 3)
            return [Image.composite(image, grey, mask) for image in images]

        return Growing(
            seeds,
            canvas.kept.shape[1] + report.done,
            canvas.total,
            report.cache_bytes,
            report.near_ties,
            preview,
        )

    def _images(self, canvas: Canvas, ids: Int[Tensor, "b n"]) -> list[Image.Image]:
        """Decoded one by one: large pictures take much memory."""
        return [self._decoded(canvas, row) for row in ids]

    def _decoded(self, canvas: Canvas, ids: Int[Tensor, " n"]) -> Image.Image:
        stage: Any = self.model.first_stage
        with evaluating(self.model):
            x: Float[Tensor, "1 c y x"] = self.model.decode_ids(ids[None], canvas.grid)
            values = to_bytes(2 * stage.denormalise(x.float())[0] - 1)
        return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).convert("RGB")

    def _finished(self, canvas: Canvas, seed: int, ids: Int[Tensor, " n"]) -> Picture:
        return Picture(
            image=self._decoded(canvas, ids),
            seed=seed,
            prompt=canvas.prompt,
            model=self.name,
            settings=self._settings(canvas),
            weights=self.weights,
        )

    def _settings(self, canvas: Canvas) -> dict[str, Any]:
        """All that decides a picture beside its seed and the weights."""
        chosen = asdict(self.options)
        return {
            **canvas.told,
            **{name: chosen[name] for name in _SETTINGS},
            "top_k": self.sampling.top_k,
            "size": list(canvas.pixels),
            "window": canvas.window if canvas.way == "windows" else None,
            "dtype": str(self.model.transformer.positions.dtype).removeprefix("torch."),
            "version": lascaux.__version__,
        }


class _OfPictures:
    """A model that also has codes of conditions: none of them is drawn."""

    def __init__(self, model: TamingTransformer, codes: int) -> None:
        self.model, self.codes = model, codes
        self.new_cache = model.new_cache

    def step(self, new_ids: Tensor, cache: Any, **which: Any) -> Float[Tensor, "b v"]:
        """The model's logits, of the codes of pictures alone."""
        return self.model.step(new_ids, cache, **which)[:, : self.codes]


def _loaded(model: str | Path | TamingTransformer, options: PaintOptions) -> TamingTransformer:
    if isinstance(model, TamingTransformer):
        return model.eval()
    from lascaux.weights.load import load

    found = load(model, device=options.device, dtype=options.dtype)
    if not isinstance(found, TamingTransformer):
        raise Unsupported(
            f"{model} is a {type(found).__name__}; what paints is a taming transformer "
            "(`lascaux models`)"
        )
    return found


def _batches(seeds: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Seeds of pictures that are painted together.

    Raises:
        BadInput: one of them is negative.
    """
    if any(seed < 0 for seed in seeds):
        raise BadInput(f"seed {min(seeds)}; seeds are whole numbers from 0")
    queue = iter(seeds)
    while batch := tuple(islice(queue, size)):
        yield batch


def _first(count: int, total: int) -> Bool[Tensor, " n"]:
    """Which codes are there, in the order they are written in."""
    return torch.arange(total) < count


def _painted(
    places: Sequence[Place], done: int, known: Bool[Tensor, "y x"] | None, grid: Grid
) -> Bool[Tensor, " n"]:
    """Which codes are there, row by row."""
    there = torch.zeros(grid, dtype=torch.bool) if known is None else known.clone()
    for place in places[:done]:
        there[place.row, place.column] = True
    return there.flatten()
