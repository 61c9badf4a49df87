import copy
import itertools
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import lascaux
from lascaux.data.world import COLOURS, Scene, Thing, draw, objects
from lascaux.errors import (
    BadInput,
    BadPicture,
    BrokenFile,
    MissingExtra,
    Unsupported,
    WrongHash,
)
from lascaux.tasks import Failed, Hit, Index
from lascaux.tasks.features import image_features, text_features
from lascaux.tasks.search import _combined

THINGS = ("fox", "cat", "pizza", "rocket", "guitar", "penguin")
GROUNDS = ("red", "blue", "green", "yellow", "white", "black")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path, picture):
    """Twelve plain pictures in two folders, named after their colours."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for colour, variant in itertools.product(
        ("red", "green", "blue", "yellow", "white", "black"), (0, 1)
    ):
        place = folder / "more" if variant else folder
        picture(colour, variant).save(place / f"{colour}{variant}.png")
    return folder


@pytest.fixture(scope="module")
def ochre():
    return lascaux.load("ochre-clip")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Every thing on every ground, as `fox-red.png`."""
    folder = tmp_path_factory.mktemp("scenes")
    number = {entry.name: place for place, entry in enumerate(objects())}
    for thing, ground in itertools.product(THINGS, GROUNDS):
        scene = Scene(ground, (Thing(number[thing], 0.5, 0.5, 0.6),))
        draw(scene).save(folder / f"{thing}-{ground}.png")
    return folder


@pytest.fixture(scope="module")
def world(scenes, ochre, tmp_path_factory):
    index = Index(scenes, ochre, file=tmp_path_factory.mktemp("index") / "world.sqlite")
    index.update()
    return index


def names(hits: list[Hit]) -> list[str]:
    return [Path(hit.path).stem for hit in hits]


def encoded(monkeypatch) -> list[str]:
    """The names of all pictures that are read from now on."""
    import lascaux.tasks.features as features

    seen: list[str] = []
    real = features.square_pixels

    def watched(picture, how):
        seen.append(Path(picture).name)
        return real(picture, how)

    monkeypatch.setattr(features, "square_pixels", watched)
    return seen


def test_words_find_the_pictures_they_describe(folder, colour_clip):
    index = Index(folder, colour_clip)
    done = index.update()
    assert (done.searchable, done.added, done.changed, done.removed) == (12, 12, 0, 0)
    assert set(names(index.search("red", top=2))) == {"red0", "red1"}
    assert set(names(index.search("a photo of a yellow.", top=2))) == {"yellow0", "yellow1"}


def test_the_score_of_one_text_or_picture_is_the_cosine(folder, colour_clip):
    index = Index(folder, colour_clip)
    index.update()
    files = sorted(folder.rglob("*.png"))
    rows, _ = image_features(colour_clip, files, "photo")
    for query, asked in (
        (text_features(colour_clip, ["red"])[0], {"words": "red"}),
        (rows[3], {"like": files[3]}),
    ):
        hits = index.search(**asked, top=100)
        assert {hit.scores for hit in hits} == {"cosine"}
        expected = dict(zip(map(str, files), (rows @ query).tolist(), strict=True))
        assert {hit.path: hit.score for hit in hits} == pytest.approx(expected, abs=2e-3)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert max(hit.score for hit in hits) <= 1


def test_mixtures_score_standard_deviations_above_the_mean(world):
    hits = world.search("blue", like=[world.search("fox", top=1)[0].path], top=1000)
    scores = np.array([hit.score for hit in hits])
    assert {hit.scores for hit in hits} == {"deviations"}
    assert len(hits) == len(THINGS) * len(GROUNDS)
    assert scores.mean() == pytest.approx(0, abs=1e-3)
    assert scores.std() == pytest.approx(1, abs=1e-3)


def test_the_score_of_a_mixture_follows_its_equation(world, scenes, ochre):
    files = sorted(scenes.glob("*.png"))
    rows = image_features(ochre, files, "photo")[0].numpy()
    texts = text_features(ochre, ["cat", "green", "red", "white"]).numpy()

    def s(query):
        return query / (rows @ query).std()

    like = image_features(ochre, [files[4], files[9]], "photo")[0].numpy()
    total = s(s(texts[0]) + s(texts[1])) + s(s(like[0]) + s(like[1])) - s(s(texts[2]) + s(texts[3]))
    expected = rows @ s(total) - (rows @ s(total)).mean()
    hits = world.search(
        ["cat", "green"], like=[files[4], files[9]], without=["red", "white"], top=1000
    )
    found = {hit.path: hit.score for hit in hits}
    assert found == pytest.approx(
        dict(zip(map(str, files), expected.tolist(), strict=True)), abs=0.01
    )


