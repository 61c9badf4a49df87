import base64
import io
import json
import os

import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lascaux.errors import BadClasses, BadInput, BadPicture, BrokenFile, WrongHash
from lascaux.models.clip import Clip
from lascaux.tasks import (
    Calibration,
    ClassEvidence,
    Classified,
    Classifier,
    ClassifyOptions,
    Failed,
)
from lascaux.weights.save import save

NAMES = ["red", "green", "blue", "yellow", "white", "black"]


@pytest.fixture(scope="module")
def classifier(colour_clip):
    return Classifier(NAMES, colour_clip)


def test_pictures_are_named(classifier, picture):
    assert [classifier.classify(picture(name, 3)).answer for name in NAMES] == NAMES


def test_softmax_scores_are_the_softmax_of_scaled_cosines(classifier, picture):
    cosines = classifier.cosines([picture("red"), picture("blue")])
    expected = torch.softmax(classifier.model.logit_scale.detach().exp() * cosines, dim=-1)
    for row, name in zip(expected, ("red", "blue"), strict=True):
        found = classifier.classify(picture(name), top_k=6)
        assert found.scores == "softmax"
        for label in found.labels:
            assert label.score == pytest.approx(float(row[label.index]), abs=1e-5)
        scores = [label.score for label in found.labels]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)


def test_fewer_or_more_classes_than_there_are_can_be_asked_for(classifier, picture):
    assert len(classifier.classify(picture("red"), top_k=2).labels) == 2
    assert len(classifier.classify(picture("red"), top_k=100).labels) == 6
    with pytest.raises(BadInput, match="top_k is 0"):
        classifier.classify(picture("red"), top_k=0)


def test_a_batch_answers_as_one_by_one(classifier, picture, colour_clip):
    pictures = [picture(name, i) for i, name in enumerate(NAMES * 2)]
    one_by_one = [classifier.classify(p, top_k=6) for p in pictures]
    small = Classifier(NAMES, colour_clip, batch_size=5)
    for batched, single in zip(small.classify_many(pictures, top_k=6), one_by_one, strict=True):
        assert [label.index for label in batched.labels] == [la.index for la in single.labels]
        for a, b in zip(batched.labels, single.labels, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-5)


