import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.data.labelled import Labelled
from lascaux.data.world import draw, objects, sample
from lascaux.errors import BadClasses, BadInput, Unsupported
from lascaux.evaluate import classify
from lascaux.evaluate.classify import MIXTURES, evaluate
from lascaux.tasks.classify import Classifier
from lascaux.tasks.evidence import ClassEvidence
from lascaux.tasks.templates import read_templates
from lascaux.weights.fingerprint import weights_hash

TONES = ("blue", "green", "grey", "red")  # in the order of their folders


def figures(report):
    return {figure.name: figure.value for figure in report.figures}


def of_mixtures(report):
    return {
        each["mixture"]: {figure["name"]: figure["value"] for figure in each["figures"]}
        for each in report.details["mixtures"]
    }


def answered(classifier, folder):
    """Shares of right answers by class, counted through the classifier itself."""
    shares = {}
    for place, name in enumerate(TONES):
        pictures = sorted((folder / name).iterdir())
        answers = [r.labels[0].index for r in classifier.classify_many(pictures, top_k=1)]
        shares[name] = answers.count(place) / len(answers)
    return shares


def test_figures_are_those_of_the_classifier(random_clip, painted):
    report = evaluate(painted, random_clip)
    shares = answered(Classifier(TONES, random_clip, reading="official"), painted)
    assert {each["key"]: each["top-1"] for each in report.details["per_class"]} == shares
    assert figures(report)["mean per class"] == pytest.approx(np.mean(list(shares.values())))
    assert "top-5" not in figures(report)  # of four classes it says nothing
    wrong = sum(pair["count"] for pair in report.details["confusions"])
    assert figures(report)["top-1"] == pytest.approx(1 - wrong / 12)
    assert wrong > 0


def test_the_report_has_what_it_takes_to_get_the_figures_again(random_clip, painted):
    report = json.loads(evaluate(painted, random_clip, limit=7, seed=5).to_json())
    settings = report["settings"]
    assert report["benchmark"] == "classify"
    assert report["weights_sha256"] == weights_hash(random_clip)
    assert len(settings["data"]["fingerprint"]) == len(settings["classes_sha256"]) == 64
    assert settings["templates"]["name"] == "simple"
    assert settings["preprocessing"]["reading"] == "official"
    assert settings["preprocessing"]["size"] == 32
    assert {"limit": 7, "seed": 5, "device": "cpu", "dtype": "float32"}.items() <= settings.items()
    assert settings["threads"] == torch.get_num_threads()
    assert report["versions"]["torch"] == torch.__version__
    assert {figure["of"] for figure in report["figures"]} == {7}
    assert {"per_class", "confusions", "mixtures", "failures", "published"} <= report.keys()
    assert report["published"] == []


def test_templates_are_the_published_ones_of_the_data_or_the_models_own(random_clip, painted):
    array = np.zeros((4, 4, 3), np.uint8)
    names = tuple((f"class {n}",) for n in range(10))
    data = Labelled(
        name="cifar10",
        protocol="cifar10",
        classes=names,
        keys=tuple(map(str, range(10))),
        pictures=(array,),
        labels=(3,),
        sources=("0",),
    )
    for protocol, expected in (("cifar10", "cifar"), ("imagenetv2", "imagenet")):
        used = evaluate(replace(data, protocol=protocol), random_clip).settings["templates"]
        assert (used["name"], used["texts"]) == (expected, len(read_templates(expected)))
    assert evaluate(painted, random_clip).settings["templates"]["name"] == "simple"
    given = evaluate(painted, random_clip, templates=["a {}", "the {}"]).settings["templates"]
    assert (given["name"], given["texts"]) == ("given", 2)


def test_mixtures_are_compared_on_embeddings_made_once(
    random_clip, painted, paint, tmp_path, monkeypatch
):
    examples = paint(tmp_path / "known", count=2, shift=4)
    described = tmp_path / "described.json"
    described.write_text(json.dumps({name: [f"a thing that is {name}"] for name in TONES}))
    counted = []
    original = classify.picture_features

    def counting(model, pictures, *rest, **named):
        counted.append(len(pictures))
        return original(model, pictures, *rest, **named)

    monkeypatch.setattr(classify, "picture_features", counting)
    report = evaluate(painted, random_clip, describe=described, examples=examples)
    assert counted == [12]
    assert set(of_mixtures(report)) == set(MIXTURES)
    for name, weights in MIXTURES.items():
        entries = [
            ClassEvidence(
                tone,
                descriptions=(f"a thing that is {tone}",),
                pictures=tuple(sorted((examples / tone).iterdir())),
            )
            for tone in TONES
        ]
        alone = Classifier(entries, random_clip, weights=weights, reading="official")
        shares = answered(alone, painted)
        mixture = next(m for m in report.details["mixtures"] if m["mixture"] == name)
        assert mixture["per_class"] == [shares[tone] for tone in TONES], name
        plain = next(m for m in report.details["mixtures"] if m["mixture"] == "names")
        changes = np.array(mixture["per_class"]) - np.array(plain["per_class"])
        moved = {each["index"]: each["change"] for each in mixture["gain"] + mixture["lose"]}
        assert moved == {int(n): changes[n] for n in np.flatnonzero(changes)}
        assert [each["change"] for each in mixture["gain"]] == sorted(changes[changes > 0])[::-1]
    assert "choosing on the test set" in report.details["caution"]
    assert figures(report) == of_mixtures(report)["names"]