@pytest.mark.parametrize("wording", ["{}", "on a {} background"])
def test_a_picture_with_words_finds_its_thing_on_another_ground(world, scenes, wording):
    right = 0
    for thing, ground in itertools.product(THINGS, GROUNDS[1:]):
        like = scenes / f"{thing}-red.png"
        (best,) = world.search(wording.format(ground), like=like, top=1)
        right += Path(best.path).stem == f"{thing}-{ground}"
    assert right >= 29  # of 30


def test_words_count_although_cosines_of_pictures_vary_far_more():
    # Four pictures of two shapes in two shades, and a text that is about the shade.
    torch.manual_seed(0)
    shape, shade, seen, said = torch.linalg.qr(torch.randn(24, 4))[0].T.numpy()
    pictures = np.stack(
        [seen + 0.5 * a * shape + 0.1 * b * shade for a in (-1, 1) for b in (-1, 1)]
    )
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    text = said + 0.05 * shade
    like = pictures[2]  # a = 1, b = -1
    none = np.zeros((0, 24), np.float32)
    query, _, _ = _combined(text[None], like[None], none, pictures)
    assert int((pictures @ query).argmax()) == 3  # a = 1, b = 1
    assert int((pictures @ (like + text)).argmax()) == 2


def test_several_texts_must_all_be_met(world):
    assert names(world.search(["fox", "green"], top=1)) == ["fox-green"]
    assert names(world.search(["green", "rocket"], top=1)) == ["rocket-green"]


def test_unwanted_words_move_pictures_to_the_end(world, scenes):
    plain = names(world.search("cat", top=6))
    assert {name.split("-")[0] for name in plain} == {"cat"}
    for thing in ("cat", "fox", "penguin", "pizza"):
        found = names(world.search(thing, without="red", top=5))
        assert set(found) == {f"{thing}-{ground}" for ground in GROUNDS if ground != "red"}
    assert "cat-blue" not in names(world.search("cat", without="blue", top=5))
    like = scenes / "penguin-red.png"
    found = names(world.search(like=like, without=["red"], top=5))
    assert set(found) == {f"penguin-{ground}" for ground in GROUNDS if ground != "red"}


def test_a_picture_of_the_folder_finds_itself_first(world, scenes):
    (hit,) = world.search(like=scenes / "pizza-white.png", top=1)
    assert Path(hit.path).name == "pizza-white.png"
    assert hit.score == pytest.approx(1, abs=1e-3)
    with Image.open(scenes / "pizza-white.png") as opened:
        assert world.search(like=opened, top=1)[0].path == hit.path
    assert world.search(like=[(scenes / "pizza-white.png").read_bytes()], top=1)[0].path == hit.path


def test_templates_are_averaged(world, ochre):
    rows = text_features(ochre, ["a fox.", "the fox"])
    query = torch.nn.functional.normalize(rows.mean(0), dim=0)
    picture = world.search("fox", templates=["a {}.", "the {}"], top=1)[0]
    row = image_features(ochre, [picture.path], "photo")[0][0]
    assert picture.score == pytest.approx(float(row @ query), abs=1e-3)


def test_one_picture_alone_is_found_by_mixtures_too(tmp_path, picture, colour_clip):
    (tmp_path / "one").mkdir()
    picture("red").save(tmp_path / "one" / "red.png")
    index = Index(tmp_path / "one", colour_clip)
    index.update()
    (hit,) = index.search("red", like=picture("red"), without="blue")
    assert (hit.score, hit.scores) == (0.0, "deviations")


def test_only_what_changed_is_encoded_again(folder, colour_clip, picture, monkeypatch):
    index = Index(folder, colour_clip, batch_size=3)
    index.update()
    seen = encoded(monkeypatch)
    assert index.update().added == 0
    assert seen == []
    picture("green", 7).save(folder / "red0.png")
    os.utime(folder / "blue0.png", ns=(1, 1))
    picture("red", 2).save(folder / "new.png")
    (folder / "more" / "red1.png").unlink()
    done = index.update()
    assert sorted(seen) == ["blue0.png", "new.png", "red0.png"]
    assert (done.searchable, done.added, done.changed, done.removed) == (12, 1, 2, 1)
    assert names(index.search("red", top=1)) == ["new"]
    assert {"green0", "green1", "red0"} == set(names(index.search("green", top=3)))