def test_a_bad_picture_fails_in_its_place_and_the_rest_go_on(classifier, picture, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    picture("blue").save(tmp_path / "good.png")
    given = [picture("red"), tmp_path / "bad.png", tmp_path / "good.png", b"", tmp_path / "gone"]
    found = list(classifier.classify_many(given))
    assert [type(result) for result in found] == [Classified, Failed, Classified, Failed, Failed]
    assert found[0].answer == "red"
    assert found[2].answer == "blue"
    assert found[1].source == str(tmp_path / "bad.png")
    assert found[1].reason
    assert found[3].source == "bytes 3"


def test_a_bad_single_picture_raises(classifier):
    with pytest.raises(BadPicture):
        classifier.classify(b"no picture")


def test_every_kind_of_source_gives_the_same_answer(classifier, picture, tmp_path):
    image = picture("yellow")
    image.save(tmp_path / "y.png")
    data = (tmp_path / "y.png").read_bytes()
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    sources = [image, tmp_path / "y.png", str(tmp_path / "y.png"), data, array, tensor, uri]
    scores = [classifier.classify(source).labels[0] for source in sources]
    assert {label.name for label in scores} == {"yellow"}
    assert max(s.score for s in scores) - min(s.score for s in scores) < 1e-5


def test_several_pictures_are_not_taken_for_one(classifier, picture):
    with pytest.raises(BadInput, match="classify_many"):
        classifier.classify([picture("red")])
    stack = torch.rand(3, 3, 32, 32)
    with pytest.raises(BadInput, match="classify_many"):
        classifier.classify(stack)
    assert len(list(classifier.classify_many(stack))) == 3
    assert len(list(classifier.classify_many(picture("red")))) == 1


@pytest.mark.parametrize("kind", [bytearray, memoryview, io.BytesIO])
def test_bytes_of_any_kind_are_one_picture(classifier, picture, kind):
    stream = io.BytesIO()
    picture("yellow").save(stream, "PNG")
    assert classifier.classify(kind(stream.getvalue())).answer == "yellow"
    (found,) = classifier.classify_many(kind(stream.getvalue()))
    assert found.answer == "yellow"
    assert found.source == ("file 0" if kind is io.BytesIO else "bytes 0")


@pytest.mark.parametrize("value", [None, 5, 1.5])
def test_what_is_neither_a_picture_nor_several_is_refused(classifier, value):
    for classify in (classifier.classify, classifier.classify_many):
        with pytest.raises(BadPicture, match=f"type {type(value).__name__} is no picture"):
            classify(value)


@pytest.mark.parametrize("top_k", [1.5, "3", None])
def test_a_top_k_that_is_no_whole_number_is_refused(classifier, picture, top_k, monkeypatch):
    # Else the tests' type checks come first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(BadInput, match="it must be a whole number"):
        classifier.classify(picture("red"), top_k=top_k)
    with pytest.raises(BadInput, match="it must be a whole number"):
        classifier.classify_many([picture("red")], top_k=top_k)


@pytest.mark.parametrize("classes", [5, None, 1.5])
def test_what_is_no_collection_of_classes_is_refused(colour_clip, classes, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(BadClasses, match="expected names"):
        Classifier(classes, colour_clip)


def test_a_folder_without_pictures_fails_in_its_place(classifier, picture, tmp_path):
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    found = list(classifier.classify_many([tmp_path / "empty", picture("red")]))
    assert [type(result) for result in found] == [Failed, Classified]
    assert found[0].source == str(tmp_path / "empty")
    assert found[0].reason.startswith("no pictures in this folder")


def test_folders_and_patterns_are_expanded_in_order(classifier, picture, tmp_path):
    for name in ("blue", "red"):
        picture(name).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "sub").mkdir()
    picture("white").save(tmp_path / "sub" / "w.jpg")

    def answers(given, **options):
        return [result.answer for result in classifier.classify_many(given, **options)]

    assert answers(tmp_path) == ["blue", "red"]
    assert answers(tmp_path, recursive=True) == ["blue", "red", "white"]
    assert answers([str(tmp_path / "r*.png"), tmp_path]) == ["red", "blue", "red"]


def test_results_stream_and_input_is_read_as_needed(colour_clip, picture):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield picture("red")

    stream = Classifier(NAMES, colour_clip, batch_size=4).classify_many(endless())
    assert next(stream).answer == "red"
    assert len(taken) == 8  # one batch to answer, and the next, which is decoded meanwhile


def test_independent_scores_are_cosines_until_calibrated(classifier, picture):
    found = classifier.classify(picture("red"), scores="independent", top_k=6)
    assert found.scores == "cosine"
    cosines = classifier.cosines([picture("red")])[0]
    for label in found.labels:
        assert label.score == pytest.approx(float(cosines[label.index]), abs=1e-5)


def test_independent_scores_do_not_depend_on_the_other_classes(colour_clip, picture):
    few = Classifier(["red", "blue"], colour_clip)
    many = Classifier(NAMES, colour_clip)
    few.calibration = many.calibration = Calibration(10.0, -5.0)
    a = few.classify(picture("red"), scores="independent").labels[0]
    b = many.classify(picture("red"), scores="independent").labels[0]
    assert a.name == b.name == "red"
    assert a.score == pytest.approx(b.score, abs=1e-5)
    shares = [c.classify(picture("green")).labels[0].score for c in (few, many)]
    assert shares[0] != pytest.approx(shares[1], abs=1e-4)


def test_a_calibration_learnt_from_a_handful_says_what_is_present(colour_clip, picture):
    classifier = Classifier(NAMES, colour_clip)
    pictures = [picture(name, i) for name in NAMES for i in (0, 2)]
    classifier.calibrate(pictures, [name for name in NAMES for _ in (0, 2)])
    found = classifier.classify(picture("green", 4), scores="independent", top_k=6)
    assert found.scores == "probability"
    assert found.labels[0].name == "green"
    assert found.labels[0].score > 0.8
    assert found.labels[-1].score < 0.2


def test_the_models_own_calibration_is_used_for_texts_alone(colour_clip, picture):
    object.__setattr__(colour_clip.config, "calibration", (12.0, -6.0))
    try:
        named = Classifier(["red", "blue"], colour_clip)
        assert named.calibration == Calibration(12.0, -6.0)
        shown = Classifier([ClassEvidence("red", pictures=(picture("red"),))], colour_clip)
        assert shown.calibration is None
    finally:
        object.__setattr__(colour_clip.config, "calibration", None)


def test_none_of_these_is_learnt_from_a_handful(colour_clip, picture):
    classifier = Classifier(["red", "green"], colour_clip)
    assert not classifier.classify(picture("blue")).none_of_these
    known = ["red", "red", "green", "green"]
    others = ["blue", "white", "black"]
    pictures = [picture(name, i) for i, name in enumerate(known + others)]
    threshold = classifier.learn_threshold(pictures, [*known, None, None, None])
    assert threshold == classifier.threshold
    found = classifier.classify(picture("blue", 4))
    assert found.none_of_these
    assert found.answer is None
    assert found.labels
    assert classifier.classify(picture("red", 4)).answer == "red"


def test_labels_that_are_no_classes_are_refused(classifier, picture):
    with pytest.raises(BadInput, match="'purple' is no class"):
        classifier.calibrate([picture("red")], ["purple"])
    with pytest.raises(BadInput, match="1 pictures and 2 labels"):
        classifier.calibrate([picture("red")], ["red", "blue"])
    with pytest.raises(BadInput, match="label 6 is no class"):
        classifier.learn_threshold([picture("red")], [6])


def test_a_bad_picture_to_learn_from_is_named(colour_clip, picture, tmp_path):
    classifier = Classifier(["red", "green"], colour_clip, batch_size=2)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    pictures = [picture("red"), picture("green"), picture("blue"), bad]
    for learn in (classifier.calibrate, classifier.learn_threshold):
        with pytest.raises(BadPicture, match=r"bad\.png: not a picture"):
            learn(pictures, ["red", "green", None, None])
    with pytest.raises(BadPicture, match="bytes 3: empty"):
        classifier.cosines([*pictures[:3], b""])


def test_a_label_may_name_several_classes_by_name_or_index(colour_clip, picture):
    one = Classifier(NAMES, colour_clip).calibrate(
        [picture("red"), picture("blue")], [["red", "yellow"], []]
    )
    two = Classifier(NAMES, colour_clip).calibrate(
        [picture("red"), picture("blue")], [(0, 3), None]
    )
    assert one == two


def test_duplicate_names_are_kept_apart_by_index_with_a_warning(colour_clip, picture):
    twice = [ClassEvidence("x", names=("red",)), "blue", ClassEvidence("x", names=("green",))]
    with pytest.warns(UserWarning, match="more than one class is named 'x'"):
        classifier = Classifier(twice, colour_clip)
    assert classifier.names == ("x", "blue", "x")
    assert classifier.classify(picture("red")).labels[0].index == 0
    assert classifier.classify(picture("green")).labels[0].index == 2


@pytest.mark.parametrize("classes", [[], {}, "", ["red", " "], [""], [3], [[]], {"red": 3}, b"red"])
def test_classes_that_are_none_are_refused(colour_clip, classes):
    with pytest.raises(BadClasses):
        Classifier(classes, colour_clip)


def test_ten_thousand_classes_work(colour_clip, picture):
    names = [f"thing {i}" for i in range(9_999)]
    classifier = Classifier(["red", *names], colour_clip, templates="plain")
    assert classifier.prototypes.shape == (10_000, 24)
    assert len(classifier.classify(picture("red"), top_k=10_000).labels) == 10_000


def test_equal_scores_keep_the_order_of_the_classes(colour_clip, picture):
    same = [ClassEvidence(name, names=("red",)) for name in "dcba"]
    labels = Classifier(same, colour_clip).classify(picture("red")).labels
    assert [label.name for label in labels] == list("dcba")


@pytest.mark.parametrize("count", [17, 300])
def test_equal_classes_far_apart_keep_their_order(colour_clip, picture, count, tmp_path):
    between = [f"thing {i}" for i in range(count)]
    with pytest.warns(UserWarning, match="more than one class"):
        classifier = Classifier(["red", *between, "red"], colour_clip)
    classifier.save(tmp_path / "c.safetensors")
    for one in (classifier, Classifier.load(tmp_path / "c.safetensors", colour_clip)):
        for variant in range(5):
            found = one.classify(picture("red", variant), top_k=count + 2).labels
            twins = [label for label in found if label.name == "red"]
            assert [label.index for label in twins] == [0, count + 1]
            assert twins[0].score == twins[1].score


def test_names_compete_fairly_with_example_pictures(colour_clip, picture):
    shown = ClassEvidence("shown", names=(), pictures=(picture("blue", 0), picture("blue", 3)))
    classifier = Classifier(["red", shown, "green"], colour_clip)
    assert classifier.classify(picture("blue", 1)).answer == "shown"
    assert classifier.classify(picture("red", 1)).answer == "red"
    assert classifier.classify(picture("green", 1)).answer == "green"


def test_classes_by_example_alone_need_no_names(colour_clip, picture):
    classes = [
        ClassEvidence(f"kind {i}", names=(), pictures=(picture(name, 0), picture(name, 2)))
        for i, name in enumerate(NAMES)
    ]
    classifier = Classifier(classes, colour_clip)
    answers = [classifier.classify(picture(name, 4)).answer for name in NAMES]
    assert answers == [f"kind {i}" for i in range(6)]


def test_saved_classes_answer_alike_without_being_encoded_again(colour_clip, picture, tmp_path):
    classifier = Classifier(NAMES, colour_clip, templates=["{}", "something {}"])
    pictures = [picture(name) for name in NAMES]
    classifier.calibrate(pictures, NAMES)
    classifier.learn_threshold([*pictures, np.zeros((9, 9, 3), np.uint8)], [*NAMES[:5], None, None])
    classifier.save(tmp_path / "c.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.safetensors"]
    tokenizer, colour_clip.tokenizer = colour_clip.tokenizer, None
    try:
        again = Classifier.load(tmp_path / "c.safetensors", colour_clip)
    finally:
        colour_clip.tokenizer = tokenizer
    assert again.names == classifier.names
    assert again.templates == classifier.templates
    assert again.calibration == classifier.calibration
    assert again.threshold == classifier.threshold
    assert torch.equal(again.prototypes, classifier.prototypes)
    for kind in ("softmax", "independent"):
        assert again.classify(pictures[1], scores=kind) == classifier.classify(
            pictures[1], scores=kind
        )


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_saved_classes_have_the_mode_that_the_umask_asks_for(colour_clip, tmp_path):
    before = os.umask(0o027)
    try:
        Classifier(["red"], colour_clip).save(tmp_path / "c.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "c.safetensors").stat().st_mode & 0o777 == 0o640


def test_saved_classes_refuse_other_weights(colour_clip, tmp_path):
    Classifier(["red"], colour_clip).save(tmp_path / "c.safetensors")
    torch.manual_seed(1)
    with pytest.raises(WrongHash, match="other weights"):
        Classifier.load(tmp_path / "c.safetensors", Clip(colour_clip.config))
    with pytest.raises(BadInput, match="does not name its model"):
        Classifier.load(tmp_path / "c.safetensors")


def test_classes_are_loaded_with_weights_in_any_dtype(colour_clip, picture, tmp_path):
    folder = save(colour_clip, tmp_path / "model")
    Classifier(["red", "blue"], folder).save(tmp_path / "c.safetensors")
    for dtype in ("float16", "bfloat16", "float64"):
        again = Classifier.load(tmp_path / "c.safetensors", dtype=dtype)
        assert again.classify(picture("red")).answer == "red"


def test_a_damaged_file_of_classes_is_told_apart(colour_clip, tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(BadClasses, match="there is no file"):
        Classifier.load(path, colour_clip)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BrokenFile):
        Classifier.load(path, colour_clip)
    save_file({"prototypes": torch.zeros(1, 24)}, path)
    with pytest.raises(BrokenFile, match=r"no file that Classifier\.save wrote"):
        Classifier.load(path, colour_clip)
    Classifier(["red", "blue"], colour_clip).save(path)
    rows = load_file(path)["prototypes"]
    about = json.dumps({"names": ["red"], "templates": [], "model": "", "weights": ""})
    save_file({"prototypes": rows}, path, {"format": "lascaux-classes-1", "classes": about})
    with pytest.raises(BrokenFile, match="damaged metadata"):
        Classifier.load(path, colour_clip)


def test_half_precision_agrees_within_its_precision(colour_clip, picture):
    half = Clip(colour_clip.config).to(torch.bfloat16)
    half.load_state_dict(colour_clip.state_dict())
    half.tokenizer = colour_clip.tokenizer
    pictures = [picture(name) for name in NAMES]
    full = Classifier(NAMES, colour_clip).cosines(pictures)
    torch.testing.assert_close(Classifier(NAMES, half).cosines(pictures), full, rtol=0, atol=0.04)


def test_options_make_the_same_classifier(colour_clip, monkeypatch):
    monkeypatch.setattr("lascaux.tasks.classify.load_clip", lambda *_: colour_clip)
    options = ClassifyOptions(model="any", templates="plain", name_weight=2.0, batch_size=3)
    made = Classifier.from_options(["red", "blue"], options)
    assert made.model_name == "any"
    assert made.batch_size == 3
    assert torch.equal(
        made.prototypes, Classifier(["red", "blue"], colour_clip, templates="plain").prototypes
    )


def test_a_picture_in_memory_is_not_changed(classifier, picture):
    image = picture("red")
    before = image.tobytes()
    classifier.classify(image)
    assert image.tobytes() == before
    stream = io.BytesIO()
    image.save(stream, "PNG")
    assert classifier.classify(stream.getvalue()).source == "bytes 0"
