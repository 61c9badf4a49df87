import json
import os
import pickle

import numpy as np
import pytest
import torch

from lascaux.data.loading import Loader
from lascaux.data.order import Order, Place
from lascaux.data.prepared import FeatureSamples
from lascaux.data.records import Part
from lascaux.data.samples import Samples
from lascaux.data.sources import open_source
from lascaux.errors import BadInput, BadPicture, WrongHash
from lascaux.images.preprocess import Preprocessing
from lascaux.tasks.options import PrepareOptions
from lascaux.tasks.prepare import prepare
from tokeniser import MeanTokens

CODES = 5000
PARTS = ("features", "caption", "key")


@pytest.fixture
def prepared(folder, tmp_path):
    """Tokens of ten pictures, two of them in a subfolder, in files of four; three views."""
    for number in range(8):
        (folder / f"{number:02d}.txt").write_text(f"käse {number}\n红色\n", encoding="utf-8")
    for name in ("08", "09"):
        (folder / "more" / f"{name}.txt").write_text(f"deep {name}", encoding="utf-8")
    options = PrepareOptions(views=3, shard_size=4, workers=0, augment_area=(0.2, 0.5))
    prepare(open_source(folder), tmp_path / "out", MeanTokens(CODES), options)
    return tmp_path / "out"


def test_the_folder_stands_alone(prepared, folder):
    before = [(record.key, record.captions) for record in open_source(folder)]
    folder.rename(folder.with_name("gone"))
    source = open_source(prepared.rename(prepared.with_name("moved")))
    assert (source.kind, len(source), source.classes) == ("prepared", 10, ())
    assert [(record.key, record.captions) for record in source] == before
    assert source[8].key == source.key(8) == "more/08.jpg"
    assert source.captions(3) == ("käse 3", "红色")
    assert source[0].label is None
    assert source.prepared_from == str(folder)
    with pytest.raises(IndexError):
        source[10]
    with pytest.raises(IndexError, match="view 3 of 3"):
        source.features(0, 3)