def test_what_another_process_encoded_is_found_at_once(folder, colour_clip, picture):
    first, second = Index(folder, colour_clip), Index(folder, colour_clip)
    first.update()
    assert len(second.search("red", top=99)) == 12
    picture("red", 3).save(folder / "third.png")
    first.update()
    assert "third" in names(second.search("red", top=3))


def test_unreadable_pictures_are_told_and_not_tried_again(
    folder, colour_clip, picture, monkeypatch
):
    (folder / "bad.png").write_bytes(b"no picture")
    index = Index(folder, colour_clip)
    done = index.update()
    assert (done.added, len(done.failed)) == (12, 1)
    assert done.failed[0].source == str(folder / "bad.png")
    seen = encoded(monkeypatch)
    again = index.update()
    assert seen == []
    assert again.failed == done.failed == index.failed
    assert isinstance(again.failed[0], Failed)
    picture("red", 3).save(folder / "bad.png")
    mended = index.update()
    assert seen == ["bad.png"]
    assert (mended.changed, mended.failed, mended.searchable) == (1, (), 13)


def test_a_picture_that_breaks_is_no_longer_found(folder, colour_clip):
    index = Index(folder, colour_clip)
    index.update()
    (folder / "red0.png").write_bytes(b"")
    done = index.update()
    assert (done.searchable, done.changed, len(done.failed)) == (11, 0, 1)
    assert "red0" not in names(index.search("red", top=99))


def test_what_cannot_be_read_just_now_is_tried_again(folder, colour_clip, monkeypatch):
    real = Path.read_bytes

    def refused(path):
        if path.name == "red0.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    index = Index(folder, colour_clip)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        done = index.update()
    assert [Path(one.source).name for one in done.failed] == ["red0.png"]
    assert index.update().added == 1


def test_nothing_is_written_to_the_folder_of_pictures(folder, colour_clip, cache):
    before = sorted(folder.rglob("*"))
    index = Index(folder, colour_clip)
    index.update()
    index.search("red")
    assert sorted(folder.rglob("*")) == before
    assert index.file.parent == cache / "indexes"


def test_opening_an_index_encodes_and_writes_nothing(folder, colour_clip, cache):
    index = Index(folder, colour_clip)
    with pytest.raises(BadInput, match="update the index first"):
        index.search("red")
    assert (len(index), index.failed) == (0, ())
    assert not cache.exists()


def test_relative_and_absolute_names_of_a_folder_share_an_index(folder, colour_clip, monkeypatch):
    Index(folder, colour_clip).update()
    monkeypatch.chdir(folder.parent)
    index = Index("photos", colour_clip)
    assert index.update().added == 0
    assert all(hit.path.startswith("photos" + os.sep) for hit in index.search("red"))
    monkeypatch.chdir(folder)
    hits = Index(".", colour_clip).search("red")
    assert all(Path(hit.path).is_file() for hit in hits)
    os.symlink(folder, folder.parent / "link")
    assert Index(folder.parent / "link", colour_clip).update().added == 0


def test_a_folder_that_moved_keeps_the_index_that_was_given(folder, colour_clip, tmp_path):
    file = tmp_path / "my.sqlite"
    Index(folder, colour_clip, file=file).update()
    moved = folder.rename(tmp_path / "elsewhere")
    index = Index(moved, colour_clip, file=file)
    assert index.update().added == 0
    assert Path(index.search("red")[0].path).parent in (moved, moved / "more")


def test_an_index_of_another_folder_is_not_overwritten(folder, colour_clip, tmp_path):
    file = tmp_path / "my.sqlite"
    Index(folder, colour_clip, file=file).update()
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(BadInput, match="a file of its own"):
        Index(tmp_path / "copy", colour_clip, file=file)
    assert len(Index(folder, colour_clip, file=file)) == 12


def test_two_models_have_an_index_each_in_one_cache(folder, colour_clip, ochre):
    one, other = Index(folder, colour_clip), Index(folder, ochre)
    one.update()
    other.update()
    assert one.file != other.file
    assert one.file.parent == other.file.parent
    assert one.search("red", top=1)
    assert other.search("red", top=1)


def test_ways_of_looking_have_an_index_each(folder, colour_clip):
    deep, flat = Index(folder, colour_clip), Index(folder, colour_clip, recursive=False)
    official = Index(folder, colour_clip, reading="official")
    assert len({index.file for index in (deep, flat, official)}) == 3
    deep.update()
    assert flat.update().searchable == 6
    assert len(deep) == 12


