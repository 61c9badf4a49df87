import errno
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from lascaux.data.loading import Loader
from lascaux.data.order import Order, Place
from lascaux.data.prepared import FeatureSamples
from lascaux.data.samples import Samples
from lascaux.data.sources import open_source
from lascaux.errors import BadInput, Unsupported
from lascaux.images.augment import Augmentation
from lascaux.images.preprocess import to_square
from lascaux.models.clip import Clip
from lascaux.nn import linear
from lascaux.tasks import resumable
from lascaux.tasks.answerers import answerer_of, clip_embeddings, token_ids
from lascaux.tasks.options import PrepareOptions
from lascaux.tasks.prepare import prepare
from lascaux.weights.fingerprint import weights_hash
from tiny import tiny_reader
from tokeniser import MeanTokens

OPTIONS = PrepareOptions(shard_size=4, batch_size=6, views=3, seed=5, augment_area=(0.3, 0.8))
RECORDS = 10


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(3)
    return Clip(tiny_reader(600, context_length=20)).eval()


@pytest.fixture
def source(tmp_path):
    """Ten pictures with a caption or two."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(RECORDS):
        rng = np.random.Generator(np.random.PCG64([number]))
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((50, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        said = "\n".join([f"picture {number}", "a picture"][: 1 + number % 2])
        (folder / f"{number}.txt").write_text(said, encoding="utf-8")
    return open_source(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in it but what only tells where the source is."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}
    assert not list(folder.glob("*.part"))
    return found


def opened(folder):
    found = open_source(folder)
    assert found.kind == "prepared"
    return found


def views_of(record, index, how, options):
    """The squares of a record, as they are described."""
    yield to_square(record.image(), how)
    augment = Augmentation(
        size=how.size, area=options.augment_area, flip=options.augment_flip, filter=how.filter
    )
    for view in range(1, options.views):
        yield augment(
            record.image(), np.random.Generator(np.random.PCG64([options.seed, index, view]))
        )


def as_pixels(squares):
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in squares])


def test_features_are_what_the_model_answers_about_each_view(source, clip, tmp_path):
    done = prepare(source, tmp_path / "out", clip, replace(OPTIONS, numbers="float32"))
    assert (done.records, done.shards, done.views, done.skipped) == (RECORDS, 3, 3, ())
    assert (done.kind, done.weights) == ("embedding", weights_hash(clip))
    found = opened(tmp_path / "out")
    answers = clip_embeddings(clip).answers
    for index, record in enumerate(source):
        squares = list(views_of(record, index, clip.config.preprocessing, OPTIONS))
        expected = answers(as_pixels(squares))
        kept = torch.stack([found.features(index, view) for view in range(3)])
        torch.testing.assert_close(kept, expected, atol=1e-6, rtol=0)
        assert kept.norm(dim=-1).sub(1).abs().max() < 1e-6
        assert len({square.tobytes() for square in squares}) == 3


def test_half_precision_rounds_and_does_nothing_else(source, clip, tmp_path):
    prepare(source, tmp_path / "half", clip, OPTIONS)
    prepare(source, tmp_path / "full", clip, replace(OPTIONS, numbers="float32"))
    half, full = opened(tmp_path / "half"), opened(tmp_path / "full")
    assert (half.dtype, full.dtype) == (np.float16, np.float32)
    for ours, theirs in zip(half, full, strict=True):
        assert np.array_equal(ours.features, theirs.features.astype(np.float16))
        # Half a unit in the last place of numbers below 1.
        assert np.abs(ours.features - theirs.features).max() <= 2.0**-12


def test_the_bytes_are_the_same_for_any_number_of_processes(source, clip, tmp_path):
    (source.folder / "2.png").write_bytes(b"no picture")
    for workers in (0, 1, 2):
        prepare(source, tmp_path / f"out{workers}", clip, replace(OPTIONS, workers=workers))
    assert contents(tmp_path / "out1") == contents(tmp_path / "out0")
    assert contents(tmp_path / "out2") == contents(tmp_path / "out0")


def test_views_do_not_depend_on_how_the_work_is_split(source, clip, tmp_path):
    whole = replace(OPTIONS, numbers="float32", workers=0)
    split = replace(whole, shard_size=3, batch_size=1)
    prepare(source, tmp_path / "whole", clip, whole)
    prepare(source, tmp_path / "split", clip, split)
    for ours, theirs in zip(opened(tmp_path / "whole"), opened(tmp_path / "split"), strict=True):
        np.testing.assert_allclose(ours.features, theirs.features, atol=1e-6)


def test_two_models_see_the_same_cut_outs(source, tmp_path):
    large, small = MeanTokens(1000, size=32, factor=16), MeanTokens(1000, size=16, factor=8)
    prepare(source, tmp_path / "large", large, OPTIONS)
    prepare(source, tmp_path / "small", small, replace(OPTIONS, batch_size=1))
    pairs = list(zip(opened(tmp_path / "large"), opened(tmp_path / "small"), strict=True))
    ours, theirs = (np.stack([pair[n].features for pair in pairs]).astype(int) for n in (0, 1))
    assert np.abs(ours - theirs).mean() < 5
    assert np.abs(ours - np.roll(theirs, 1, axis=1)).mean() > 50


def test_another_seed_changes_the_cut_outs_and_nothing_else(source, clip, tmp_path):
    options = replace(OPTIONS, workers=0)
    prepare(source, tmp_path / "a", clip, options)
    prepare(source, tmp_path / "b", clip, replace(options, seed=6))
    for ours, theirs in zip(opened(tmp_path / "a"), opened(tmp_path / "b"), strict=True):
        assert np.array_equal(ours.features[0], theirs.features[0])
        assert not np.array_equal(ours.features[1:], theirs.features[1:])


class Stopped(Exception):
    pass


def stopping_after(pictures: int):
    def progress(stage, done, total):
        if done >= pictures:
            raise Stopped

    return progress


@pytest.mark.parametrize("workers", [0, 1])
def test_stopped_work_goes_on_to_the_same_bytes(source, clip, tmp_path, workers):
    options = replace(OPTIONS, workers=workers)
    seen: list[tuple[str, int, int]] = []
    prepare(source, tmp_path / "whole", clip, options, lambda *told: seen.append(told))
    assert seen[-1] == ("pictures", RECORDS, RECORDS)
    out = tmp_path / "out"
    for pictures in (1, 5):
        with pytest.raises(Stopped):
            prepare(source, out, clip, options, stopping_after(pictures))
        with pytest.raises(BadInput, match=r"is not finished: . shards are written; give"):
            open_source(out)
    kept = (out / "part-00000.safetensors").stat().st_mtime_ns
    seen.clear()
    done = prepare(source, out, clip, options, lambda *told: seen.append(told))
    assert (done.shards, done.written) == (3, 2)
    assert seen[-1] == ("pictures", 6, 6)
    assert (out / "part-00000.safetensors").stat().st_mtime_ns == kept
    assert contents(out) == contents(tmp_path / "whole")
    assert prepare(source, out, clip, options).written == 0


def test_a_shard_that_is_gone_or_cut_is_made_again(source, clip, tmp_path):
    options = replace(OPTIONS, workers=0)
    prepare(source, tmp_path / "out", clip, options)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "part-00001.safetensors").unlink()
    (tmp_path / "out" / "part-00002.safetensors").write_bytes(b"cut")
    assert prepare(source, tmp_path / "out", clip, options).written == 2
    assert contents(tmp_path / "out") == before


def test_products_go_the_way_they_went_at_the_beginning(source, clip, tmp_path, monkeypatch):
    monkeypatch.delenv("LASCAUX_LINEAR", raising=False)
    options = replace(OPTIONS, workers=0)
    with pytest.raises(Stopped):
        prepare(source, tmp_path / "out", clip, options, stopping_after(5))
    manifest = tmp_path / "out" / "manifest.json"
    told = json.loads(manifest.read_text())
    assert told["products"] == linear.chosen_way(torch.float32)
    manifest.write_text(json.dumps({**told, "products": "torch"}))
    ways = []
    prepare(
        source, tmp_path / "out", clip, options,
        lambda *_: ways.append(linear.chosen_way(torch.float32)),
    )  # fmt: skip
    assert set(ways) == {"torch"}


def test_broken_records_are_left_out_and_listed(source, clip, tmp_path):
    (source.folder / "4.png").write_bytes(b"no picture")
    whole = (source.folder / "6.png").read_bytes()
    (source.folder / "6.png").write_bytes(whole[:200])
    (source.folder / "9.png").unlink()
    options = replace(OPTIONS, shard_size=1)
    done = prepare(source, tmp_path / "out", clip, options)
    assert [one.source for one in done.skipped] == ["4.png", "6.png", "9.png"]
    assert all(one.reason for one in done.skipped)
    assert (done.records, done.shards) == (7, 7)
    found = opened(tmp_path / "out")
    assert [record.key for record in found] == [f"{n}.png" for n in (0, 1, 2, 3, 5, 7, 8)]
    assert found.notes == (f"3 records of {source.path} could not be read",)
    # Views belong to the record, whatever is left out before it.
    expected = clip_embeddings(clip).answers(
        as_pixels(views_of(source[8], 8, clip.config.preprocessing, OPTIONS))
    )
    np.testing.assert_allclose(found[6].features, expected, atol=5e-4)


def test_nothing_that_can_be_read_is_an_error(source, clip, tmp_path):
    for file in source.folder.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(BadInput, match=r"none of the 10 records of .* can be read: 0\.png: empty"):
        prepare(source, tmp_path / "out", clip, OPTIONS)


def test_other_weights_settings_records_and_folders_are_refused(source, clip, tmp_path):
    out, options = tmp_path / "out", replace(OPTIONS, workers=0)
    prepare(source, out, clip, options)
    other = Clip(clip.config).eval()
    with pytest.raises(BadInput, match=r"was begun with other weights .* name a new folder"):
        prepare(source, out, other, options)
    half = Clip(clip.config).eval()
    half.load_state_dict(clip.state_dict())
    changes = (
        {"views": 2},
        {"seed": 1},
        {"augment_area": (0.3, 0.9)},
        {"augment_flip": 0.0},
        {"numbers": "float32"},
        {"shard_size": 5},
    )
    for change in changes:
        with pytest.raises(BadInput, match="was begun with other settings"):
            prepare(source, out, clip, replace(options, **change))
    with pytest.raises(BadInput, match="was begun with other settings"):
        prepare(source, out, half.double(), options)
    with pytest.raises(BadInput, match="was begun with other preprocessing"):
        prepare(source, out, clip, replace(options, reading="official"))
    with pytest.raises(BadInput, match="was begun with other weights"):
        prepare(source, out, MeanTokens(10), options)
    assert prepare(source, out, clip, replace(options, batch_size=4, workers=1)).written == 0
    (source.folder / "0.txt").write_text("another caption", encoding="utf-8")
    with pytest.raises(BadInput, match="was begun with other records"):
        prepare(open_source(source.path), out, clip, options)
    with pytest.raises(BadInput, match=r"holds other files"):
        prepare(source, source.path, clip, options)
    with pytest.raises(BadInput, match="is a file; name a folder"):
        prepare(source, source.folder / "0.png", clip, options)


def test_with_one_view_the_seed_does_not_matter(source, clip, tmp_path):
    options = replace(OPTIONS, views=1, workers=0)
    prepare(source, tmp_path / "out", clip, options)
    assert prepare(source, tmp_path / "out", clip, replace(options, seed=9)).written == 0


def test_two_processes_do_not_fill_one_folder(source, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(resumable, "_WAIT", 0.01)
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(BadInput, match=r"another process is preparing .*out; wait for it"),
    ):
        prepare(source, tmp_path / "out", clip, OPTIONS)


def test_a_full_disk_is_told_and_what_is_finished_stays(source, clip, tmp_path, monkeypatch):
    options, out = replace(OPTIONS, workers=0), tmp_path / "out"
    write = Path.write_bytes

    def full(path, data):
        if "part-00002" in path.name:
            write(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(BadInput, match=r"part-00002.* No space left on device; make room, and"):
            prepare(source, out, clip, options)
    assert sorted(contents(out)) == [
        "manifest.json", "part-00000.safetensors", "part-00001.safetensors",
    ]  # fmt: skip
    assert prepare(source, out, clip, options).written == 1
    prepare(source, tmp_path / "whole", clip, options)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("codes", "dtype"), [(16, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_tokens_are_stored_as_narrow_as_their_codes_allow(source, tmp_path, codes, dtype):
    tokeniser = MeanTokens(codes).train()
    prepare(source, tmp_path / "out", tokeniser, OPTIONS)
    assert tokeniser.training
    found = opened(tmp_path / "out")
    assert (found.dtype, found.codes, found.grid, found.shape) == (dtype, codes, (2, 2), (4,))
    assert (found.feature_kind, found.views) == ("tokens", 3)
    answers = token_ids(tokeniser).answers
    how = tokeniser.config.preprocessing
    for index, record in enumerate(source):
        expected = answers(as_pixels(views_of(record, index, how, OPTIONS)))
        assert found[index].features.dtype == dtype
        assert found.features(index, 2).dtype == torch.int64
        assert np.array_equal(found[index].features, expected.numpy())


def test_tokens_may_lie_on_no_grid(source, tmp_path):
    prepare(source, tmp_path / "out", MeanTokens(300, factor=None), replace(OPTIONS, views=1))
    found = opened(tmp_path / "out")
    assert (found.grid, found.shape, found[0].features.shape) == (None, (4,), (1, 4))


def test_answers_that_cannot_be_stored_are_refused(source, clip, tmp_path):
    options = replace(OPTIONS, views=1, workers=0)
    ids = token_ids(MeanTokens(100))
    with pytest.raises(BadInput, match=r"answers \d\.png with ids that are not among its 40"):
        prepare(source, tmp_path / "a", replace(ids, codes=40), options)
    with pytest.raises(BadInput, match=r"one picture with \(1, 4\); expected a grid of \(3, 3\)"):
        prepare(source, tmp_path / "b", replace(ids, grid=(3, 3)), options)
    vectors = clip_embeddings(clip)
    large = replace(vectors, answers=lambda pixels: vectors.answers(pixels) * 1e6)
    with pytest.raises(BadInput, match=r"0\.png with numbers that are not finite in float16"):
        prepare(source, tmp_path / "c", large, options)
    prepare(source, tmp_path / "d", large, replace(options, numbers="float32"))
    uneven = replace(vectors, answers=lambda pixels: torch.zeros(1, 16))
    with pytest.raises(BadInput, match=r"4 pictures with \(1, 16\); expected rows of 16"):
        prepare(source, tmp_path / "e", uneven, options)


def test_a_model_that_answers_with_neither_is_refused(source, tmp_path):
    with pytest.raises(Unsupported, match="is a Linear; what is wanted here is a CLIP or"):
        prepare(source, tmp_path / "out", torch.nn.Linear(2, 2), OPTIONS)
    with pytest.raises(Unsupported, match="ochre-judge is a Judge"):
        answerer_of("ochre-judge")


def test_training_on_one_view_is_training_without_augmentation(source, clip, tmp_path):
    prepare(source, tmp_path / "out", clip, replace(OPTIONS, views=1))
    answers = clip_embeddings(clip).answers
    order = Order(records=RECORDS, batch_size=3)
    parts = ("caption", "key")
    pictures = Loader(
        source, Samples(clip.config.preprocessing, ("picture", *parts)), order, Place(seed=1)
    )
    features = Loader(
        opened(tmp_path / "out"), FeatureSamples(("features", *parts)), order, Place(seed=1)
    )
    for theirs, ours in itertools.islice(zip(pictures, features, strict=True), 7):
        assert [ours[part] for part in parts] == [theirs[part] for part in parts]
        expected = answers(theirs["picture"])
        torch.testing.assert_close(ours["features"], expected, atol=2.0**-12, rtol=0)
