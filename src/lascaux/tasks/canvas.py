"""What a picture is painted on: its grid of codes, what it is painted after, what is there already.

Everything that can be wrong with a wish is found here, before anything is drawn.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from lascaux.errors import BadInput, Unsupported
from lascaux.models.taming_transformer import TamingTransformer, coordinate_map
from lascaux.nn.grid import Grid
from lascaux.tasks.boxes import layout_picture, layout_tokens, read_layout
from lascaux.tasks.conditions import (
    PLACELESS,
    Condition,
    Kind,
    Sides,
    Wish,
    class_condition,
    depth_condition,
    kind_of,
    labels_of,
    map_condition,
    picture_condition,
    require_kind,
)
from lascaux.tasks.features import evaluating
from lascaux.tasks.options import PaintOptions

# In one sequence; by a window that slides; or all at once, by models that read no code.
Way = Literal["sequence", "windows", "at once"]


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What is painted, ready to be drawn with any seed."""

    condition: Int[Tensor, "1 m"]  # its tokens
    grid: Grid  # rows and columns of codes
    window: int  # side, in codes
    way: Way
    spatial: bool  # whether the condition has a token for each code
    kept: Int[Tensor, "1 n"]  # codes that are there already, from the top
    pixels: Sides
    prompt: str
    told: dict[str, Any]  # for the label of a picture
    shown: Image.Image | None  # the condition as the model sees it

    @property
    def total(self) -> int:
        """Codes of a picture."""
        return self.grid[0] * self.grid[1]


def canvas(model: TamingTransformer, wish: Wish, options: PaintOptions, shown: str) -> Canvas:
    """What a wish comes to, by a model.

    Args:
        model: with a first stage.
        wish: what is to be painted.
        options: of them, the sizes and what is kept.
        shown: the model's name, for messages.

    Raises:
        BadInput: the wish is not what the model paints after, or sizes do not fit.
        BadPicture: a file cannot be read, or is none of the kind that is expected.
        Unsupported: the model cannot paint it.
    """
    stage: Any = model.first_stage
    if stage is None:
        raise Unsupported(
            f"{shown} came without its first stage, which makes pictures of codes: load the whole "
            "checkpoint"
        )
    kind = kind_of(model)
    require_kind(kind, wish, shown)
    window = _window(model, kind, wish, options)
    complete, sides = None, options.sides
    condition = _given(model, kind, wish, options)
    if condition is not None and condition.sides is not None:
        sides = condition.sides
    if wish.complete is not None:
        # Where there is a map as well, that is scaled already, and the picture is brought to it.
        scale = options.scale_factor if condition is None or condition.sides is None else 1.0
        complete = picture_condition(wish.complete, sides=sides, scale=scale)
        sides = complete.sides
    sides = sides or (window * stage.factor,) * 2
    _require_multiples(model, kind, sides)
    grid = sides[1] // stage.factor, sides[0] // stage.factor
    condition = condition or _made(kind, sides)
    tokens = _encoded(model, kind, condition)
    spatial = kind not in PLACELESS and _one_to_one(model, kind)
    way = _way(model, kind, grid, window, spatial)
    kept = tokens.new_zeros(1, 0)
    told: dict[str, Any] = {"condition": condition.told}
    if complete is not None:
        kept = _kept(model, complete, grid, options.keep)
        rows = kept.shape[1] // grid[1]
        told["completed"] = {**complete.told, "rows_kept": rows}
    return Canvas(
        condition=tokens,
        grid=grid,
        window=window,
        way=way,
        spatial=spatial,
        kept=kept,
        pixels=sides,
        prompt=condition.prompt or (complete.prompt if complete is not None else ""),
        told=told,
        shown=condition.shown,
    )


def _given(
    model: TamingTransformer, kind: Kind, wish: Wish, options: PaintOptions
) -> Condition | None:
    """The condition that a wish gives; None for those that come by themselves."""
    how: dict[str, Any] = {"sides": options.sides, "scale": options.scale_factor}
    if kind == "map":
        return map_condition(wish.map, labels_of(model), shift=options.label_shift, **how)
    if kind == "depth":
        return depth_condition(wish.depth, **how)
    if kind == "picture":
        return picture_condition(wish.picture, **how)
    if kind == "label":
        assert wish.label is not None
        return class_condition(wish.label, model)
    if wish.boxes is not None:
        layout = read_layout(wish.boxes, model.config)
        return Condition(
            x=torch.tensor([layout_tokens(layout, model.config)]),
            prompt=", ".join(each.name for each in layout.objects),
            told={"kind": "boxes", **layout.to_json()},
            shown=layout_picture(layout),
        )
    if wish.tokens is not None:
        tokens = [int(each) for each in wish.tokens]
        return Condition(x=torch.tensor([tokens]), told={"kind": "tokens", "tokens": tokens})
    return None


def _made(kind: Kind, sides: Sides) -> Condition:
    """A condition that comes by itself."""
    if kind == "coordinates":
        return Condition(x=coordinate_map(sides[1], sides[0]), told={"kind": "coordinates"})
    return Condition(x=torch.zeros(1), told={"kind": "nothing"})


def _encoded(model: TamingTransformer, kind: Kind, condition: Condition) -> Tensor:
    stage: Any = model.condition_stage if model.condition_stage is not None else model.first_stage
    with evaluating(model):
        x = condition.x.to(model.transformer.positions.device)
        return model.encode_condition(stage.normalise(x) if kind == "picture" else x)