def test_an_index_of_other_weights_or_preprocessing_is_refused(
    folder, colour_clip, ochre, tmp_path
):
    file = tmp_path / "my.sqlite"
    Index(folder, colour_clip, file=file).update()
    with pytest.raises(WrongHash, match="another file"):
        Index(folder, ochre, file=file)
    with pytest.raises(BadInput, match="preprocessing"):
        Index(folder, colour_clip, file=file, reading="official")


def test_files_that_are_no_index_are_refused_and_left_alone(folder, colour_clip, tmp_path):
    text = tmp_path / "text.sqlite"
    text.write_bytes(b"a letter to my mother " * 50)
    with pytest.raises(BrokenFile, match="no index"):
        Index(folder, colour_clip, file=text)
    assert text.read_bytes().startswith(b"a letter")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("create table letters (text)")
    connection.close()
    with pytest.raises(BrokenFile, match="no index"):
        Index(folder, colour_clip, file=other)


def test_a_damaged_index_says_what_to_do(folder, colour_clip, tmp_path):
    file = tmp_path / "my.sqlite"
    Index(folder, colour_clip, file=file).update()
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(BrokenFile, match="delete it"):
        Index(folder, colour_clip, file=file).search("red")


def test_an_index_of_another_form_is_refused(folder, colour_clip, tmp_path):
    file = tmp_path / "my.sqlite"
    Index(folder, colour_clip, file=file).update()
    with sqlite3.connect(file) as connection:
        connection.execute("update about set value = 'lascaux-index-9' where name = 'format'")
    connection.close()
    with pytest.raises(BrokenFile, match="lascaux-index-9"):
        Index(folder, colour_clip, file=file)


@pytest.mark.parametrize("spoil", ["remove", "truncate", "outdate"])
def test_the_derived_file_is_made_anew_where_it_does_not_fit(
    folder, colour_clip, picture, spoil, tmp_path
):
    index = Index(folder, colour_clip)
    index.update()
    before = index.search("red", top=99)
    derived = Path(f"{index.file}.vectors")
    if spoil == "remove":
        derived.unlink()
    elif spoil == "truncate":
        derived.write_bytes(derived.read_bytes()[:-100])
    else:
        kept = derived.read_bytes()
        picture("red", 2).save(folder / "extra.png")
        index.update()
        index.search("red")
        (folder / "extra.png").unlink()
        index.update()
        derived.write_bytes(kept)
    assert Index(folder, colour_clip).search("red", top=99) == before
    assert derived.is_file()


def test_a_second_writer_is_told_to_wait(folder, colour_clip, monkeypatch):
    monkeypatch.setattr("lascaux.tasks.ledger._WAIT", 0.05)
    index = Index(folder, colour_clip)
    index.update()
    with FileLock(f"{index.file}.lock"), pytest.raises(BadInput, match="another process"):
        index.update()
    assert index.update().searchable == 12


def test_an_update_that_fails_keeps_the_batches_before(folder, colour_clip, monkeypatch):
    index = Index(folder, colour_clip, batch_size=2)

    def stop(stage, done, total):
        assert (stage, total) == ("pictures", 12)
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.update(stop)
    assert len(index) == 6
    seen = encoded(monkeypatch)
    assert index.update().added == 6
    assert len(seen) == 6


def test_names_that_are_not_ascii_or_not_unicode_are_found(tmp_path, colour_clip, picture):
    folder = tmp_path / "фото 照片"
    folder.mkdir()
    strange = os.fsdecode(b"caf\xe9.png")
    try:
        picture("red").save(folder / "plain.png")
        shutil.copy(folder / "plain.png", folder / strange)
    except OSError:
        pytest.skip("this file system has only Unicode names")
    picture("blue").save(folder / "красный 红.png")
    index = Index(folder, colour_clip)
    assert index.update().added == 3
    found = {hit.path for hit in index.search("red", top=3)}
    assert found == {str(folder / name) for name in ("plain.png", strange, "красный 红.png")}
    assert all(os.path.exists(path) for path in found)
    assert index.update().added == 0


def test_links_that_lead_in_circles_do_not_hang(folder, colour_clip):
    (folder / "more" / "again").symlink_to(folder)
    (folder / "self.png").symlink_to("self.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    done = Index(folder, colour_clip).update()
    assert done.added == 12
    assert sorted(Path(one.source).name for one in done.failed) == ["gone.png", "self.png"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing to look for"),
        ({"words": []}, "nothing to look for"),
        ({"without": "red"}, "nothing to look for"),
        ({"words": "  "}, "words"),
        ({"words": ["red", ""]}, "words"),
        ({"words": "red", "without": ""}, "without"),
        ({"words": "red", "top": 0}, "top"),
        ({"words": "red", "top": -1}, "top"),
        ({"words": "red", "templates": "no-such-set"}, "no-such-set"),
    ],
)
def test_questions_that_make_no_sense_are_refused(world, asked, said):
    with pytest.raises(BadInput, match=said):
        world.search(**asked)


