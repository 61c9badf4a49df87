from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.errors import (
    BadClasses,
    BadInput,
    BadPicture,
    GenerationFailed,
    Unsupported,
)
from lascaux.generate.sampling import uniforms_of
from lascaux.images.maps import coloured, depth_to_rgba
from lascaux.tasks import Growing, Painter, PaintOptions, Picture, Wish
from lascaux.tasks.conditions import class_number
from painters import KINDS, LABELS, MAPS, STAGE, tiny_painter


def options(**chosen) -> PaintOptions:
    return PaintOptions(model="tiny", **{"top_k": 12, **chosen})


def painter(kind: str = "map", **chosen) -> Painter:
    return Painter(tiny_painter(kind), options(**chosen))


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def a_map(width: int = 8, height: int = 8, labels: int = LABELS) -> np.ndarray:
    return chance().integers(0, labels, (height // 2, width // 2)).repeat(2, 0).repeat(2, 1)


def photo(width: int = 8, height: int = 8, seed: int = 1) -> Image.Image:
    return Image.fromarray(chance(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


WISHES = {
    "map": {"map": a_map()},
    "depth": {"depth": chance().random((8, 8)).astype(np.float32)},
    "picture": {"picture": photo()},
    "label": {"label": 3},
    "coordinates": {},
    "boxes": {"boxes": [{"object": 3, "box": [0.2, 0.1, 0.5, 0.6]}]},
    "nothing": {},
    "tokens": {"tokens": [3, 1, 2]},
}


def same(first: Picture, second: Picture) -> bool:
    return first.image.tobytes() == second.image.tobytes()


def codes_of(of: Painter, wish: Wish) -> torch.Tensor:
    """The codes of the picture of the first seed."""
    canvas = of.canvas(wish)
    ways = {"sequence": of._sequences, "windows": of._windows}
    *_, (_, ids) = ways[canvas.way](canvas, iter([(of.options.seed,)]), None)
    return ids[0].reshape(canvas.grid)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_paints_and_a_seed_is_a_picture_in_any_batch(kind):
    of = painter(kind, n=2, seed=5, batch_size=3)
    assert of.kind == kind
    together = of.paint(**WISHES[kind])
    assert [picture.seed for picture in together] == [5, 6]
    assert {picture.image.size for picture in together} == {(8, 8)}
    assert not same(*together[:2])
    turned = painter(kind, batch_size=1).paint(**WISHES[kind], seeds=[6, 5])
    assert all(map(same, together, reversed(turned)))


@pytest.mark.parametrize("kind", ["map", "coordinates", "label"])
def test_larger_pictures_are_painted_by_a_window_alike_in_both_orders(kind):
    wish = WISHES[kind] if kind != "map" else {"map": a_map(12, 10)}
    size = {} if kind == "map" else {"size": "12x10"}
    pictures = [
        painter(kind, n=2, batch_size=batch, order=order, **size).paint(**wish)
        for order, batch in (("raster", 2), ("wavefront", 2), ("raster", 1))
    ]
    assert pictures[0][0].image.size == (12, 10)
    assert pictures[0][0].settings["window"] == 4
    for others in pictures[1:]:
        assert all(map(same, pictures[0], others))


def test_a_picture_of_one_window_is_the_same_by_either_way():
    of = painter("map", n=2)
    canvas = of.canvas(Wish(**WISHES["map"]))
    assert canvas.way == "sequence"
    sequence = [e for e in of.painting(canvas) if isinstance(e, Picture)]
    windows = [e for e in of.painting(replace(canvas, way="windows")) if isinstance(e, Picture)]
    assert all(map(same, sequence, windows))


@pytest.mark.parametrize(("kind", "size"), [("map", (8, 8)), ("map", (12, 10)), ("label", (8, 8))])
def test_completion_keeps_the_upper_codes_and_paints_the_rest(kind, size):
    of = painter(kind, size="{}x{}".format(*size))
    picture = photo(*size)
    wish = Wish(**(WISHES[kind] if kind == "label" else {"map": a_map(*size)}), complete=picture)
    x = torch.from_numpy(np.asarray(picture) / 255).float().permute(2, 0, 1)[None]
    first = of.model.first_stage
    with torch.no_grad():
        all_codes = first.encode(first.normalise(x)).reshape(size[1] // 2, size[0] // 2)
    rows = size[1] // 4
    found = codes_of(of, wish)
    assert torch.equal(found[:rows], all_codes[:rows])
    assert not torch.equal(found[rows:], all_codes[rows:])
    more = codes_of(Painter(of.model, replace(of.options, keep=0.75)), wish)
    assert torch.equal(more[: int(size[1] // 2 * 0.75)], all_codes[: int(size[1] // 2 * 0.75)])


def test_a_place_has_its_own_number_whether_what_is_above_was_drawn_or_kept():
    # Equal logits everywhere: then a code is told by its number alone.
    model = tiny_painter("nothing")
    for parameter in model.transformer.parameters():
        torch.nn.init.zeros_(parameter)
    of = Painter(model, options(top_k=24, seed=9))
    expected = (uniforms_of([9], 16) * 24).long().reshape(4, 4)
    assert torch.equal(codes_of(of, Wish()), expected)
    assert torch.equal(codes_of(of, Wish(complete=photo()))[2:], expected[2:])


def test_maps_are_read_from_indexed_and_grey_files_and_written_so_that_they_are_read_again(
    tmp_path,
):
    numbers = a_map(16, 8).astype(np.uint8)
    indexed = Image.fromarray(numbers)
    indexed.putpalette(bytes(range(15)))
    of = painter()
    wide = Image.fromarray(numbers.astype(np.uint16))
    expected = of.canvas(Wish(map=numbers.astype(np.int64)))
    for name, image in (("p", indexed), ("l", Image.fromarray(numbers)), ("i", wide)):
        image.save(tmp_path / f"{name}.png")
        found = of.canvas(Wish(map=tmp_path / f"{name}.png"))
        assert torch.equal(found.condition, expected.condition)
    shown = expected.shown
    assert shown.mode == "P"
    assert np.array_equal(np.asarray(shown), numbers)
    assert np.array_equal(np.asarray(shown.convert("RGB")), coloured(numbers.astype(int), LABELS))
    shown.save(tmp_path / "again.png")
    again = of.canvas(Wish(map=tmp_path / "again.png"))
    assert torch.equal(again.condition, expected.condition)


def test_coco_counts_its_files_from_nothing_which_they_call_255():
    coco = replace(MAPS, in_channels=183, out_channels=183, labels=183)
    of = Painter(tiny_painter("map", stage=coco), options())
    numbers = np.full((8, 8), 255)
    numbers[4:] = 181
    found = of.canvas(Wish(map=numbers))
    assert np.unique(np.asarray(found.shown)).tolist() == [0, 182]
    plain = Painter(of.model, options(label_shift=0)).canvas(Wish(map=(numbers + 1) % 256))
    assert torch.equal(plain.condition, found.condition)


def test_depth_is_read_from_bytes_of_floats_or_grey_in_any_unit(tmp_path):
    depth = chance().random((8, 8)).astype(np.float32) * 9 + 3
    of = painter("depth")
    expected = of.canvas(Wish(depth=depth))
    Image.fromarray(depth_to_rgba(depth)).save(tmp_path / "rgba.png")
    Image.fromarray(depth).save(tmp_path / "floats.tiff")
    for name in ("rgba.png", "floats.tiff"):
        found = of.canvas(Wish(depth=tmp_path / name))
        assert torch.equal(found.condition, expected.condition)
    low, high = expected.shown.getextrema()
    assert (low, high) == (0, 255)
    deep = np.round((depth - depth.min()) * 7000).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    near = of.canvas(Wish(depth=tmp_path / "deep.png"))
    assert np.abs(np.asarray(near.shown).astype(int) - np.asarray(expected.shown)).max() <= 1


def test_what_is_given_is_scaled_until_it_covers_the_size_and_its_middle_taken():
    numbers = np.zeros((8, 24), dtype=np.int64)
    numbers[:, 8:16] = 3
    of = painter(size="16x16")
    assert (np.asarray(of.canvas(Wish(map=numbers)).shown) == 3).all()
    assert of.canvas(Wish(map=numbers)).pixels == (16, 16)
    doubled = painter(scale_factor=2.0).canvas(Wish(map=a_map()))
    assert doubled.pixels == (16, 16)
    both = painter(scale_factor=2.0).canvas(Wish(map=a_map(), complete=photo()))
    assert both.kept.shape == (1, 4 * 8)


def test_a_model_that_reads_no_code_draws_all_at_once():
    model = tiny_painter("map", keep=0.0)
    pictures = [Painter(model, options(n=3, batch_size=size)).paint(map=a_map()) for size in (1, 3)]
    assert all(map(same, *pictures))
    kept = Painter(model, options()).paint(map=a_map(), complete=photo())
    assert kept[0].settings["completed"]["rows_kept"] == 2
    with pytest.raises(BadInput, match="this model draws 4 x 4 alone: say --size 8x8"):
        Painter(model, options()).paint(map=a_map(16, 16))


def test_codes_that_only_conditions_have_are_never_drawn():
    few = replace(STAGE, codes=6)
    of = Painter(tiny_painter("map", first=few), PaintOptions(model="tiny", n=2))
    assert len(of.paint(map=a_map(12, 8))) == len(of.paint(map=a_map())) == 2
    assert of.sampling.top_k == 6


def test_codes_in_another_order_are_decoded_in_theirs():
    orders = {"order": "spiral-out", "order_grid": (4, 4)}
    of = Painter(tiny_painter("map", **orders), options())
    canvas = of.canvas(Wish(map=a_map()))
    *_, (growing, ids) = of._sequences(canvas, iter([(0,)]), None)
    with torch.no_grad():
        x = of.model.first_stage.decode_ids(of.model.in_rows(ids), (4, 4))
    image = growing.preview()[0]
    expected = ((x[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte().numpy()
    assert np.array_equal(np.asarray(image), expected)
    with pytest.raises(Unsupported, match="'spiral-out'"):
        of.paint(map=a_map(), complete=photo())


@pytest.mark.parametrize("order", ["raster", "wavefront"])
def test_unfinished_pictures_are_grey_where_nothing_is_painted_yet(order):
    of = painter(n=2, order=order)
    counts = []
    for event in of.painting(of.canvas(Wish(map=a_map(12, 10)))):
        if not isinstance(event, Growing) or event.done % 10 not in (0, 7):
            continue
        counts.append(event.done)
        grey = (np.asarray(event.preview()[1]) == 128).all(-1)
        assert grey[::2, ::2].sum() >= 30 - event.done
        if event.done == 7 and order == "raster":
            assert grey[4:].all()
        assert event.cache_bytes > 0
    assert counts[-1] == 30
    assert counts == sorted(set(counts))
    assert len(counts) > 2
    # The last preview is the finished picture.
    *_, event, first, second = of.painting(of.canvas(Wish(map=a_map(12, 10))))
    assert [image.tobytes() for image in event.preview()] == [
        picture.image.tobytes() for picture in (first, second)
    ]


@pytest.mark.parametrize("size", [8, 12])
def test_a_painting_that_is_stopped_gives_up_what_is_unfinished(size):
    of = painter(n=3, batch_size=1)
    canvas = of.canvas(Wish(map=a_map(size, size)))
    steps, found = 0, []

    def stop() -> bool:
        return steps > canvas.total

    for event in of.painting(canvas, stop=stop):
        found += [event] if isinstance(event, Picture) else []
        steps += isinstance(event, Growing)
    assert len(found) == 1
    assert steps <= canvas.total + 2


def test_a_saved_model_paints_the_same_and_a_picture_tells_how_it_was_made(tmp_path):
    model = tiny_painter("label")
    lascaux.save(model, tmp_path / "tiny")
    found = Painter.from_options(
        PaintOptions(model=str(tmp_path / "tiny"), seed=3, top_k=12, top_p=0.9, temperature=0.8)
    )
    (picture,) = found.paint(label="5")
    expected = Painter(model, options(seed=3, top_p=0.9, temperature=0.8)).paint(label=5)
    assert same(picture, expected[0])
    assert picture.model == str(tmp_path / "tiny")
    assert picture.weights == expected[0].weights
    assert (picture.prompt, picture.seed) == ("5", 3)
    assert picture.settings["condition"] == {"kind": "class", "number": 5, "name": None}
    chosen = ("top_k", "top_p", "temperature", "greedy", "size", "dtype")
    assert [picture.settings[name] for name in chosen] == [12, 0.9, 0.8, False, [8, 8], "float32"]


def test_half_precision_paints():
    model = tiny_painter("map").to(torch.bfloat16)
    (picture,) = Painter(model, options()).paint(map=a_map())
    assert picture.settings["dtype"] == "bfloat16"


def test_top_k_is_as_published_unless_there_are_fewer_codes():
    wide = {"codes": 300}
    for kind, expected in (("map", 100), ("nothing", 250)):
        model = tiny_painter(kind, first=replace(STAGE, **wide), **wide)
        assert Painter(model, PaintOptions(model="")).sampling.top_k == expected
    assert Painter(tiny_painter("map"), PaintOptions(model="")).sampling.top_k == 24


def test_classes_of_imagenet_are_known_by_name_id_and_number():
    assert class_number("goldfish", 1000) == (1, "goldfish")
    assert class_number("Great_White-shark", 1001) == (2, "great white shark")
    assert class_number("n01443537", 1001) == (1, "goldfish")
    assert class_number(" 999 ", 1000) == (999, "toilet paper")
    assert class_number(1000, 1001) == (1000, None)
    with pytest.raises(BadClasses, match="nearest: goldfish"):
        class_number("goldfsh", 1000)
    with pytest.raises(BadClasses, match=r"2 classes are called 'missile': .* 657, 744"):
        class_number("missile", 1000)
    with pytest.raises(BadClasses, match="class 1001; this model has 0 to 1000"):
        class_number(1001, 1001)
    with pytest.raises(BadClasses, match="7 classes of this model have no names"):
        class_number("goldfish", 7)


def test_classes_of_ones_own_go_by_their_names_first():
    own = ("boats", "cats", "7")
    assert class_number("Cats", 3, own) == (1, "cats")
    assert class_number("7", 3, own) == (2, "7")
    assert class_number(0, 3, own) == class_number("0", 3, own) == (0, "boats")
    with pytest.raises(BadClasses, match="no class of this model is called 'cat'; nearest: cats"):
        class_number("cat", 3, own)


def _of_mode(mode: str) -> Image.Image:
    return photo().convert(mode)


@pytest.mark.parametrize(
    ("kind", "wish", "message"),
    [
        ("map", {}, r"after a map of classes \(--map FILE\); what came is nothing"),
        ("map", {"depth": np.ones((8, 8))}, "a map of classes .*; what came is a depth map"),
        ("nothing", {"map": a_map()}, "after nothing; what came is a map"),
        ("label", {"label": 1, "map": a_map()}, "what came is a map of classes .* and a class"),
        ("map", {"map": a_map() + 3}, r"labels 5, 6, 7; this model knows 0 to 4"),
        ("map", {"map": a_map() - 1}, r"labels -1; this model knows"),
        ("map", {"map": _of_mode("RGB")}, "of mode RGB; expected an indexed or a grey"),
        ("map", {"map": _of_mode("RGBA")}, "of mode RGBA"),
        ("map", {"map": np.ones((8, 8))}, "float64; expected rows and columns of whole numbers"),
        ("map", {"map": a_map()[None]}, r"shape \(1, 8, 8\)"),
        ("map", {"map": "missing.png"}, "no file at 'missing.png'"),
        ("map", {"map": a_map(12, 8)[:, :11]}, r"11 x 8 pixels; .* multiples of 2 .*--size 12x8"),
        ("map", {"map": a_map(16, 4)}, r"are 8 x 2 codes; the window is 4 x 4.*\(--window 2\)"),
        ("map", {"map": a_map(), "complete": b"nothing"}, "not a picture"),
        ("depth", {"depth": _of_mode("RGB")}, "a depth map of mode RGB"),
        ("depth", {"depth": np.full((8, 8), np.nan)}, "no number"),
        ("label", {"label": 7}, "class 7; this model has 0 to 6"),
        ("tokens", {"tokens": [3, 24]}, "codes 0 to 23"),
        ("tokens", {"tokens": [1] * 19}, "19 tokens leaves no room among the model's 18"),
        ("nothing", {"complete": photo(7, 8)}, "7 x 8 pixels"),
    ],
)  # fmt: skip
def test_wishes_that_cannot_be_are_refused_with_what_came_and_what_is_expected(kind, wish, message):
    with pytest.raises(BadInput, match=message):
        painter(kind).paint(**wish)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"top_k": 25}, "top_k 25 of 24 tokens"),
        ({"window": 5}, "a window of 5 codes needs 49 positions; this model has 31, enough for 4"),
        ({"keep": 0.1}, "keep 0.1 of 4 rows of codes is 0; expected 0.25 to 0.75"),
        ({"scale_factor": 0.01}, "leaves nothing of 8 x 8 pixels"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"keep": 1.0}, "keep is 1"),
        ({"n": 0}, "n is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"size": "large"}, "expected WxH"),
        ({"size": "0x8"}, "at least 1"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(chosen, message):
    with pytest.raises(BadInput, match=message):
        painter("map", **chosen).paint(map=a_map(), complete=photo())


def test_a_smaller_window_is_used_where_it_is_asked_for():
    (picture,) = painter(window=2).paint(map=a_map(16, 4))
    assert picture.image.size == (16, 4)


def test_models_that_cannot_paint_are_refused():
    with pytest.raises(Unsupported, match="without its first stage"):
        Painter(tiny_painter("label", first=None)).paint(label=1)
    alone = tiny_painter("map")
    alone.condition_stage = None
    with pytest.raises(Unsupported, match="stage that encodes its conditions"):
        Painter(alone)
    with pytest.raises(Unsupported, match="ochre-judge is a Judge"):
        Painter("ochre-judge")
    sized = Painter(tiny_painter("map", condition_size=8), options(size="16x16"))
    with pytest.raises(Unsupported, match=r"not a token for each code.*--size 8x8"):
        sized.paint(map=a_map())
    with pytest.raises(BadInput, match="seed -2"):
        painter().paint(map=a_map(), seeds=[1, -2])


def test_maps_in_lossy_files_are_refused(tmp_path):
    Image.fromarray(a_map().astype(np.uint8)).save(tmp_path / "map.jpg")
    with pytest.raises(BadPicture, match="as JPEG, which changes numbers"):
        painter().paint(map=tmp_path / "map.jpg")


@pytest.mark.parametrize("size", [8, 12])
def test_logits_that_are_no_numbers_stop_with_the_step(size):
    model = tiny_painter("map")
    model.transformer.head.weight.data.fill_(float("nan"))
    with pytest.raises(GenerationFailed, match="step 0"):
        Painter(model, options()).paint(map=a_map(size, size))