def test_evidence_of_some_classes_alone_is_mixed_with_names_and_not_measured_apart(
    random_clip, painted, paint, tmp_path
):
    examples = paint(tmp_path / "known", ("red", "blue"), count=2, shift=4)
    report = evaluate(painted, random_clip, examples=examples)
    assert list(of_mixtures(report)) == ["names", "names+examples"]
    (left,) = report.details["mixtures_left_out"]
    assert left == {"mixture": "examples", "reason": "2 of 4 classes have none: green, grey"}


def test_examples_may_not_be_the_pictures_to_be_classified(random_clip, painted, tmp_path):
    linked = tmp_path / "linked"
    linked.symlink_to(painted)
    with pytest.raises(BadInput, match="12 of the examples are pictures to be classified"):
        evaluate(painted, random_clip, examples=linked)


def test_evidence_must_be_of_classes_and_mixtures_of_evidence(random_clip, painted, tmp_path):
    (tmp_path / "known" / "pink").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "known" / "pink" / "a.png")
    with pytest.raises(BadClasses, match="examples of 'pink', which is no class"):
        evaluate(painted, random_clip, examples=tmp_path / "known")
    with pytest.raises(BadInput, match="no mixture 'all' of what is given; there are: names"):
        evaluate(painted, random_clip, mixtures=("all",))


def test_pictures_that_cannot_be_read_are_left_out_and_told(random_clip, painted):
    before = evaluate(painted, random_clip)
    (painted / "grey" / "9.png").write_bytes(b"no picture")
    (painted / "red" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 begins well")
    report = evaluate(painted, random_clip)
    assert [each["source"] for each in report.details["failures"]] == ["grey/9.png", "red/cut.jpg"]
    assert all(each["reason"] for each in report.details["failures"])
    assert report.figures == before.figures
    for tone in TONES:
        for file in (painted / tone).iterdir():
            file.write_bytes(b"")
    with pytest.raises(BadInput, match=r"none of the 14 pictures .* can be read; the first: empty"):
        evaluate(painted, random_clip)


def test_classes_of_one_name_stay_two(random_clip, painted):
    report = evaluate(painted, random_clip, classes=["same", "same", "other", "else"])
    assert [each["name"] for each in report.details["per_class"]] == [
        "same",
        "same",
        "other",
        "else",
    ]
    assert report.details["per_class"][1]["right"] == 0  # the first of two equal ones answers
    assert report.settings["data"]["classes"] == 4


def test_published_figures_stand_beside_whole_runs_alone(random_clip, monkeypatch):
    monkeypatch.setattr(classify, "load_clip", lambda *_: random_clip)
    monkeypatch.setattr(classify, "WHOLE", {"cifar10": (6, 10)})
    rng = np.random.default_rng(0)
    data = Labelled(
        name="cifar10",
        protocol="cifar10",
        split="test",
        classes=tuple((f"class {n}",) for n in range(10)),
        keys=tuple(map(str, range(10))),
        pictures=tuple(rng.integers(0, 256, (6, 8, 8, 3), np.uint8)),
        labels=(0, 1, 2, 3, 4, 5),
        sources=tuple(map(str, range(6))),
    )
    report = evaluate(data, "ViT-B/32")
    beside = {each["source"]: each for each in report.details["published"]}
    assert {name: each["published"] for name, each in beside.items()} == {
        "CLIP paper, table 11": 91.3,
        "open_clip": 89.83,
    }
    ours = 100 * figures(report)["top-1"]
    assert beside["open_clip"]["difference"] == pytest.approx(ours - 89.83)
    for other in ({"limit": 3}, {"templates": "plain"}, {"reading": "photo"}):
        assert evaluate(data, "ViT-B/32", **other).details["published"] == []
    assert evaluate(replace(data, split="train"), "RN50").details["published"] == []
    assert evaluate(data, "ochre-clip").details["published"] == []
    assert evaluate(data, random_clip).details["published"] == []


def test_features_are_refused_where_they_are_of_something_else(random_clip, painted, tmp_path):
    file = tmp_path / "kept"
    report = evaluate(painted, random_clip, features=file)
    again = evaluate(painted, random_clip, features=file, classes=["a", "b", "c", "d"])
    assert again.settings["data"]["fingerprint"] == report.settings["data"]["fingerprint"]
    for words, reason in (
        ({"reading": "photo"}, "other preprocessing"),
        ({"limit": 5}, "other pictures"),
    ):
        with pytest.raises(BadInput, match=reason):
            evaluate(painted, random_clip, features=file, **words)
    (painted / "red" / "0.png").write_bytes(b"something of another size")
    with pytest.raises(BadInput, match="other data"):
        evaluate(painted, random_clip, features=file)


@pytest.mark.parametrize("words", [{"limit": 0}, {"batch_size": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(random_clip, painted, words):
    with pytest.raises(BadInput, match="expected 1 or more"):
        evaluate(painted, random_clip, **words)


def test_a_model_that_is_no_clip_is_refused(painted):
    with pytest.raises(Unsupported, match="is a Judge"):
        evaluate(painted, "ochre-judge")


def test_the_embedded_model_knows_its_world_in_folders(tmp_path):
    rng = np.random.Generator(np.random.PCG64([5]))
    for number in range(24):
        scene = sample(rng, "test", "single")
        folder = tmp_path / scene.names[0].replace(" ", "_")
        folder.mkdir(exist_ok=True)
        draw(scene, 64).save(folder / f"{number}.png")
    report = evaluate(tmp_path, lascaux.load("ochre-clip"), classes="world")
    assert report.settings["data"]["classes"] == len(objects())
    assert figures(report)["top-1"] > 0.8
    assert figures(report)["top-5"] >= figures(report)["top-1"]