def test_classes_come_along(tmp_path, png):
    for name in ("red_fox", "cat"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(png(len(name)))
    prepare(
        open_source(tmp_path / "set"), tmp_path / "out", MeanTokens(9), PrepareOptions(workers=0)
    )
    source = open_source(tmp_path / "out")
    assert source.classes == ("cat", "red fox")
    assert [(r.label, r.class_name) for r in source] == [(0, "cat"), (1, "red fox")]
    sample = FeatureSamples(("label",))(source[1], np.random.default_rng(0))
    assert sample == {"label": 1}


def test_there_are_no_pictures(prepared):
    source = open_source(prepared)
    for look in (lambda: source.picture(0), source[0].image):
        with pytest.raises(BadPicture, match="only features are here, and no pictures"):
            look()
    with pytest.raises(BadPicture, match="only features are here"):
        Samples(Preprocessing(size=8))(source[0], np.random.default_rng(0))


def test_at_random_is_as_in_order(prepared):
    source = open_source(prepared)
    ordered = [source[index].features.copy() for index in range(10)]
    again = open_source(prepared)
    for index in (9, 0, 4, 3, 8, 9, 5):
        for view in (2, 0):
            found = again.features(index, view)
            assert found.tolist() == ordered[index][view].tolist()
            assert (found.shape, found.dtype) == ((4,), torch.int64)


def test_nobody_can_change_the_files_by_mistake(prepared):
    source = open_source(prepared)
    with pytest.raises(ValueError, match="read-only"):
        source[0].features[0] = 0
    before = source.features(0).clone()
    source.features(0).zero_()
    assert torch.equal(source.features(0), before)


def test_it_is_sent_as_paths_and_not_as_data(prepared):
    source = open_source(prepared)
    expected = source.features(9, 1)
    sent = pickle.dumps(source)
    assert b"more/08" not in sent
    assert len(sent) < (prepared / "manifest.json").stat().st_size + 4000
    assert torch.equal(pickle.loads(sent).features(9, 1), expected)


def test_a_forked_process_reads_it(prepared):
    source = open_source(prepared)
    expected = source.features(9).tolist()
    child = os.fork()
    if child == 0:
        os._exit(0 if source.features(9).tolist() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def batches(source, workers=0, samples=None, count=8):
    samples = samples or FeatureSamples(PARTS)
    order = Order(records=len(source), batch_size=3)
    loader = Loader(source, samples, order, Place(seed=2), workers=workers)
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def test_batches_are_equal_for_any_number_of_workers(prepared):
    plain = batches(open_source(prepared))
    for workers in (1, 2):
        for ours, theirs in zip(batches(open_source(prepared), workers), plain, strict=True):
            assert torch.equal(ours["features"], theirs["features"])
            assert [ours[part] for part in PARTS[1:]] == [theirs[part] for part in PARTS[1:]]


def test_the_view_is_drawn_by_the_generator_alone(prepared):
    source = open_source(prepared)
    record = source[5]
    every = [tuple(record.features[view].tolist()) for view in range(3)]
    assert len(set(every)) == 3

    def drawn(views):
        made = [
            FeatureSamples(("features",), views)(record, np.random.default_rng(n))["features"]
            for n in range(30)
        ]
        again = FeatureSamples(("features",), views)(record, np.random.default_rng(29))
        assert torch.equal(again["features"], made[-1])
        return {tuple(row.tolist()) for row in made}

    assert drawn("all") == set(every)
    assert drawn("plain") == {every[0]}
    assert drawn("augmented") == set(every[1:])


def test_captions_are_drawn_whatever_else_is_asked_for(prepared):
    record = open_source(prepared)[2]
    for number in range(10):
        said = {
            FeatureSamples(parts)(record, np.random.default_rng(number))["caption"]
            for parts in (("caption",), ("features", "caption"))
        }
        assert len(said) == 1


def test_a_part_of_the_folder_has_features_too(prepared):
    whole = open_source(prepared)
    part = Part(whole, [9, 2, 4])
    assert np.array_equal(part[0].features, whole[9].features)
    assert {key for batch in batches(part) for key in batch["key"]} == {
        "more/09.jpg",
        "02.png",
        "04.png",
    }


def test_samples_that_cannot_be_made_say_why(prepared, folder, tmp_path):
    rng = np.random.default_rng(0)
    source = open_source(prepared)
    with pytest.raises(BadInput, match="it has no class"):
        FeatureSamples(("label",))(source[0], rng)
    with pytest.raises(BadInput, match=r"it has no features; open a folder that `lascaux data"):
        FeatureSamples()(open_source(folder)[0], rng)
    options = PrepareOptions(workers=0)
    prepare(open_source(folder), tmp_path / "one", MeanTokens(9), options)
    with pytest.raises(BadInput, match="it has no augmented views; give"):
        FeatureSamples(views="augmented")(open_source(tmp_path / "one")[0], rng)


def test_features_of_another_model_are_refused(prepared):
    source = open_source(prepared)
    source.require_model(source.weights_hash)
    said = r"holds what an unnamed model answered \(\w{12}\); wanted is ViT-B/32 \(0{12}\)"
    with pytest.raises(WrongHash, match=said):
        source.require_model("0" * 64, "ViT-B/32")


def test_the_fingerprint_is_that_of_the_contents(prepared, folder, tmp_path):
    first = open_source(prepared).fingerprint
    assert open_source(prepared.rename(tmp_path / "moved")).fingerprint == first
    options = PrepareOptions(views=2, workers=0)
    prepare(open_source(folder), tmp_path / "other", MeanTokens(CODES), options)
    assert open_source(tmp_path / "other").fingerprint != first


def changed(folder, **entries):
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def test_folders_that_are_not_whole_are_refused(prepared):
    shard = prepared / "part-00001.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data + b"\0")
    with pytest.raises(BadInput, match=r"part-00001.safetensors has [\d,]+ bytes; the manifest"):
        open_source(prepared)
    shard.unlink()
    with pytest.raises(BadInput, match=r"part-00001.safetensors is missing"):
        open_source(prepared)
    shard.write_bytes(data)
    changed(prepared, finished=False)
    with pytest.raises(BadInput, match="is not finished: 3 shards are written; give the command"):
        open_source(prepared)


def test_other_formats_are_refused(prepared):
    changed(prepared, format="lascaux-prepared-2")
    with pytest.raises(
        BadInput, match=r"no manifest of lascaux-prepared-1, but lascaux-prepared-2"
    ):
        open_source(prepared)
    changed(prepared, format="lascaux-prepared-1", kind="sounds")
    with pytest.raises(BadInput, match="is damaged; copy it again, or prepare anew"):
        open_source(prepared)
    changed(prepared, kind="tokens", shape=3)
    with pytest.raises(BadInput, match="is damaged"):
        open_source(prepared)
    (prepared / "manifest.json").write_text('{"format": "lascaux-prepared-1"')
    with pytest.raises(BadInput, match="cannot read"):
        open_source(prepared, "prepared")


def test_files_of_the_same_size_that_hold_something_else_are_refused(prepared):
    shard = prepared / "part-00001.safetensors"
    data = shard.read_bytes()
    assert open_source(prepared).damaged() == []
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert open_source(prepared).damaged() == ["part-00001.safetensors"]
    for there, instead in ((b'"U16"', b'"F16"'), (b"[4,3,4]", b"[4,4,3]"), (b'"keys"', b'"kexs"')):
        assert there in data
        shard.write_bytes(data.replace(there, instead))
        source = open_source(prepared)
        assert source.features(0).shape == (4,)
        with pytest.raises(BadInput, match=r"part-00001.* (is damaged|holds features)"):
            source.features(4)
    shard.write_bytes(bytes(len(data)))
    with pytest.raises(BadInput, match="is damaged, or not of `lascaux data prepare`"):
        open_source(prepared).features(4)