def _condition_factor(model: TamingTransformer, kind: Kind) -> int | None:
    """Pixels for each token of a condition, along one side; None where it has no places."""
    if kind in PLACELESS:
        return None
    if kind == "coordinates":
        return model.config.coordinate_factor
    stage: Any = model.condition_stage or model.first_stage
    return stage.factor


def _one_to_one(model: TamingTransformer, kind: Kind) -> bool:
    """Whether a condition has a token for each code, whatever the picture's size."""
    stage: Any = model.first_stage
    sized = model.config.condition_size is not None
    return not sized and _condition_factor(model, kind) == stage.factor


def _window(model: TamingTransformer, kind: Kind, wish: Wish, options: PaintOptions) -> int:
    """The side of the window in codes: as asked for, or as the model was trained.

    Raises:
        BadInput: the model has too few positions for it.
    """
    config = model.config

    def positions(side: int) -> int:
        return _tokens_before(model, kind, wish, side) + side * side - 1

    most = max(
        (side for side in range(1, config.length + 1) if positions(side) <= config.length),
        default=0,
    )
    if most < 1:
        raise BadInput(
            f"a condition of {_tokens_before(model, kind, wish, 1)} tokens leaves no room among "
            f"the model's {config.length} positions"
        )
    if config.order_grid is not None:
        return config.order_grid[0] if options.window is None else options.window
    if options.window is not None and options.window > most:
        raise BadInput(
            f"a window of {options.window} codes needs {positions(options.window)} positions; this "
            f"model has {config.length}, enough for {most}"
        )
    return options.window or most


def _tokens_before(model: TamingTransformer, kind: Kind, wish: Wish, side: int) -> int:
    """Tokens of the condition of a picture of so many codes along each side."""
    factor = _condition_factor(model, kind)
    if factor is None:
        if wish.tokens is not None:
            return len(wish.tokens)
        return 3 * model.config.objects + 2 if kind == "boxes" else 1
    stage: Any = model.first_stage
    pixels = model.config.condition_size or side * stage.factor
    return (pixels // factor) ** 2


def _require_multiples(model: TamingTransformer, kind: Kind, sides: Sides) -> None:
    stage: Any = model.first_stage
    multiple = stage.factor
    if model.config.condition_size is None:
        multiple = math.lcm(multiple, _condition_factor(model, kind) or 1)
    if any(side < 1 or side % multiple for side in sides):
        near = "x".join(str(max(1, round(side / multiple)) * multiple) for side in sides)
        raise BadInput(
            f"{sides[0]} x {sides[1]} pixels; both sides must be multiples of {multiple} for this "
            f"model: say --size {near}, which scales and cuts what is given"
        )


def _way(model: TamingTransformer, kind: Kind, grid: Grid, window: int, spatial: bool) -> Way:
    """How a picture of this grid is drawn.

    Raises:
        BadInput: it is too small, or the model draws one size alone.
        Unsupported: the model's condition cannot be seen through a window.
    """
    config = model.config
    stage: Any = model.first_stage
    factor = stage.factor
    alone = config.order_grid or ((window, window) if config.keep <= 0 else None)
    if alone is not None and grid != alone:
        raise BadInput(
            f"{grid[0]} x {grid[1]} codes; this model draws {alone[0]} x {alone[1]} alone: say "
            f"--size {alone[1] * factor}x{alone[0] * factor}"
        )
    if config.keep <= 0:
        return "at once"
    if alone is not None or grid == (window, window):
        return "sequence"
    if min(grid) < window:
        raise BadInput(
            f"{grid[1] * factor} x {grid[0] * factor} pixels are {grid[1]} x {grid[0]} codes; the "
            f"window is {window} x {window}: make both sides at least {window * factor} pixels "
            f"(--size), or the window smaller (--window {min(grid)}), which this model was not "
            "trained for"
        )
    if not spatial and kind not in PLACELESS:
        raise Unsupported(
            "conditions of this model have not a token for each code, so that no window slides "
            f"over them: say --size {window * factor}x{window * factor}"
        )
    return "windows"


def _kept(model: TamingTransformer, complete: Condition, grid: Grid, keep: float) -> Tensor:
    """The codes of the upper part of a picture, row by row.

    As published, codes are those of the whole picture.

    Raises:
        BadInput: the share is no row of codes, or all of them.
        Unsupported: the model draws in another order, or reads no code.
    """
    stage: Any = model.first_stage
    if model.config.order != "identity" or stage.config.in_channels != 3:
        raise Unsupported(
            f"this model draws codes in the order {model.config.order!r} of pictures of "
            f"{stage.config.in_channels} channels; only those of RGB that are drawn row by row "
            "are completed"
        )
    rows = int(keep * grid[0] + 1e-9)
    if not 0 < rows < grid[0]:
        raise BadInput(
            f"keep {keep} of {grid[0]} rows of codes is {rows}; expected {1 / grid[0]:.3g} to "
            f"{(grid[0] - 1) / grid[0]:.3g}"
        )
    with evaluating(model):
        x = stage.normalise(complete.x.to(model.transformer.positions.device))
        return stage.encode(x)[:, : rows * grid[1]]