def test_a_picture_that_cannot_be_read_is_named(world, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(BadPicture, match=r"bad\.png.*empty"):
        world.search(like=tmp_path / "bad.png")


def test_folders_that_cannot_be_searched_say_why(tmp_path, colour_clip):
    with pytest.raises(BadInput, match="no folder"):
        Index(tmp_path / "none", colour_clip)
    (tmp_path / "empty" / "below").mkdir(parents=True)
    with pytest.raises(BadInput, match="no pictures"):
        Index(tmp_path / "empty", colour_clip).update()
    (tmp_path / "empty" / "bad.png").write_bytes(b"x")
    index = Index(tmp_path / "empty", colour_clip)
    with pytest.raises(BadInput, match=r"none of the 1 pictures.*bad\.png"):
        index.update()
    with pytest.raises(BadInput, match="update the index first"):
        index.search("red")


def test_a_folder_that_lost_its_pictures_keeps_its_index(folder, colour_clip):
    index = Index(folder, colour_clip)
    index.update()
    hidden = folder.rename(folder.parent / "hidden")
    folder.mkdir()
    with pytest.raises(BadInput, match="no pictures"):
        index.update()
    folder.rmdir()
    hidden.rename(folder)
    assert index.update().added == 0


def test_options_that_cannot_be_are_refused(folder, colour_clip, tmp_path):
    with pytest.raises(BadInput, match="batch_size"):
        Index(folder, colour_clip, batch_size=0)
    for file in (tmp_path, tmp_path / "none" / "index"):
        with pytest.raises(BadInput, match="index"):
            Index(folder, colour_clip, file=file)
    with pytest.raises(Unsupported, match="CLIP"):
        Index(folder, "ochre-judge")


def test_a_model_that_gives_no_numbers_is_told(folder, colour_clip):
    broken = copy.deepcopy(colour_clip)
    torch.nn.init.constant_(next(broken.image.parameters()), float("nan"))
    with pytest.raises(BadInput, match="no finite vector"):
        Index(folder, broken).update()


def test_without_faiss_the_install_line_is_given(folder, colour_clip, monkeypatch):
    index = Index(folder, colour_clip)
    index.update()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"lascaux\[search\]"):
        index.search("red")


def test_the_world_has_the_grounds_that_are_searched():
    assert set(GROUNDS) <= set(COLOURS)


def test_an_update_that_changes_nothing_leaves_the_derived_file(folder, colour_clip):
    index = Index(folder, colour_clip)
    index.update()
    index.search("red")
    derived = Path(f"{index.file}.vectors")
    before = derived.stat().st_mtime_ns
    Index(folder, colour_clip).update()
    again = Index(folder, colour_clip)
    again.search("red")
    assert derived.stat().st_mtime_ns == before


def test_what_cancels_out_is_refused(folder, colour_clip):
    index = Index(folder, colour_clip)
    index.update()
    with pytest.raises(BadInput, match="cancel out"):
        index.search("red", without="red")


def test_no_picture_and_any_collection_of_pictures_are_taken(folder, colour_clip, picture):
    index = Index(folder, colour_clip)
    index.update()
    assert index.search("red", like=None) == index.search("red")
    several = index.search(like=[picture("red"), picture("blue")])
    assert index.search(like=(picture(name) for name in ("red", "blue"))) == several


def test_an_index_of_another_dtype_is_another_index(folder, colour_clip):
    short = copy.deepcopy(colour_clip).bfloat16()
    index, other = Index(folder, colour_clip), Index(folder, short)
    assert index.file != other.file
    index.update()
    with pytest.raises(BadInput, match="dtype"):
        Index(folder, short, file=index.file)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_an_index_in_a_read_only_folder_can_be_searched(folder, colour_clip, tmp_path):
    (tmp_path / "kept").mkdir()
    index = Index(folder, colour_clip, file=tmp_path / "kept" / "index")
    index.update()
    expected = index.search("red")
    (tmp_path / "kept").chmod(0o555)
    try:
        assert (
            Index(folder, colour_clip, file=tmp_path / "kept" / "index").search("red") == expected
        )
    finally:
        (tmp_path / "kept").chmod(0o755)
